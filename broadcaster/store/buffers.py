"""A few kept buffers for reads, so that a fetch allocates nothing in the steady state."""

from __future__ import annotations

import threading


class BufferPool:
    """At most `count` buffers of `size` bytes, lent as memoryviews and taken back when nobody looks at them any more.

    Nobody has to give a buffer back: one whose bytes are still exported (a view, a slice of it, a queued zero-copy frame) is
    not lent again. When all are out, a new one is made that is not kept.
    """

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.size = size
        self._buffers: list[bytearray] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> memoryview:
        """A writable view of `size` bytes that is the caller's alone; its content is arbitrary."""
        if size > self.size:
            return memoryview(bytearray(size))
        with self._lock:
            for buffer in self._buffers:
                if _is_free(buffer):
                    return memoryview(buffer)[:size]
            buffer = _make(self.size)
            if len(self._buffers) < self.count:
                self._buffers.append(buffer)
            return memoryview(buffer)[:size]


def _make(size: int) -> bytearray:
    # One spare byte of capacity: growing into it later moves nothing.
    buffer = bytearray(size + 1)
    del buffer[-1]
    return buffer


def _is_free(buffer: bytearray) -> bool:
    # The interpreter itself refuses to resize a bytearray that anybody still sees.
    try:
        buffer.append(0)
    except BufferError:
        return False
    del buffer[-1]
    return True
