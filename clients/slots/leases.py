"""Reading slots where they lie: mappings that are kept from version to version, and a lease on each version that is viewed.

The lease is a shared flock on a descriptor of its own, closed when the last array over the version dies, or its process. While it
is held the broadcaster gives the slot to no writer. The mapping is apart from that, and may stay: mapping anew costs as much as a
copy.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import weakref

import numpy as np

from broadcaster.protocol.slot import HEADER, parse_slot_header
from broadcaster.protocol.version import VersionInfo
from clients.buffers import Bytes
from clients.slots.directory import SlotDirectory, SlotsUnusable

KEPT = 64
"""Mappings that are kept, over all models: those used last. Each takes a descriptor and, for 64 MiB, 128 KiB of page tables."""
SWEEP = 10.0
"""Seconds between two looks whether the files of kept mappings were unlinked: while they are mapped their memory is not free."""


class _Mapping:
    """A whole slot, read-only, and which file it was when it was mapped."""

    def __init__(self, fd: int, size: int, file: tuple[int, int]) -> None:
        # All pages at once: 8 ms for 64 MiB, once for each slot, instead of a fault at every page that a reader comes to.
        flags = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
        self.memory = mmap.mmap(fd, size, flags=flags, prot=mmap.PROT_READ)
        self.file = file


class Leases:
    """Leases on the versions in the slots of one directory. All of it runs on one thread, but for the end of a lease, which may
    come on any.

    No mapping is closed here: it goes when it is not kept any more and no array over it lives.
    """

    def __init__(self, directory: SlotDirectory, kept: int = KEPT) -> None:
        self.directory = directory
        self._kept = kept
        self._mappings: dict[str, _Mapping] = {}
        """By name of the slot, the one used last at the end."""
        self._swept = 0.0

    def lease(self, name: str, generation: int, epoch: int, version: VersionInfo) -> Bytes:
        """The payload of `version` where it lies, read-only; it stays as it is while any view of it lives.

        Raises SlotsUnusable when the slot does not hold that version, or cannot be used. The digest in its header is the
        version's: the broadcaster has compared the bytes with it, this does not.
        """
        fd = self.directory.open(name, version.size, writable=False)
        try:
            _lock(fd, name)
            # From here on the file is not given to a writer: what its header says stays true.
            mapping = self._mapping(name, fd)
            if len(mapping.memory) < HEADER + version.size:
                raise SlotsUnusable(f"{name} was shortened to {len(mapping.memory)} bytes")
            if not _holds(mapping.memory, generation, epoch, version):
                what = f"version {version.number} of {version.model_id}"
                raise SlotsUnusable(f"{name} does not hold {what} any more", passing=True)
            # A fresh frombuffer for each version: numpy makes views refer to the last array of a chain, so the finalizer of a
            # slice of a kept array would run while views live.
            root: Bytes = np.frombuffer(mapping.memory, np.uint8, count=version.size, offset=HEADER)
        except BaseException:
            os.close(fd)
            raise
        # Closed, not unlocked: where a forked child has the descriptor too, the lease is over when both have closed it.
        weakref.finalize(root, os.close, fd).atexit = False
        return root

    def _mapping(self, name: str, fd: int) -> _Mapping:
        """The kept mapping of this very file, or a new one."""
        status = os.fstat(fd)
        file = status.st_dev, status.st_ino
        found = self._mappings.pop(name, None)
        # A kept one whose file has grown would do, but slots do not: whatever this is, it is mapped as it is now.
        if found is None or found.file != file or len(found.memory) != status.st_size:
            self._drop_unlinked()
            found = self._map(name, file)
        self._mappings[name] = found
        while len(self._mappings) > self._kept:
            del self._mappings[next(iter(self._mappings))]
        return found

    def _map(self, name: str, file: tuple[int, int]) -> _Mapping:
        # Opened for itself: mmap keeps a duplicate of the descriptor, and with it a lock that was taken through that one.
        fd = self.directory.open(name, 0, writable=False)
        try:
            status = os.fstat(fd)
            if (status.st_dev, status.st_ino) != file:
                raise SlotsUnusable(f"{name} was swapped for another file")
            return _Mapping(fd, status.st_size, file)
        except (OSError, ValueError) as wrong:  # ValueError: it has become shorter since.
            passing = getattr(wrong, "errno", None) == errno.ENOMEM
            raise SlotsUnusable(f"{name} cannot be mapped: {wrong}", passing=passing) from None
        finally:
            os.close(fd)

    # --- letting go ------------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Lets go of the mappings of files that were unlinked, now and then; to be called often."""
        if now >= self._swept + SWEEP:
            self._swept = now
            self._drop_unlinked()

    def _drop_unlinked(self) -> None:
        gone = [name for name, mapping in self._mappings.items() if not self.directory.has(name, mapping.file[1])]
        for name in gone:
            del self._mappings[name]

    @property
    def kept(self) -> list[str]:
        """Names of the slots whose mappings are kept, the one used last at the end."""
        return list(self._mappings)


def _lock(fd: int, name: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SlotsUnusable(f"{name} is being written to", passing=True) from None
    except OSError as wrong:
        raise SlotsUnusable(f"{name} cannot be locked: {wrong.strerror}") from None


def _holds(memory: mmap.mmap, generation: int, epoch: int, version: VersionInfo) -> bool:
    found = parse_slot_header(memory[:HEADER])
    told = generation, epoch, version.number, version.size, version.digest, f"{version.namespace}/{version.model_id}"
    return found is not None and told == (
        found.generation, found.epoch, found.number, found.size, found.digest.hex(), found.name,
    )  # fmt: skip
