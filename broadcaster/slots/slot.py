"""One slot: a file in shared memory, allocated for real, mapped once, never truncated, its name never used twice.

It is used again only when nobody reads it: no lease (a shared flock by another process) and none of our own frames or jobs.
First writes into fresh pages run at 1 GiB/s, into warm ones at 8: so slots are kept and come round.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import sys
from pathlib import Path
from typing import Protocol

from broadcaster.protocol.slot import EMPTY, HEADER, SlotHeader

STEP = 2 << 20
"""Bytes: capacities are multiples of it."""
_MODE = 0o660
"""Whoever may enter the directory and is of its owner's group may write: who may enter is the directory's to say."""
_POPULATE_WRITE = 23
"""MADV_POPULATE_WRITE, which Python 3.11 has no name for."""


class Tracker(Protocol):
    """What tells that a zero-copy frame is not in use any more."""

    @property
    def done(self) -> bool: ...


class Inline:
    """A payload of at most 64 KiB: it travels inside messages and needs no file. Has what the broker uses of a slot."""

    def __init__(self, size: int) -> None:
        self.view = memoryview(bytearray(size))
        self.charge = size + 512
        """Bytes of memory, with what the objects around it take."""
        self.jobs = 0

    def seal(self, header: SlotHeader) -> None:
        """Nothing to seal: nobody else can see it."""

    def lend(self, frame: Tracker) -> None:
        """A queued frame keeps the bytes alive by itself."""


def capacity_for(size: int) -> int:
    """Bytes that the slot of a payload of `size` bytes has room for."""
    return -(-size // STEP) * STEP


class Slot:
    """One file, one mapping. `view` is the payload of the version that it is granted for.

    It is made, and waits for a grant, under an exclusive lock, which goes with `seal` only: while a committed version is in it,
    others may take leases. `warm` touches every page, which a slot that is needed at once has no time for.
    """

    def __init__(self, path: Path, capacity: int, *, warm: bool = False) -> None:
        self.path = path
        self.capacity = capacity
        self.charge = HEADER + capacity
        self.generation = 0
        self.jobs = 0
        """Archive jobs that read it."""
        self._frames: list[Tracker] = []
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.fchmod(self._fd, _MODE)
            allocate(self._fd, self.charge)
            if warm:
                _write_zeros(self._fd, self.charge)
            self._map = mmap.mmap(self._fd, self.charge)
            if warm:
                _populate(self._map)
        except BaseException:
            os.close(self._fd)
            path.unlink(missing_ok=True)
            raise
        self.view = memoryview(self._map)[HEADER:]
        self._whole = self.view

    def grant(self, size: int) -> None:
        """A new payload of `size` bytes goes into a slot that is `free`. The header is empty since the one before left."""
        self.generation += 1
        self.view = self._whole[:size]

    def seal(self, header: SlotHeader) -> None:
        """The payload is whole: readers may take leases now."""
        packed = header.pack()
        self._map[: len(packed)] = packed
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def empty(self) -> None:
        """The version left: nobody may take a new lease on it. Those that have one keep it."""
        self._map[: len(EMPTY)] = EMPTY

    def free(self) -> bool:
        """Whether nobody reads it. The lock is ours from then on, so that it stays that way."""
        if self.busy():
            return False
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    @property
    def reachable(self) -> bool:
        """Whether others find it by its name: not if somebody emptied the directory."""
        return os.fstat(self._fd).st_nlink > 0

    def lend(self, frame: Tracker) -> None:
        """A frame that reads this slot is queued."""
        if len(self._frames) > 64:
            self._frames = [one for one in self._frames if not one.done]
        self._frames.append(frame)

    def busy(self) -> bool:
        """Whether a frame or a job of ours still reads it."""
        self._frames = [one for one in self._frames if not one.done]
        return bool(self._frames) or self.jobs > 0

    def unlink(self) -> None:
        """Nobody finds it any more. Where the directory does not let go of the name, the name stays."""
        with contextlib.suppress(OSError):
            self.path.unlink()

    def close(self) -> None:
        """Unlinks it. The memory goes when the last reader lets go of its mapping."""
        self.unlink()
        self.view = self._whole = memoryview(b"")
        with contextlib.suppress(BufferError):  # A queued frame still reads the mapping; it closes with the last of them.
            self._map.close()
        os.close(self._fd)


def allocate(fd: int, size: int) -> None:
    """Real pages, not a promise of some: writing into a mapping of a sparse file on a full tmpfs kills the writer."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
    else:  # macOS has no fallocate; writing zeros allocates as well.
        _write_zeros(fd, size)


def _write_zeros(fd: int, size: int) -> None:
    """Through the descriptor: the interpreter is free meanwhile, which it is not while a mapping's page is cleared."""
    zeros = memoryview(bytes(STEP))
    for at in range(0, size, STEP):
        os.pwrite(fd, zeros[: size - at], at)


def _populate(pages: mmap.mmap) -> None:
    """Every page gets its place in our page table, a piece at a time."""
    for at in range(0, len(pages), STEP):
        length = min(STEP, len(pages) - at)
        try:
            if sys.platform != "linux":
                raise OSError
            pages.madvise(_POPULATE_WRITE, at, length)
        except OSError:  # A kernel before 5.14: a look at each page does it too.
            bytes(memoryview(pages)[at : at + length : mmap.PAGESIZE])
