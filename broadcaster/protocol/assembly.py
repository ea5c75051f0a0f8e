"""A payload that is being put together in a buffer, chunk by chunk, hashed while the bytes are warm."""

from __future__ import annotations

import hashlib
from typing import Protocol

import xxhash

from broadcaster.protocol.errors import RemoteProtocolError
from broadcaster.protocol.frames import ChunkHeader, header_bytes
from broadcaster.protocol.limits import CHUNK
from broadcaster.protocol.messages import SHA256

PIECE = 256 << 10
"""Bytes copied and hashed at a time."""


class Digest(Protocol):
    """What hashlib and xxhash have in common."""

    def update(self, data: memoryview, /) -> None: ...
    def hexdigest(self) -> str: ...


def chunks_of(size: int) -> int:
    """How many chunks a payload of `size` bytes has; an empty payload has none."""
    return -(-size // CHUNK)


class Assembly:
    """Which chunks of one payload are here, and the digest over those that are here without a hole.

    `buffer` is exactly the payload's size and belongs to the caller. Chunks may come in any order and more than once. The
    xxh3-128 follows the contiguous front, so that a payload that arrives in order is hashed chunk by chunk while warm.
    """

    def __init__(self, buffer: memoryview, *, also: str | None = None) -> None:
        self.buffer = buffer
        self.size = len(buffer)
        self.count = chunks_of(self.size)
        self.front = 0
        """Chunks 0 to front - 1 are here and hashed."""
        self._ahead: set[int] = set()
        self._xxh3 = xxhash.xxh3_128()
        self._also: Digest | None = hashlib.sha256() if also == SHA256 else None

    @property
    def complete(self) -> bool:
        return self.front == self.count

    def missing(self) -> list[int]:
        """Indices of the chunks that are not here, ascending."""
        return [index for index in range(self.front, self.count) if index not in self._ahead]

    def has(self, index: int) -> bool:
        return index < self.front or index in self._ahead

    def index_of(self, header: ChunkHeader) -> int:
        """The chunk's index. Raises RemoteProtocolError unless it is a whole chunk of a payload of this size."""
        index, rest = divmod(header.offset, CHUNK)
        expected = min(CHUNK, self.size - header.offset)
        if header.size != self.size or rest or header.length != expected or not header.length:
            raise RemoteProtocolError(
                reason=f"chunk of {header.length} bytes at {header.offset} of {header.size} does not fit a payload of {self.size}"
            )
        return index

    def header(self, transfer: bytes, attempt: int) -> bytes:
        """The header of the chunk at the front, which comes next where nothing is lost, as it is on the wire."""
        start = self.front * CHUNK
        return header_bytes(transfer, self.size, start, min(CHUNK, self.size - start), attempt)

    def view(self, index: int) -> memoryview:
        """The place of chunk `index` in the buffer."""
        return self.buffer[index * CHUNK : min((index + 1) * CHUNK, self.size)]

    def add(self, index: int, data: memoryview | None = None) -> None:
        """Says that the bytes of chunk `index` are in place now; with `data`, puts them there. Hashes as far as there is no hole:
        what is put at the front in pieces, right behind the copy, while they are in the processor's cache."""
        if data is not None and index == self.front:
            self.put(data)
        else:
            if data is not None:
                self.view(index)[:] = data
            self._ahead.add(index)
            self._close_up()

    def came(self, place: memoryview) -> None:
        """The bytes of the chunk at the front are in their `place`: all that there is to do where nothing is lost."""
        self._hash(place)
        self.front += 1
        if self._ahead:
            self._close_up()

    def _close_up(self) -> None:
        while self.front in self._ahead:
            self._ahead.remove(self.front)
            self._hash(self.view(self.front))
            self.front += 1

    def put(self, data: memoryview) -> None:
        """Puts the bytes of the chunk at the front into their place."""
        place = self.view(self.front)
        for start in range(0, len(place), PIECE):
            piece = data[start : start + PIECE]
            place[start : start + PIECE] = piece
            self._hash(piece)
        self.front += 1
        if self._ahead:
            self._close_up()

    def _hash(self, piece: memoryview) -> None:
        self._xxh3.update(piece)
        if self._also is not None:
            self._also.update(piece)

    @property
    def digest(self) -> str:
        """xxh3-128 in hex; of the whole payload once it is complete."""
        return self._xxh3.hexdigest()

    @property
    def sha256(self) -> str | None:
        """SHA-256 in hex where it was asked for."""
        return None if self._also is None else self._also.hexdigest()
