"""Reading slots where they lie: mappings that are kept from version to version, and a lease on each version that is viewed.

The lease is a shared flock on a descriptor of its own, closed when the last array over the version dies, or its process. While it
is held the broadcaster gives the slot to no writer. The mapping is apart from that, and may stay: mapping anew costs as much as a
copy.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import weakref

import numpy as np

from broadcaster.protocol.slot import HEADER, parse_slot_header
from broadcaster.protocol.version import VersionInfo
from clients.buffers import Bytes
from clients.slots.directory import SlotDirectory, SlotsUnusable
from clients.slots.mappings import KEPT, Mappings

SWEEP = 10.0
"""Seconds between two looks whether the files of kept mappings were unlinked: while they are mapped their memory is not free."""


class Leases:
    """Leases on the versions in the slots of one directory. All of it runs on one thread, but for the end of a lease, which may
    come on any.

    The mappings are kept from version to version, and live on while an array over one does.
    """

    def __init__(self, directory: SlotDirectory, kept: int = KEPT) -> None:
        self.directory = directory
        self._mappings = Mappings(writable=False, kept=kept)
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
            memory = self._mappings.of(self.directory, name, fd)
            if len(memory) < HEADER + version.size:
                raise SlotsUnusable(f"{name} was shortened to {len(memory)} bytes")
            if not _holds(memory, generation, epoch, version):
                what = f"version {version.number} of {version.model_id}"
                raise SlotsUnusable(f"{name} does not hold {what} any more", passing=True)
            # A fresh frombuffer for each version: numpy makes views refer to the last array of a chain, so the finalizer of a
            # slice of a kept array would run while views live.
            root: Bytes = np.frombuffer(memory, np.uint8, count=version.size, offset=HEADER)
        except BaseException:
            os.close(fd)
            raise
        # Closed, not unlocked: where a forked child has the descriptor too, the lease is over when both have closed it.
        weakref.finalize(root, os.close, fd).atexit = False
        return root

    # --- letting go ------------------------------------------------------------------------------------------------

    def sweep(self, now: float) -> None:
        """Lets go of the mappings of files that were unlinked, now and then; to be called often."""
        if now >= self._swept + SWEEP:
            self._swept = now
            self._mappings.sweep(self.directory)

    @property
    def kept(self) -> list[str]:
        """Names of the slots whose mappings are kept, the one used last at the end."""
        return self._mappings.names


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
