"""Which file is where in an archive directory, and the lock that says who may touch it.

lock                                  held for life; holds the owner's process id
index.sqlite3                         the index: can be rebuilt from all the rest
floors.log                            numbers that were handed out, outside the index
deletions.log                         upload ids of deleted versions, and deleted models, outside the index
blobs/ab/cdef...                      payloads, by SHA-256
manifests/<key>/<number>.manifest     one per archived version; <key> is made of namespace and model_id
manifests/<key>/model.manifest        one per model
staging/                              what is being written; emptied at every start
trash/                                what was deleted: a name in here is the tombstone until the work is done
quarantine/                           blobs that were found damaged
scrub.json                            where the scrub was; may be lost
backup.json                           only in a backup: says that it is none of ours to write to
restoring.json                        only while a restore is under way
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from broadcaster.protocol.errors import BroadcasterError, DirectoryUnusable, Fact
from broadcaster.store.folders import Folder

INDEX = "index.sqlite3"
FLOORS = "floors.log"
KEY = "archive_dir"
BACKUP = "backup.json"
RESTORING = "restoring.json"
_NO_ARCHIVE = {
    BACKUP: "it is a backup: make an archive of it with `broadcaster restore`",
    RESTORING: "a restore into it was interrupted: run it again",
}


class Layout:
    """The open directories of one archive; holding one means holding the archive's lock, unless it is another's."""

    def __init__(self, path: Path, *, owned: bool = True) -> None:
        """Open (and make) all directories under `path`. DirectoryUnusable when it is in use (its fact `owner` is the process that
        does) or cannot be written. With `owned` False another may be using it: nothing is made, and nothing may be written."""
        self.path = path
        self._folders: list[Folder] = []
        self._lock = -1
        try:
            self.root = self._keep(Folder.open(path))
            self._lock = self._take_lock() if owned else -1
            self.staging, self.blobs, self.manifests, self.trash, self.quarantine = (
                self._keep(self.root.folder(name, create=owned))
                for name in ("staging", "blobs", "manifests", "trash", "quarantine")
            )
            if owned:
                self._sweep_staging()
        except DirectoryUnusable:
            self.close()
            raise
        except (OSError, BroadcasterError) as error:
            self.close()
            raise unusable(path, str(error)) from error

    @property
    def owned(self) -> bool:
        """Whether the lock is ours."""
        return self._lock >= 0

    @property
    def index(self) -> Path:
        """Where the index is."""
        return self.path / INDEX

    def require_archive(self) -> None:
        """Raises DirectoryUnusable for a directory that looks like an archive, and must not be used as one."""
        for name, reason in _NO_ARCHIVE.items():
            if (self.path / name).exists():
                raise unusable(self.path, reason)

    def close(self) -> None:
        """Close all directories and let go of the lock."""
        for folder in self._folders:
            folder.close()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _keep(self, folder: Folder) -> Folder:
        self._folders.append(folder)
        return folder

    def _take_lock(self) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open("lock", flags, 0o600, dir_fd=self.root.fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(fd, 20, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(fd)
            raise unusable(self.path, f"it is in use by another broadcaster (pid {owner})", owner=owner) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode("ascii"), 0)
        return fd

    def _sweep_staging(self) -> None:
        for name, _ in self.staging.scan():
            self.staging.remove(name)


def unusable(path: Path, reason: str, **more: Fact) -> DirectoryUnusable:
    """The refusal to work in `path`."""
    return DirectoryUnusable(key=KEY, where=str(path), reason=reason, **more)
