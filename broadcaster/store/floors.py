"""Numbers that were handed out, in a file outside the index, so that no version number is ever used twice.

An append-only file of self-checked records; a torn or damaged record costs itself only.

    | "MBFL" | length u32 | msgpack [kind, namespace, model_id, number] | xxh3-128 of all before (16) |
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator

import msgpack
import xxhash

from broadcaster.store.folders import Folder, sync, write_all
from broadcaster.store.layout import FLOORS
from broadcaster.store.values import ModelKey

MAGIC = b"MBFL"
_HEAD = struct.Struct(">4sI")
_CHECK = 16
_MAX_RECORD = 1024
COMPACT_AT = 1 << 20
"""Bytes of the file at which it is written anew with one record per model."""

RAISE, LOWER, EPOCH = "raise", "lower", "epoch"

Record = tuple[str, str, str, int]
"""(kind, namespace, model_id, number)."""


def encode(record: Record) -> bytes:
    """One record as it stands in the file."""
    body = msgpack.packb(list(record))
    whole = _HEAD.pack(MAGIC, len(body)) + body
    sealed: bytes = whole + xxhash.xxh3_128_digest(whole)
    return sealed


def decode(data: bytes) -> Iterator[Record]:
    """Every whole record in `data`, in order; anything between them is stepped over."""
    at = data.find(MAGIC)
    while at >= 0:
        record, size = _decode_one(data, at)
        if record is not None:
            yield record
        at = data.find(MAGIC, at + size)


def _decode_one(data: bytes, at: int) -> tuple[Record | None, int]:
    if len(data) - at < _HEAD.size + _CHECK:
        return None, 1
    _, length = _HEAD.unpack_from(data, at)
    end = at + _HEAD.size + length
    if length > _MAX_RECORD or data[end : end + _CHECK] != xxhash.xxh3_128_digest(data[at:end]):
        return None, 1
    match msgpack.unpackb(data[at + _HEAD.size : end]):
        case [str(kind), str(namespace), str(model_id), int(number)]:
            return (kind, namespace, model_id, number), end + _CHECK - at
    return None, 1


class Floors:
    """`ceilings`: per model the highest number that may have been handed out. `epoch`: the newest epoch recorded."""

    def __init__(self, root: Folder, staging: Folder) -> None:
        """Read the file, if there is one, and write it anew in its shortest form."""
        self._root = root
        self._staging = staging
        self._fd = -1
        self.ceilings: dict[ModelKey, int] = {}
        self.epoch = 0
        try:
            for record in decode(root.read(FLOORS, 1 << 30)):
                self._apply(record)
        except FileNotFoundError:
            pass
        self._compact()

    def raise_to(self, ceilings: Iterable[tuple[str, str, int]]) -> None:
        """Numbers up to these may be used from now on. Durable when this returns; a floor never goes down here."""
        self._append([(RAISE, *entry) for entry in ceilings if entry[2] > self.ceilings.get(entry[:2], 0)])

    def lower_to(self, used: Iterable[tuple[str, str, int]]) -> None:
        """Numbers above these were never used, says who took them: give them back, durably."""
        self._append([(LOWER, *entry) for entry in used if entry[2] < self.ceilings.get(entry[:2], 0)])

    def begin_epoch(self, epoch: int) -> None:
        """Remember the epoch, durably."""
        self._append([(EPOCH, "", "", epoch)])

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
        kind, namespace, model_id, number = record
        if kind == EPOCH:
            self.epoch = max(self.epoch, number)
        elif kind == LOWER:
            self.ceilings[namespace, model_id] = number
        elif kind == RAISE:
            self.ceilings[namespace, model_id] = max(number, self.ceilings.get((namespace, model_id), 0))

    def _compact(self) -> None:
        self.close()
        records: list[Record] = [(EPOCH, "", "", self.epoch)]
        records += [(RAISE, *key, number) for key, number in self.ceilings.items()]
        self._root.put(FLOORS, b"".join(map(encode, records)), self._staging)
        self._fd = os.open(FLOORS, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root.fd)
