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

from broadcaster.protocol.errors import StoreCorrupt
from broadcaster.store.blobs import Blobs
from broadcaster.store.failpoints import hit
from broadcaster.store.folders import Folder
from broadcaster.store.manifests import MAX_MANIFEST, MODEL_FILE, decode_version, number_of, version_file
from broadcaster.store.metadata import Metadata
from broadcaster.store.reading import Reader

_VERSION = re.compile(r"([0-9a-f]{64})-([1-9][0-9]*)")
_MODEL = re.compile(r"([0-9a-f]{64})-model-[0-9a-f]{32}")


class Trash:
    """The tombstones of an archive. `pending` is true while one of them may still have work to do."""

    def __init__(self, folder: Folder, manifests: Folder) -> None:
        self.pending = True
        self._folder = folder
        self._manifests = manifests

    def put_version(self, key: str, number: int) -> None:
        """Delete a version: durable when this returns."""
        self.pending = True
        try:
            with self._manifests.folder(key, create=False) as model:
                model.move(version_file(number), self._folder, f"{key}-{number}")
                model.sync()
        except FileNotFoundError:  # somebody took the manifest: the tombstone is an empty file then
            os.close(self._folder.create(f"{key}-{number}"))
        self._folder.sync()
        hit("tombstone-durable")

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

    def empty(self, index: Metadata, blobs: Blobs, reader: Reader | None = None) -> None:
        """Finish every deletion: rows, blobs that nobody else refers to, the tombstone."""
        if not self.pending:
            return
        for name, _ in self._folder.scan():
            if found := _VERSION.fullmatch(name):
                self._finish_version(name, found[1], int(found[2]), index, blobs, reader)
            elif found := _MODEL.fullmatch(name):
                self._finish_model(name, found[1], index, blobs, reader)
        self.pending = False

    def _finish_version(self, name: str, key: str, number: int, index: Metadata, blobs: Blobs, reader: Reader | None) -> None:
        sha256s = index.remove(key, [number], model=False) + _blob_of(self._folder, name)
        _remove_unused(sha256s, index, blobs, reader)
        self._folder.remove(name)
        self._folder.sync()

    def _finish_model(self, name: str, key: str, index: Metadata, blobs: Blobs, reader: Reader | None) -> None:
        with self._folder.folder(name, create=False) as model:
            files = {file: number_of(file) for file, _ in model.scan()}
            numbers = [number for number in files.values() if number is not None]
            sha256s = index.remove(key, numbers, model=not self._is_back(key))
            for file, number in files.items():
                sha256s += _blob_of(model, file) if number is not None else []
            _remove_unused(sha256s, index, blobs, reader)
        self._folder.remove_folder(name)
        self._folder.sync()

    def _is_back(self, key: str) -> bool:
        # The model may have been made again since; its row belongs to the new one then.
        try:
            with self._manifests.folder(key, create=False) as model:
                return any(name == MODEL_FILE for name, _ in model.scan())
        except FileNotFoundError:
            return False


def _blob_of(folder: Folder, name: str) -> list[str]:
    try:
        return [decode_version(folder.read(name, MAX_MANIFEST), folder.path(name)).sha256]
    except StoreCorrupt:
        return []  # the row named it, or the sweep of unreferenced blobs at the next start finds it


def _remove_unused(sha256s: list[str], index: Metadata, blobs: Blobs, reader: Reader | None) -> None:
    for sha256 in dict.fromkeys(sha256s):
        if not index.is_used(sha256):
            blobs.remove(sha256)
            if reader is not None:
                reader.heal(sha256)
            hit("blob-removed")
