"""Following an alias: whichever version it names comes out whole and verified, also an older one than before.

    AliasFollower (actor)                            broadcaster
    ASKING     ── get-version champion ────────────▶
               ◀──────────── version: that is 7 ─────
    READING    ── read, read, ... ─────────────────▶
               ◀──────────── chunk ──────────────────
    FOLLOWING  ◀──────────── event: it moved ────────   (push)
    ASKING     ── get-version champion ────────────▶

Events only say that it is time to ask: one question is under way at a time, so that each answer is newer than the one before. A
gap, a beacon that tells of something missed, another epoch and silence are reasons to ask as well. While the alias names nothing,
what was named last stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from broadcaster.protocol.assembly import Assembly
from broadcaster.protocol.errors import BroadcasterError, UnknownModel, UnknownVersion, VersionEvicted
from broadcaster.protocol.frames import Chunk, ChunkHeader
from broadcaster.protocol.limits import BEACON_IDLE, RETRY
from broadcaster.protocol.machines.fetch import MAX_PATIENCE, Fetcher, FetcherState
from broadcaster.protocol.machines.follow import Pool
from broadcaster.protocol.messages import Beacon, Error, Event, GetVersion, Message, Version
from broadcaster.protocol.version import VersionInfo

ELSEWHERE = ("published", "archived", "updated", "evicted")
"""Events that move no alias. One of a kind that is not known may."""


@dataclass(frozen=True, slots=True)
class Moved:
    """The version that the alias names now, whole and verified. `payload` is a lent buffer."""

    version: VersionInfo
    payload: memoryview


Out = list[Message | Chunk | Moved]


class AliasState(Enum):
    ASKING = "asking"
    READING = "reading"
    FOLLOWING = "following"


class AliasFollower:
    """Follows one alias of a model for one subscriber; neither need exist yet."""

    def __init__(
        self, namespace: str, model_id: str, alias: str, make_id: Callable[[], bytes], pool: Pool, *, retry: float = RETRY
    ) -> None:
        self.namespace = namespace
        self.model_id = model_id
        self.alias = alias
        self.named: VersionInfo | None = None
        """What the alias named when that was heard last, here or not; as before when it was removed."""
        self.visible: VersionInfo | None = None
        """What came out last."""
        self.error: BroadcasterError | None = None
        """Why there is nothing newer: what the last question or read ended with."""
        self.gaps = 0
        self.repaired = 0
        """Versions that were read, which is all that came out."""
        self.chunks_per_read = 1
        """Chunks that one read may ask for, as the broadcaster says."""
        self._make_id = make_id
        self._pool = pool
        self._retry = retry
        self._patience = retry
        """Seconds until what failed is tried again."""
        self._epoch: int | None = None
        self._offset = 0
        self._ask_id: bytes | None = None
        self._ask_at: float | None = None
        """When the question is put again, or for the first time."""
        self._news = False
        """Something happened since the question that is under way was put."""
        self._fetcher: Fetcher | None = None
        self._given_way = False
        """Whether a version was let go for the next one since the last that came out: that one is finished then."""
        self._silent_after = 0.0

    @property
    def state(self) -> AliasState:
        if self._fetcher is not None:
            return AliasState.READING
        return AliasState.FOLLOWING if self._ask_at is None else AliasState.ASKING

    # --- the four verbs --------------------------------------------------------------------------------------------

    def start(self, now: float) -> Out:
        """Asks what the alias names. To be called after subscribing, so that nothing falls between."""
        self._silent_after = now + 3 * BEACON_IDLE
        return self._ask(now)

    def receive(self, message: Message, now: float) -> Out:
        match message:
            case Event():
                return self._event(message, now)
            case Beacon():
                return self._beacon(message, now)
            case Version() if message.request_id == self._ask_id:
                return self._answered(message.version, now)
            case Error() if message.request_id == self._ask_id:
                return self._refused(message.to_raise(), now)
            case Error() if self._fetcher is not None:
                return self._fetching(self._fetcher.receive(message, now), now)
        return []  # An answer to a question that was put again: the newer answer counts.

    @property
    def deadline(self) -> float:
        times = (self._silent_after, self._ask_at, None if self._fetcher is None else self._fetcher.deadline)
        return min(time for time in times if time is not None)

    def expire(self, now: float) -> Out:
        out: Out = []
        if now >= self._silent_after:
            self._silent_after = now + 3 * BEACON_IDLE
            out += self._look_again(now)
        if self._ask_at is not None and now >= self._ask_at:
            out += self._ask(now)
        if self._fetcher is not None:
            out += self._fetcher.expire(now)
        return out

    def nap(self, now: float) -> float:
        """Seconds in which nothing has to be looked at: none, for nothing large is pushed."""
        return 0.0

    # --- bytes -----------------------------------------------------------------------------------------------------

    def place(self, header: ChunkHeader) -> memoryview | None:
        """Where the bytes of an answer to a read go; None for one that is not awaited any more."""
        return None if self._fetcher is None else self._fetcher.place(header)

    def placed(self, header: ChunkHeader, now: float, data: memoryview | None = None) -> Out:
        """The bytes are where `place` said; those of `data` are put there now."""
        assert self._fetcher is not None, "placed() follows place()"
        return self._fetching(self._fetcher.placed(header, now, data), now)

    # --- what is heard ---------------------------------------------------------------------------------------------

    def _event(self, event: Event, now: float) -> Out:
        self._silent_after = now + 3 * BEACON_IDLE
        if event.epoch == self._epoch and event.offset <= self._offset:
            return []
        missed = event.epoch != self._epoch or event.previous > self._offset
        self.gaps += missed and self._epoch is not None
        self._epoch, self._offset = event.epoch, event.offset
        about = event.event not in ELSEWHERE and not (event.event == "aliased" and event.alias != self.alias)
        if event.event == "published" and isinstance(self.error, VersionEvicted):
            about = event.number == self.error.number  # The named version went with an earlier broadcaster, and is back.
        return self._look_again(now) if missed or about else []

    def _beacon(self, beacon: Beacon, now: float) -> Out:
        self._silent_after = now + 3 * beacon.interval_ms / 1000
        if beacon.epoch == self._epoch and beacon.model_offset <= self._offset:
            return []
        self.gaps += self._epoch is not None
        self._epoch, self._offset = beacon.epoch, beacon.model_offset
        return self._look_again(now)

    def _look_again(self, now: float) -> Out:
        """Asks, or asks once more when the question that is under way was answered, which may be from before."""
        if self._ask_id is None:
            return self._ask(now)
        self._news = True
        return []

    # --- the question ----------------------------------------------------------------------------------------------

    def _ask(self, now: float) -> Out:
        self._ask_id, self._ask_at, self._news = self._make_id(), now + self._retry, False
        return [GetVersion(request_id=self._ask_id, namespace=self.namespace, model_id=self.model_id, ref=self.alias)]

    def _asked(self, now: float) -> Out:
        """The question was answered: it is put again if something happened since."""
        self._ask_id = self._ask_at = None
        return self._ask(now) if self._news else []

    def _answered(self, version: VersionInfo, now: float) -> Out:
        self.named = version
        return self._asked(now) + self._get(version, now)

    def _refused(self, error: BroadcasterError, now: float) -> Out:
        """It names nothing, or nothing that is there: what was named last stays, and events tell when that changes."""
        self.error = error
        if isinstance(error, (UnknownModel, UnknownVersion)):
            self._stop()
            return self._asked(now)
        self._ask_id = None
        self._try_later(now)
        return []

    def _try_later(self, now: float) -> None:
        """What failed may fail again at once: each time it waits for longer."""
        self._ask_at = now + self._patience
        self._patience = min(2 * self._patience, MAX_PATIENCE * self._retry)

    # --- getting the version ---------------------------------------------------------------------------------------

    def _get(self, version: VersionInfo, now: float) -> Out:
        if self.visible is not None and version.number == self.visible.number:
            self.error = None
            self._stop()  # It has moved back to what is here.
            return []
        if self._fetcher is not None:
            if version.number == self._fetcher.version.number or self._given_way:
                return []  # Who moves it faster than it can be read is followed in steps.
            self._stop()
            self._given_way = True
        assembly = Assembly(self._pool.lend(version.size))
        self._fetcher = Fetcher(version, assembly, self._make_id, chunks_per_read=self.chunks_per_read, retry=self._retry)
        return self._fetching(self._fetcher.start(now), now)

    def _fetching(self, asked: list[Message | Chunk], now: float) -> Out:
        fetcher = self._fetcher
        assert fetcher is not None
        if fetcher.state is FetcherState.FAILED:
            self.error = fetcher.error
            self._stop()
            if self._ask_id is None:
                self._try_later(now)
            return []
        if fetcher.state is not FetcherState.DONE:
            return list(asked)
        self._fetcher, self.visible = None, fetcher.version
        self.repaired += 1
        self.error, self._given_way, self._patience = None, False, self._retry
        moved = Moved(fetcher.version, fetcher.assembly.buffer)
        if self.named is None or self.named.number == fetcher.version.number or self._ask_id is not None:
            return [moved]
        return [moved, *self._ask(now)]  # It has moved on meanwhile.

    def retry_later(self, now: float, error: BroadcasterError) -> None:
        """The pool had no buffer: what is visible stays, and the question is put again later."""
        self.error = error
        self._stop()
        if self._ask_id is None:
            self._try_later(now)

    def _stop(self) -> None:
        if self._fetcher is not None:
            self._pool.give(self._fetcher.assembly.buffer)
            self._fetcher = None

    def close(self) -> None:
        """Nobody follows any more: the buffer of a version that was on its way goes back."""
        self._stop()
