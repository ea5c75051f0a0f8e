"""Following a model: the newest version at a glance, or each in order."""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from broadcaster.protocol.errors import Closed, InvalidRequest, LocalProtocolError, TransportError
from clients._checks import check_timeout
from clients._driver import futures
from clients._driver.acking import Mark
from clients._driver.alias_feed import AliasFeed, SnapshotFeed
from clients._driver.feed import Heard
from clients._driver.futures import Awaited, Promise
from clients._driver.listing import Listing
from clients._driver.loop import Driver
from clients._driver.waiting import Waiter
from clients._process import HERE
from clients.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class Lag:
    """How far a subscriber's user is behind: `versions` newer than the last one handed out were heard of, the first of them
    `seconds` ago (0 and 0.0 when none)."""

    versions: int
    seconds: float


@dataclass(frozen=True, slots=True)
class SubscriberStats:
    """`versions` became visible; `gaps` events were missed and `repaired` versions completed by reading; `bytes` of payload came
    in over sockets.

    `delivery` is how versions come now: `shared`, as views of shared memory; `chunks`, pushed; `reads`, each one is asked for,
    because `shared` is wanted and the newest was not to be had so. `reason` says why not shared, where it was wanted; None when
    they come shared, and when `chunks` was asked for. `leases` were taken, `lease_failures` were not. (Payloads of at most 64 KiB
    come inside messages whatever `delivery` is.)"""

    versions: int
    gaps: int
    repaired: int
    bytes: int
    delivery: str
    reason: str | None
    leases: int
    lease_failures: int


class Subscriber:
    """Follows one model, which need not exist yet. Subscribers of the same model in one client that want the same delivery share
    what they receive.

    Memory: none of this process for versions in shared memory; else the newest version and the one on its way. Each older
    snapshot that the user keeps costs one more, and so does a version that `every` reads.
    """

    def __init__(self, driver: Driver, feed: SnapshotFeed, *, every: bool = False) -> None:
        self._driver = driver
        self._feed = feed
        self._mark = Mark(driver.name)
        self._leave = weakref.finalize(self, driver.leave, feed, self._mark)
        self._leave.atexit = False
        self.keeps: object = None
        """What is to live as long as this: the client, which is closed when nothing refers to it."""
        self._closed = False
        self._loaded = 0
        self._listings: list[Listing] = []
        self._listed = self._list() if every else None
        mark = self._mark
        driver.post(lambda now: feed.acking.join(mark, now))

    @property
    def model_id(self) -> str:
        return self._feed.model_id

    # --- the newest ------------------------------------------------------------------------------------------------

    def latest(self) -> Snapshot | None:
        """The newest complete version, or None while there is none. Never waits, makes no system call, takes no lock."""
        if self._closed or self._driver.pid != HERE.pid or self._driver.ended is not None:
            self.check()
        snapshot = self._feed.snapshot
        if snapshot is not None:
            self._mark.handed = snapshot.version.number
        return snapshot

    def wait(self, timeout: float | None = None, newer_than: int | None = None) -> Snapshot:
        """The newest version, once there is one, or one with a number above `newer_than`. Raises RequestTimeout after `timeout`
        seconds.

        Of an alias: the version that it names, or one that is not `newer_than`, whose number may be above that or below."""
        snapshot = self.latest()
        if snapshot is None or not self.is_news(snapshot, newer_than):
            promise: Promise[Snapshot] = Promise()
            self._wait(promise, newer_than or 0, timeout)
            snapshot = futures.wait(promise, f"waiting for a version of {self.model_id}", timeout)
        return self.hand_out(snapshot)

    def is_news(self, snapshot: Snapshot, than: int | None) -> bool:
        """Whether it is newer than version `than`; for an alias, another one."""
        return self._feed.is_news(snapshot.version.number, than or 0)

    def hand_out(self, snapshot: Snapshot) -> Snapshot:
        """Notes that the user has it now: `lag` counts from there."""
        self._mark.handed = snapshot.version.number
        return snapshot

    def newer(self, newer_than: int, timeout: float | None) -> Future[Snapshot]:
        """A future of the newest version once its number is above `newer_than`; RequestTimeout after `timeout` seconds."""
        future: Future[Snapshot] = futures.new()
        self._wait(future, newer_than, timeout)
        return future

    def _wait(self, future: Awaited[Snapshot], newer_than: int, timeout: float | None) -> None:
        self.check()
        until = None if timeout is None else time.monotonic() + check_timeout(timeout)
        self._feed.wait(Waiter(future, newer_than, until, timeout, id(self)))
        if until is not None:
            self._driver.look_by(until)

    def load_into(self, target: object, *, strict: bool = True) -> Any:
        """Copies the newest version's tensors into `target`, as `Snapshot.load_into` does, and returns what that returns.

        None when there is no version newer than the last one loaded or attached with this subscriber. Never waits.
        """
        snapshot = self.latest()
        if snapshot is None or not self.is_news(snapshot, self._loaded):
            return None
        loaded = snapshot.load_into(target, strict=strict)
        self._loaded = snapshot.version.number
        return loaded

    def attach(self, module: object, *, strict: bool = True) -> Snapshot | None:
        """Makes the parameters of a torch module views of the newest version, as `Snapshot.attach` does; returns its snapshot.

        None when there is no version newer than the last one loaded or attached with this subscriber. Never waits, and copies
        nothing.
        """
        snapshot = self.latest()
        if snapshot is None or not self.is_news(snapshot, self._loaded):
            return None
        snapshot.attach(module, strict=strict)
        self._loaded = snapshot.version.number
        return snapshot

    def __iter__(self) -> Iterator[Snapshot]:
        """The newest version, then the newest after that one, and so on: each at most once, those between are skipped.

        Of an alias: the version that it names, and whenever it names another one, that."""
        last = 0
        while True:
            snapshot = self.wait(newer_than=last)
            last = snapshot.version.number
            yield snapshot

    # --- each ------------------------------------------------------------------------------------------------------

    def every(self) -> Every:
        """Iterates over every version in order: the newest that is there now, then all that are published from now on.

        Raises VersionDeleted or VersionEvicted for one that is gone before it was read, naming it; going on with the same
        iterator brings the next. What is missing after a restart or a long absence is VersionEvicted, from `number` to `until`,
        whatever became of it.
        """
        self.check()
        listing, self._listed = self._listed or self._list(), None
        return Every(self, self._driver, listing)

    def _list(self) -> Listing:
        feed = self._feed
        if isinstance(feed, AliasFeed):
            raise InvalidRequest(field="every", reason="an alias names one version after another: wait for each, or iterate")
        listing, newest = Listing(feed), feed.snapshot
        since = None if newest is None else newest.version
        self._driver.post(lambda now: feed.list_every(listing, since))
        self._listings.append(listing)
        return listing

    # --- how it is -------------------------------------------------------------------------------------------------

    @property
    def lag(self) -> Lag:
        """How far the user is behind, counted from the last version that was handed out; of an alias, whether it names another
        one."""
        if isinstance(self._feed, AliasFeed):
            since = self._feed.behind(self._mark.handed)
            return Lag(0, 0.0) if since is None else Lag(1, max(0.0, time.monotonic() - since))
        heard = list(self._feed.heard)
        have = self._mark.handed
        newer = [item for item in heard if item.version.number > have]
        if not newer:
            return Lag(0, 0.0)
        last = next((item for item in reversed(heard) if 0 < item.version.number <= have), None)
        return Lag(_behind(newer, have, last), max(0.0, time.monotonic() - newer[0].at))

    def stats(self) -> SubscriberStats:
        """What came so far, over all subscribers in this client that share what they receive."""
        feed, delivery = self._feed, self._feed.delivery
        return SubscriberStats(
            versions=feed.versions,
            gaps=feed.follower.gaps,
            repaired=feed.follower.repaired,
            bytes=feed.received,
            delivery=delivery.now,
            reason=delivery.reason,
            leases=delivery.taken,
            lease_failures=delivery.failed,
        )

    def close(self) -> None:
        """Follows no more; who waits gets Closed. Snapshots stay valid. May be called twice."""
        if self._closed or self._driver.pid != HERE.pid:
            return
        self._closed = True
        closed = Closed(what=f"the subscriber of {self.model_id}")
        with contextlib.suppress(TransportError, LocalProtocolError):  # The client has ended already, and with it all of this.
            self._driver.post(lambda now: self._feed.dismiss(id(self), self._listings, closed))
            self._leave()

    def check(self) -> None:
        """Raises what is wrong: ForkError, Closed, or what ended the client."""
        self._driver.check()
        if self._closed:
            raise Closed(what=f"the subscriber of {self.model_id}")

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _behind(newer: list[Heard], have: int, last: Heard | None) -> int:
    """How many versions those that were heard of are newer than `have` (0: nothing), which was heard of `last`, if it is still
    known. One that was missed between two of them counts; numbers that the broadcaster skipped when it was killed do not."""
    before, epoch = (have or newer[0].version.number - 1), (newer[0] if last is None else last).epoch
    versions = 0
    for item in newer:
        same_life = None in (epoch, item.epoch) or epoch == item.epoch
        versions += item.version.number - before if same_life else 1
        before, epoch = item.version.number, item.epoch
    return versions


class Every(Iterator[Snapshot]):
    """Every version of a model in order, from the newest at the time it was made."""

    def __init__(self, subscriber: Subscriber, driver: Driver, listing: Listing) -> None:
        self._subscriber = subscriber
        self._driver = driver
        self._listing = listing
        self._asked: Awaited[Snapshot] | None = None

    def __next__(self) -> Snapshot:
        promise = self._ask(Promise)
        try:
            return self.hand_out(futures.wait(promise, "the next version", None))
        finally:
            self.answered(promise)

    def following(self) -> Future[Snapshot]:
        """A future of the next version; the same one until it was `answered`, so that who gives up waiting misses nothing."""
        asked = self._ask(futures.new)
        assert isinstance(asked, Future), "an iterator is for threads, or for tasks"
        return asked

    def _ask(self, new: Callable[[], Awaited[Snapshot]]) -> Awaited[Snapshot]:
        self._subscriber.check()
        asked = self._asked
        if asked is None:
            asked = new()
            if self._listing.take(asked):
                self._driver.post(lambda now: self._listing.serve())
            self._asked = asked
        return asked

    def hand_out(self, snapshot: Snapshot) -> Snapshot:
        return self._subscriber.hand_out(snapshot)

    def answered(self, future: Awaited[Snapshot]) -> None:
        """What came of the future has been told, if anything came."""
        if future.done():
            self._asked = None
