"""The reference: a file in shared memory, mapped and walked, into which the weights are copied once."""

from __future__ import annotations

import mmap
import os
import tempfile

import numpy as np

from benchmarks.processes import SHARED


class Shared:
    """A mapped file of `size` bytes that has no name; every page of it has been written."""

    def __init__(self, size: int) -> None:
        with tempfile.TemporaryFile(dir=SHARED if os.access(SHARED, os.W_OK) else None) as file:
            file.truncate(size)
            self._bytes = np.frombuffer(mmap.mmap(file.fileno(), size), np.uint8)
        self._bytes[:] = 1

    def copy(self, tree: dict[str, np.ndarray]) -> None:
        """One memcpy of each array, one behind the other."""
        at = 0
        for array in tree.values():
            flat = array.reshape(-1).view(np.uint8)
            np.copyto(self._bytes[at : at + flat.size], flat)
            at += flat.size
