"""Granted slots as the learner writes to them: mapped once and kept, for mapping one anew costs as much as a copy."""

from __future__ import annotations

import fcntl
import mmap
import os
import threading
import weakref
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from broadcaster.protocol.slot import HEADER, parse_slot_header
from clients.slots.directory import SlotDirectory, SlotsUnusable

KEEP = 64
"""Mapped slots that a client keeps at most; the one that was used longest ago goes first."""


class _Mapped(NamedTuple):
    memory: mmap.mmap
    device: int
    inode: int


class Rooms:
    """The writable mappings of one client, by name of the slot. For any thread.

    What `take` gives keeps its mapping alive, also when the slot was unlinked or is not kept here any more.
    """

    def __init__(self, keep: int = KEEP) -> None:
        self._keep = keep
        self._lock = threading.Lock()
        self._mapped: OrderedDict[str, _Mapped] = OrderedDict()

    def take(self, directory: SlotDirectory, name: str, size: int) -> memoryview:
        """The first `size` bytes behind the header of a slot that was granted, to be written to. Raises SlotsUnusable."""
        fd = directory.open(name, size, writable=True)
        try:
            found = os.fstat(fd)
            if found.st_blocks * 512 < HEADER + size:
                raise SlotsUnusable(f"{name} has {found.st_blocks * 512} bytes on its file system, not {HEADER + size}")
            with self._lock:
                mapped = self._mapped.get(name)
            if mapped is None or mapped[1:] != (found.st_dev, found.st_ino) or len(mapped.memory) < HEADER + size:
                # Not under the lock, which the I/O thread takes too: this may be as slow as a copy.
                self.sweep(directory)
                mapped = _Mapped(_map(fd, name, found.st_size), found.st_dev, found.st_ino)
        finally:
            os.close(fd)
        with self._lock:
            self._mapped[name] = mapped
            self._mapped.move_to_end(name)
            while len(self._mapped) > self._keep:
                self._mapped.popitem(last=False)
        return memoryview(mapped.memory)[HEADER : HEADER + size]

    def hold(self, directory: SlotDirectory, name: str, generation: int, root: npt.NDArray[np.uint8]) -> bool:
        """A version was committed in the slot under `root`, and stays so while views of that live; False when it left."""
        try:
            fd = directory.open(name, root.nbytes, writable=False)
        except SlotsUnusable:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            # From here on the slot is given to no writer: what its header says stays true.
            header = parse_slot_header(os.pread(fd, HEADER, 0))
            held = header is not None and header.generation == generation
        except OSError:
            held = False
        if not held:
            os.close(fd)
            return False
        weakref.finalize(root, os.close, fd).atexit = False
        return True

    def sweep(self, directory: SlotDirectory | None) -> None:
        """Lets go of slots that were unlinked, whose memory is in use for as long as they are mapped."""
        with self._lock:
            for name, mapped in list(self._mapped.items()):
                if directory is None or not directory.has(name, mapped.inode):
                    del self._mapped[name]

    def __len__(self) -> int:
        return len(self._mapped)


def _map(fd: int, name: str, size: int) -> mmap.mmap:
    """All of the file, its pages in the page table already: writing to it faults nothing."""
    populate = getattr(mmap, "MAP_POPULATE", 0)
    try:
        return mmap.mmap(fd, size, flags=mmap.MAP_SHARED | populate, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    except (OSError, ValueError) as wrong:
        raise SlotsUnusable(f"{name} cannot be mapped: {wrong}") from None
