"""Following a model: chunks and events come in, whole verified versions come out.

    Follower (actor)                                 broadcaster
    ASKING     ── follow ──────────────────────────▶
               ◀──────────── state: newest is 7 ─────
    FOLLOWING  ◀──────────── chunk, chunk, ... ──────   (push)
               ◀──────────── event: that was 8 ──────   (push)
               ── read chunk 3 of 8 ───────────────▶    (one was missed)
               ◀──────────── chunk ──────────────────

With `shared`, on the broadcaster's host, no chunks are pushed to this follower: it emits a `Lease` for a version that lies in a
slot, and whoever runs it answers `leased` or `lease_failed`. A version that cannot be leased is read like any other.

One version is put together at a time. While one is, others are only remembered by number: the newest of them comes next, over the
data channel. So a follower that is behind skips to the newest, and one that keeps missing chunks still gets ahead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import xxhash

from broadcaster.protocol.assembly import Assembly
from broadcaster.protocol.errors import BroadcasterError, NoSpace
from broadcaster.protocol.frames import Buffer, Chunk, ChunkHeader
from broadcaster.protocol.limits import BEACON_IDLE, RETRY
from broadcaster.protocol.machines.fetch import Fetcher, FetcherState
from broadcaster.protocol.messages import Abandon, Beacon, Error, Event, Events, Follow, Message, Replay, State
from broadcaster.protocol.version import VersionInfo

NAP = 4
"""Chunks that a nap is long."""
LONGEST_NAP = 0.02
"""Seconds."""
NEARLY = 4
"""Chunks: a version that lacks no more than these is finished rather than let go for a newer one."""


class Pool(Protocol):
    """Who owns the buffers: `lend` gives one of exactly `size` bytes, or raises NoSpace; `give` takes one back that leads to no
    version."""

    def lend(self, size: int) -> memoryview: ...
    def give(self, buffer: memoryview) -> None: ...


@dataclass(frozen=True, slots=True)
class Delivered:
    """A whole, verified version, newer than all before. `payload` is a lent buffer, bytes that came inside a message, or what
    was given to `leased`."""

    version: VersionInfo
    payload: Buffer


@dataclass(frozen=True, slots=True)
class Lease:
    """A version lies in a slot on this host: take a lease, and say `leased` or `lease_failed`."""

    version: VersionInfo
    epoch: int
    slot: str
    generation: int


@dataclass(frozen=True, slots=True)
class Listed:
    """A version was published: every one, in order, with the payload where it came inside the event, and where it lies on the
    broadcaster's host."""

    version: VersionInfo
    payload: bytes | None
    lease: Lease | None = None


@dataclass(frozen=True, slots=True)
class Hole:
    """The log no longer tells what was published after version `after`: look at what is still there."""

    after: int


Out = list[Message | Chunk | Delivered | Lease | Listed | Hole]


class FollowerState(Enum):
    ASKING = "asking"
    FOLLOWING = "following"


@dataclass(slots=True)
class _Incoming:
    """The version that is being put together: from chunks whose event is still to come, from reads, or both."""

    assembly: Assembly
    key: tuple[bytes, int] | None
    touched: float
    version: VersionInfo | None = None
    fetcher: Fetcher | None = None
    begun: float = 0.0
    expected: bytes | None = None
    """The header of the pushed chunk that comes next if nothing was lost."""

    def expect(self) -> bytes | None:
        """Makes up `expected`: comparing 64 bytes is cheaper than taking them apart."""
        assembly, key, expected = self.assembly, self.key, None
        if key is not None and self.fetcher is None and assembly.front < assembly.count:
            expected = assembly.header(*key)
        self.expected = expected
        return expected


class Follower:
    """Follows one model for one subscriber. While the pool has no buffer for a version, what is visible stays, and it is asked
    again when its time comes.

    `every` also lists each published version in order (`Listed`), filling what was missed from the event log. `shared` may be
    changed at any time.
    """

    def __init__(
        self,
        namespace: str,
        model_id: str,
        make_id: Callable[[], bytes],
        pool: Pool,
        *,
        every: bool = False,
        shared: bool = False,
        retry: float = RETRY,
    ) -> None:
        self.namespace = namespace
        self.model_id = model_id
        self.state = FollowerState.ASKING
        self.every = every
        self.shared = shared
        """Whether versions that lie in slots are to be leased."""
        self.chunks_per_read = 1
        """Chunks that one read may ask for, as the broadcaster says."""
        self.epoch: int | None = None
        self.model_offset = 0
        self.known: VersionInfo | None = None
        """The newest version that was heard of, visible or not."""
        self.visible = 0
        """Number of the newest delivered version."""
        self.error: BroadcasterError | None = None
        """Why the last attempt to get a version failed, until one succeeds."""
        self.gaps = 0
        self.repaired = 0
        self._make_id = make_id
        self._pool = pool
        self._retry = retry
        self._incoming: _Incoming | None = None
        self._target: VersionInfo | None = None
        self._skipped = False
        self._tried: Lease | None = None
        """What was to be leased last: once is enough."""
        self._ask_id: bytes | None = None
        self._ask_at: float | None = None
        self._replay_id: bytes | None = None
        self._replay_at: float | None = None
        self._listed_offset = 0
        self._listed_number = 0
        self._silent_after = 0.0

    # --- the four verbs --------------------------------------------------------------------------------------------

    def start(self, now: float) -> Out:
        """Asks what is newest. To be called after subscribing, so that nothing falls between."""
        self._silent_after = now + 3 * BEACON_IDLE
        return self._ask(now)

    def receive(self, message: Message, now: float, payload: bytes | None = None) -> Out:
        match message:
            case Event():
                return self._event(message, payload, now)
            case Beacon():
                return self._beacon(message, now)
            case Abandon():
                return self._abandon(message, now)
            case State() if message.request_id == self._ask_id:
                return self._state(message, payload, now)
            case Events() if message.request_id == self._replay_id:
                return self._events(message, now)
            case Error():
                return self._refused(message, now)
        return []  # An answer to a question that was asked again: the newer answer counts.

    @property
    def deadline(self) -> float | None:
        times = [self._silent_after]
        times += [at + self._retry for at in (self._ask_at, self._replay_at) if at is not None]
        incoming = self._incoming
        if incoming is not None and incoming.fetcher is not None and incoming.fetcher.deadline is not None:
            times.append(incoming.fetcher.deadline)
        elif incoming is not None and self._target is not None:
            times.append(incoming.touched + self._retry)
        return min(times)

    def expire(self, now: float) -> Out:
        out: Out = []
        if self._ask_at is not None and now >= self._ask_at + self._retry or now >= self._silent_after:
            self._silent_after = now + 3 * BEACON_IDLE
            out += self._ask(now)
        if self._replay_at is not None and now >= self._replay_at + self._retry:
            out += self._replay(now)
        incoming = self._incoming
        if incoming is not None and incoming.fetcher is not None:
            out += incoming.fetcher.expire(now)
        elif incoming is not None and self._target is not None and now >= incoming.touched + self._retry:
            self._drop()  # Chunks stopped coming, and something newer than what we hold is there to be read.
            out += self._next(now)
        return out

    # --- chunks ----------------------------------------------------------------------------------------------------

    def place(self, header: ChunkHeader, now: float) -> memoryview | None:
        """Where the bytes of a pushed chunk go; None when they are not wanted. Raises NoSpace when the pool has no buffer."""
        key = (header.transfer, header.attempt)
        if self._incoming is not None and self._incoming.key != key and self._gives_way(self._incoming, header, now):
            if self._incoming.version is not None:
                self._aim(self._incoming.version)  # If the newer one leads to nothing, this one is read after all.
                self._skipped = True
            self._drop()
        incoming = self._incoming
        if incoming is None:
            try:
                buffer = self._pool.lend(header.size)
            except NoSpace:
                if self._target is not None and self._ask_at is None:
                    self._ask_later(now)  # Nothing may come of this one, and then nobody would read what gave way for it.
                raise
            incoming = _Incoming(Assembly(buffer), key, now, begun=now)
            self._incoming = incoming
        if incoming.key != key:
            return None
        index = incoming.assembly.index_of(header)
        return None if incoming.assembly.has(index) else incoming.assembly.view(index)

    @property
    def expected(self) -> bytes | None:
        """The header of the very chunk that is to be pushed next, whose bytes go to `front`; None in between versions. A chunk
        with any other header is for `place` to judge."""
        incoming = self._incoming
        return None if incoming is None else incoming.expected

    @property
    def front(self) -> memoryview:
        """Where the bytes of the expected chunk go."""
        incoming = self._incoming
        assert incoming is not None and incoming.expected is not None, "nothing is expected"
        return incoming.assembly.view(incoming.assembly.front)

    def came(self, place: memoryview, now: float) -> bytes | None:
        """The bytes that were expected are in their `place`, which was the front. Returns what is `expected` next."""
        incoming = self._incoming
        assert incoming is not None and incoming.expected is not None, "nothing was expected"
        incoming.touched = now
        incoming.assembly.came(place)
        return incoming.expect()

    def nap(self, now: float) -> float:
        """Seconds in which nothing has to be looked at: in the middle of a transfer, the time that a few of its chunks take.

        What each waking costs is shared by several chunks then. Towards the end there is none, so no version comes later for it.
        """
        incoming = self._incoming
        if incoming is None or incoming.expected is None:
            return 0.0
        front = incoming.assembly.front
        ahead = min(NAP, (incoming.assembly.count - front) // 2)
        if front < NAP or ahead < 2:
            return 0.0
        return min(LONGEST_NAP, ahead * (now - incoming.begun) / front)

    def _gives_way(self, incoming: _Incoming, header: ChunkHeader, now: float) -> bool:
        """Whether what is being put together is let go for the transfer that this chunk belongs to.

        Chunks without an event give way when they have stopped coming. A version that is being read gives way to a newer one that
        begins to arrive: else whoever once fell behind a busy learner would read every version and receive it in vain as well. It
        does so once, then one is finished: there is always a next newest.
        """
        if incoming.version is None:
            return now - incoming.touched >= self._retry
        begins = header.offset == 0 and self.visible > 0 and not self._skipped
        return begins and incoming.assembly.count - incoming.assembly.front > NEARLY

    def place_read(self, header: ChunkHeader) -> memoryview | None:
        """Where the bytes of an answer to a read go; None for one that is not awaited any more."""
        incoming = self._incoming
        return incoming.fetcher.place(header) if incoming is not None and incoming.fetcher is not None else None

    def placed(self, header: ChunkHeader, now: float, data: memoryview | None = None) -> Out:
        """The bytes are where `place` or `place_read` said; those of `data` are put there now."""
        incoming = self._incoming
        assert incoming is not None, "placed() follows place()"
        incoming.touched = now
        if incoming.fetcher is not None and incoming.fetcher.owns(header.transfer):
            return self._fetching(incoming.fetcher.placed(header, now, data), now)
        incoming.assembly.add(incoming.assembly.index_of(header), data)
        incoming.expect()
        return [] if incoming.fetcher is None else self._fetching(incoming.fetcher.came(now), now)

    # --- push ------------------------------------------------------------------------------------------------------

    def _event(self, event: Event, payload: bytes | None, now: float) -> Out:
        self._silent_after = now + 3 * BEACON_IDLE
        if self.epoch is None:
            return self._first(event, payload, now)
        out: Out = []
        missed = event.epoch == self.epoch and event.previous > self.model_offset
        if event.epoch != self.epoch:
            out += self._restarted(event.epoch)
            out += [] if self._ask_at is not None else self._ask(now)
        elif event.offset <= self.model_offset:
            return []
        if self.every:
            out += self._list_event(event, payload, now)
        elif missed:
            self.gaps += 1
        self.model_offset = event.offset
        if event.event == "published" and event.version is not None:
            out += self._published(event, event.version, payload, now)
        elif missed:
            out += self._ask(now)  # What was missed may have been a version, and no beacon will tell of it now.
        return out

    def _first(self, event: Event, payload: bytes | None, now: float) -> Out:
        """An event before the first state: its version counts, but where the log stands only the state can say. Who wants every
        version begins to list with this one: the state that comes will not name it if another follows before."""
        out: Out = []
        if self.every:
            self.epoch, self.model_offset, self._listed_offset = event.epoch, event.offset, event.offset
        if event.event == "published" and event.version is not None:
            out += self._list(event.version, payload, _lease_of(event, event.version)) if self.every else []
            out += self._published(event, event.version, payload, now)
        return out

    def _published(self, event: Event, version: VersionInfo, payload: bytes | None, now: float) -> Out:
        incoming = self._incoming
        mine = incoming is not None and incoming.key == (event.transfer, event.attempt or 0)
        if version.number <= self.visible:
            if mine:
                self._drop()
            return []
        self._learn(version)
        if payload is not None:
            if mine:
                self._drop()  # It came in chunks too; the next version's need the place.
            return self._inline(version, payload, now)
        if not mine or incoming is None or incoming.version is not None or incoming.assembly.size != version.size:
            return self._get(version, _lease_of(event, version), now)
        incoming.version, incoming.expected = version, None
        if incoming.assembly.complete:
            return self._whole(incoming, version, now)
        self.repaired += 1
        return self._read(incoming, version, now)

    def _beacon(self, beacon: Beacon, now: float) -> Out:
        self._silent_after = now + 3 * beacon.interval_ms / 1000
        if self.epoch is None or self._ask_at is not None:
            return []
        if beacon.epoch == self.epoch and beacon.model_offset <= self.model_offset:
            return []
        self.gaps += 1
        return self._ask(now)

    def _abandon(self, abandon: Abandon, now: float) -> Out:
        incoming = self._incoming
        if incoming is None or incoming.version is not None or incoming.key != (abandon.transfer, abandon.attempt):
            return []
        self._drop()
        return self._next(now)

    # --- answers ---------------------------------------------------------------------------------------------------

    def _state(self, state: State, payload: bytes | None, now: float) -> Out:
        self._ask_id = self._ask_at = None
        self.state = FollowerState.FOLLOWING
        self._silent_after = now + 3 * BEACON_IDLE
        out: Out = []
        first = self.epoch is None
        if first or state.epoch == self.epoch:
            missed = not first and state.model_offset > self.model_offset
            self.epoch, self.model_offset = state.epoch, max(self.model_offset, state.model_offset)
            if first:
                self._listed_offset = state.model_offset
                out += self._list_newest(state, payload)
            elif missed and self.every:
                out += self._replay(now)
        else:
            out += self._restarted(state.epoch)
            self.model_offset = state.model_offset
            out += self._replay(now) if self.every else []
        version = state.newest
        if version is None or version.number <= self.visible:
            return out
        self._learn(version)
        return out + (
            self._get(version, _lease_of(state, version), now) if payload is None else self._inline(version, payload, now)
        )

    def _restarted(self, epoch: int) -> Out:
        """Another life of the broadcaster: its log begins at 0, and what was published just before the end is not in it."""
        self.epoch, self.model_offset, self._listed_offset = epoch, 0, 0
        self._replay_id = self._replay_at = None
        return [Hole(self._listed_number)] if self.every and self._listed_number else []

    def _refused(self, error: Error, now: float) -> Out:
        incoming = self._incoming
        if error.request_id == self._replay_id:
            self._replay_id = self._replay_at = None
            self._listed_offset = self.model_offset
            return [Hole(self._listed_number)]
        if error.request_id == self._ask_id:
            self.error = error.to_raise()
            return []  # Asked again when its time is over.
        if incoming is None or incoming.fetcher is None:
            return []
        return self._fetching(incoming.fetcher.receive(error, now), now)

    # --- every version, in order -----------------------------------------------------------------------------------

    def list_every(self) -> Out:
        """From now on each published version is listed: the newest that is known first, unless the first state is still to name
        it."""
        if self.every:
            return []
        self.every = True
        if self.epoch is None:
            return []
        self._listed_offset = self.model_offset
        return [] if self.known is None else self._list(self.known, None, None)

    def _list_newest(self, state: State, payload: bytes | None) -> Out:
        version = state.newest
        return [] if version is None or not self.every else self._list(version, payload, _lease_of(state, version))

    def _list(self, version: VersionInfo, payload: bytes | None, lease: Lease | None) -> Out:
        if version.number <= self._listed_number:
            return []
        self._listed_number = version.number
        return [Listed(version, payload, lease)]

    def _list_event(self, event: Event, payload: bytes | None, now: float) -> Out:
        if self._replay_id is not None or event.offset <= self._listed_offset:
            return []  # The replay that is under way, or the next one, tells about this one in its place.
        if event.previous > self._listed_offset:
            self.gaps += 1
            return self._replay(now)
        self._listed_offset = event.offset
        if event.event != "published" or event.version is None:
            return []
        return self._list(event.version, payload, _lease_of(event, event.version))

    def _events(self, events: Events, now: float) -> Out:
        self._replay_id = self._replay_at = None
        if events.epoch != self.epoch:
            return []
        out: Out = []
        for event in events.events:
            if event.offset > self._listed_offset:
                self._listed_offset = event.offset
                if event.event == "published" and event.version is not None:
                    out += self._list(event.version, None, _lease_of(event, event.version))
        if events.next is not None:
            self._listed_offset = max(self._listed_offset, events.next)
        if events.next is not None or self._listed_offset < self.model_offset:
            out += self._replay(now)
        return out

    def _replay(self, now: float) -> Out:
        assert self.epoch is not None, "there is a gap only in a log that is known"
        self._replay_id, self._replay_at = self._make_id(), now
        return [
            Replay(
                request_id=self._replay_id,
                namespace=self.namespace,
                model_id=self.model_id,
                epoch=self.epoch,
                after=self._listed_offset,
            )
        ]

    # --- getting a version -----------------------------------------------------------------------------------------

    def _learn(self, version: VersionInfo) -> None:
        if self.known is None or version.number > self.known.number:
            self.known = version

    def _ask(self, now: float) -> Out:
        self.state = FollowerState.ASKING
        self._ask_id, self._ask_at = self._make_id(), now
        return [Follow(request_id=self._ask_id, namespace=self.namespace, model_id=self.model_id)]

    def _get(self, version: VersionInfo, lease: Lease | None, now: float) -> Out:
        """Gets a version that came without its payload: from the slot that it lies in, or else by reading."""
        if lease is None or not self.shared or lease == self._tried:
            return self._want(version, now)
        self._tried = lease
        return [lease]

    def leased(self, lease: Lease, payload: Buffer, now: float) -> Out:
        """The version of `lease` is `payload`, which nobody writes to while it is looked at: it becomes visible, unless a newer
        one is. To be said of nothing but a slot whose header was that version's, under a lease."""
        return [] if lease.version.number <= self.visible else self._deliver(lease.version, payload, now)

    def lease_failed(self, lease: Lease, now: float) -> Out:
        """The version of `lease` is not in its slot any more, or cannot be looked at there: it is read."""
        if lease.version.number <= self.visible:
            return []
        self.repaired += 1
        return self._want(lease.version, now)

    def _inline(self, version: VersionInfo, payload: bytes, now: float) -> Out:
        if len(payload) != version.size or xxhash.xxh3_128_hexdigest(payload) != version.digest:
            return self._want(version, now)
        return self._deliver(version, payload, now)

    def _want(self, version: VersionInfo, now: float) -> Out:
        incoming = self._incoming
        if incoming is not None:
            if incoming.version is None or version.number > incoming.version.number:
                self._aim(version)
            return []
        try:
            buffer = self._pool.lend(version.size)
        except NoSpace as error:  # Answered here: what is delivered or listed beside it must not be lost with it.
            self.error = error
            return self._ask_later(now)
        incoming = _Incoming(Assembly(buffer), None, now, version)
        self._incoming = incoming
        return self._read(incoming, version, now)

    def _aim(self, version: VersionInfo) -> None:
        """What to get next, unless something newer is."""
        if self._target is None or version.number > self._target.number:
            self._target = version

    def _read(self, incoming: _Incoming, version: VersionInfo, now: float) -> Out:
        incoming.expected = None
        incoming.fetcher = Fetcher(
            version, incoming.assembly, self._make_id, chunks_per_read=self.chunks_per_read, retry=self._retry
        )
        return self._fetching(incoming.fetcher.start(now), now)

    def _fetching(self, asked: list[Message | Chunk], now: float) -> Out:
        incoming = self._incoming
        assert incoming is not None and incoming.fetcher is not None and incoming.version is not None
        if incoming.fetcher.state is FetcherState.DONE:
            return self._deliver(incoming.version, incoming.assembly.buffer, now)
        if incoming.fetcher.state is FetcherState.FAILED:
            self.error = incoming.fetcher.error
            self._drop()
            return self._next(now) if self._target is not None else self._ask_later(now)
        return list(asked)

    def _ask_later(self, now: float) -> Out:
        """What failed may fail again at once: the question waits for its time."""
        self.state = FollowerState.ASKING
        self._ask_id, self._ask_at = self._make_id(), now
        return []

    def _whole(self, incoming: _Incoming, version: VersionInfo, now: float) -> Out:
        if incoming.assembly.digest == version.digest:
            return self._deliver(version, incoming.assembly.buffer, now)
        self.repaired += 1
        incoming.assembly = Assembly(incoming.assembly.buffer)
        incoming.key = None
        return self._read(incoming, version, now)

    def _deliver(self, version: VersionInfo, payload: Buffer, now: float) -> Out:
        incoming = self._incoming
        if incoming is not None and incoming.assembly.buffer is payload:
            self._incoming = None
        elif incoming is not None and incoming.version is not None and incoming.version.number <= version.number:
            self._drop()
        self.visible, self.error, self._skipped = version.number, None, False
        return [Delivered(version, payload), *self._next(now)]

    def _next(self, now: float) -> Out:
        target, self._target = self._target, None
        return self._want(target, now) if target is not None and target.number > self.visible else []

    def _drop(self) -> None:
        if self._incoming is not None:
            self._pool.give(self._incoming.assembly.buffer)
            self._incoming = None

    def close(self) -> None:
        """Nobody follows any more: the buffer of a version that was on its way goes back."""
        self._drop()


def _lease_of(told: Event | State, version: VersionInfo) -> Lease | None:
    """Where the payload of a version lies on the broadcaster's host, if this says so."""
    if told.slot is None or told.generation is None:
        return None
    return Lease(version, told.epoch, told.slot, told.generation)
