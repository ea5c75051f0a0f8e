"""Deletion: a manifest (or a model's whole directory of them) is renamed into `trash/`, and from that moment it is gone.

The name in the trash is the tombstone. The index rows, then the blobs, then the tombstone itself are removed after it, and
whatever a crash leaves undone is done at the next start, before anything else is looked at.

    trash/<key>-<number>          the manifest of one version
    trash/<key>-model-<random>    the directory of one model
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterable
from dataclasses import replace

from broadcaster.protocol.errors import StoreCorrupt
from broadcaster.protocol.ranges import bounded, merged
from broadcaster.store.blobs import Blobs
from broadcaster.store.deletions import Deletions, Ended
from broadcaster.store.failpoints import hit
from broadcaster.store.folders import Folder
from broadcaster.store.manifests import MAX_MANIFEST, MODEL_FILE, Manifests, decode_version, number_of, read_model, version_file
from broadcaster.store.metadata import Metadata
from broadcaster.store.reading import Reader
from broadcaster.store.values import ArchivedVersion

_VERSION = re.compile(r"([0-9a-f]{64})-([1-9][0-9]*)")
_MODEL = re.compile(r"([0-9a-f]{64})-model-[0-9a-f]{32}")


class Trash:
    """The tombstones of an archive. `pending` is true while one of them may still have work to do."""

    def __init__(self, folder: Folder, manifests: Manifests, deletions: Deletions) -> None:
        self.pending = True
        self._deletions = deletions
        self._folder = folder
        self._all = manifests
        self._manifests = manifests.folder

    def put_versions(self, key: str, numbers: Iterable[int]) -> None:
        """Delete versions of one model: durable when this returns; after a crash some of them may be deleted."""
        self.pending = True
        try:
            with self._manifests.folder(key, create=False) as model:
                for number in numbers:
                    self._put_version(model, key, number)
                model.sync()
        except FileNotFoundError:  # somebody took the whole model
            for number in numbers:
                self._put_nothing(key, number)
        self._folder.sync()
        hit("tombstone-durable")

    def _put_version(self, model: Folder, key: str, number: int) -> None:
        try:
            model.move(version_file(number), self._folder, f"{key}-{number}")
        except FileNotFoundError:  # somebody took the manifest: the tombstone is an empty file then
            self._put_nothing(key, number)

    def _put_nothing(self, key: str, number: int) -> None:
        os.close(self._folder.create(f"{key}-{number}"))

    def put_model(self, key: str) -> None:
        """Delete a model with all its versions: durable when this returns."""
        self.pending = True
        name = f"{key}-model-{secrets.token_hex(16)}"
        try:
            self._manifests.move(key, self._folder, name)
            self._manifests.sync()
        except FileNotFoundError:
            self._folder.folder(name).close()
        self._folder.sync()
        hit("tombstone-durable")

    def empty(self, index: Metadata, blobs: Blobs | None, reader: Reader | None = None) -> None:
        """Finish every deletion: rows, blobs that nobody else refers to, the tombstone.

        `blobs` is None while the index may not know all manifests yet: their blobs are left to the sweep that follows.
        """
        if not self.pending:
            return
        versions: dict[str, list[int]] = {}
        for name, _ in self._folder.scan():
            if found := _VERSION.fullmatch(name):
                versions.setdefault(found[1], []).append(int(found[2]))
            elif found := _MODEL.fullmatch(name):
                self._finish_model(name, found[1], index, blobs, reader)
        for key, numbers in versions.items():
            self._finish_versions(key, numbers, index, blobs, reader)
        self.pending = False

    def _finish_versions(self, key: str, numbers: list[int], index: Metadata, blobs: Blobs | None, reader: Reader | None) -> None:
        names = [f"{key}-{number}" for number in numbers]
        gone = [version for name in names for version in _version_in(self._folder, name)]
        if gone:
            self._deletions.add(_model_of(gone[0]), map(_upload_of, gone))
        sha256s = index.remove(key, numbers, model=False) + [version.sha256 for version in gone]
        self._remember(key, numbers, index)
        _remove_unused(sha256s, index, blobs, reader)
        for name in names:
            self._folder.remove(name)
        self._folder.sync()

    def _remember(self, key: str, numbers: list[int], index: Metadata) -> None:
        """The model's manifest names what was deleted, so that an older index does not bring it back."""
        model = known = next(iter(index.models(key)), None)
        try:
            with self._manifests.folder(key, create=False) as folder:
                archived = [number for name, _ in folder.scan() if (number := number_of(name)) is not None]
                try:
                    model = read_model(folder)
                except (FileNotFoundError, StoreCorrupt):
                    pass  # what the index knows will do; the reconciliation that follows tells of it
        except FileNotFoundError:
            return  # the model was deleted too
        if model is None:
            return
        tombstones = bounded(merged(model.tombstones, numbers), sorted(archived))
        if tombstones != model.tombstones:
            model = replace(model, tombstones=tombstones)
            stamp = self._all.put_model(model)
            hit("manifest-durable")
            if known is not None:
                index.put_model(model, stamp)

    def _finish_model(self, name: str, key: str, index: Metadata, blobs: Blobs | None, reader: Reader | None) -> None:
        with self._folder.folder(name, create=False) as model:
            files = {file: number_of(file) for file, _ in model.scan()}
            numbers = [number for number in files.values() if number is not None]
            gone = [version for file, number in files.items() if number is not None for version in _version_in(model, file)]
            self._end(model, numbers, gone)
            sha256s = index.remove(key, numbers, model=not self._is_back(key)) + [version.sha256 for version in gone]
            _remove_unused(sha256s, index, blobs, reader)
        self._folder.remove_folder(name)
        self._folder.sync()

    def _end(self, model: Folder, numbers: list[int], gone: list[ArchivedVersion]) -> None:
        """The log names the model and what went with it."""
        try:
            known = read_model(model)
        except (FileNotFoundError, StoreCorrupt):
            return  # Nobody can tell this model from one that is made again.
        last = known.tombstones[-1][1] if known.tombstones else 0
        ended = Ended(max([last, *numbers]), known.info.creation_timestamp)
        self._deletions.end((known.info.namespace, known.info.model_id), ended, map(_upload_of, gone))

    def _is_back(self, key: str) -> bool:
        # The model may have been made again since; its row belongs to the new one then.
        try:
            with self._manifests.folder(key, create=False) as model:
                return any(name == MODEL_FILE for name, _ in model.scan())
        except FileNotFoundError:
            return False


def _version_in(folder: Folder, name: str) -> list[ArchivedVersion]:
    try:
        return [decode_version(folder.read(name, MAX_MANIFEST), folder.path(name))]
    except StoreCorrupt:
        return []  # the row named its blob, or the sweep of unreferenced blobs at the next start finds it


def _model_of(version: ArchivedVersion) -> tuple[str, str]:
    return version.info.namespace, version.info.model_id


def _upload_of(version: ArchivedVersion) -> tuple[int, bytes]:
    return version.info.number, version.upload_id


def _remove_unused(sha256s: list[str], index: Metadata, blobs: Blobs | None, reader: Reader | None) -> None:
    if blobs is None:
        return
    for sha256 in dict.fromkeys(sha256s):
        if not index.is_used(sha256):
            blobs.remove(sha256)
            if reader is not None:
                reader.heal(sha256)
            hit("blob-removed")
