"""Every version of a model, in order: a queue of numbers for one reader, who fetches each when it is asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple, Protocol

from broadcaster.protocol.errors import BroadcasterError, UnknownModel, UnknownVersion, VersionDeleted, VersionEvicted
from broadcaster.protocol.machines.follow import Lease
from broadcaster.protocol.version import VersionInfo
from clients._driver import futures
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
    """All of it runs on the I/O thread."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._entries: deque[Entry | Hole] = deque()
        self._inline = 0
        self._last = 0
        self._looking = False
        self._unsure = False
        """Whether versions below the next one may have been missed."""
        self._behind: list[Entry] = []
        self._asked: Future[Snapshot] | None = None
        self._fetching = False

    # --- what comes ------------------------------------------------------------------------------------------------

    def add(self, version: VersionInfo, payload: bytes | None, lease: Lease | None = None) -> None:
        """The next version was published. `lease` says where it lies on this host; it is taken when the version is asked for."""
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
        self._looking = False
        for version in versions:
            self._unsure = True
            self.add(version, None)
        self._unsure = True  # What came last before a crash may have been in memory only.
        behind, self._behind = self._behind, []
        for entry in behind:
            self.add(*entry)
        self.serve()

    # --- who takes -------------------------------------------------------------------------------------------------

    def take(self, future: Future[Snapshot]) -> None:
        """`future` gets the next version."""
        self._asked = future
        self.serve()

    def serve(self) -> None:
        """Answers who waits, if there is something: called after each round of news."""
        if self._asked is None or self._fetching or not self._entries:
            return
        entry = self._entries[0]
        if isinstance(entry, Hole):
            self._entries.popleft()
            self._answer(VersionEvicted(model_id=self._source.model_id, number=entry.first, until=entry.last))
        elif (snapshot := self._without_fetching(entry)) is not None:
            self._pop()
            self._answer(snapshot)
        else:
            self._fetching = True
            self._source.fetch(entry.version).add_done_callback(self._fetched)

    def _without_fetching(self, entry: Entry) -> Snapshot | None:
        if entry.payload is not None:
            return self._source.snapshot_of(entry.version, entry.payload)
        snapshot = self._source.at_hand(entry.version.number)
        if snapshot is None and entry.lease is not None:
            snapshot = self._source.lease(entry.lease)
            self._entries[0] = entry._replace(lease=None)  # Once is enough.
        return snapshot

    def _pop(self) -> None:
        entry = self._entries.popleft()
        if isinstance(entry, Entry) and entry.payload is not None:
            self._inline -= len(entry.payload)

    def _fetched(self, future: Future[Snapshot]) -> None:
        self._fetching = False
        error, entry = future.exception(), self._entries[0]
        if error is None:
            self._pop()
            self._answer(future.result())
        elif isinstance(error, (UnknownVersion, UnknownModel)) and isinstance(entry, Entry):
            self._pop()
            deleted = isinstance(error, (VersionDeleted, UnknownModel))  # With its model, that is.
            gone = (VersionDeleted if deleted else VersionEvicted)(model_id=self._source.model_id, number=entry.version.number)
            gone.__cause__ = error
            self._answer(gone)
        else:
            self._answer(error)  # Nothing is known to be gone: the same version is next again.

    def _answer(self, value: Snapshot | BaseException) -> None:
        asked, self._asked = self._asked, None
        if asked is None:
            return
        if isinstance(value, Snapshot):
            futures.fulfil(asked, value)
        else:
            futures.fail(asked, value)

    def fail(self, error: BroadcasterError) -> None:
        self._answer(error)
