"""Slots that stay mapped from version to version: mapping one anew costs as much as a copy of what is in it."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections import OrderedDict
from typing import NamedTuple

from clients.slots.directory import SlotDirectory, SlotsUnusable

KEPT = 64
"""Mappings that are kept, over all models: those used last. Each takes a descriptor and, for 64 MiB, 128 KiB of page tables."""


class _Mapped(NamedTuple):
    """A whole slot, and which file it was when it was mapped."""

    memory: mmap.mmap
    file: tuple[int, int]


class Mappings:
    """By name of the slot, to be read or to be written to. For any thread.

    No mapping is closed here: it goes when it is not kept any more and nothing refers to it.
    """

    def __init__(self, *, writable: bool, kept: int = KEPT) -> None:
        self._writable = writable
        self._kept = kept
        self._lock = threading.Lock()
        self._mapped: OrderedDict[str, _Mapped] = OrderedDict()

    def of(self, directory: SlotDirectory, name: str, fd: int) -> mmap.mmap:
        """The kept mapping of the very file that `fd` has open, or a new one. Raises SlotsUnusable."""
        status = os.fstat(fd)
        file = status.st_dev, status.st_ino
        with self._lock:
            found = self._mapped.pop(name, None)
        # A kept one whose file has grown would do, but slots do not: whatever this is, it is mapped as it is now.
        if found is None or found.file != file or len(found.memory) != status.st_size:
            # Not under the lock, which the I/O thread takes too: this may be as slow as a copy.
            self.sweep(directory)
            found = self._map(directory, name, file)
        with self._lock:
            self._mapped[name] = found
            while len(self._mapped) > self._kept:
                self._mapped.popitem(last=False)
        return found.memory

    def _map(self, directory: SlotDirectory, name: str, file: tuple[int, int]) -> _Mapped:
        # Opened for itself: mmap keeps a duplicate of the descriptor, and with it a lock that was taken through that one.
        fd = directory.open(name, 0, writable=self._writable)
        try:
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) != file:
                raise SlotsUnusable(f"{name} was swapped for another file")
            # All pages at once: 8 ms for 64 MiB, once for each slot, instead of a fault at every page that somebody comes to.
            flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
            access = mmap.PROT_READ | mmap.PROT_WRITE if self._writable else mmap.PROT_READ
            return _Mapped(mmap.mmap(fd, status.st_size, flags=flags, prot=access), file)
        except (OSError, ValueError) as wrong:  # ValueError: it has become shorter since.
            passing = getattr(wrong, "errno", None) == errno.ENOMEM
            raise SlotsUnusable(f"{name} cannot be mapped: {wrong}", passing=passing) from None
        finally:
            os.close(fd)

    def sweep(self, directory: SlotDirectory | None) -> None:
        """Lets go of slots that were unlinked, whose memory is in use for as long as they are mapped; of all without a
        directory."""
        with self._lock:
            for name, mapped in list(self._mapped.items()):
                if directory is None or not directory.has(name, mapped.file[1]):
                    del self._mapped[name]

    @property
    def names(self) -> list[str]:
        """Of the slots whose mappings are kept, the one used last at the end."""
        return list(self._mapped)
