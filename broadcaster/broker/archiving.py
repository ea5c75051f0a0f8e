"""What the archive knows of models and versions, and how more of them get there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial

from broadcaster.broker.checks import store_error
from broadcaster.broker.memory import Memory
from broadcaster.broker.rooms import Front, Key, Rooms, submit
from broadcaster.broker.uploads import Uploads
from broadcaster.broker.waiting import Waiter, Waiting
from broadcaster.catalog import Kept
from broadcaster.protocol.errors import BroadcasterError, NoSpace, RequestError, TransportError, VersionDeleted
from broadcaster.protocol.ranges import Ranges
from broadcaster.protocol.version import ModelInfo, VersionInfo
from broadcaster.store.archive import ANNOTATIONS
from broadcaster.store.blobs import Staged
from broadcaster.store.quarantine import Damage
from broadcaster.store.values import ArchivedVersion

DELETED = 10_000
"""Deleted versions whose upload ids are remembered: what an archive remembers of them over a restart."""


class Archiving:
    """The archive as the loop sees it: what is durable, and jobs for the thread that writes."""

    def __init__(self, rooms: Rooms, front: Front, memory: Memory, uploads: Uploads, waiting: Waiting) -> None:
        self._rooms = rooms
        self._front = front
        self._memory = memory
        self._uploads = uploads
        self._waiting = waiting
        self.models: set[Key] = set()
        """Models that the archive knows."""
        self.versions: dict[tuple[Key, int], ArchivedVersion] = {}
        self.fresh: set[Key] = set()
        """Models of which a version was archived, until somebody looks."""
        self.doubts: dict[Key, set[int]] = {}
        """Models, and versions of theirs, of which a write failed, so that nobody knows what of it is on the disk."""
        self._leaving: set[Key] = set()
        """Models that the archive is about to forget."""
        self._by_upload: dict[bytes, tuple[Key, int]] = {}
        self._deleted: OrderedDict[bytes, tuple[Key, int]] = OrderedDict()
        """What came of the newest uploads whose versions were deleted."""

    def load(self, models: list[ModelInfo], versions: Iterable[ArchivedVersion]) -> None:
        """What the archive knew at the start."""
        for model in models:
            key = (model.namespace, model.model_id)
            said = {name: getattr(model, name) for name in ("user_data", "tags", "description", "retention")}
            self._rooms.catalog.create(key, model.creation_timestamp, **said)
            self.models.add(key)
        for version in sorted(versions, key=lambda one: one.info.number):
            key = (version.info.namespace, version.info.model_id)
            self._rooms.catalog.load(version.info, version.upload_id)
            self.versions[key, version.info.number] = version
            self._by_upload[version.upload_id] = key, version.info.number
        for model in models:
            self._rooms.catalog.load_aliases((model.namespace, model.model_id), model.aliases)

    def load_deleted(
        self, tombstones: Mapping[Key, Ranges], ended: Mapping[Key, int], uploads: Mapping[bytes, tuple[Key, int]]
    ) -> None:
        """What the archive knew of deletions: numbers of models, models that were deleted up to a number, upload ids."""
        for key in tombstones.keys() | ended.keys():
            self._rooms.catalog.load_deleted(key, tombstones.get(key, ()), ended.get(key, 0))
        self._deleted.update((upload_id, came) for upload_id, came in uploads.items() if upload_id not in self._by_upload)

    def outcome(self, upload_id: bytes) -> tuple[Key, VersionInfo] | None:
        """The archived version that came of an upload, also in an earlier life. Raises VersionDeleted when it was deleted since:
        the upload was done, and is not done again without a word."""
        if (deleted := self._deleted.get(upload_id)) is not None:
            raise VersionDeleted(model_id=deleted[0][1], number=deleted[1])
        found = self._by_upload.get(upload_id)
        return (found[0], self.versions[found].info) if found is not None else None

    def keep_model(self, model: ModelInfo) -> None:
        """A model is durable soon; if that fails, it is written again with its first archived version."""
        key, archive = (model.namespace, model.model_id), self._rooms.archive

        def finished(result: object) -> None:
            if isinstance(result, BaseException):
                self._rooms.stats.count("archive_failures")
                self.doubt(key, (), result)
            else:
                self.models.add(key)

        try:
            submit(self._rooms.writer, self._front, lambda: archive.set_model(model), finished)
        except BroadcasterError as error:
            finished(error)

    def keep(
        self, kept: Kept, staged: Staged | None, done: Callable[[VersionInfo | BroadcasterError], None], waiter: Waiter
    ) -> None:
        """Archives a version that is in memory, and holds it there until then: blob, manifest, row, on the archive thread.

        `done` is called on the loop, at once if the job is refused: with what the version became, or with why it did not.
        RequestTimeout when the time of `waiter` is over before it begins.
        """
        key, info = (kept.info.namespace, kept.info.model_id), kept.info
        catalog, archive, epoch = self._rooms.catalog, self._rooms.archive, self._rooms.log.epoch
        # Of a model that is leaving nothing comes along: what is said of it goes with it.
        model = None if key in self.models or key in self._leaving else catalog.model(key)
        place = self._memory.place(key, info.number)
        place.jobs += 1
        catalog.pin(kept)
        begun = self._waiting.clock()

        def job() -> ArchivedVersion:
            if model is not None:
                archive.set_model(model)
            return archive.keep(staged, place.view, replace(info, archived=True), kept.upload_id, epoch)

        def finished(result: ArchivedVersion | BaseException) -> None:
            if isinstance(result, ArchivedVersion) and self._said_since(kept, result):
                said = kept.info
                try:
                    submit(self._rooms.writer, self._front, lambda: archive.annotate(said), finished)
                    return
                except BroadcasterError as error:
                    result = error
            place.jobs -= 1
            catalog.unpin(kept)
            if isinstance(result, BaseException):
                if staged is not None:
                    staged.discard()
                self.doubt(key, [info.number], result)
                done(store_error(result, "archiving"))
            else:
                self.models.add(key)
                self._rooms.stats.took("archive_seconds", self._waiting.clock() - begun)
                done(self.became_archived(kept, result))

        try:
            submit(self._rooms.writer, self._front, self._waiting.in_time(waiter, job), finished)
        except BroadcasterError as error:
            finished(error)

    def _said_since(self, kept: Kept, version: ArchivedVersion) -> bool:
        """Whether more was said of a version while it was written: that was answered as done, and must be on the disk too."""
        if kept.leaving or not self._rooms.catalog.holds(kept):
            return False
        return any(getattr(kept.info, name) != getattr(version.info, name) for name in ANNOTATIONS)

    def became_archived(self, kept: Kept, version: ArchivedVersion) -> VersionInfo:
        """A version that is in memory is durable; returns what it is now."""
        key = (version.info.namespace, version.info.model_id)
        if not self._rooms.catalog.holds(kept):
            return version.info  # Deleted meanwhile: the delete is behind this job in the writer's queue.
        self._rooms.catalog.replace(kept, archived=True, sha256=version.info.sha256)
        self._is_kept(key, replace(version, info=kept.info))
        return kept.info

    def found(self, version: ArchivedVersion) -> None:
        """A version that left memory before it was archived is on the disk all the same."""
        self._rooms.catalog.adopt(version.info, version.upload_id)
        self._is_kept((version.info.namespace, version.info.model_id), version)

    def _is_kept(self, key: Key, version: ArchivedVersion) -> None:
        number = version.info.number
        self.versions[key, number] = version
        self._by_upload[version.upload_id] = key, number
        self._uploads.remember(version.upload_id, key, version.info)
        self.fresh.add(key)
        self._rooms.stats.count("archived")
        self._front.push_event(self._rooms.emit(key, "archived", 0.0, number=number, version=version.info), None)

    def archive(self, key: Key, ref: int | str, done: Callable[[VersionInfo | BroadcasterError], None], waiter: Waiter) -> None:
        """A transient version is persisted; `done` is called as `keep` does. Raises what the catalog says."""
        kept = self._rooms.catalog.find_staying(key, ref)
        if kept.info.archived:
            done(kept.info)
        else:
            self.keep(kept, None, done, waiter)

    def doubt(self, key: Key, numbers: Iterable[int], error: BaseException | None = None) -> None:
        """A write about a model, and about these versions of it, ended in `error`: what of it is on the disk is looked at as soon
        as the disk works. Nothing is, where it was refused before it began."""
        if isinstance(error, NoSpace) or not isinstance(error, (RequestError, TransportError)):
            self.doubts.setdefault(key, set()).update(numbers)

    # --- damage ----------------------------------------------------------------------------------------------------

    def damaged(self, damage: Damage) -> list[str]:
        """Something in the archive was found damaged; returns the names of the versions that lost their payload there.

        If one of them is still in memory, its payload is archived again.
        """
        self._rooms.stats.count("store_corrupt")
        lost = [found for found, version in self.versions.items() if version.info.sha256 == damage.sha256]
        for key, number in lost:
            kept = self._rooms.catalog.find(key, number)
            if kept.resident and not kept.leaving:
                self.mend(key, kept)
                break
        return [f"{namespace}/{model_id}:{number}" for (namespace, model_id), number in lost]

    def mend(self, key: Key, kept: Kept) -> None:
        """The payload of an archived version is damaged on the disk and still in memory: it is archived again as soon as the
        disk takes it."""
        place, archive, epoch = self._memory.place(key, kept.info.number), self._rooms.archive, self._rooms.log.epoch
        place.jobs += 1
        self._rooms.catalog.pin(kept)

        def finished(result: object) -> None:
            place.jobs -= 1
            self._rooms.catalog.unpin(kept)
            if isinstance(result, BaseException):
                self._rooms.stats.count("archive_failures")
                self.doubt(key, [kept.info.number], result)
            else:
                self._rooms.stats.count("store_healed")

        try:
            job = partial(archive.keep, None, place.view, kept.info, kept.upload_id, epoch)
            submit(self._rooms.writer, self._front, job, finished)
        except BroadcasterError as error:
            finished(error)

    # --- leaving ---------------------------------------------------------------------------------------------------

    def is_leaving(self, key: Key) -> bool:
        """Whether the archive is about to forget the model."""
        return key in self._leaving

    def model_is_leaving(self, key: Key) -> None:
        """The archive is about to forget the model: who archives a version of it from now on makes another one."""
        self._leaving.add(key)

    def model_left(self, key: Key) -> None:
        """It has forgotten the model, or could not: who archives a version of it from now on brings the model along."""
        self._leaving.discard(key)
        self.models.discard(key)

    def forget(self, key: Key, kept: Kept) -> None:
        """A version was deleted, archived or not."""
        self.versions.pop((key, kept.info.number), None)
        self._by_upload.pop(kept.upload_id, None)
        self._deleted[kept.upload_id] = key, kept.info.number
        if len(self._deleted) > DELETED:
            self._deleted.popitem(last=False)
