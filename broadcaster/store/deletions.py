"""What was deleted, in a file outside the index: newest upload ids whose archived versions are gone, and models that were.

So a retry of such an upload makes no second version without a word, and files of what was deleted that come back from
somewhere are not taken for versions. Records are those of the floor file.

    version: the number, and the upload id (16 bytes)
    model:   the highest number that went with it, and its creation timestamp (8 bytes, big-endian; 0 once it is made again)
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterable
from typing import NamedTuple

from broadcaster.store.floors import Record, decode, encode
from broadcaster.store.folders import Folder, sync, write_all
from broadcaster.store.manifests import key_of
from broadcaster.store.values import ModelKey

DELETIONS = "deletions.log"
KEPT = 10_000
"""Upload ids that are remembered; older ones are forgotten first."""
COMPACT_AT = 4 << 20
"""Bytes of the file at which it is written anew."""

VERSION, MODEL = "version", "model"


class Ended(NamedTuple):
    """A model that was deleted: the highest number that went with it, and when it had been created (ns since 1970; 0 when that is
    not known, or the model was made again)."""

    upto: int
    created: int


class Deletions:
    """`uploads`: upload id -> (namespace, model_id) and number, oldest first. `models`: of each model, its newest end."""

    def __init__(self, root: Folder, staging: Folder) -> None:
        """Read the file, if there is one."""
        self._root = root
        self._staging = staging
        self._fd = -1
        self.uploads: OrderedDict[bytes, tuple[ModelKey, int]] = OrderedDict()
        self.models: dict[ModelKey, Ended] = {}
        self._keys: dict[str, Ended] = {}
        try:
            for record in decode(root.read(DELETIONS, 1 << 30)):
                self._apply(record)
        except FileNotFoundError:
            pass

    def ended(self, key: str) -> Ended | None:
        """The newest end of the model whose manifests lie in the directory `key`."""
        return self._keys.get(key)

    def add(self, model: ModelKey, versions: Iterable[tuple[int, bytes]]) -> None:
        """(number, upload id) of versions that are about to be deleted. Durable when this returns."""
        self._append([(VERSION, *model, *version) for version in versions])

    def end(self, model: ModelKey, end: Ended, versions: Iterable[tuple[int, bytes]]) -> None:
        """A model is about to be deleted, with these versions. Durable when this returns."""
        newest = sorted(versions)[-KEPT:]
        record = (MODEL, *model, end.upto, end.created.to_bytes(8, "big"))
        self._append([*((VERSION, *model, *version) for version in newest), record])

    def begin_again(self, model: ModelKey) -> None:
        """A model of this name is about to be made: if there was one that was deleted, files are not taken for that one's any
        more. Durable when this returns."""
        ended = self.models.get(model)
        if ended is not None and ended.created:
            self._append([(MODEL, *model, ended.upto, bytes(8))])

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _append(self, records: list[Record]) -> None:
        if not records:
            return
        if self._fd < 0 or os.fstat(self._fd).st_size > COMPACT_AT:
            self._compact()
        try:
            write_all(self._fd, b"".join(map(encode, records)), os.fstat(self._fd).st_size)
            sync(self._fd)
        except OSError:
            self.close()  # what of it is on the disk is unknown: the next append writes a new file first
            raise
        for record in records:
            self._apply(record)

    def _apply(self, record: Record) -> None:
        kind, namespace, model_id, number, *rest = record
        model, said = (str(namespace), str(model_id)), bytes(rest[0]) if rest else b""
        if kind == VERSION and len(said) == 16:
            self.uploads.pop(said, None)
            self.uploads[said] = model, int(number)
            if len(self.uploads) > KEPT:
                self.uploads.popitem(last=False)
        elif kind == MODEL and len(said) == 8:
            before = self.models.get(model, Ended(0, 0))
            ended = Ended(max(int(number), before.upto), int.from_bytes(said, "big"))
            self.models[model] = self._keys[key_of(*model)] = ended

    def _compact(self) -> None:
        self.close()
        records: list[Record] = [(VERSION, *model, number, upload) for upload, (model, number) in self.uploads.items()]
        records += [(MODEL, *model, ended.upto, ended.created.to_bytes(8, "big")) for model, ended in self.models.items()]
        self._root.put(DELETIONS, b"".join(map(encode, records)), self._staging)
        self._fd = os.open(DELETIONS, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root.fd)
