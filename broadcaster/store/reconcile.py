"""What happens at every start: files and index are made to agree, and the files are the truth.

The index remembers each manifest's stamp, so that only manifests that it has not read are read: those of a crash between file
and row, of a restored older index, or all of them when the index is gone.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable
from pathlib import Path

from broadcaster.protocol.errors import StoreCorrupt
from broadcaster.protocol.ranges import Ranges, covers, merged
from broadcaster.protocol.version import ModelInfo
from broadcaster.store.blobs import Blobs
from broadcaster.store.deletions import Deletions
from broadcaster.store.folders import Folder, stamp_of
from broadcaster.store.layout import unusable
from broadcaster.store.manifests import MODEL_FILE, Manifests, key_of, number_of, read_model, read_version
from broadcaster.store.metadata import Metadata
from broadcaster.store.sqlite import IndexDamaged
from broadcaster.store.values import ArchivedModel, ArchivedVersion, ModelKey


def open_index(path: Path) -> tuple[Metadata, list[str]]:
    """The index at `path`; a damaged one is put aside as `<name>.damaged`, and an empty one takes its place."""
    try:
        return Metadata(path), []
    except IndexDamaged as error:
        for suffix in ("", "-wal"):
            if path.with_name(path.name + suffix).exists():
                os.replace(path.with_name(path.name + suffix), path.with_name(f"{path.name}.damaged{suffix}"))
        return Metadata(path), [f"{path}: {error}; it was put aside and is made anew from the manifests"]


class Reconciliation:
    """One pass over all manifests. Afterwards `notes` says what was found, and `highest` the highest number seen per model."""

    def __init__(self, index: Metadata, manifests: Manifests, blobs: Blobs, deletions: Deletions) -> None:
        self.notes: list[str] = []
        self.highest: dict[ModelKey, int] = {}
        self.lost: dict[ModelKey, set[int]] = {}
        """Versions of which only a manifest is left that cannot be read."""
        self._lost: dict[str, set[int]] = {}
        self._index = index
        self._manifests = manifests
        self._blobs = blobs
        self._deletions = deletions
        self._seen: dict[str, int] = {}
        self._unreadable = False

    def run(self) -> None:
        """Make index and files agree, then remove blobs that nothing refers to."""
        with self._index.transaction():
            self._compare()
        for archived in self._index.models():
            model, tombstones = archived.info, archived.tombstones
            seen = self._seen.get(key_of(model.namespace, model.model_id), 0)
            if lost := self._lost.get(key_of(model.namespace, model.model_id)):
                self.lost[model.namespace, model.model_id] = lost
            self.highest[model.namespace, model.model_id] = max(seen, tombstones[-1][1] if tombstones else 0)
        self._sweep()

    def agree(self, key: str) -> None:
        """Make them agree about the one model of this key, while all others are in use."""
        with self._index.transaction():
            known = self._index.stamps(key).get(key, {})
            try:
                with self._manifests.folder.folder(key, create=False) as model:
                    if self._came_back(key):
                        return
                    self._visit(key, model, known)
            except FileNotFoundError:
                self._bring_back(key, known)

    def _compare(self) -> None:
        known = self._index.stamps()
        for key in self._manifests.keys():
            if self._came_back(key):
                continue
            with self._manifests.folder.folder(key, create=False) as model:
                self._visit(key, model, known.pop(key, {}))
        for key, stamps in known.items():
            self._bring_back(key, stamps)

    def _bring_back(self, key: str, stamps: Collection[int]) -> None:
        """A model that only the index knows."""
        if not self._outlived(key, stamps):
            self._restore_model(key)
            self._see(key, stamps)
            self._restore(key, set(stamps) - {0})

    def _see(self, key: str, numbers: Iterable[int]) -> None:
        self._seen[key] = max(self._seen.get(key, 0), *numbers, 0)

    def _visit(self, key: str, model: Folder, known: dict[int, str]) -> None:
        found = {name: stamp_of(status) for name, status in model.scan()}
        if not found:
            self._manifests.folder.remove_folder(key)
        self._see(key, known)
        has_model = self._visit_model(key, model, found.get(MODEL_FILE), known.pop(0, None))
        changed = {}
        gone = self._tombstones(key)
        for name, stamp in found.items():
            if (number := number_of(name)) is not None:
                self._see(key, [number])
                if covers(gone, number):
                    self._version_came_back(key, model, name, number)
                elif known.pop(number, None) != stamp:
                    changed[number] = stamp
        self._adopt(key, model, changed, has_model=has_model)
        self._restore(key, set(known))

    def _tombstones(self, key: str) -> Ranges:
        """The numbers of this model that were deleted, also with a model of this name that there was before."""
        ranges = next((model.tombstones for model in self._index.models(key)), ())
        ended = self._deletions.ended(key)
        return merged((*ranges, (1, ended.upto)), []) if ended is not None and ended.upto else ranges

    def _came_back(self, key: str) -> bool:
        """Whether this is a model that was deleted, put back as it was: it is removed again, and its blobs with it."""
        if self._deletions.ended(key) is None:
            return False
        with self._manifests.folder.folder(key, create=False) as model:
            try:
                info = read_model(model).info
            except (FileNotFoundError, StoreCorrupt):
                return False  # What of it may stay is decided one by one.
            if not self._is_ended(key, info, [number_of(name) or 0 for name, _ in model.scan()]):
                return False
        self._manifests.folder.remove_folder(key)
        self.notes.append(f"{info.model_id}: it was deleted, but its manifests were there again: they are removed")
        return True

    def _outlived(self, key: str, numbers: Iterable[int]) -> bool:
        """Whether this is a model that was deleted, and that only an older index knows: the index forgets it."""
        for model in self._index.models(key):
            if self._is_ended(key, model.info, numbers):
                self._index.remove(key, [], model=True)
                return True
        return False

    def _is_ended(self, key: str, info: ModelInfo, numbers: Iterable[int]) -> bool:
        """Whether this is the very model that was deleted, and nothing is of another that was made since."""
        ended = self._deletions.ended(key)
        if ended is None or not ended.created or ended.created != info.creation_timestamp:
            return False
        return all(number <= ended.upto for number in numbers)

    def _version_came_back(self, key: str, model: Folder, name: str, number: int) -> None:
        model.remove(name)
        self._index.remove(key, [number], model=False)
        self.notes.append(f"{model.path(name)}: version {number} was deleted, but its manifest was there again: it is removed")

    def _visit_model(self, key: str, model: Folder, stamp: str | None, known: str | None) -> bool:
        if stamp is None:
            self._restore_model(key)
        elif stamp != known:
            try:
                archived = read_model(model)
                _require_place(key, archived.info.namespace, archived.info.model_id, model.path(MODEL_FILE))
                self._index.put_model(archived, stamp)
            except StoreCorrupt as error:
                self._damaged(error)
                self._restore_model(key)
        return self._index.has_model(key)

    def _adopt(self, key: str, model: Folder, changed: dict[int, str], *, has_model: bool) -> None:
        """Read manifests that the index has not read, and put what they say into it."""
        versions: list[tuple[ArchivedVersion, str]] = []
        for number, stamp in sorted(changed.items()):
            try:
                version = read_version(model, number)
                _require_place(key, version.info.namespace, version.info.model_id, model.path(str(number)))
                versions.append((version, stamp))
            except StoreCorrupt as error:
                self._damaged(error)
                self._restore(key, {number}, damaged=True)
                if not self._index.versions(key, number):
                    self._lost.setdefault(key, set()).add(number)
        if versions and not has_model:
            info = versions[0][0].info
            made = ArchivedModel(
                info=ModelInfo(namespace=info.namespace, model_id=info.model_id, creation_timestamp=info.creation_timestamp)
            )
            self._index.put_model(made, self._manifests.put_model(made))
        if versions:
            self._index.put_versions(key, versions)

    def _restore(self, key: str, numbers: set[int], *, damaged: bool = False) -> None:
        """Versions whose manifest is lost or damaged: written anew from the index; forgotten if the blob is lost as well, unless
        the manifest is there and `damaged`: what was deleted has left none."""
        tombstones = self._tombstones(key) if numbers else ()
        for number in sorted(numbers):
            if covers(tombstones, number):  # The index is older than the deletion.
                self._index.remove(key, [number], model=False)
            for version in self._index.versions(key, number):
                name = f"{version.info.model_id} version {number}"
                if damaged or self._blobs.is_known(version.sha256):
                    self._index.put_version(version, self._manifests.put_version(version))
                    self.notes.append(f"{name}: its manifest was lost or damaged, and is written anew from the index")
                else:
                    self._index.remove(key, [number], model=False)
                    self.notes.append(f"{name}: neither its manifest nor its blob is there: it is forgotten")

    def _restore_model(self, key: str) -> None:
        for model in self._index.models(key):
            self._index.put_model(model, self._manifests.put_model(model))
            self.notes.append(f"{model.info.model_id}: its manifest was lost or damaged, and is written anew from the index")

    def _damaged(self, error: StoreCorrupt) -> None:
        if error.facts.get("newer"):
            raise unusable(Path(self._blobs.folder.where).parent, str(error))
        self._unreadable = True
        self.notes.append(str(error))

    def _sweep(self) -> None:
        if self._unreadable:
            self.notes.append("blobs that nothing refers to are kept, because a manifest could not be read")
            return
        used = self._index.sha256s()
        for sha256 in [name for name in (*self._blobs.names(), *self._blobs.quarantined()) if name not in used]:
            self._blobs.remove(sha256)


def _require_place(key: str, namespace: str, model_id: str, where: str) -> None:
    if key_of(namespace, model_id) != key:
        raise StoreCorrupt(
            operation="reading a manifest", where=where, reason=f"it belongs to {namespace}/{model_id}", hint="Move it there."
        )
