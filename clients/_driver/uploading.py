"""One payload on its way to the broadcaster: in chunks, or inside one message."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import zmq

from broadcaster.protocol.errors import BroadcasterError, Busy, RequestTimeout
from broadcaster.protocol.frames import Buffer, Chunk
from broadcaster.protocol.hops import Hop
from broadcaster.protocol.limits import CHUNK, EAGER, RETRY
from broadcaster.protocol.machines.upload import Out, Uploader, UploaderState
from broadcaster.protocol.messages import Begin, Credit, Done, Error, Message, Publish, Reply, Request
from broadcaster.protocol.version import VersionInfo
from clients._driver import futures
from clients._driver.asking import left
from clients._driver.frames import Frames
from clients._driver.owner import Send

_NO_ID = bytes(16)

Ended = Callable[[Any, bool], None]
"""Is told the upload that ends, and whether its memory is not used by anybody any more."""


class Upload(ABC):
    """What all have in common: a future that ends by the deadline, and one who is told before it does."""

    def __init__(
        self,
        begin: Begin,
        send: Send,
        ended: Ended,
        deadline: float,
        timeout: float,
        future: Future[VersionInfo] | None = None,
    ) -> None:
        self.begin = begin
        self.key = begin.upload_id
        self.future: Future[VersionInfo] = futures.new() if future is None else future
        self.over = False
        self.started = False
        self.version: VersionInfo | None = None
        """What came of it."""
        self.hops: tuple[Hop, ...] = ()
        """Where it was, when its `begin` asked for that."""
        self._send = send
        self._ended = ended
        self._until = deadline
        self._timeout = timeout
        self._paused_until: float | None = None

    def written(self) -> None:
        """Nobody writes to the payload's memory any more."""
        return

    def is_answered_by(self, message: Message) -> bool:
        """Whether this message is for it: a refusal may be of an earlier call with the same upload id, that was given up."""
        if getattr(message, "upload_id", None) != self.key:
            return False
        return not isinstance(message, Error) or message.request_id in (self.begin.request_id, self.key, _NO_ID)

    @property
    @abstractmethod
    def payload(self) -> memoryview | None:
        """Where its bytes lie, if that is known."""

    @property
    @abstractmethod
    def acknowledged(self) -> int:
        """Bytes that the broadcaster said it has. May be read from any thread."""

    @property
    @abstractmethod
    def deadline(self) -> float | None: ...
    @abstractmethod
    def start(self, now: float) -> None: ...
    @abstractmethod
    def receive(self, message: Message, payload: bytes | None, now: float) -> None: ...
    @abstractmethod
    def expire(self, now: float) -> bool: ...
    @abstractmethod
    def fail(self, error: BroadcasterError) -> None: ...

    def _end(self, version: VersionInfo | None, error: BroadcasterError | None) -> None:
        if self.over:
            return
        self.over, self.version = True, version
        # Who keeps the buffer is told first: a user who is woken may publish again at once.
        self._ended(self, version is not None or not self.started)
        if version is not None:
            futures.fulfil(self.future, version)
        else:
            futures.fail(self.future, error or RequestTimeout(what="publish", timeout=self._timeout))

    def _note_hops(self, message: Message) -> None:
        if self.begin.timing and isinstance(message, Reply):
            self.hops = message.hops or ()

    def _timed_out(self) -> RequestTimeout:
        error = RequestTimeout(what=f"publishing {self.begin.model_id}", timeout=self._timeout)
        error.request_id = self.begin.request_id.hex()
        return error

    def _pause(self, error: BroadcasterError, now: float) -> bool:
        """Whether the broadcaster is only busy, and there is time to try again."""
        if not isinstance(error, Busy) or type(error.retry_after) not in (int, float) or now + error.retry_after >= self._until:
            return False
        self._paused_until = now + error.retry_after
        return True

    def _budgeted(self, message: Request, now: float) -> Request:
        return message if self._until == math.inf else replace(message, budget_ms=left(self._until, now))


class ChunkedUpload(Upload):
    """A payload that is sent from where it lies, while it is still being filled. `payload` must not change once it was sent from,
    until the future has ended well. `frames` are those of its memory."""

    def __init__(
        self,
        begin: Begin,
        payload: memoryview,
        frames: Frames,
        send: Send,
        ended: Ended,
        deadline: float,
        timeout: float,
        future: Future[VersionInfo] | None = None,
        eager: int = EAGER,
        last_words: Mapping[str, Any] | None = None,
    ) -> None:
        """`last_words` go with the commit: what `begin` did not say when the broadcaster heard it first."""
        super().__init__(begin, send, ended, deadline, timeout, future)
        self._last_words = last_words or {}
        self._received = 0
        self._payload = payload
        self._frames = frames
        self._eager = eager
        self._uploader = Uploader(begin, payload, eager=eager)
        self._filled = 0
        self._digest: str | None = None

    @property
    def payload(self) -> memoryview:
        return self._payload

    @property
    def acknowledged(self) -> int:
        return self._received

    @property
    def deadline(self) -> float | None:
        if self._paused_until is not None or not self.started:
            return self._paused_until or self._until
        return self._until if self._uploader.deadline is None else min(self._until, self._uploader.deadline)

    def start(self, now: float) -> None:
        if self.over:
            return
        self.started = True
        self._act(self._uploader.start(now), now)
        self._act(self._uploader.filled(self._filled, now), now)
        if self._digest is not None:
            self._act(self._uploader.finish(self._digest, now, **self._last_words), now)

    def filled(self, size: int, now: float) -> None:
        """The first `size` bytes are in place. Before the start that is only noted: nothing may be sent yet."""
        self._filled = size
        if self.started:
            self._act(self._uploader.filled(size, now), now)

    def finish(self, digest: str, now: float) -> None:
        """All is in place, and this is its xxh3-128."""
        self._filled, self._digest = len(self._payload), digest
        if self.started:
            self._act(self._uploader.finish(digest, now, **self._last_words), now)

    def receive(self, message: Message, payload: bytes | None, now: float) -> None:
        if isinstance(message, Credit):
            self._received = min(message.received * CHUNK, len(self._payload))
        self._note_hops(message)
        self._act(self._uploader.receive(message, now), now)

    def expire(self, now: float) -> bool:
        if now >= self._until:
            self._act(self._uploader.abort(self._timed_out()), now)
            return self.started
        if self._paused_until is not None:
            if now >= self._paused_until:
                self._paused_until, self._uploader = None, Uploader(self.begin, self._payload, eager=self._eager)
                self.start(now)
            return False
        again = self._uploader.expire(now) if self.started else []
        self._act(again, now)
        return bool(again)

    def _act(self, out: Out, now: float) -> None:
        if self.over:
            return
        for message in out if self.started else []:
            if isinstance(message, Chunk):
                self._send(message, self._frames.of(message))
            else:
                self._send(self._budgeted(message, now) if isinstance(message, Request) else message)
        if self._uploader.state is UploaderState.DONE:
            self._end(self._uploader.version, None)
        elif self._uploader.error is not None and self._paused_until is None:
            if not self._pause(self._uploader.error, now):
                self._end(None, self._uploader.error)

    def fail(self, error: BroadcasterError) -> None:
        self._act(self._uploader.abort(error), self._until)
        self._end(None, error)


class WholeUpload(Upload):
    """A payload of at most 1 MiB, in one message. The memory of a frame must not change until the future has ended well."""

    def __init__(
        self,
        message: Publish,
        payload: Buffer | zmq.Frame,
        send: Send,
        ended: Ended,
        deadline: float,
        timeout: float,
    ) -> None:
        super().__init__(message, send, ended, deadline, timeout)
        self._received = 0
        self._payload = payload

    @property
    def payload(self) -> memoryview:
        return self._payload.buffer if isinstance(self._payload, zmq.Frame) else memoryview(self._payload)

    @property
    def acknowledged(self) -> int:
        return self._received

    @property
    def deadline(self) -> float | None:
        return self._until if self._paused_until is None else min(self._until, self._paused_until)

    def ask(self, send: Send, now: float) -> None:
        """Sent by `send`, for one who waits for the answer himself and hands it to `receive`. It may be started after that."""
        self.started = True
        send(self._budgeted(self.begin, now), self._payload)

    def start(self, now: float) -> None:
        if not self.over:
            self.started = True
            self._paused_until = now + RETRY
            self._send(self._budgeted(self.begin, now), self._payload)

    def receive(self, message: Message, payload: bytes | None, now: float) -> None:
        if isinstance(message, Done):
            self._received = self.begin.size
            self._note_hops(message)
            self._end(message.version, None)
        elif isinstance(message, Error):
            error = message.to_raise()
            if not self._pause(error, now):
                self._end(None, error)

    def expire(self, now: float) -> bool:
        if now >= self._until:
            self._end(None, self._timed_out())
            return self.started
        if self._paused_until is None or now < self._paused_until:
            return False
        self.start(now)
        return True

    def fail(self, error: BroadcasterError) -> None:
        self._end(None, error)
