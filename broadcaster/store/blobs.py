"""Payloads on disk, stored once per SHA-256: staged aside while they are hashed, then synced and renamed to their digest.

A blob is exactly the payload. The hashes are made in the same pass that writes it, chunk by chunk, while the bytes are warm.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterator

import xxhash

from broadcaster.protocol.errors import LocalProtocolError, NoSpace, SizeMismatch
from broadcaster.store.failpoints import hit
from broadcaster.store.folders import Folder, sync, write_all
from broadcaster.store.values import CHUNK

_SHA256 = re.compile(r"[0-9a-f]{64}")
_REST = re.compile(r"[0-9a-f]{62}")
# What a file system answers that cannot allocate ahead: writing will tell.
_CANNOT_ALLOCATE = {errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS}


class Staged:
    """A file of a declared size that is being written aside. End it with `commit` or `discard`."""

    def __init__(self, blobs: Blobs, name: str, fd: int, size: int) -> None:
        self.size = size
        self.written = 0
        self._blobs = blobs
        self._name = name
        self._fd = fd
        self._chunks = bytearray()
        self._chunk = xxhash.xxh3_128()
        self._whole = xxhash.xxh3_128()
        self._sha256 = hashlib.sha256()

    @property
    def digest(self) -> str:
        """xxh3-128 of all that was written, in hex."""
        return self._whole.hexdigest()

    @property
    def sha256(self) -> str:
        """SHA-256 of all that was written, in hex."""
        return self._sha256.hexdigest()

    @property
    def chunk_digests(self) -> bytes:
        """The xxh3-128 of each 1 MiB written so far, the last one perhaps shorter."""
        tail = self._chunk.digest() if self.written % CHUNK else b""
        return bytes(self._chunks) + tail

    def write(self, view: memoryview) -> None:
        """Append `view` and hash it, in one pass. SizeMismatch beyond the declared size; NoSpace when the disk is full."""
        self._require_open()
        if self.written + len(view) > self.size:
            raise SizeMismatch(model_id="archive", size=self.size, found=f"{self.written + len(view)} came")
        while view:
            piece = view[: CHUNK - self.written % CHUNK]
            self._write_piece(piece)
            view = view[len(piece) :]

    def commit(self) -> str:
        """Make the blob durable under its SHA-256 and return that (hex). Nothing is kept when this raises."""
        self._require_open()
        if self.written != self.size:
            found = self.written
            self.discard()
            raise SizeMismatch(model_id="archive", size=self.size, found=f"{found} came")
        try:
            sync(self._fd)
            self._blobs.adopt(self._name, self.sha256)
        except BaseException:
            self.discard()
            raise
        self._close()
        return self.sha256

    def discard(self) -> None:
        """Give the file up. Harmless after `commit` or a second time."""
        if self._fd >= 0:
            self._close()
            self._blobs.staging.discard(self._name)

    def _write_piece(self, piece: memoryview) -> None:
        try:
            write_all(self._fd, piece, self.written)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise NoSpace(size=self.size, where=self._blobs.staging.where) from error
            raise
        self._chunk.update(piece)
        self._whole.update(piece)
        self._sha256.update(piece)
        self.written += len(piece)
        if self.written % CHUNK == 0:
            self._chunks += self._chunk.digest()
            self._chunk.reset()

    def _require_open(self) -> None:
        if self._fd < 0:
            raise LocalProtocolError(reason="a staged blob was used after commit or discard")

    def _close(self) -> None:
        os.close(self._fd)
        self._fd = -1

    def __del__(self) -> None:
        if self._fd >= 0:  # given up without a word; the name is swept at the next start at the latest
            self.discard()


class Blobs:
    """All blobs of an archive."""

    def __init__(self, folder: Folder, staging: Folder, quarantine: Folder, spare: int = 0) -> None:
        """`spare` bytes of the disk are never given to blobs: the index and the manifests need room too."""
        self.folder = folder
        self.staging = staging
        self.quarantine = quarantine
        self.spare = spare

    def stage(self, size: int) -> Staged:
        """A file for `size` bytes, whose space is allocated before this returns; NoSpace when there is none."""
        name = secrets.token_hex(16)
        fd = self.staging.create(name)
        try:
            self._allocate(fd, size)
        except BaseException:
            os.close(fd)
            self.staging.discard(name)
            raise
        return Staged(self, name, fd, size)

    def adopt(self, staged: str, sha256: str) -> None:
        """Give the synced file `staged` its digest as name, durably.

        A file of that name is replaced: it has the same content, or it is damaged, and then the new one heals it.
        """
        with self._shelf(sha256) as shelf:
            self.staging.move(staged, shelf, sha256[2:])
            shelf.sync()
        self.staging.sync()
        hit("blob-durable")
        self.quarantine.discard(sha256)

    def open(self, sha256: str) -> int:
        """A descriptor of the blob; FileNotFoundError when there is none, StoreCorrupt when it is not a regular file."""
        with self._shelf(sha256, create=False) as shelf:
            return shelf.open_file(sha256[2:])

    def size(self, sha256: str) -> int | None:
        """The size of the blob in bytes, or None when there is none."""
        try:
            fd = self.open(sha256)
        except FileNotFoundError:
            return None
        try:
            return os.fstat(fd).st_size
        finally:
            os.close(fd)

    def is_known(self, sha256: str) -> bool:
        """Whether there is such a blob, good or damaged, in its place or in quarantine."""
        return self.size(sha256) is not None or sha256 in self.quarantined()

    def remove(self, sha256: str) -> None:
        """Unlink the blob, quarantined or not, if it is there."""
        try:
            with self._shelf(sha256, create=False) as shelf:
                shelf.remove(sha256[2:])
                shelf.sync()
        except FileNotFoundError:
            pass
        self.quarantine.discard(sha256)

    def set_aside(self, sha256: str) -> None:
        """Move a damaged blob to the quarantine, if it is there."""
        try:
            with self._shelf(sha256, create=False) as shelf:
                shelf.move(sha256[2:], self.quarantine, sha256)
                shelf.sync()
        except FileNotFoundError:
            return
        self.quarantine.sync()

    def restore(self, sha256: str) -> None:
        """Move a blob back from the quarantine: the caller has checked it."""
        with self._shelf(sha256) as shelf:
            self.quarantine.move(sha256, shelf, sha256[2:])
            shelf.sync()
        self.quarantine.sync()

    def names(self) -> Iterator[str]:
        """The SHA-256 of every blob, in no order; names that are none of ours are left out."""
        for prefix, _ in self.folder.scan():
            if re.fullmatch(r"[0-9a-f]{2}", prefix):
                with self.folder.folder(prefix, create=False) as shelf:
                    yield from (prefix + name for name, _ in shelf.scan() if _REST.fullmatch(name))

    def shelf(self, prefix: str) -> list[str]:
        """The SHA-256 of every blob that begins with these two digits, in order."""
        try:
            with self.folder.folder(prefix, create=False) as shelf:
                return sorted(prefix + name for name, _ in shelf.scan() if _REST.fullmatch(name))
        except FileNotFoundError:
            return []

    def quarantined(self) -> Iterator[str]:
        """The SHA-256 of every blob in quarantine."""
        yield from (name for name, _ in self.quarantine.scan() if _SHA256.fullmatch(name))

    def _shelf(self, sha256: str, *, create: bool = True) -> Folder:
        assert _SHA256.fullmatch(sha256), "a path is made of digests only"
        return self.folder.folder(sha256[:2], create=create)

    def _allocate(self, fd: int, size: int) -> None:
        try:
            hit("allocate")
            if size:
                os.posix_fallocate(fd, 0, size)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise NoSpace(size=size, where=self.staging.where) from error
            if error.errno not in _CANNOT_ALLOCATE:
                raise
        free = os.fstatvfs(fd)
        needed = self.spare + (size if os.fstat(fd).st_size < size else 0)
        if free.f_bavail * free.f_frsize < needed:
            raise NoSpace(size=size, where=self.staging.where)
