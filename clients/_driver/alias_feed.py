"""One alias of a model that is followed, for all subscribers of a client: the version that it names is a plain attribute."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from broadcaster.protocol.errors import BroadcasterError, NoSpace
from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.machines.alias import AliasFollower, Moved, Out
from broadcaster.protocol.messages import Beacon, Event, Message
from broadcaster.protocol.names import EVENTS, topic
from clients._driver.acking import Acking
from clients._driver.delivery import Delivery
from clients._driver.feed import Feed, Outside
from clients._driver.listing import Listing
from clients._driver.newest_feed import InfoOnly, NewestFeed
from clients._driver.owner import Ids, Send
from clients._driver.waiting import Waiting
from clients.buffers import BufferPool
from clients.slots.leases import Leases
from clients.snapshot import Snapshot

log = logging.getLogger("clients")


class ByAlias(Delivery):
    """What an alias names is read: it may be a version that left shared memory long ago."""

    def __init__(self, alias: str) -> None:
        super().__init__("auto", verify=False)
        self.alias = alias
        self.reason = "what an alias names is read"

    def same(self, other: Delivery) -> bool:
        return isinstance(other, ByAlias) and other.alias == self.alias

    @property
    def chunks(self) -> bool:
        return False

    def decide(self, leases: Leases | None, why: str) -> None:
        return


class AliasFeed(Waiting):
    """Follows one alias: what it shows is the version that the alias named last, newer than the one before or older.

    `snapshot`, `versions` and `received` may be read, and `wait` and `behind` called, from any thread; all else runs on the I/O
    thread.
    """

    takes_chunks = False

    def __init__(self, namespace: str, model_id: str, delivery: ByAlias, outside: Outside, send: Send) -> None:
        super().__init__(model_id)
        ids = Ids()
        self.key = ids.key
        self.topic = topic(namespace, model_id, b"")
        self.topics = [self.topic + EVENTS]
        self.delivery = delivery
        self.versions = 0
        self.received = 0
        self.users = 0
        self.pool = BufferPool()
        self.follower = AliasFollower(namespace, model_id, delivery.alias, ids.make, self.pool)
        self.acking = Acking(namespace, model_id, send)
        """Never told of a version: who follows an alias is no part of the lag table."""
        self._outside = outside
        self._send = send
        self.decide()
        self._heard: tuple[int, float] | None = None

    def is_news(self, number: int, than: int) -> bool:
        """Any other version: an alias moves backwards too."""
        return number != than

    def behind(self, handed: int) -> float | None:
        """Since when (monotonic) the alias names another version than `handed`; None while it does not."""
        heard = self._heard
        return None if heard is None or heard[0] == handed else heard[1]

    # --- the loop's side -------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        return min([*self._waiters_due(), self.follower.deadline])

    def decide(self) -> None:
        """The broadcaster may be another one: what it takes is thought over."""
        self.follower.chunks_per_read = self._outside.chunks_per_read

    def start(self, now: float) -> None:
        self._do(lambda: self.follower.start(now), now)

    def receive(self, message: Message, payload: bytes | None, now: float) -> None:
        if isinstance(message, (Event, Beacon)):
            self._outside.epoch_seen(message.epoch, now)
        self._do(lambda: self.follower.receive(message, now), now)

    def wants_pushed(self, header: ChunkHeader, now: float) -> bool:
        return False

    def wants(self, header: ChunkHeader) -> bool:
        return self.follower.place(header) is not None

    def put(self, header: ChunkHeader, data: memoryview, now: float) -> None:
        self.received += header.length
        self._do(lambda: self.follower.placed(header, now, data), now)

    def expire(self, now: float) -> bool:
        self._expire_waiters(now, self.follower.error)
        return now >= self.follower.deadline and self._do(lambda: self.follower.expire(now), now)

    def fail(self, error: BroadcasterError) -> None:
        """Nobody follows any more, or nobody can."""
        self._end_waiting(error)
        self.follower.close()

    def dismiss(self, who: int, listings: Sequence[Listing], error: BroadcasterError) -> None:
        """One subscriber is closed: what it waits for ends with `error`."""
        self._dismiss_waiters(who, error)

    # --- what the machine says -------------------------------------------------------------------------------------

    def _do(self, call: Callable[[], Out], now: float) -> bool:
        """Whether something came of it. Where there is no memory for a version, the old one stays, and it is tried again."""
        out: Out = []
        try:
            out = call()
        except NoSpace as error:
            log.warning("no memory for a version model=%s bytes=%s", self.model_id, error.size)
            self.follower.retry_later(now, error)
        for item in out:
            if isinstance(item, Moved):
                self.snapshot = Snapshot(item.version, self.pool.root(item.payload))
                self.versions += 1
                self._serve_waiters()
            else:
                self._send(item)
        named = self.follower.named
        if named is not None and (self._heard is None or self._heard[0] != named.number):
            self._heard = named.number, now
        return bool(out)


SnapshotFeed = Feed | AliasFeed
"""What shows whole versions."""
AnyFeed = SnapshotFeed | NewestFeed


def make_feed(namespace: str, model_id: str, delivery: Delivery, outside: Outside, send: Send) -> AnyFeed:
    """A feed of a model's newest version, of what is known of that, or of what one of its aliases names."""
    if isinstance(delivery, ByAlias):
        return AliasFeed(namespace, model_id, delivery, outside, send)
    if isinstance(delivery, InfoOnly):
        return NewestFeed(namespace, model_id, delivery, outside, send)
    return Feed(namespace, model_id, delivery, outside, send)
