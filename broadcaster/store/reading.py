"""Reading ranges of blobs: whole chunks by pread, each checked before a byte of it is given out."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import xxhash

from broadcaster.protocol.errors import InvalidRequest, StoreCorrupt, StoreUnavailable
from broadcaster.store.blobs import Blobs
from broadcaster.store.buffers import BufferPool
from broadcaster.store.failpoints import hit
from broadcaster.store.values import CHUNK, CHUNK_DIGEST, ArchivedVersion

_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
MAX_READ = CHUNK
"""The most bytes that one read gives."""


class OpenBlob:
    """A descriptor that several readers may use; closed when it was dropped and the last one is done."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.readers = 0
        self.dropped = False


class OpenBlobs:
    """The descriptors of the `limit` blobs that were read last. Safe from several threads."""

    def __init__(self, blobs: Blobs, limit: int = 64) -> None:
        self._blobs = blobs
        self._limit = limit
        self._open: OrderedDict[str, OpenBlob] = OrderedDict()
        self._lock = threading.Lock()

    @contextmanager
    def borrow(self, sha256: str) -> Iterator[OpenBlob]:
        """The open blob for as long as the block runs, whatever happens to the name meanwhile."""
        with self._lock:
            blob = self._open.get(sha256)
            if blob is None:
                blob = self._open[sha256] = OpenBlob(self._blobs.open(sha256))
            self._open.move_to_end(sha256)
            blob.readers += 1
            while len(self._open) > self._limit:
                self._let_go(self._open.popitem(last=False)[1])
        try:
            yield blob
        finally:
            self.give_back(blob)

    def take_open(self, sha256: str) -> OpenBlob | None:
        """The blob if it is open already, until it is given back; else None: nothing is asked of the disk."""
        with self._lock:
            blob = self._open.get(sha256)
            if blob is not None:
                blob.readers += 1
            return blob

    def give_back(self, blob: OpenBlob) -> None:
        """One reader less."""
        with self._lock:
            blob.readers -= 1
            if blob.dropped and not blob.readers:
                os.close(blob.fd)

    def drop(self, sha256: str) -> None:
        """Forget the descriptor: the name means another file now, or none."""
        with self._lock:
            if (blob := self._open.pop(sha256, None)) is not None:
                self._let_go(blob)

    def close(self) -> None:
        """Forget all of them."""
        with self._lock:
            while self._open:
                self._let_go(self._open.popitem()[1])

    def _let_go(self, blob: OpenBlob) -> None:
        blob.dropped = True
        if not blob.readers:
            os.close(blob.fd)


class Reader:
    """Verified reads. A blob that is condemned is never served until it is healed.

    `damaged(sha256, blob)` is called for a blob that turns out wrong; it condemns it, or answers False when the name means
    another file by now (the blob was healed), and then that one is read.
    """

    def __init__(self, blobs: Blobs, damaged: Callable[[str, OpenBlob], bool], buffers: int = 16) -> None:
        """At most `buffers` buffers of 1 MiB are kept."""
        self.open = OpenBlobs(blobs)
        self._where = blobs.folder.where
        self._damaged = damaged
        self._pool = BufferPool(buffers, CHUNK)
        self._bad: set[str] = set()

    def read(self, version: ArchivedVersion, offset: int, length: int) -> memoryview:
        """Bytes `offset` to `offset + length` of the payload, cut at its end, read-only; every chunk touched was checked.

        The memory is the caller's for as long as any view of it lives. Raises InvalidRequest for a range outside the payload or
        over 1 MiB, StoreCorrupt for damage, StoreUnavailable when the disk does not answer, FileNotFoundError without a blob.
        """
        size = version.info.size
        if not 0 <= offset <= size or not 0 <= length <= MAX_READ:
            raise InvalidRequest(
                field="offset", reason=f"{offset} + {length} is not a range within {size} bytes of at most 1 MiB"
            )
        end = min(size, offset + length)
        if offset == end:
            return memoryview(b"")
        first = offset // version.chunk_size
        start, stop = first * version.chunk_size, min(size, -(-end // version.chunk_size) * version.chunk_size)
        buffer = self._pool.take(stop - start)
        self._read_chunks(version, buffer, first)
        return buffer[offset - start : end - start].toreadonly()

    def read_cached(self, version: ArchivedVersion, offset: int, length: int) -> memoryview | None:
        """What `read` would give, if the page cache has it and nothing is wrong with it; else None. Never waits for a disk."""
        end = offset + length
        if not 0 <= offset < end <= version.info.size or length > MAX_READ or version.sha256 in self._bad or not _NOWAIT:
            return None
        first = offset // version.chunk_size
        start, stop = first * version.chunk_size, min(version.info.size, -(-end // version.chunk_size) * version.chunk_size)
        blob = self.open.take_open(version.sha256)
        if blob is None:
            return None
        try:
            buffer = self._pool.take(stop - start)
            count = os.preadv(blob.fd, [buffer], start, _NOWAIT)
        except OSError:
            return None  # Not in the page cache, or a file system that cannot tell.
        finally:
            self.open.give_back(blob)
        if count < len(buffer) or _fault(version, buffer, first)[0] is not None:
            return None
        return buffer[offset - start : end - start].toreadonly()

    @property
    def bad(self) -> int:
        """How many blobs are condemned."""
        return len(self._bad)

    def is_bad(self, sha256: str) -> bool:
        """Whether the blob is condemned."""
        return sha256 in self._bad

    def heal(self, sha256: str) -> None:
        """The blob was written anew or checked whole: serve it again."""
        self._bad.discard(sha256)
        self.open.drop(sha256)

    def condemn(self, sha256: str) -> None:
        """Never serve the blob again, until it is healed."""
        self._bad.add(sha256)
        self.open.drop(sha256)

    def _read_chunks(self, version: ArchivedVersion, buffer: memoryview, first: int) -> None:
        while True:
            if version.sha256 in self._bad:
                raise self._corrupt(version, "it was found damaged before")
            with self.open.borrow(version.sha256) as blob:
                count = self._fill(version, blob.fd, buffer, first * version.chunk_size)
            reason, chunk = _fault(version, buffer, first)
            if count < len(buffer):
                reason, chunk = f"it ends {len(buffer) - count} bytes early", None
            if reason is None:
                return
            if self._damaged(version.sha256, blob):
                raise self._corrupt(version, reason, chunk)

    def _fill(self, version: ArchivedVersion, fd: int, buffer: memoryview, at: int) -> int:
        done = 0
        try:
            while done < len(buffer):
                hit("read")
                count = os.preadv(fd, [buffer[done:]], at + done)
                if count == 0:
                    break
                done += count
        except OSError as error:
            name = f"{version.info.model_id} version {version.info.number}"
            raise StoreUnavailable(
                operation=f"reading {name}", where=self._where, reason=str(error), hint="Try again."
            ) from error
        return done

    def _corrupt(self, version: ArchivedVersion, reason: str, chunk: int | None = None) -> StoreCorrupt:
        return StoreCorrupt(
            operation=f"reading {version.info.model_id} version {version.info.number}",
            where=f"{self._where}/{version.sha256[:2]}/{version.sha256[2:]}",
            reason=reason,
            hint="The blob is in quarantine: restore it from a backup, or publish the same payload again.",
            model_id=version.info.model_id,
            number=version.info.number,
            chunk=chunk,
        )


def _fault(version: ArchivedVersion, buffer: memoryview, index: int) -> tuple[str | None, int | None]:
    """What is wrong with the chunks in `buffer`, the first of which is chunk `index`: a reason and a chunk, or None twice."""
    for at in range(0, len(buffer), version.chunk_size):
        found = xxhash.xxh3_128_digest(buffer[at : at + version.chunk_size])
        if found != version.chunk_digests[index * CHUNK_DIGEST : (index + 1) * CHUNK_DIGEST]:
            return f"chunk {index} is damaged", index
        index += 1
    return None, None
