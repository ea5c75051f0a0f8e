"""One payload on its way to the broadcaster on the same host: through the slot that it grants, or else in chunks.

Two threads have to do with it. The I/O thread turns the machine; a user's thread waits for the grant and writes the payload. What
must hold between them: an upload is taken back only while nobody writes to its slot, which is granted to others from then on; and
nobody begins to write once it was taken back.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import xxhash

from broadcaster.protocol.errors import BroadcasterError
from broadcaster.protocol.machines.grant import SlotUploader, SlotUploaderState
from broadcaster.protocol.messages import AS_IT_LIES, LAST_WORDS, Abort, Begin, Filled, Grant, Message, Request
from broadcaster.protocol.version import VersionInfo
from clients._driver.frames import Frames
from clients._driver.owner import Send
from clients._driver.uploading import ChunkedUpload, Ended, Upload

_UNDECIDED = (SlotUploaderState.BEGINNING, SlotUploaderState.FAILED)
"""FAILED: over, or the broadcaster is only busy."""


class SlotUpload(Upload):
    """An upload that is begun at once, for its slot, and committed when its turn comes (`start`) and the payload is whole.

    While `settled` is not set, what `begin` says of the version is not the last word: the upload neither commits nor goes on in
    chunks, and `deadline` is when it is given up if nobody wanted it. A payload whose slot was withdrawn goes on in chunks from
    where it lies: the slot is unlinked then, and nobody else writes there.
    """

    def __init__(self, begin: Begin, send: Send, ended: Ended, deadline: float, timeout: float, *, settled: bool = True) -> None:
        super().__init__(begin, send, ended, deadline, timeout)
        self._machine = SlotUploader(begin)
        self._chunks: ChunkedUpload | None = None
        # Entered by itself: Ctrl-C while a condition is entered, which is not done in C, can leave it locked for ever.
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._writing = False
        self._settled = settled
        self._given: dict[str, Any] = {}
        self._payload: memoryview | None = None
        self._frames = Frames()
        self._filled = 0
        self._digest: str | None = None

    # --- a user's thread -------------------------------------------------------------------------------------------

    def wait_for_grant(self, seconds: float) -> Grant | None:
        """The grant: from then on its slot is being written to, until `written`. None when the payload is to go in chunks, when
        nothing was heard within `seconds`, and when the upload is over (then `over` is set)."""
        with self._lock:
            self._changed.wait_for(lambda: self.over or self._machine.state not in _UNDECIDED, seconds)
            if self.over or self._machine.state is not SlotUploaderState.FILLING:
                return None
            self._writing = True
            return self._machine.grant

    def use(self, payload: memoryview) -> None:
        """The payload is being written here, which is in the granted slot."""
        self._payload = payload

    def written(self) -> None:
        """Nobody writes to the slot any more, whether the payload is whole or not."""
        self._writing = False

    def keep(self) -> bool:
        """It is wanted, however long it takes until it is settled. False when it has been given up."""
        with self._lock:
            self._until = math.inf
            return not self.over and self.has_slot

    def settle(self, last: Begin, ended: Ended, deadline: float, timeout: float) -> bool:
        """What was not known when it was begun: user data, metrics and time as `last` has them, and until when it has time. False
        when it has been given up."""
        with self._lock:
            if self.over or self._machine.state is SlotUploaderState.FAILED:
                return False
            self._ended, self._until, self._timeout = ended, deadline, timeout
            self._given = {name: getattr(last, name) for name in LAST_WORDS}
            self.begin = replace(self.begin, **self._given)
            self._settled = True
            return True

    # --- the I/O thread --------------------------------------------------------------------------------------------

    @property
    def payload(self) -> memoryview | None:
        return self._payload

    @property
    def acknowledged(self) -> int:
        """Bytes that the broadcaster has, as far as is known."""
        return self._filled if self._chunks is None else self._chunks.acknowledged

    @property
    def grant(self) -> Grant | None:
        return self._machine.grant

    @property
    def through_slot(self) -> bool:
        """Whether a version came of it through the slot."""
        return self._machine.state is SlotUploaderState.DONE

    @property
    def has_slot(self) -> bool:
        """Whether it has, or may still get, a slot."""
        return self._machine.state in (SlotUploaderState.BEGINNING, SlotUploaderState.FILLING)

    @property
    def deadline(self) -> float | None:
        if self._chunks is not None:
            return self._chunks.deadline
        own = self._machine.deadline if self._paused_until is None else self._paused_until
        # Who writes ends that by himself, and then it is looked at what time it is.
        return own if self._writing else min(self._until, own or math.inf)

    def ask(self, now: float) -> None:
        """Asks for the slot, before its turn to commit has come."""
        if not self.over:
            self._step(lambda: self._machine.start(now), now)

    def start(self, now: float) -> None:
        if self.over:
            return
        self.started = True
        if self._chunks is not None:
            self._chunks.start(now)
        else:
            self._finish(now)

    def in_chunks(self, payload: memoryview, frames: Frames, now: float) -> None:
        """No slot: the payload lies here, in memory of this process."""
        self._payload, self._frames = payload, frames
        self._step(self._machine.refuse, now)

    def filled(self, size: int, now: float) -> None:
        """The first `size` bytes are in place and stay as they are."""
        self._filled = size
        if self._chunks is not None:
            self._chunks.filled(size, now)
        else:
            self._step(lambda: self._machine.filled(size, now), now)

    def finish(self, digest: str, now: float) -> None:
        """All is in place, and this is its xxh3-128, or AS_IT_LIES."""
        self._filled, self._digest = self.begin.size, digest
        if self._chunks is not None:
            self._chunks.finish(self._digest_of(self._payload), now)
        else:
            self._finish(now)

    def receive(self, message: Message, payload: bytes | None, now: float) -> None:
        self._note_hops(message)
        if self._chunks is not None:
            self._chunks.receive(message, payload, now)
        else:
            self._step(lambda: self._machine.receive(message, now), now)

    def expire(self, now: float) -> bool:
        if self._chunks is not None:
            return self._chunks.expire(now)
        if now >= self._until and not self._writing:
            self._give_up(self._timed_out(), now, late=True)
            return self.started
        if self._paused_until is not None:
            if now >= self._paused_until:
                self._again(now)
            return False
        out = self._step(lambda: self._machine.expire(now), now)
        return any(not isinstance(message, Filled) for message in out)

    def fail(self, error: BroadcasterError) -> None:
        if self._chunks is not None:
            self._chunks.fail(error)
        else:
            self._give_up(error, self._until)

    # --- within ----------------------------------------------------------------------------------------------------

    def _step(self, call: Callable[[], list[Message]], now: float) -> list[Message]:
        with self._lock:
            out = call()
            self._changed.notify_all()
        self._say(out, now)
        state = self._machine.state
        if self.over:
            pass
        elif state is SlotUploaderState.DONE:
            self._end(self._machine.version, None)
        elif state is SlotUploaderState.FAILED and self._paused_until is None:
            assert self._machine.error is not None
            if not self._pause(self._machine.error, now):
                self._end(None, self._machine.error)
        elif state is SlotUploaderState.CHUNKS and self._settled and self._payload is not None:
            self._go_on_in_chunks(self._payload, now)
        return out

    def _say(self, out: list[Message], now: float) -> None:
        for message in out:
            self._send(self._budgeted(message, now) if isinstance(message, Request) else message)

    def _finish(self, now: float) -> None:
        digest = self._digest
        if self.started and digest is not None:
            self._step(lambda: self._machine.finish(digest, now, **self._given), now)

    def _go_on_in_chunks(self, payload: memoryview, now: float) -> None:
        chunks = ChunkedUpload(
            replace(self.begin, host_token=None),
            payload,
            self._frames,
            self._send,
            self._chunks_ended,
            self._until,
            self._timeout,
            self.future,
            eager=0,  # Until it has answered, the broadcaster may believe that what is committed is in the slot.
            last_words=self._given,
        )
        self._chunks = chunks
        chunks.filled(self._filled, now)
        if self._digest is not None:
            chunks.finish(self._digest_of(payload), now)
        if self.started:
            chunks.start(now)

    def _digest_of(self, payload: memoryview | None) -> str:
        """The digest that goes with chunks, which are compared with it."""
        if self._digest == AS_IT_LIES and payload is not None:
            self._digest = xxhash.xxh3_128_hexdigest(payload)
        return self._digest or AS_IT_LIES

    def _chunks_ended(self, chunks: ChunkedUpload, intact: bool) -> None:
        self.over, self.version = True, chunks.version
        self._ended(self, intact)

    def _again(self, now: float) -> None:
        """The broadcaster was busy."""
        self._paused_until = None
        with self._lock:
            self._machine = SlotUploader(self.begin)
        # What is in a slot already is not written a second time.
        self._step(lambda: self._machine.start(now) if self._payload is None else self._machine.refuse(), now)

    def _give_up(self, error: BroadcasterError, now: float, *, late: bool = False) -> None:
        """`late`: unless somebody wants it after all, who may have come just now."""
        with self._lock:
            if late and (self._writing or now < self._until):
                return
            out = self._machine.abort(error)
            if self._machine.state is SlotUploaderState.CHUNKS:  # Perhaps credit was given under this id.
                out = [Abort(request_id=self.begin.request_id, namespace=self.begin.namespace, upload_id=self.key)]
            if self._writing:
                out = []  # It is not for others yet. When we are silent for long, it is for nobody any more.
        self._say(out, now)
        self._end(None, error)

    def _end(self, version: VersionInfo | None, error: BroadcasterError | None) -> None:
        super()._end(version, error)
        with self._lock:
            self._changed.notify_all()
