"""The memory that is this process's alone: how fast it grows, and giving back to the system what nobody uses."""

from __future__ import annotations

import ctypes
import os
from collections import deque
from pathlib import Path

GROWTH = 384 << 20
"""Bytes by which it may grow within `WINDOW`. What stalled subscribers cost at most is 258 MiB."""
WINDOW = 10.0
"""Seconds."""
_STATM = Path("/proc/self/statm")


class Growth:
    """How much more there is than at the best moment of the last seconds."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def grown(self, now: float, private: int) -> int:
        """Bytes, with what there is now."""
        self._seen.append((now, private))
        while self._seen[0][0] < now - WINDOW:
            self._seen.popleft()
        return private - min(seen for _, seen in self._seen)

    def forget(self) -> None:
        """Counts from now on."""
        self._seen.clear()


def private() -> int:
    """Bytes in memory that no other process has: no slots, and no libraries. 0 where the system does not tell."""
    try:
        _, resident, shared, *_ = _STATM.read_bytes().split()
    except OSError:
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")


def give_back() -> None:
    """Freed memory goes back to the system, as far as the C library can do that. Takes a few milliseconds for 100 MiB."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
