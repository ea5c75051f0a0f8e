"""The slot directory: made ours, swept, locked; and what kind of file system it is on."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import stat
import time
from pathlib import Path

from broadcaster.protocol.errors import DirectoryUnusable
from broadcaster.protocol.slot import NAME

_MEMORY = ("tmpfs", "ramfs", "hugetlbfs", "devtmpfs")
"""File systems that live in memory. On any other one payloads are written to a disk, sooner or later."""


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
        if NAME.fullmatch(entry.name):
            entry.unlink()
    return lock


def share_slot_directory(directory: Path, group: int) -> None:
    """Lets members of `group` view slots, write into granted ones, and connect to the sockets that are there.

    Slots that are made later are the group's too. Members have nothing to make there, so they may not: nobody plants a link.
    Raises DirectoryUnusable.
    """
    try:
        os.chown(directory, -1, group)
        directory.chmod(0o2750)
        for entry in directory.iterdir():
            mode = {"token": 0o640, "lock": 0o600}.get(entry.name, 0o660)
            if not entry.is_symlink():
                os.chown(entry, -1, group)
                entry.chmod(mode)
    except OSError as wrong:
        reason = f"it cannot be shared with group {group}: {wrong.strerror}"
        raise DirectoryUnusable(key="slot-group", where=str(directory), reason=reason) from wrong


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


def is_memory(file_system: str | None) -> bool:
    """Whether files there are memory and nothing else; what is not known counts as memory."""
    return file_system is None or file_system in _MEMORY


def file_system_of(directory: Path, mounts: Path = Path("/proc/self/mountinfo")) -> str | None:
    """The type of the file system that `directory` is on, such as tmpfs or ext4; None where that cannot be known."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
        path = directory.resolve()
    except OSError:
        return None
    found: tuple[int, str] | None = None
    for line in lines:  # 36 35 98:0 /root /mount/point options ... - type source options
        before, _, after = line.partition(" - ")
        fields, kind = before.split(), after.split()
        if len(fields) < 5 or not kind:
            continue
        point = Path(_unescaped(fields[4]))
        if path.is_relative_to(point) and (found is None or len(point.parts) >= found[0]):
            found = len(point.parts), kind[0]  # The last of those mounted at one point lies above the others.
    return found[1] if found else None


def _unescaped(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda octal: chr(int(octal[1], 8)), text)
