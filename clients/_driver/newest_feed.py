"""The newest version of one model as it changes, for all in a client who want to know: never its payload."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from broadcaster.protocol.errors import BroadcasterError
from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.machines.newest import NewestFollower, Out
from broadcaster.protocol.messages import Beacon, Event, Message, State
from broadcaster.protocol.names import EVENTS, topic
from broadcaster.protocol.version import VersionInfo
from clients._driver import futures
from clients._driver.acking import Acking
from clients._driver.delivery import Delivery
from clients._driver.feed import Outside
from clients._driver.listing import Listing
from clients._driver.owner import Ids, Send
from clients.slots.leases import Leases


class Heard(NamedTuple):
    """A version, and where its payload lies on the broadcaster's host: epoch, slot and generation, if it is known."""

    version: VersionInfo
    where: tuple[int, str, int] | None


class InfoOnly(Delivery):
    """Nothing is delivered but what is known of versions, of the model that was made at `created` (ns)."""

    def __init__(self, created: int) -> None:
        super().__init__("auto", verify=False)
        self.reason = "only what is known of versions is wanted"
        self.created = created
        self.over = False
        """The model was deleted: who comes now gets a feed of his own."""

    def same(self, other: Delivery) -> bool:
        return isinstance(other, InfoOnly) and other.created == self.created and not self.over

    @property
    def chunks(self) -> bool:
        return False

    def decide(self, leases: Leases | None, why: str) -> None:
        return


class _Waiter(NamedTuple):
    future: Future[Heard]
    than: int
    who: int


class NewestFeed:
    """Follows one model for one life of it. `newer` may be called from any thread; all else runs on the I/O thread."""

    takes_chunks = False

    def __init__(self, namespace: str, model_id: str, delivery: InfoOnly, outside: Outside, send: Send) -> None:
        ids = Ids()
        self.key = ids.key
        self.model_id = model_id
        self.topic = topic(namespace, model_id, b"")
        self.topics = [self.topic + EVENTS]
        self.delivery = delivery
        self.over = False
        self.users = 0
        self.follower = NewestFollower(namespace, model_id, delivery.created, ids.make)
        self.acking = Acking(namespace, model_id, send)
        """Never told of a version: who receives none is no part of the lag table."""
        self._outside = outside
        self._send = send
        self._lock = threading.Lock()
        self._heard: Heard | None = None
        self._ended: BroadcasterError | None = None
        self._waiters: list[_Waiter] = []

    def newer(self, than: int, who: int) -> Future[Heard]:
        """Of the newest version, once there is one with a number above `than`. Ends in UnknownModel when the model is deleted."""
        waiter = _Waiter(futures.new(), than, who)
        with self._lock:
            heard, ended = self._heard, self._ended
            if ended is None and (heard is None or heard.version.number <= than):
                self._waiters.append(waiter)
                return waiter.future
        if ended is not None:
            futures.fail(waiter.future, ended)
        elif heard is not None:
            futures.fulfil(waiter.future, heard)
        return waiter.future

    # --- the loop's side -------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        return self.follower.deadline

    def decide(self) -> None:
        """Slots may have come or gone, which changes nothing here."""

    def start(self, now: float) -> None:
        self._do(lambda: self.follower.start(now))

    def receive(self, message: Message, payload: bytes | None, now: float) -> None:
        if isinstance(message, (Event, Beacon, State)):
            self._outside.epoch_seen(message.epoch, now)
        self._do(lambda: self.follower.receive(message, now))

    def wants_pushed(self, header: ChunkHeader, now: float) -> bool:
        return False

    def wants(self, header: ChunkHeader) -> bool:
        return False

    def put(self, header: ChunkHeader, data: memoryview, now: float) -> None:
        raise AssertionError("no bytes are wanted")

    def expire(self, now: float) -> bool:
        return self._do(lambda: self.follower.expire(now))

    def fail(self, error: BroadcasterError) -> None:
        """Nobody follows any more, or nobody can."""
        self.delivery.over = True
        with self._lock:
            self._ended = self._ended or error
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            futures.fail(waiter.future, error)

    def dismiss(self, who: int, listings: Sequence[Listing], error: BroadcasterError) -> None:
        """One of those who wait does so no more."""
        with self._lock:
            leaving = [waiter for waiter in self._waiters if waiter.who == who]
            self._waiters = [waiter for waiter in self._waiters if waiter.who != who]
        for waiter in leaving:
            futures.fail(waiter.future, error)

    def _do(self, call: Callable[[], Out]) -> bool:
        """Whether something came of it."""
        out = call()
        for message in out:
            self._send(message)
        follower = self.follower
        if follower.error is not None and self._ended is None:
            self.fail(follower.error)
        newest = follower.newest
        if newest is not None and (self._heard is None or newest.number > self._heard.version.number):
            self._tell(Heard(newest, follower.where))
        return bool(out)

    def _tell(self, heard: Heard) -> None:
        with self._lock:
            self._heard = heard
            served = [waiter for waiter in self._waiters if heard.version.number > waiter.than]
            self._waiters = [waiter for waiter in self._waiters if heard.version.number <= waiter.than]
        for waiter in served:
            futures.fulfil(waiter.future, heard)
