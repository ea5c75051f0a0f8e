"""Numbers that were handed out, in a file outside the index, so that no version number and no term is ever used twice.

An append-only file of self-checked records; a torn or damaged record costs itself only.

    | "MBFL" | length u32 | msgpack [kind, namespace, model_id, number] | xxh3-128 of all before (16) |

A term's record has a fifth part: the id of the publisher that holds the term, empty when nobody does.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

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

RAISE, LOWER, EPOCH, TERM = "raise", "lower", "epoch", "term"

Record = tuple[str, str, str, int] | tuple[str, str, str, int, bytes]
"""(kind, namespace, model_id, number), of a term with its holder behind that."""


class Term(NamedTuple):
    """The newest term of a model, and the id of the publisher that holds it: empty when it was given up."""

    number: int
    holder: bytes


NOBODY = b""
NO_MODEL = ("", "")
"""In the place of a model: all terms are above this one's number, and numbers of models without a ceiling above its ceiling."""


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
        case [str(kind), str(namespace), str(model_id), int(number), bytes(holder)]:
            return (kind, namespace, model_id, number, holder), end + _CHECK - at
    return None, 1


class Floors:
    """`ceilings`: per model the highest number that may have been handed out. `terms`: its newest term. `epoch`: the newest epoch
    recorded."""

    def __init__(self, root: Folder, staging: Folder) -> None:
        """Read the file, if there is one, and write it anew in its shortest form."""
        self._root = root
        self._staging = staging
        self._fd = -1
        self.ceilings: dict[ModelKey, int] = {}
        self.terms: dict[ModelKey, Term] = {}
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

    def term(self, key: ModelKey) -> Term:
        """The newest term of a model; one that nobody holds when none was taken."""
        least = self.terms.get(NO_MODEL, Term(0, NOBODY))
        own = self.terms.get(key, least)
        return own if own.number >= least.number else least

    @property
    def held(self) -> dict[ModelKey, int]:
        """The terms that somebody holds."""
        return {key: term.number for key in self.terms if (term := self.term(key)).holder}

    def take_term(self, key: ModelKey, holder: bytes) -> int:
        """The next term, or the newest if `holder` holds that. Durable when this returns."""
        term = self.term(key)
        if term.holder != holder:
            term = Term(term.number + 1, holder)
            self._append([(TERM, *key, *term)])
        return term.number

    def give_up_term(self, key: ModelKey, holder: bytes | None) -> int | None:
        """Nobody holds the model's term any more, durably, and which one that was; None when `holder` does not hold it (when
        None: nobody)."""
        term = self.term(key)
        if term.holder == NOBODY or holder not in (None, term.holder):
            return None
        self._append([(TERM, *key, *Term(term.number, NOBODY))])
        return term.number

    def step_over(self, step: int, above: int | None = None) -> None:
        """This file is older than what was given out since: numbers and terms up to `step` above what it knows count as used.

        That holds for models that it does not know, too. Numbers go on above `above` instead where that is given. Durable.
        """
        numbers = {key: self.ceilings.get(key, 0) for key in (*self.ceilings, NO_MODEL)}
        records: list[Record] = [
            (RAISE, *key, number + step if above is None else max(number, above)) for key, number in numbers.items()
        ]
        records += [(TERM, *key, self.term(key).number + step, NOBODY) for key in {*self.terms, NO_MODEL}]
        self._append(records)

    def begin_epoch(self, epoch: int, *, fresh: bool = True) -> None:
        """Remember the epoch, durably. `fresh`: this is its first one, as far as anybody knows.

        If it is not, and this file knows nothing of terms, it was lost: terms begin above `epoch` then, which is more than were
        ever taken.
        """
        records: list[Record] = [(EPOCH, "", "", epoch)]
        if NO_MODEL not in self.terms:
            records.append((TERM, *NO_MODEL, 0 if fresh else epoch, NOBODY))
        self._append(records)

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
        kind, namespace, model_id, number = record[:4]
        if len(record) == 5:
            if number >= self.terms.get((namespace, model_id), Term(0, NOBODY)).number:
                self.terms[namespace, model_id] = Term(number, record[4])
        elif kind == EPOCH:
            self.epoch = max(self.epoch, number)
        elif kind == LOWER:
            self.ceilings[namespace, model_id] = number
        elif kind == RAISE:
            self.ceilings[namespace, model_id] = max(number, self.ceilings.get((namespace, model_id), 0))

    def _compact(self) -> None:
        self.close()
        records: list[Record] = [(EPOCH, "", "", self.epoch)]
        records += [(RAISE, *key, number) for key, number in self.ceilings.items()]
        records += [(TERM, *key, *term) for key, term in self.terms.items()]
        self._root.put(FLOORS, b"".join(map(encode, records)), self._staging)
        self._fd = os.open(FLOORS, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._root.fd)
