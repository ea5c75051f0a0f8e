"""Private memory for payloads: mapped once, reused from version to version, given back when the last array over it dies."""

from __future__ import annotations

import contextlib
import mmap
import weakref
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from broadcaster.protocol.errors import NoSpace, RemoteProtocolError
from broadcaster.protocol.limits import MAX_PAYLOAD

Bytes = npt.NDArray[np.uint8]

HUGE = 2 << 20
"""Bytes of a huge page: mappings from this size on ask for such pages."""
KEEP = 2
"""Idle buffers that a pool keeps at most."""
REMEMBERED = 8
"""Lendings that a pool looks back to, to know how many buffers it needs at once."""


def allocate(size: int) -> mmap.mmap:
    """Private anonymous memory of at least `size` bytes, all zeros. It goes when the last view of it has gone.

    Raises NoSpace when the system has none, RemoteProtocolError for a size that no payload has.
    """
    if not 0 <= size <= MAX_PAYLOAD:
        raise RemoteProtocolError(reason=f"a payload of {size} bytes: the largest has {MAX_PAYLOAD}")
    unit = HUGE if size >= HUGE else mmap.PAGESIZE
    try:
        made = mmap.mmap(-1, max(unit, -(-size // unit) * unit), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError:
        raise NoSpace(size=size, where="the memory of this process") from None
    if unit == HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # A kernel built without them; everything works, slower.
            made.madvise(mmap.MADV_HUGEPAGE)
    return made


def view_of(memory: mmap.mmap, size: int) -> memoryview:
    """The first `size` bytes, to be written to."""
    return memoryview(memory)[:size]


def array_of(payload: bytes | memoryview) -> Bytes:
    """The bytes as a read-only array."""
    array: Bytes = np.frombuffer(payload, np.uint8) if len(payload) else np.empty(0, np.uint8)
    array.flags.writeable = False
    return array


def view_of_array(array: Bytes) -> memoryview:
    """The bytes of an array as a read-only memoryview, which keeps it alive."""
    return memoryview(array).toreadonly()  # type: ignore[arg-type]


class Kept:
    """Idle buffers, at most `keep`: `take` prefers the smallest that fits. All of it may be called from any thread, and from a
    finalizer in the middle of any of it: a deque's own operations are the only ones used, and no lock is held."""

    def __init__(self, keep: int = KEEP) -> None:
        self.keep = keep
        self._idle: deque[mmap.mmap] = deque()

    def take(self, size: int) -> mmap.mmap:
        """A kept buffer of at least `size` bytes, or a new one; those too small are let go first. Raises what `allocate`
        raises."""
        fitting = sorted((found for found in self._all() if len(found) >= size), key=len)
        for other in fitting[1:]:
            self.put(other)
        return fitting[0] if fitting else allocate(size)

    def put(self, memory: mmap.mmap) -> None:
        """Keeps a buffer for the next one to take; the oldest kept goes when there are too many."""
        self._idle.append(memory)
        while len(self._idle) > self.keep:
            with contextlib.suppress(IndexError):
                self._idle.popleft()

    def _all(self) -> list[mmap.mmap]:
        found = []
        with contextlib.suppress(IndexError):
            while True:
                found.append(self._idle.popleft())
        return found

    @property
    def idle(self) -> list[int]:
        """Sizes of the buffers that nobody uses now, in bytes."""
        return [len(found) for found in list(self._idle)]


class BufferPool:
    """Lends the memory that versions are put together in, and takes it back.

    A version's arrays all derive from one root made for it. While any of them lives its memory is left alone, however long; when
    the last one dies, the memory is used for another version. So a subscriber whose user keeps the newest version only needs two
    payloads' memory: one visible, one on its way. Each old snapshot that the user keeps costs one more.
    """

    def __init__(self) -> None:
        self._kept = Kept()
        self._lent: dict[int, mmap.mmap] = {}
        self._needed: deque[int] = deque(maxlen=REMEMBERED)
        """How many buffers were in use at once, at each of the last times that one was lent."""

    def lend(self, size: int) -> memoryview:
        """Memory of exactly `size` bytes, to be given back with `give` or turned into a `root`. Raises what `allocate` raises."""
        memory = self._kept.take(size)
        self._lent[id(memory)] = memory
        self._needed.append(len(self._lent))
        return view_of(memory, size)

    def give(self, buffer: memoryview) -> None:
        """Takes a lent buffer back that leads to no version."""
        self._take_back(buffer.obj)

    def root(self, buffer: memoryview) -> Bytes:
        """A lent buffer as a read-only array, for ever as it is now; the memory comes back when nothing views it any more."""
        # A fresh frombuffer for each version: numpy makes views refer to the last array of a chain, so the finalizer of a slice
        # of a kept array would run while views live.
        array = array_of(buffer)
        weakref.finalize(array, self._take_back, buffer.obj).atexit = False
        return array

    def _take_back(self, memory: Any) -> None:
        # What was needed once, because somebody kept an old version for a moment, is not kept for ever.
        self._lent.pop(id(memory), None)
        self._kept.keep = min(KEEP, max(list(self._needed), default=0) - len(self._lent))
        self._kept.put(memory)

    @property
    def idle(self) -> list[int]:
        """Sizes of the buffers that nobody uses now, in bytes."""
        return self._kept.idle
