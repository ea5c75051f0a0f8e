"""Copying a payload into a buffer piece by piece, and telling how far it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from broadcaster.protocol.errors import LocalProtocolError

Bytes = npt.NDArray[np.uint8]

PIECE = 1 << 20
"""Bytes copied at most between two reports: small enough to be hashed while still in the cache, large enough that the interpreter
does not count (copy and hash of 64 MiB: 10.7 ms in pieces of 256 KiB, 8.2 in these)."""


class Progress:
    """Reports how many bytes are there each time another PIECE is full, however many small tensors are in it."""

    def __init__(self, filled: Callable[[int], None]) -> None:
        self.filled = filled
        self.done = 0
        self.reported = 0

    def add(self, count: int) -> None:
        """`count` more bytes are there."""
        self.done += count
        while self.done - self.reported >= PIECE:
            self.reported += PIECE
            self.filled(self.reported)

    def finish(self) -> None:
        """The last report: everything is there."""
        if self.reported < self.done or self.done == 0:
            self.filled(self.done)


def as_target(buffer: memoryview, size: int) -> Bytes:
    """The first `size` bytes of a writable buffer as an array."""
    if buffer.readonly or buffer.nbytes < size:
        raise LocalProtocolError(reason=f"a payload of {size} bytes needs a writable buffer, not {buffer.nbytes} bytes")
    if size == 0:
        return np.empty(0, np.uint8)
    return np.frombuffer(buffer, np.uint8, count=size)


def copy_bytes(target: Bytes, source: Bytes, progress: Progress) -> None:
    """Copies bytes in pieces. `np.copyto` lets other threads run meanwhile; assigning to a slice of a memoryview does not."""
    for start in range(0, len(source), PIECE):
        piece = source[start : start + PIECE]
        np.copyto(target[start : start + PIECE], piece)
        progress.add(len(piece))


def copy_array(target: Bytes, array: npt.NDArray[Any], dtype: np.dtype[Any], progress: Progress) -> None:
    """Copies an array of any strides and byte order as C order and `dtype` (little-endian), in pieces and without a temporary."""
    if array.flags.c_contiguous and array.dtype == dtype:
        return copy_bytes(target, array.reshape(-1).view(np.uint8), progress)
    at = 0
    for block in _blocks(array):
        np.copyto(target[at : at + block.nbytes].view(dtype).reshape(block.shape), block)
        progress.add(block.nbytes)
        at += block.nbytes


def _blocks(array: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Views of at most PIECE bytes that, one after the other, are `array` in C order."""
    row = array.nbytes // len(array)
    if row > PIECE:
        for part in array:
            yield from _blocks(part)
    else:
        rows = PIECE // row
        for start in range(0, len(array), rows):
            yield array[start : start + rows]
