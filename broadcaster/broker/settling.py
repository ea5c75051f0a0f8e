"""What becomes of changes that the disk refused halfway: catalog and archive agree again as soon as it works, without a restart.

A write that failed may have left files that the index does not know, or a deletion that goes on with the next write. Whoever
asked was told that it failed. Then what the files say of versions counts, whether they are there; and what the catalog says
counts in all that is said of them, for it went back to what was before.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial

from broadcaster.broker.archiving import Archiving
from broadcaster.broker.rooms import Front, Key, Rooms, submit
from broadcaster.catalog import Kept
from broadcaster.protocol.errors import BroadcasterError, UnknownModel, UnknownVersion, VersionDeleted
from broadcaster.store.archive import ANNOTATIONS
from broadcaster.store.values import ArchivedVersion, Settled

_OF_MODELS = ("user_data", "tags", "aliases", "description", "retention")

Forget = Callable[[Key, Iterable[Kept]], None]


class Settling:
    """Looks at models of which the archive doubts something, one at a time, on the loop's thread. `clock` tells seconds."""

    def __init__(self, rooms: Rooms, front: Front, archiving: Archiving, forget: Forget, clock: Callable[[], float]) -> None:
        self._rooms = rooms
        self._front = front
        self._archiving = archiving
        self._forget = forget
        self._clock = clock
        self._running = False

    @property
    def pending(self) -> int:
        """Models of which the archive doubts something."""
        return len(self._archiving.doubts) + self._running

    def tick(self) -> None:
        """Begins with the next model, if the archive takes writes and the one before is settled."""
        doubts = self._archiving.doubts
        if not doubts or self._running or not self._rooms.archive.health.writable:
            return
        key = next(iter(doubts))
        numbers = doubts.pop(key)
        self._running = True

        def settled(result: object) -> None:
            self._running = False
            if isinstance(result, Settled):
                self._agree(key, numbers, result)
            else:
                self._failed(key, numbers, result)

        self._write(lambda: self._rooms.archive.settle(*key, numbers), settled)

    # --- inside ----------------------------------------------------------------------------------------------------

    def _agree(self, key: Key, numbers: Collection[int], found: Settled) -> None:
        catalog, archive = self._rooms.catalog, self._rooms.archive
        if self._archiving.is_leaving(key):
            return  # All of it goes, or another doubt follows.
        if not catalog.has(key):
            if found.model is not None:  # Its creation was taken back.
                self._say(key, (), partial(archive.delete_model, *key))
            return
        for number in sorted(numbers):
            self._agree_on(key, number, found.versions.get(number))
        model = catalog.model(key)
        if found.model is None or any(getattr(model, name) != getattr(found.model, name) for name in _OF_MODELS):
            self._say(key, (), partial(archive.set_model, model))
        self._archiving.models.add(key)

    def _agree_on(self, key: Key, number: int, found: ArchivedVersion | None) -> None:
        catalog, archive = self._rooms.catalog, self._rooms.archive
        try:
            kept = catalog.find(key, number)
        except VersionDeleted:
            if found is not None:
                self._say(key, [number], partial(archive.delete_version, *key, number))
            return
        except BroadcasterError:
            if found is not None:
                self._archiving.found(found)
            return
        if kept.leaving or kept.pins > kept.held:
            self._archiving.doubt(key, [number])  # Something is under way with it: its end comes first.
        elif found is None:
            if kept.info.archived:
                self._gone(key, kept)
        else:
            if not kept.info.archived:
                self._archiving.became_archived(kept, found)
            elif kept.resident and archive.is_damaged(found.sha256):
                self._archiving.mend(key, kept)
            if any(getattr(kept.info, name) != getattr(found.info, name) for name in ANNOTATIONS):
                self._say(key, [number], partial(archive.annotate, kept.info))

    def _gone(self, key: Key, kept: Kept) -> None:
        """Its deletion was answered as failed, and happened all the same."""
        self._rooms.catalog.delete_version(key, kept)
        self._forget(key, [kept])
        event = self._rooms.emit(key, "version-deleted", self._clock(), number=kept.info.number)
        self._front.push_event(event, None)

    def _say(self, key: Key, numbers: Collection[int], job: Callable[[], object]) -> None:
        """Writes what the catalog says."""

        def finished(result: object) -> None:
            if isinstance(result, BaseException) and not isinstance(result, (UnknownModel, UnknownVersion)):
                self._failed(key, numbers, result)

        self._write(job, finished)

    def _write(self, job: Callable[[], object], finished: Callable[[object], None]) -> None:
        try:
            submit(self._rooms.writer, self._front, job, finished)
        except BroadcasterError as error:
            finished(error)

    def _failed(self, key: Key, numbers: Collection[int], error: object) -> None:
        """It is tried again, if that may help."""
        self._rooms.stats.count("archive_failures")
        if isinstance(error, BroadcasterError) and error.retryable:
            self._archiving.doubt(key, numbers)
