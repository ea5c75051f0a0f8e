"""What the life of a version runs through: the rooms, the sockets before them, and whoever waits for an answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from broadcaster.acks import AckTable
from broadcaster.beacons import Beacons
from broadcaster.catalog import Catalog
from broadcaster.eventlog import EventLog
from broadcaster.numbers import Numbers
from broadcaster.protocol.errors import BroadcasterError
from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.messages import Abandon, Event, Message
from broadcaster.slots import Inline, Slot, SlotPool, Tracker
from broadcaster.stats import Stats
from broadcaster.store.archive import Archive
from broadcaster.store.worker import Worker

if TYPE_CHECKING:
    from broadcaster.broker.waiting import Timing

T = TypeVar("T")

Key = tuple[str, str]
Place = Slot | Inline


class Caller(Protocol):
    """Whoever waits for an answer: a peer on a channel, and the request that it made."""

    @property
    def expires(self) -> float:
        """When its time is over: work that has not begun by then is not begun."""
        ...

    @property
    def timing(self) -> Timing | None:
        """Its way through this node, where it asked for that."""
        ...

    def reply(self, message: Message, payload: memoryview | None = None) -> None: ...
    def chunk(self, header: ChunkHeader, data: memoryview, *, track: bool) -> Tracker | None: ...
    def refuse(self, error: BroadcasterError) -> None: ...


class Front(Protocol):
    """What the broker needs of the sockets and the loop."""

    def push_event(self, event: Event, payload: memoryview | None) -> None: ...
    def push_chunk(self, key: Key, header: ChunkHeader, data: memoryview) -> Tracker | None:
        """From where the bytes are, to who wants chunks; None when nobody does."""
        ...

    def push_abandon(self, key: Key, abandon: Abandon) -> None: ...
    def post(self, done: Callable[[], None]) -> None:
        """Runs `done` on the loop's thread; safe from any thread."""
        ...


@dataclass(slots=True)
class Rooms:
    """Everything that the broker works with."""

    catalog: Catalog
    numbers: Numbers
    log: EventLog
    beacons: Beacons
    acks: AckTable
    slots: SlotPool
    archive: Archive
    writer: Worker
    """One thread: blobs, manifests, rows, in order."""
    reserver: Worker
    """One thread: numbers and disk space, which must not wait behind a large blob."""
    readers: Worker
    stats: Stats

    def emit(self, key: Key, event: str, now: float, **facts: Any) -> Event:
        """Appends to the log. Who pushes it, and with what, is the caller's."""
        self.stats.count("events")
        if now:
            self.beacons.news(key, now)
        return self.log.append(key, event, **facts)


def submit(worker: Worker, front: Front, job: Callable[[], T], finished: Callable[[T | BaseException], None]) -> None:
    """Runs `job` on a thread of `worker`, then `finished` on the loop's, with what came of it. Raises Busy or Closed."""
    worker.submit(job, lambda result: front.post(lambda: finished(result)))
