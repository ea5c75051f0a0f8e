"""Every version of a model, in order: a queue of numbers for one reader, who fetches each when it is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from threading import Lock
from typing import NamedTuple, Protocol

from broadcaster.protocol.errors import BroadcasterError, UnknownModel, UnknownVersion, VersionDeleted, VersionEvicted
from broadcaster.protocol.machines.follow import Lease
from broadcaster.protocol.version import VersionInfo
from clients._driver import futures
from clients._driver.futures import Awaited
from clients.snapshot import Snapshot

INLINE_BUDGET = 32 << 20
"""Bytes of small payloads that one queue keeps; those beyond are fetched when their turn comes."""


class Hole(NamedTuple):
    """Versions from `first` to `last` may have been published, and are gone."""

    first: int
    last: int


class Entry(NamedTuple):
    version: VersionInfo
    payload: bytes | None
    lease: Lease | None


class Source(Protocol):
    """What a listing needs of the feed that it belongs to."""

    @property
    def model_id(self) -> str: ...
    def at_hand(self, number: int) -> Snapshot | None: ...
    def snapshot_of(self, version: VersionInfo, payload: bytes) -> Snapshot: ...
    def lease(self, lease: Lease) -> Snapshot | None: ...
    def fetch(self, version: VersionInfo) -> Future[Snapshot]: ...
    def list_after(self, number: int, then: Callable[[Sequence[VersionInfo]], None]) -> None: ...


class Listing:
    """`take` may be called from any thread, all else runs on the I/O thread."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._lock = Lock()
        """Over what is there, and who waits for it."""
        self._entries: deque[Entry | Hole] = deque()
        self._inline = 0
        self._asked: Awaited[Snapshot] | None = None
        self._fetching = False
        self._ended: BroadcasterError | None = None
        self._last = 0
        self._looking = False
        self._unsure = False
        """Whether versions below the next one may have been missed."""
        self._behind: list[Entry] = []

    # --- what comes ------------------------------------------------------------------------------------------------

    def add(self, version: VersionInfo, payload: bytes | None, lease: Lease | None = None) -> None:
        """The next version was published. `lease` says where it lies on this host; it is taken when the version is asked for."""
        with self._lock:
            self._add(version, payload, lease)

    def _add(self, version: VersionInfo, payload: bytes | None, lease: Lease | None = None) -> None:
        if payload is not None and self._inline + len(payload) > INLINE_BUDGET:
            payload = None
        if self._looking:
            self._behind.append(Entry(version, None, lease))
        elif version.number > self._last:
            if self._unsure and version.number > self._last + 1:
                self._entries.append(Hole(self._last + 1, version.number - 1))
            self._unsure = False
            self._last = version.number
            self._inline += 0 if payload is None else len(payload)
            self._entries.append(Entry(version, payload, lease))

    def hole(self) -> None:
        """What was published after the last version is not known: what is still there will do."""
        if not self._looking:
            self._looking = True
            self._source.list_after(self._last, self._found)

    def _found(self, versions: Sequence[VersionInfo]) -> None:
        with self._lock:
            self._looking = False
            for version in versions:
                self._unsure = True
                self._add(version, None)
            self._unsure = True  # What came last before a crash may have been in memory only.
            behind, self._behind = self._behind, []
            for entry in behind:
                self._add(*entry)
        self.serve()

    # --- who takes -------------------------------------------------------------------------------------------------

    def take(self, future: Awaited[Snapshot]) -> bool:
        """`future` gets the next version. Wakes no other thread; whether the I/O thread has to `serve`, for only it can get at
        the version that is next."""
        snapshot: Snapshot | None = None
        with self._lock:
            ended = self._ended
            if ended is None and self._entries:
                snapshot = self._at_hand(self._entries[0])
            if snapshot is not None:
                self._pop()
            elif ended is None:
                self._asked = future
                return bool(self._entries)
        if snapshot is not None:
            futures.fulfil(future, snapshot)
        elif ended is not None:
            futures.fail(future, ended)
        return False

    def serve(self) -> None:
        """Answers who waits, if there is something: called after each round of news."""
        with self._lock:
            if self._asked is None or self._fetching or not self._entries:
                return
            entry = self._entries[0]
            snapshot = None if isinstance(entry, Hole) else self._without_fetching(entry)
            if isinstance(entry, Hole) or snapshot is not None:
                self._pop()
            else:
                self._fetching = True
        if isinstance(entry, Hole):
            self._answer(VersionEvicted(model_id=self._source.model_id, number=entry.first, until=entry.last))
        elif snapshot is not None:
            self._answer(snapshot)
        else:
            self._source.fetch(entry.version).add_done_callback(self._fetched)

    def _at_hand(self, entry: Entry | Hole) -> Snapshot | None:
        if isinstance(entry, Hole):
            return None
        snapshot = self._source.at_hand(entry.version.number)
        if snapshot is None and entry.payload is not None:
            snapshot = self._source.snapshot_of(entry.version, entry.payload)
        return snapshot

    def _without_fetching(self, entry: Entry) -> Snapshot | None:
        snapshot = self._at_hand(entry)
        if snapshot is None and entry.lease is not None:
            snapshot = self._source.lease(entry.lease)
            self._entries[0] = entry._replace(lease=None)  # Once is enough.
        return snapshot

    def _pop(self) -> None:
        entry = self._entries.popleft()
        if isinstance(entry, Entry) and entry.payload is not None:
            self._inline -= len(entry.payload)

    def _fetched(self, future: Future[Snapshot]) -> None:
        error = future.exception()
        gone = isinstance(error, (UnknownVersion, UnknownModel))
        with self._lock:
            self._fetching = False
            entry = self._entries[0]
            if error is None or gone:  # Else nothing is known to be gone: the same version is next again.
                self._pop()
        if error is None:
            self._answer(future.result())
        elif gone and isinstance(entry, Entry):
            deleted = isinstance(error, (VersionDeleted, UnknownModel))  # With its model, that is.
            told = (VersionDeleted if deleted else VersionEvicted)(model_id=self._source.model_id, number=entry.version.number)
            told.__cause__ = error
            self._answer(told)
        else:
            self._answer(error)

    def _answer(self, value: Snapshot | BaseException) -> None:
        with self._lock:
            asked, self._asked = self._asked, None
        if asked is None:
            return
        if isinstance(value, Snapshot):
            futures.fulfil(asked, value)
        else:
            futures.fail(asked, value)

    def fail(self, error: BroadcasterError) -> None:
        """Nothing comes any more, and nobody gets what has come."""
        with self._lock:
            self._ended = error
        self._answer(error)
