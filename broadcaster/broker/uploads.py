"""Payloads on their way to becoming versions, and what became of the last ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from broadcaster.broker.checks import check_begin
from broadcaster.broker.memory import Memory
from broadcaster.broker.rooms import Caller, Front, Key, Place
from broadcaster.broker.waiting import Timing
from broadcaster.protocol.errors import Aborted, BroadcasterError, BudgetExceeded, Busy
from broadcaster.protocol.frames import Chunk
from broadcaster.protocol.hops import Hop
from broadcaster.protocol.machines.upload import Assembler
from broadcaster.protocol.messages import Abandon, Begin, Message
from broadcaster.protocol.version import VersionInfo
from broadcaster.stats import Stats
from broadcaster.store.blobs import Staged

FINISHED = 4096
"""Finished uploads whose id is remembered, so that a retry gets the version that came of it."""


MOST = 4096
"""Uploads under way at a time, of all learners; memory bounds those that are large."""


class Stage(Enum):
    """Where an upload is."""

    RESERVING = "reserving"
    RECEIVING = "receiving"
    FILLING = "filling"
    """Its writer has the slot."""
    VERIFYING = "verifying"
    """Its writer is done with the slot; not all of it is hashed."""
    NUMBERING = "numbering"
    ARCHIVING = "archiving"


@dataclass(slots=True, eq=False)
class Upload:
    """One payload on its way to becoming a version."""

    begin: Begin
    caller: Caller
    place: Place
    transfer: bytes
    attempt: int
    stage: Stage
    assembler: Assembler
    begun: float
    granted: bool = False
    """Whether the client is to write into the slot itself."""
    staged: Staged | None = None
    declared: str = ""
    """The digest, from the commit of a granted upload on."""
    timing: Timing | None = None
    """Where it was, if its `begin` asked for that."""

    @property
    def key(self) -> Key:
        return self.begin.namespace, self.begin.model_id

    @property
    def expires(self) -> float:
        """When nobody waits for it any more: whoever spoke for it last may have said so."""
        return self.caller.expires

    @property
    def hops(self) -> tuple[Hop, ...] | None:
        """Where it was so far, if its `begin` asked for that."""
        return None if self.timing is None else self.timing.hops()

    @property
    def pushed_header(self) -> bytes:
        """The header under which subscribers get the chunk that comes next: upload ids are their owner's secret."""
        return self.assembler.assembly.header(self.transfer, self.attempt)

    def send(self, messages: Iterable[Message | Chunk]) -> None:
        """To its caller, what its assembler wants said."""
        for message in messages:
            assert isinstance(message, Message), "the broadcaster's side of an upload sends no chunks"
            self.caller.reply(message)


class Uploads:
    """All uploads by their id. `make_id` makes 16 random bytes; who makes no progress for `idle` seconds is given up."""

    def __init__(
        self, memory: Memory, front: Front, stats: Stats, *, max_payload: int, make_id: Callable[[], bytes], idle: float
    ) -> None:
        self._memory = memory
        self._front = front
        self._stats = stats
        self._max_payload = max_payload
        self._make_id = make_id
        self._idle = idle
        self.under_way: dict[bytes, Upload] = {}
        self._attempts: OrderedDict[bytes, int] = OrderedDict()
        self._finished: OrderedDict[bytes, tuple[Key, VersionInfo]] = OrderedDict()

    def has(self, upload: Upload) -> bool:
        """Whether it is still under way: it may have ended, or begun again, meanwhile."""
        return self.under_way.get(upload.begin.upload_id) is upload

    def reserve(self, begin: Begin, caller: Caller, now: float) -> Upload:
        """Room in memory for the payload, before a byte moves. Raises what `check_begin` and the budget say."""
        check_begin(begin, self._max_payload)
        if len(self.under_way) >= MOST:
            raise Busy(what="the line of uploads", retry_after=1)
        try:
            place = self._memory.reserve(begin.model_id, begin.size, now)
        except BudgetExceeded:
            if not self._withdraw_idle(now):
                raise
            place = self._memory.reserve(begin.model_id, begin.size, now)
        attempt = self._attempts.pop(begin.upload_id, -1) + 1
        stage = Stage.RESERVING if begin.archived else Stage.RECEIVING
        assembler = Assembler(begin, place.view, now, idle=self._idle)
        upload = Upload(begin, caller, place, self._make_id(), attempt, stage, assembler, now, timing=caller.timing)
        self.under_way[begin.upload_id] = upload
        self._stats.count("uploads_begun")
        return upload

    def moving(self, now: float) -> int:
        """How many are more than a slot that was asked for ahead."""
        return sum(not (one.stage is Stage.FILLING and one.assembler.is_idle(now)) for one in self.under_way.values())

    def carries(self) -> bool:
        """Whether bytes are on their way, or about to be: a slot that its writer has not begun to fill says nothing of when."""
        return any(one.stage is not Stage.FILLING or not one.assembler.is_untouched for one in self.under_way.values())

    def _withdraw_idle(self, now: float) -> bool:
        """Slots that were asked for ahead give way to a payload that is there. Whether there were any."""
        idle = [one for one in self.under_way.values() if one.stage is Stage.FILLING and one.assembler.is_idle(now)]
        for upload in idle:
            self.fail(upload, Aborted(model_id=upload.begin.model_id, reason="its memory is needed for another payload"))
        return bool(idle)

    def fail(self, upload: Upload, error: BroadcasterError) -> None:
        """It ends, and its caller is told why."""
        self._stats.count("uploads_refused")
        self.forget(upload)
        error.request_id, error.hops = upload.begin.request_id.hex(), upload.hops or ()
        upload.caller.refuse(error)

    def forget(self, upload: Upload) -> None:
        """An upload that leads to nothing (more): its memory, its disk space and its subscribers' buffers are free again."""
        upload_id = upload.begin.upload_id
        if self.under_way.pop(upload_id, None) is None:
            return
        if upload.stage is not Stage.ARCHIVING:
            # A slot that its writer has, and said nothing of, may still be written to.
            self._memory.give_back(upload.place, written=upload.stage is Stage.FILLING and upload.granted)
            self._front.push_abandon(upload.key, Abandon(transfer=upload.transfer, attempt=upload.attempt))
            self._attempts[upload_id] = upload.attempt
            if len(self._attempts) > FINISHED:
                self._attempts.popitem(last=False)
        if upload.staged is not None:
            upload.staged.discard()

    def discard_staged(self) -> None:
        """Gives the disk space of all uploads back."""
        for upload in self.under_way.values():
            if upload.staged is not None:
                upload.staged.discard()

    # --- what came of them -----------------------------------------------------------------------------------------

    def remember(self, upload_id: bytes, key: Key, info: VersionInfo) -> None:
        """The upload became this version."""
        self._finished[upload_id] = key, info
        self._finished.move_to_end(upload_id)
        if len(self._finished) > FINISHED:
            self._finished.popitem(last=False)

    def outcome(self, upload_id: bytes) -> tuple[Key, VersionInfo] | None:
        """The version that came of an upload, for as long as that is remembered, also when it was deleted since."""
        return self._finished.get(upload_id)
