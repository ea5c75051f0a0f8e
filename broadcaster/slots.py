"""The pool of slots: files in a shared-memory directory, each holding one payload, mapped once and used again and again.

A slot is allocated for real (a sparse file on a full tmpfs would kill its writer with SIGBUS), never truncated, and its name is
never used twice. It is used again only when nobody reads it: no lease (a shared flock by another process) and none of our own
frames or jobs. First writes into fresh pages run at 1 GiB/s, into warm ones at 8: so slots are kept and come round.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import re
import secrets
import shutil
import stat
import time
from pathlib import Path
from typing import Protocol

from broadcaster.protocol.errors import DirectoryUnusable, NoSpace
from broadcaster.protocol.limits import INLINE
from broadcaster.protocol.slot import EMPTY, HEADER, SlotHeader

_STEP = 2 << 20
_NAME = re.compile(r"slot-\d+-[0-9a-f]{8}")


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


class Slot:
    """One file, one mapping. `view` is the payload of the version that it is granted for."""

    def __init__(self, path: Path, capacity: int) -> None:
        self.path = path
        self.capacity = capacity
        self.charge = HEADER + capacity
        self.generation = 0
        self.granted = False
        self.jobs = 0
        """Archive jobs that read it."""
        self._frames: list[Tracker] = []
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o660)
        try:
            _allocate(self._fd, HEADER + capacity)
            self._map = mmap.mmap(self._fd, HEADER + capacity)
        except BaseException:
            os.close(self._fd)
            path.unlink()
            raise
        self.view = memoryview(self._map)[HEADER : HEADER + capacity]
        self._whole = self.view

    def grant(self, size: int) -> bool:
        """Takes it for a new payload of `size` bytes, unless somebody still reads it. The header is empty from here on."""
        if self.granted or self.busy():
            return False
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        self._map[: len(EMPTY)] = EMPTY
        self.granted = True
        self.generation += 1
        self.view = self._whole[:size]
        return True

    def seal(self, header: SlotHeader) -> None:
        """The payload is whole: readers may take leases now."""
        packed = header.pack()
        self._map[: len(packed)] = packed
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def empty(self) -> None:
        """The version left: nobody may take a new lease on it. Those that have one keep it."""
        self._map[: len(EMPTY)] = EMPTY
        fcntl.flock(self._fd, fcntl.LOCK_UN)
        self.granted = False

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

    def close(self) -> None:
        """Unlinks it. The memory goes when the last reader lets go of its mapping."""
        self.path.unlink(missing_ok=True)
        self.view = self._whole = memoryview(b"")
        try:
            self._map.close()
        except BufferError:
            pass  # A queued frame still reads the mapping; it closes with the last of them.
        os.close(self._fd)


class SlotPool:
    """Grants slots inside one directory, up to `budget` bytes of files."""

    def __init__(self, directory: Path, budget: int) -> None:
        self.directory = directory
        self.budget = budget
        self.bytes = 0
        """Bytes of all slot files."""
        self._slots: list[Slot] = []
        self._serial = 0

    @property
    def free_slots(self) -> int:
        return sum(not slot.granted for slot in self._slots)

    @property
    def used_slots(self) -> int:
        return sum(slot.granted for slot in self._slots)

    @staticmethod
    def charge(size: int) -> int:
        """Bytes of memory that a payload of `size` bytes takes at least."""
        return size + 512 if size <= INLINE else HEADER + -(-size // _STEP) * _STEP

    def grant(self, size: int) -> Slot | Inline:
        """A place for `size` bytes; a slot is emptied and locked. Raises NoSpace when there is neither an old nor a new one."""
        if size <= INLINE:
            return Inline(size)
        capacity = -(-size // _STEP) * _STEP
        fitting = sorted(
            (slot for slot in self._slots if not slot.granted and size <= slot.capacity <= capacity + capacity // 4),
            key=lambda slot: slot.capacity,
        )
        for slot in fitting:
            if slot.grant(size):
                return slot
        self._make_room(capacity)
        return self._create(capacity, size)

    def release(self, place: Slot | Inline) -> None:
        """The version in it left. A slot comes round again once nobody reads it."""
        if isinstance(place, Slot):
            place.empty()

    def withdraw(self, place: Slot | Inline) -> None:
        """Its writer may wake up and write into it: it is unlinked and never granted again."""
        if isinstance(place, Slot):
            self._slots.remove(place)
            self.bytes -= place.charge
            place.close()

    def close(self) -> None:
        """Unlinks every slot."""
        for slot in self._slots:
            slot.close()
        self._slots.clear()

    def _create(self, capacity: int, size: int) -> Slot:
        self._serial += 1
        path = self.directory / f"slot-{self._serial}-{secrets.token_hex(4)}"
        try:
            slot = Slot(path, capacity)
        except OSError as wrong:
            if wrong.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM):
                raise NoSpace(size=capacity, where=f"the slot directory {self.directory}") from wrong
            raise
        self._slots.append(slot)
        self.bytes += HEADER + capacity
        granted = slot.grant(size)
        assert granted, "nobody can hold a slot that was made just now"
        return slot

    def _make_room(self, capacity: int) -> None:
        """Unlinks free slots of other sizes, oldest first, while the files would be over the budget."""
        for slot in [slot for slot in self._slots if not slot.granted and not slot.busy()]:
            if self.bytes + HEADER + capacity <= self.budget:
                return
            self._slots.remove(slot)
            self.bytes -= HEADER + slot.capacity
            slot.close()


def _allocate(fd: int, size: int) -> None:
    """Real pages, not a promise of some: writing into a mapping of a sparse file on a full tmpfs kills the writer."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, size)
        return
    for at in range(0, size, _STEP):  # macOS has no fallocate; writing zeros allocates as well.
        os.pwrite(fd, bytes(min(_STEP, size - at)), at)


def open_slot_directory(directory: Path) -> int:
    """Makes the directory ours (mode 0700 when it is made here), sweeps what an earlier broadcaster left, and locks it.

    Returns the descriptor that holds the lock for the life of the process. Raises DirectoryUnusable.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as wrong:
        raise DirectoryUnusable(key="slot-dir", where=str(directory), reason=wrong.strerror or str(wrong)) from wrong
    if directory.stat().st_uid != os.getuid():
        os.close(lock)
        raise DirectoryUnusable(key="slot-dir", where=str(directory), reason="it belongs to another user")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise DirectoryUnusable(
            key="slot-dir", where=str(directory), reason="it is in use by another broadcaster; give this one its own"
        ) from None
    for entry in directory.iterdir():
        if _NAME.fullmatch(entry.name):
            entry.unlink()
    return lock


def sweep_abandoned(root: Path, prefix: str) -> None:
    """Removes slot directories under `root` whose broadcaster was killed: named with our prefix, ours, and locked by nobody.

    Those made within the last minute are left alone: their broadcaster may be about to lock them.
    """
    for directory in root.glob(f"{prefix}*"):
        try:
            status = directory.lstat()
            if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or time.time() - status.st_mtime < 60:
                continue
            os.close(open_slot_directory(directory))
        except (DirectoryUnusable, OSError):
            continue  # In use, or gone meanwhile.
        shutil.rmtree(directory, ignore_errors=True)
