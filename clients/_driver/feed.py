"""One model that is followed, for all subscribers of a client: the newest version is a plain attribute."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol

import numpy as np

from broadcaster.protocol.errors import BroadcasterError, NoSpace, RequestTimeout
from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.machines.follow import Delivered, Follower, Hole, Lease, Listed, Out
from broadcaster.protocol.messages import Beacon, Event, Events, ListVersions, Message, State, Versions
from broadcaster.protocol.names import CHUNKS, EVENTS, topic
from broadcaster.protocol.version import VersionInfo
from clients._driver import futures
from clients._driver.acking import Acking
from clients._driver.asking import Ask
from clients._driver.delivery import Delivery
from clients._driver.fetching import Fetch
from clients._driver.listing import Listing
from clients._driver.owner import Ids, Reader, Send
from clients._driver.waiting import Waiting
from clients.buffers import BufferPool, array_of, view_of_array
from clients.slots.leases import Leases
from clients.snapshot import Snapshot

log = logging.getLogger("clients")

FETCH_TIMEOUT = 120.0
"""Seconds that one version may take to be read, for a reader of every version."""
HEARD = 1024
"""Newest versions whose time of arrival is remembered."""


class Outside(Protocol):
    """What a feed needs of the loop."""

    @property
    def leases(self) -> Leases | None:
        """What the slots of this host can be read with; None when they cannot, because of `no_slots`."""

    no_slots: str

    @property
    def chunks_per_read(self) -> int:
        """Chunks that one read may ask for."""

    def subscribe(self, topic: bytes, *, wanted: bool) -> None: ...
    def add(self, owner: Reader) -> None: ...
    def epoch_seen(self, epoch: int, now: float) -> None: ...
    def send_data(self, message: Message) -> None: ...


class Heard(NamedTuple):
    """A version that was heard of, when (monotonic), and in which life of the broadcaster, if that was known."""

    version: VersionInfo
    at: float
    epoch: int | None


class Feed(Waiting):
    """Follows one model in one way: what it shows is the newest complete version. `snapshot`, `versions`, `received` and `heard`
    may be read, and `wait` called, from any thread; all else runs on the I/O thread."""

    def __init__(self, namespace: str, model_id: str, delivery: Delivery, outside: Outside, send: Send) -> None:
        super().__init__(model_id)
        ids = Ids()
        self.key = ids.key
        self.namespace = namespace
        self.topic = topic(namespace, model_id, b"")
        """What all topics of the model begin with."""
        self.delivery = delivery
        self.versions = 0
        self.received = 0
        self.heard: deque[Heard] = deque(maxlen=HEARD)
        self.users = 0
        self.pool = BufferPool()
        self.follower = Follower(namespace, model_id, ids.make, self.pool)
        self.acking = Acking(namespace, model_id, send)
        self._outside = outside
        self._send = send
        self._listings: list[Listing] = []
        self._listed: Listed | None = None
        self.delivery.decide(outside.leases, outside.no_slots)
        self._chunks = self.delivery.chunks
        """Whether chunks are subscribed to, or will be with `topics`."""
        self.follower.shared = self.delivery.leases is not None
        self.follower.chunks_per_read = outside.chunks_per_read

    # --- the loop's side -------------------------------------------------------------------------------------------

    @property
    def deadline(self) -> float | None:
        own = self.follower.deadline
        return min(self.acking.due, *self._waiters_due(), self.acking.due if own is None else own)

    @property
    def topics(self) -> list[bytes]:
        """To be subscribed to in this order."""
        return [self.topic + CHUNKS, self.topic + EVENTS] if self._chunks else [self.topic + EVENTS]

    @property
    def takes_chunks(self) -> bool:
        """Whether pushed chunks are for this feed."""
        return self._chunks

    def decide(self) -> None:
        """Slots may have come or gone, and the broadcaster may be another one: how versions are to come is thought over."""
        self.follower.chunks_per_read = self._outside.chunks_per_read
        self.delivery.decide(self._outside.leases, self._outside.no_slots)
        self._settle()

    def _settle(self) -> None:
        """Does as `delivery` has decided."""
        self.follower.shared = self.delivery.leases is not None
        if self._chunks != self.delivery.chunks:
            self._chunks = self.delivery.chunks
            self._outside.subscribe(self.topic + CHUNKS, wanted=self._chunks)

    def start(self, now: float) -> None:
        """Asks what is newest: at the beginning, and whenever something may have been missed."""
        self._act(self.follower.start(now), now)

    def receive(self, message: Message, payload: bytes | None, now: float) -> None:
        if isinstance(message, (Event, Beacon, State, Events)):
            self._outside.epoch_seen(message.epoch, now)
        if isinstance(message, Beacon):
            self.acking.pace(message.ack_ms)
            if (leases := self._outside.leases) is not None:
                leases.sweep(now)
        self._do(lambda: self.follower.receive(message, now, payload), now)

    def wants_pushed(self, header: ChunkHeader, now: float) -> bool:
        """Whether the bytes of a pushed chunk are wanted."""
        return self.follower.place(header, now) is not None

    def wants(self, header: ChunkHeader) -> bool:
        return self.follower.place_read(header) is not None

    def put(self, header: ChunkHeader, data: memoryview, now: float) -> None:
        self.received += header.length
        self._do(lambda: self.follower.placed(header, now, data), now)

    def expire(self, now: float) -> bool:
        self._expire_waiters(now, self.follower.error)
        self.acking.expire(now)
        own = self.follower.deadline
        if own is None or now < own:
            return False
        return self._do(lambda: self.follower.expire(now), now)

    def fail(self, error: BroadcasterError) -> None:
        """Nobody follows any more, or nobody can."""
        self._end_waiting(error)
        for listing in self._listings:
            listing.fail(error)
        self.acking.close()
        self.follower.close()

    # --- what the machine says -------------------------------------------------------------------------------------

    def _do(self, call: Callable[[], Out], now: float) -> bool:
        """Whether something came of it."""
        before, out = self.follower.error, call()
        self._act(out, now)
        error = self.follower.error
        if isinstance(error, NoSpace) and error is not before:
            log.warning("no memory for a version model=%s bytes=%s", self.model_id, error.size)
        return bool(out)

    def _act(self, out: Out, now: float) -> None:
        todo = deque(out)
        while todo:
            item = todo.popleft()
            match item:
                case Delivered():
                    self._deliver(item)
                case Lease():
                    todo.extend(self._lease(item, now))
                case Listed():
                    self._list(item)
                case Hole():
                    for listing in self._listings:
                        listing.hole()
                case _:
                    self._send(item)
        self._note_heard(now)
        self.acking.look(self.follower.visible, self.follower.epoch, now)
        if out:
            self._serve()

    def _lease(self, item: Lease, now: float) -> Out:
        root = self.delivery.lease(item)
        if root is not None:
            return self.follower.leased(item, view_of_array(root), now)
        self._settle()
        return self.follower.lease_failed(item, now)

    def _deliver(self, item: Delivered) -> None:
        payload = item.payload
        if not isinstance(payload, memoryview):  # It came inside a message.
            root = array_of(bytes(payload))
            self.received += len(payload)
        elif isinstance(payload.obj, np.ndarray):  # What is under a lease.
            root = payload.obj
        else:
            root = self.pool.root(payload)
        self.snapshot = Snapshot(item.version, root)
        self.versions += 1

    def _list(self, item: Listed) -> None:
        self._listed = item
        for listing in self._listings:
            listing.add(item.version, item.payload, item.lease)

    def _note_heard(self, now: float) -> None:
        known = self.follower.known
        if known is not None and (not self.heard or known.number > self.heard[-1].version.number):
            self.heard.append(Heard(known, now, self.follower.epoch))

    def _serve(self) -> None:
        if self._waiters:
            self._serve_waiters()
        for listing in self._listings:
            listing.serve()

    # --- every version ---------------------------------------------------------------------------------------------

    def list_every(self, listing: Listing, since: VersionInfo | None) -> None:
        """From now on `listing` is told of each version; `since`, the newest when the user asked, comes first."""
        if self._ended is not None:
            listing.fail(self._ended)
            return
        self._listings.append(listing)
        last = self._listed
        if since is None and last is not None:
            listing.add(last.version, None, last.lease)
        elif since is not None:
            listing.add(since, None, last.lease if last is not None and last.version.number == since.number else None)
            newest = self.follower.known if last is None else last.version
            if newest is not None and newest.number > since.number:
                listing.hole()  # Others came before this thread got here.
        self._act(self.follower.list_every(), time.monotonic())

    def dismiss(self, who: int, listings: Sequence[Listing], error: BroadcasterError) -> None:
        """One subscriber is closed: what it waits for ends with `error`."""
        self._dismiss_waiters(who, error)
        self._listings = [listing for listing in self._listings if listing not in listings]
        for listing in listings:
            listing.fail(error)

    def at_hand(self, number: int) -> Snapshot | None:
        snapshot = self.snapshot
        return snapshot if snapshot is not None and snapshot.version.number == number else None

    def snapshot_of(self, version: VersionInfo, payload: bytes) -> Snapshot:
        return Snapshot(version, array_of(payload))

    def lease(self, lease: Lease) -> Snapshot | None:
        """The snapshot of a version that lies in a slot, unless it does not any more."""
        root = self.delivery.lease(lease)
        self._settle()
        return None if root is None else Snapshot(lease.version, root)

    def fetch(self, version: VersionInfo) -> Future[Snapshot]:
        """The snapshot of a version, read into a buffer of this feed's pool."""
        try:
            buffer = self.pool.lend(version.size)
        except BroadcasterError as error:
            return futures.failed(error)
        until, most = time.monotonic() + FETCH_TIMEOUT, self._outside.chunks_per_read
        fetch = Fetch(version, buffer, self._fetched, self._send, until, FETCH_TIMEOUT, self.pool.give, chunks_per_read=most)
        self._outside.add(fetch)
        return fetch.future

    def _fetched(self, version: VersionInfo, buffer: memoryview) -> Snapshot:
        self.received += version.size
        return Snapshot(version, self.pool.root(buffer))

    def list_after(self, number: int, then: Callable[[Sequence[VersionInfo]], None]) -> None:
        """Tells `then` the versions above `number` that can be fetched; asks until the broadcaster answers."""
        found: list[VersionInfo] = []

        def page(answer: Versions) -> None:
            found.extend(answer.versions)
            if answer.next is None:
                then(found)
            else:
                ask(answer.next)

        def over(future: Future[None]) -> None:
            error = future.exception()
            if isinstance(error, RequestTimeout) and not self.over:
                ask(found[-1].number if found else number)
            elif error is not None:
                then(found)  # The model is gone, or may not be read: nothing is still there.

        def ask(after: int) -> None:
            def request(request_id: bytes) -> ListVersions:
                return ListVersions(request_id=request_id, namespace=self.namespace, model_id=self.model_id, after=after)

            question = Ask(request, Versions, page, self._send, time.monotonic() + FETCH_TIMEOUT, FETCH_TIMEOUT)
            question.future.add_done_callback(over)
            self._outside.add(question)

        ask(number)
