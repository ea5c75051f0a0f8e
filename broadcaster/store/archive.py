"""The archive's public face: what is kept here survives kill -9 and power loss bit for bit, and is checked on every read."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from broadcaster.protocol.errors import (
    AlreadyExists,
    BroadcasterError,
    DirectoryUnusable,
    Fact,
    SizeMismatch,
    StoreCorrupt,
    UnknownModel,
    UnknownVersion,
)
from broadcaster.protocol.ranges import without
from broadcaster.protocol.version import ModelInfo, VersionInfo
from broadcaster.store.blobs import Blobs, Staged
from broadcaster.store.deletions import Deletions, Ended
from broadcaster.store.failpoints import hit
from broadcaster.store.floors import Floors
from broadcaster.store.folders import sync, write_all
from broadcaster.store.gate import Gate
from broadcaster.store.layout import Layout, unusable
from broadcaster.store.manifests import Manifests, key_of
from broadcaster.store.quarantine import Damage, Quarantine
from broadcaster.store.reconcile import Reconciliation, open_index
from broadcaster.store.scrub import Scrub
from broadcaster.store.trash import Trash
from broadcaster.store.values import ArchivedModel, ArchivedVersion, Health, Loaded, ModelKey, Settled

ANNOTATIONS = ("user_data", "metrics", "tags", "description", "pinned")
"""Fields of a version that may change after it was archived."""
SPARE = 16 << 20
"""Bytes of the disk that no blob is given: the index, the manifests and the floors need room when blobs have none."""


class Archive:
    """One directory, held for life. Safe from several threads; writes go one after the other.

    Every write may raise StoreUnavailable (the disk failed, or failed before and no `probe` passed since), NoSpace and
    Closed. What was raised for was not kept, or is kept whole: never half.
    """

    def __init__(self, directory: Path, now_ms: int, spare: int = SPARE) -> None:
        """Use `Archive.open`."""
        self._layout = Layout(directory)
        self._gate = Gate(str(directory))
        try:
            self._start(now_ms, spare)
        except BaseException:
            self._layout.close()
            raise

    @classmethod
    def open(cls, directory: Path, *, now_ms: int, spare: int = SPARE) -> Archive:
        """Open or make the archive in `directory`, finish what a crash left undone, and begin a new epoch.

        `now_ms` is the time in ms since 1970: the new epoch is at least that, and above all earlier ones. `spare` bytes of the
        disk are never given to blobs. Raises DirectoryUnusable when the directory is in use, cannot be written, or holds an
        index of a newer program; nothing is changed then.
        """
        try:
            return cls(directory, now_ms, spare)
        except DirectoryUnusable:
            raise
        except (OSError, BroadcasterError) as error:
            raise unusable(directory, str(error)) from error

    def _start(self, now_ms: int, spare: int) -> None:
        layout = self._layout
        layout.require_archive()
        self._index, self._notes = open_index(layout.index)
        try:
            self._blobs = Blobs(layout.blobs, layout.staging, layout.quarantine, spare)
            self._manifests = Manifests(layout.manifests, layout.staging)
            self._deletions = Deletions(layout.root, layout.staging)
            self._trash = Trash(layout.trash, self._manifests, self._deletions)
            self._quarantine = Quarantine(self._gate, self._index, self._manifests, self._blobs, self._writing)
            self._reader = self._quarantine.reader
            self._floors = Floors(layout.root, layout.staging)
            self._trash.empty(self._index, None)
            self._reconcile()
            self.epoch = max(self._index.epoch() + 1, self._floors.epoch + 1, now_ms)
            self._floors.begin_epoch(self.epoch, fresh=not self._index.epoch() and not self._floors.ceilings)
            self._index.begin_epoch(self.epoch)
            self._notes += self._quarantine.load()
        except BaseException:
            self._index.close()
            raise

    def _reconcile(self) -> None:
        found = Reconciliation(self._index, self._manifests, self._blobs, self._deletions)
        found.run()
        self._notes += found.notes
        self._lost = found.lost
        known = self._indexed_floors = self._index.floors()
        self._floors.raise_to((*key, number) for floors in (known, found.highest) for key, number in floors.items())
        self._index_floors([key for key, number in self._floors.ceilings.items() if known.get(key) != number])

    def load(self) -> Loaded:
        """All models, archived versions and floors."""
        with self._gate.lock:
            self._gate.require_open()
            models = self._index.models()
            return Loaded(
                epoch=self.epoch,
                models=[model.info for model in models],
                tombstones={
                    (model.info.namespace, model.info.model_id): model.tombstones for model in models if model.tombstones
                },
                versions=self._index.versions(),
                deleted_uploads=dict(self._deletions.uploads),
                ended={model: ended.upto for model, ended in self._deletions.models.items()},
                floors=dict(self._floors.ceilings),
                terms=self._floors.held,
                lost=self._lost,
                notes=list(self._notes),
            )

    # --- versions --------------------------------------------------------------------------------------------------

    def reserve(self, size: int) -> Staged:
        """A file aside whose `size` bytes are allocated on the disk; NoSpace when there is no room for them."""
        with self._writing("reserving space", size):
            return self._blobs.stage(size)

    def keep(
        self, staged: Staged | None, view: memoryview, info: VersionInfo, upload_id: bytes, epoch: int | None = None
    ) -> ArchivedVersion:
        """Keep the payload `view` as `info` for ever: blob durable, manifest durable, index row, in that order.

        `staged` is what `reserve` gave for it (used up by this call, whatever happens), or None. Whoever keeps the same model,
        number and digest again gets the same answer. Raises StoreCorrupt when `view` does not hash to `info.digest`,
        SizeMismatch when its length is not `info.size`, AlreadyExists when the number names another payload.
        """
        try:
            with self._writing("archiving", info.size):
                if (kept := self._kept(info)) is not None and self._is_whole(kept):
                    return kept
            if len(view) != info.size:
                raise SizeMismatch(model_id=info.model_id, size=info.size, found=f"the payload has {len(view)}")
            staged = staged or self.reserve(info.size)
            with self._gate.failing("archiving", info.size):  # outside the lock: other writes go on meanwhile
                staged.write(view)
            with self._writing("archiving", info.size):
                return self._commit(staged, info, upload_id, self.epoch if epoch is None else epoch)
        finally:
            if staged is not None:
                staged.discard()

    def read(self, version: ArchivedVersion, offset: int, length: int) -> memoryview:
        """Bytes `offset` to `offset + length` of the payload (at most 1 MiB; cut at its end), read-only and verified.

        The memory stays the caller's while any view of it lives. Raises UnknownVersion when the version is gone, StoreCorrupt
        when it is damaged (and then it is never served again until it is kept anew or verified), StoreUnavailable when the
        disk does not answer, InvalidRequest for a range that is none. Several threads may read at once.
        """
        self._gate.require_open()
        try:
            return self._reader.read(version, offset, length)
        except FileNotFoundError as error:
            raise self._quarantine.missing(version) from error
        except BroadcasterError:
            raise
        except OSError as error:
            raise self._gate.unavailable("reading", str(error)) from error

    def read_cached(self, version: ArchivedVersion, offset: int, length: int) -> memoryview | None:
        """What `read` would give, verified, if that needs no disk; else None, and `read` is to be asked. Never waits."""
        self._gate.require_open()
        return self._reader.read_cached(version, offset, length)

    def note_deleted(self, namespace: str, model_id: str, number: int, upload_id: bytes) -> None:
        """A version that is not kept here is deleted: durably known by its upload id, and a manifest of it that cannot be read,
        or that a write left which failed, is gone for ever. Raises StoreError."""
        with self._writing("noting a deletion", 4096):
            if upload_id:
                self._deletions.add((namespace, model_id), [(number, upload_id)])
            key = key_of(namespace, model_id)
            if self._manifests.has_version(key, number):
                self._trash.put_versions(key, [number])
                self._trash.empty(self._index, self._blobs, self._reader)

    def delete_version(self, namespace: str, model_id: str, number: int) -> None:
        """Delete one version; gone for ever when this returns, also after a crash. Its number stays below the floor."""
        self.delete_versions(namespace, model_id, [number])

    def delete_versions(self, namespace: str, model_id: str, numbers: Collection[int]) -> None:
        """Delete versions of one model, for less than one after the other costs. After a crash some may be deleted, some there.

        UnknownVersion, and none is deleted, when one of them is not archived.
        """
        with self._writing("deleting"):
            for number in numbers:
                self._version(namespace, model_id, number)
            self._trash.put_versions(key_of(namespace, model_id), numbers)
            self._trash.empty(self._index, self._blobs, self._reader)

    def add_metrics(self, namespace: str, model_id: str, number: int, metrics: Mapping[str, float]) -> ArchivedVersion:
        """Add metrics to an archived version, or change them."""
        with self._writing("adding metrics"):
            version = self._version(namespace, model_id, number)
            return self._store(replace(version, info=replace(version.info, metrics={**version.info.metrics, **metrics})))

    def set_tags(self, namespace: str, model_id: str, number: int | None, tags: Mapping[str, str]) -> None:
        """Replace all tags of an archived version, or of the model when `number` is None."""
        with self._writing("setting tags"):
            if number is None:
                self._store_model(replace(self._model(namespace, model_id), tags=dict(tags)))
            else:
                version = self._version(namespace, model_id, number)
                self._store(replace(version, info=replace(version.info, tags=dict(tags))))

    def set_description(self, namespace: str, model_id: str, number: int | None, description: str) -> None:
        """Replace the description of an archived version, or of the model when `number` is None."""
        with self._writing("describing"):
            if number is None:
                self._store_model(replace(self._model(namespace, model_id), description=description))
            else:
                version = self._version(namespace, model_id, number)
                self._store(replace(version, info=replace(version.info, description=description)))

    def set_pinned(self, namespace: str, model_id: str, number: int, *, pinned: bool) -> None:
        """Pin an archived version, or let it go."""
        with self._writing("pinning"):
            version = self._version(namespace, model_id, number)
            self._store(replace(version, info=replace(version.info, pinned=pinned)))

    def annotate(self, info: VersionInfo) -> ArchivedVersion:
        """Replace all that is said of an archived version: user data, metrics, tags, description, and whether it is pinned."""
        with self._writing("annotating"):
            version = self._version(info.namespace, info.model_id, info.number)
            said = {name: getattr(info, name) for name in ANNOTATIONS}
            return self._store(replace(version, info=replace(version.info, **said)))

    # --- models ----------------------------------------------------------------------------------------------------

    def set_model(self, model: ModelInfo) -> None:
        """Create a model, or replace its user data, tags, aliases, creation time, description and retention."""
        with self._writing("storing a model"):
            self._store_model(model)

    def set_aliases(self, namespace: str, model_id: str, aliases: Mapping[str, int]) -> None:
        """Replace all aliases of a model."""
        with self._writing("setting aliases"):
            self._store_model(replace(self._model(namespace, model_id), aliases=dict(aliases)))

    def set_retention(self, namespace: str, model_id: str, retention: Mapping[str, Fact]) -> None:
        """Replace what is said of which versions of a model are kept. The archive keeps the words, and does not act on them."""
        with self._writing("setting retention"):
            self._store_model(replace(self._model(namespace, model_id), retention=dict(retention)))

    def delete_model(self, namespace: str, model_id: str, upto: int = 0) -> None:
        """Delete a model and all its versions; gone for ever when this returns, also after a crash. Its numbers go on. `upto` is
        the highest number that went with it, where versions were not all kept here."""
        with self._writing("deleting"):
            key = key_of(namespace, model_id)
            self._agree(key)  # What a write that failed left of it goes along.
            model = self._model(namespace, model_id)
            self._trash.put_model(key)
            self._trash.empty(self._index, self._blobs, self._reader)
            if upto:
                self._deletions.end((namespace, model_id), Ended(upto, model.creation_timestamp), [])

    def settle(self, namespace: str, model_id: str, numbers: Collection[int]) -> Settled:
        """Make files and index agree about a model of which a write failed, as the next start would; the files are the truth.

        What was raised for is done after this, or not done: returned is what is kept of the model and of these versions."""
        with self._writing("settling"):
            key = key_of(namespace, model_id)
            self._agree(key)
            models, versions = self._index.models(key), self._index.versions(key)
            return Settled(
                model=models[0].info if models else None,
                versions={version.info.number: version for version in versions if version.info.number in numbers},
            )

    # --- numbers ---------------------------------------------------------------------------------------------------

    def reserve_numbers(self, ceilings: Iterable[tuple[str, str, int]]) -> None:
        """(namespace, model_id, ceiling): numbers up to the ceiling may be used. Durable in two places when this returns."""
        with self._writing("reserving numbers"):
            self._raise_floors(ceilings)

    def release_numbers(self, used: Iterable[tuple[str, str, int]]) -> None:
        """(namespace, model_id, last number really used): give back what is above it, so that a clean stop skips no numbers.

        Only whoever took the numbers may say so. A floor never goes below the highest number that is archived.
        """
        with self._writing("releasing numbers"):
            lowered = [(namespace, model_id, max(last, self._highest(namespace, model_id))) for namespace, model_id, last in used]
            self._floors.lower_to(lowered)
            self._index_floors(_keys(lowered) & self._floors.ceilings.keys())

    # --- terms -----------------------------------------------------------------------------------------------------

    def take_term(self, namespace: str, model_id: str, publisher: bytes) -> int:
        """The model's next term, which `publisher` (16 bytes) holds from now on; the newest again if that is its own.

        Durable when this returns, and never given to another, also when the model is deleted or the index lost.
        """
        with self._writing("taking a term"):
            return self._floors.take_term((namespace, model_id), publisher)

    def give_up_term(self, namespace: str, model_id: str, publisher: bytes | None) -> int | None:
        """Nobody holds the model's term any more, durably: returns which one that was. None when `publisher` does not hold it, or
        (where that is None) nobody did."""
        with self._writing("giving up a term"):
            return self._floors.give_up_term((namespace, model_id), publisher)

    # --- life ------------------------------------------------------------------------------------------------------

    @property
    def directory(self) -> Path:
        """Where the archive is."""
        return self._layout.path

    @property
    def health(self) -> Health:
        """Whether writes are taken, and if not, why."""
        if self._gate.closed:
            return Health(False, "the archive is closed")
        if not self._index.usable:
            return Health(False, "the index failed its check")
        return Health(not self._gate.reason, self._gate.reason)

    def require_writable(self) -> None:
        """Raises StoreUnavailable while no write is taken. Never waits; a write under way may still find the disk dead."""
        self._gate.require_open()
        if not (health := self.health).writable:
            raise self._gate.unavailable("archiving", health.reason)

    def scrub(self) -> Scrub:
        """The scrub of this archive, at the place where an earlier life left it. There should be one."""
        return Scrub(self._layout, self._manifests, self._blobs, self._quarantine)

    @property
    def quarantined(self) -> int:
        """How many payloads are not served because they are damaged or missing."""
        return self._reader.bad

    def is_damaged(self, sha256: str) -> bool:
        """Whether this payload is one of those. Never waits."""
        return self._reader.is_bad(sha256)

    def tell_damage(self, listener: Callable[[Damage], None]) -> None:
        """`listener` is called once for each thing found damaged from now on, on whichever thread found it."""
        self._quarantine.on_damage = listener

    def probe(self) -> Health:
        """Try whether the disk works again: write and sync a file, reopen and check the index, finish deletions."""
        with self._gate.lock:
            self._gate.require_open()
            name = f"probe-{os.getpid()}"
            try:
                self._layout.staging.discard(name)  # The disk may have failed while the last one was cleaned up.
                fd = self._layout.staging.create(name)
                try:
                    write_all(fd, bytes(4096), 0)
                    sync(fd)
                finally:
                    os.close(fd)
                    self._layout.staging.discard(name)
                if not self.health.writable and self._index.reopen():
                    self._trash.empty(self._index, self._blobs, self._reader)
                self._gate.reason = ""
            except (OSError, BroadcasterError) as error:
                self._gate.reason = self._gate.reason or str(error)
            return self.health

    def close(self) -> None:
        """Checkpoint the index, close everything, let go of the lock. A second call does nothing."""
        with self._gate.lock:
            if self._gate.closed:
                return
            self._gate.closed = True
            self._reader.open.close()
            self._deletions.close()
            self._floors.close()
            self._index.close()
            self._layout.close()

    def __enter__(self) -> Archive:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside ----------------------------------------------------------------------------------------------------

    def _commit(self, staged: Staged, info: VersionInfo, upload_id: bytes, epoch: int) -> ArchivedVersion:
        if staged.digest != info.digest:
            raise StoreCorrupt(
                operation=f"archiving {info.model_id} version {info.number}",
                where=str(self._layout.path),
                reason=f"the payload's digest is {staged.digest}, not {info.digest}",
                hint="Publish it again.",
            )
        if (kept := self._kept(info)) is not None and self._is_whole(kept):
            return kept
        version = kept or ArchivedVersion(
            info=replace(info, archived=True, sha256=staged.sha256),
            upload_id=upload_id,
            epoch=epoch,
            chunk_digests=staged.chunk_digests,
        )
        if not self._index.has_model(key_of(info.namespace, info.model_id)):
            made = ModelInfo(namespace=info.namespace, model_id=info.model_id, creation_timestamp=info.creation_timestamp)
            self._store_model(made)
        self._raise_floors([(info.namespace, info.model_id, info.number)])
        self._clear_tombstone(info)
        self._reader.heal(staged.commit())
        return self._store(version)

    def _agree(self, key: str) -> None:
        Reconciliation(self._index, self._manifests, self._blobs, self._deletions).agree(key)

    def _clear_tombstone(self, info: VersionInfo) -> None:
        key = key_of(info.namespace, info.model_id)
        if self._index.was_deleted(key, info.number):
            for model in self._index.models(key):
                cleared = replace(model, tombstones=without(model.tombstones, info.number))
                self._index.put_model(cleared, self._manifests.put_model(cleared))

    def _kept(self, info: VersionInfo) -> ArchivedVersion | None:
        for version in self._index.versions(key_of(info.namespace, info.model_id), info.number):
            if (version.info.digest, version.info.size) == (info.digest, info.size):
                return version
            raise AlreadyExists(model_id=info.model_id, what=f"version {info.number} with another payload")
        return None

    def _is_whole(self, version: ArchivedVersion) -> bool:
        # As far as is known. A blob that is not gets a new one when the payload is kept again.
        return not self._reader.is_bad(version.sha256) and self._blobs.size(version.sha256) == version.info.size

    def _store(self, version: ArchivedVersion) -> ArchivedVersion:
        stamp = self._manifests.put_version(version)
        hit("manifest-durable")
        self._index.put_version(version, stamp)
        return version

    def _store_model(self, model: ModelInfo) -> None:
        known = self._index.models(key_of(model.namespace, model.model_id))
        if not known:
            self._deletions.begin_again((model.namespace, model.model_id))
        archived = ArchivedModel(info=model, tombstones=known[0].tombstones if known else ())
        stamp = self._manifests.put_model(archived)
        hit("manifest-durable")
        self._index.put_model(archived, stamp)

    def _raise_floors(self, ceilings: Iterable[tuple[str, str, int]]) -> None:
        # Compared with what the index holds, which is written last: a retry after an error there must not be taken for done.
        wanted = [entry for entry in ceilings if entry[2] > self._indexed_floors.get(entry[:2], 0)]
        if wanted:
            self._floors.raise_to(wanted)
            self._index_floors(_keys(wanted))

    def _index_floors(self, keys: Iterable[ModelKey]) -> None:
        floors = {key: self._floors.ceilings[key] for key in keys}
        self._index.set_floors((*key, number) for key, number in floors.items())
        self._indexed_floors.update(floors)

    def _highest(self, namespace: str, model_id: str) -> int:
        return max((model.info.newest or 0 for model in self._index.models(key_of(namespace, model_id))), default=0)

    def _model(self, namespace: str, model_id: str) -> ModelInfo:
        for model in self._index.models(key_of(namespace, model_id)):
            return model.info
        raise UnknownModel(namespace=namespace, model_id=model_id)

    def _version(self, namespace: str, model_id: str, number: int) -> ArchivedVersion:
        for version in self._index.versions(key_of(namespace, model_id), number):
            return version
        raise UnknownVersion(model_id=model_id, number=number)

    @contextmanager
    def _writing(self, operation: str, size: int = 4096) -> Iterator[None]:
        gate = self._gate
        with gate.lock:
            gate.require_open()
            if not (health := self.health).writable:
                raise gate.unavailable(operation, health.reason)
            with gate.failing(operation, size):
                self._trash.empty(self._index, self._blobs, self._reader)  # nothing to do, unless an error left something
                yield


def _keys(entries: Iterable[tuple[str, str, int]]) -> set[ModelKey]:
    return {entry[:2] for entry in entries}
