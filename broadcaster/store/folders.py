"""A directory held open, and files inside it that are written aside, synced and renamed.

All names are single components made by this package from digests and integers, opened relative to the directory's descriptor,
never through a symbolic link, and only if they are regular files. Files are 0600, directories 0700.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

from broadcaster.protocol.errors import StoreCorrupt
from broadcaster.store.failpoints import hit

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # NONBLOCK: a planted FIFO must not stop us
_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class SyncFailed(OSError):
    """An fsync failed. That is final for the file: the kernel may have dropped what it could not write."""


def sync(fd: int) -> None:
    """fsync; SyncFailed when it fails."""
    try:
        hit("sync")
        os.fsync(fd)
    except OSError as error:
        raise SyncFailed(error.errno, f"fsync failed: {error.strerror}") from error
    hit("synced")


def write_all(fd: int, data: bytes | memoryview, at: int) -> None:
    """Write all of `data` at offset `at`; a short write goes on, an error is raised."""
    hit("write")
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, at)
        view, at = view[count:], at + count


class Folder:
    """One directory, by descriptor. `where` is its path, for errors only."""

    def __init__(self, fd: int, where: str) -> None:
        self.fd = fd
        self.where = where

    @classmethod
    def open(cls, path: Path) -> Folder:
        """The directory at `path`, made if it is missing (0700)."""
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), str(path))

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Folder:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def path(self, name: str) -> str:
        """Where `name` is, for errors."""
        return f"{self.where}/{name}"

    def folder(self, name: str, *, create: bool = True) -> Folder:
        """The directory `name` inside this one. A new one is durable before this returns."""
        if create:
            try:
                os.mkdir(name, 0o700, dir_fd=self.fd)
                self.sync()
            except FileExistsError:
                pass  # the open below finds out whether it is a directory
        try:
            return Folder(os.open(name, _DIRECTORY, dir_fd=self.fd), self.path(name))
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):  # what a symbolic link gives, too
                raise self._strange(name, "is not a directory") from error
            raise

    def has(self, name: str) -> bool:
        """Whether there is anything of this name in here."""
        try:
            os.stat(name, dir_fd=self.fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def create(self, name: str) -> int:
        """A descriptor of the new, empty file `name`."""
        hit("create")
        return os.open(name, _CREATE, 0o600, dir_fd=self.fd)

    def open_file(self, name: str) -> int:
        """A descriptor for reading the regular file `name`; anything else is StoreCorrupt, absence FileNotFoundError."""
        try:
            fd = os.open(name, _READ, dir_fd=self.fd)
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise self._strange(name, "is a symbolic link") from error
            raise
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise self._strange(name, "is not a regular file")
        return fd

    def read(self, name: str, limit: int) -> bytes:
        """All bytes of the file `name`; StoreCorrupt when there are more than `limit`."""
        fd = self.open_file(name)
        try:
            size = os.fstat(fd).st_size
            if size > limit:
                raise self._strange(name, f"has {size} bytes, over the limit of {limit}")
            return os.pread(fd, size, 0)
        finally:
            os.close(fd)

    def put(self, name: str, data: bytes, aside: Folder) -> str:
        """Make `name` hold `data`, atomically and durably, by way of a file in `aside`; returns the new file's stamp."""
        temporary = secrets.token_hex(16)
        fd = aside.create(temporary)
        try:
            write_all(fd, data, 0)
            sync(fd)
            stamp = stamp_of(os.fstat(fd))
            aside.move(temporary, self, name)
        except BaseException:
            aside.discard(temporary)
            raise
        finally:
            os.close(fd)
        self.sync()
        return stamp

    def move(self, name: str, to: Folder, new_name: str) -> None:
        """Rename; replaces a file of that name. Durable only after both directories are synced."""
        hit("rename")
        os.rename(name, new_name, src_dir_fd=self.fd, dst_dir_fd=to.fd)
        hit("renamed")

    def remove(self, name: str) -> None:
        """Unlink the file `name`, if it is there."""
        hit("remove")
        self.discard(name)

    def discard(self, name: str) -> None:
        """Unlink `name` if it is there, without a fail point: used while cleaning up after another error."""
        try:
            os.unlink(name, dir_fd=self.fd)
        except FileNotFoundError:
            pass

    def remove_folder(self, name: str) -> None:
        """Remove the directory `name` and the files in it, if it is there."""
        try:
            with self.folder(name, create=False) as inside:
                for found, _ in inside.scan():
                    inside.remove(found)
            os.rmdir(name, dir_fd=self.fd)
        except FileNotFoundError:
            pass

    def sync(self) -> None:
        """Make every name in this directory durable."""
        sync(self.fd)

    def scan(self) -> Iterator[tuple[str, os.stat_result]]:
        """(name, its own status) of everything in here, in no order; links are not followed."""
        with os.scandir(self.fd) as entries:
            found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        yield from found

    def _strange(self, name: str, reason: str) -> StoreCorrupt:
        return StoreCorrupt(operation="open", where=self.path(name), reason=reason, hint="Remove what was put there.")


def stamp_of(status: os.stat_result) -> str:
    """Differs whenever a file was written anew: how the index knows which manifest it has read."""
    return f"{status.st_ino}-{status.st_mtime_ns}-{status.st_size}"
