"""Granted slots as the learner writes to them, and the lease on what was committed there."""

from __future__ import annotations

import fcntl
import os
import weakref

import numpy as np
import numpy.typing as npt

from broadcaster.protocol.slot import HEADER, parse_slot_header
from clients.slots.directory import SlotDirectory, SlotsUnusable
from clients.slots.mappings import Mappings


class Grants:
    """The slots that one client was granted, mapped once. For any thread.

    What `take` gives keeps its mapping alive, also when the slot was unlinked or is not kept here any more.
    """

    def __init__(self) -> None:
        self._mappings = Mappings(writable=True)

    def take(self, directory: SlotDirectory, name: str, size: int) -> memoryview:
        """The first `size` bytes behind the header of a slot that was granted, to be written to. Raises SlotsUnusable."""
        fd = directory.open(name, size, writable=True)
        try:
            allocated = os.fstat(fd).st_blocks * 512
            if allocated < HEADER + size:  # Writing where nothing is allocated ends the process on a full file system.
                raise SlotsUnusable(f"{name} has {allocated} bytes on its file system, not {HEADER + size}")
            return memoryview(self._mappings.of(directory, name, fd))[HEADER : HEADER + size]
        finally:
            os.close(fd)

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
        """Lets go of slots that were unlinked; of all without a directory."""
        self._mappings.sweep(directory)

    def __len__(self) -> int:
        return len(self._mappings.names)
