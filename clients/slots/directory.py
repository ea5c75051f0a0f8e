"""The slot directory of a broadcaster on the same host: whether it can be used, and opening a slot in it."""

from __future__ import annotations

import errno
import os
import stat
import sys
from pathlib import Path

from broadcaster.protocol.slot import HEADER, NAME

_TOKEN = 1024
"""Bytes of the token file that are looked at."""
_PASSING = {errno.ENOENT, errno.EMFILE, errno.ENFILE, errno.ENOMEM}
"""Errors of an open that say nothing of the next one: the slot was unlinked meanwhile, or there is no room for it now."""


class SlotsUnusable(Exception):
    """Why slots, or this one, cannot be used here. Never a user's error: the payload comes or goes in chunks instead.

    `passing`: only this slot, or only now; another may do.
    """

    def __init__(self, reason: str, *, passing: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing


class SlotDirectory:
    """The directory at `path`, which holds `token`. Raises SlotsUnusable when it is not that broadcaster's, or a stranger's."""

    def __init__(self, path: str, token: str, *, trusted: bool = False) -> None:
        """`trusted`: the user named the directory, so it may belong to anybody."""
        self.path = Path(path)
        self.token = token
        if sys.platform != "linux":
            raise SlotsUnusable(f"slots are used on Linux, not on {sys.platform}")
        self._fd = _open_directory(self.path)
        try:
            self.owner = os.fstat(self._fd).st_uid
            if not trusted and self.owner not in (os.getuid(), 0):
                raise SlotsUnusable(f"{self.path} belongs to user {self.owner}")
            if self._read_token() != token:
                raise SlotsUnusable(f"{self.path} is not this broadcaster's: another host, or another one started there")
        except BaseException:
            self.close()
            raise

    def open(self, name: str, size: int, *, writable: bool) -> int:
        """A descriptor, the caller's to close, of the slot with room for `size` bytes behind its header. Raises SlotsUnusable."""
        if NAME.fullmatch(name) is None:
            raise SlotsUnusable(f"{name[:64]!r} is no name of a slot")
        try:
            flags = (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            fd = os.open(name, flags, dir_fd=self._fd)
        except OSError as wrong:
            raise SlotsUnusable(f"{name} cannot be opened: {wrong.strerror}", passing=wrong.errno in _PASSING) from None
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_uid != self.owner or found.st_size < HEADER + size:
            os.close(fd)
            raise SlotsUnusable(f"{name} is not the slot that was announced: {found.st_size} bytes, of user {found.st_uid}")
        return fd

    def has(self, name: str, inode: int) -> bool:
        """Whether the slot `name` is still the file with this inode: one that was unlinked is not used again."""
        try:
            return os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_ino == inode
        except OSError:
            return False

    def __del__(self) -> None:
        if hasattr(self, "_fd"):
            self.close()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _read_token(self) -> str:
        try:
            fd = os.open("token", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=self._fd)
        except OSError as wrong:
            raise SlotsUnusable(f"{self.path / 'token'} cannot be read: {wrong.strerror}") from None
        try:
            return os.read(fd, _TOKEN).decode("ascii", "replace")
        finally:
            os.close(fd)


def _open_directory(path: Path) -> int:
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as wrong:
        raise SlotsUnusable(f"{path} cannot be opened: {wrong.strerror}") from None
