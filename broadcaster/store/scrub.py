"""The scrub: everything in the archive is read again, from the disk and not from the page cache, and compared with its SHA-256.

It takes no lock while it reads, so no writer waits for it: blobs and manifests never change in place, they are renamed into it.
Whoever runs it decides how fast: `steps` yields how many bytes each step cost.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import mmap
import os
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from broadcaster.protocol.errors import BroadcasterError, NoSpace, StoreCorrupt, StoreUnavailable
from broadcaster.store.blobs import Blobs
from broadcaster.store.failpoints import hit
from broadcaster.store.folders import Folder, write_all
from broadcaster.store.layout import Layout
from broadcaster.store.manifests import Manifests, number_of, read_version
from broadcaster.store.quarantine import Identity, Quarantine, identity_of
from broadcaster.store.values import CHUNK

PROGRESS = "scrub.json"
"""Where it was, and when it was through. Not flushed: when it is lost, the scrub begins anew."""
_MANIFEST = 64 << 10
"""What looking at one manifest counts as, in bytes: it is work for the interpreter, not for the disk."""
_SAVED = 10.0
"""Seconds between two looks at the clock that are written down."""


class Scrub:
    """One pass after another. `bytes_read` counts since the start; `last_complete` is in s since 1970, 0 for never."""

    def __init__(self, layout: Layout, manifests: Manifests, blobs: Blobs, quarantine: Quarantine) -> None:
        self.bytes_read = 0
        self.unreadable = 0
        """Files that the disk did not give, or did not let us mend, in this life: the next pass tries them again."""
        self._layout = layout
        self._manifests = manifests
        self._blobs = blobs
        self._quarantine = quarantine
        self._saved = 0.0
        self._done, self.last_complete = self._remembered()

    def steps(self) -> Iterator[int]:
        """One pass, or the rest of one that an earlier life began: the bytes that each step read. May be left at any step."""
        if not self._done:
            yield from self._manifests_pass()
        for prefix in (f"{number:02x}" for number in range(256)):
            if prefix > self._done:
                yield from self._shelf(prefix)
                self._remember(prefix, self.last_complete)
        for sha256 in list(self._blobs.quarantined()):
            yield from self._quarantined(sha256)
        self.last_complete = time.time()
        self._remember("", self.last_complete)

    # --- manifests: each can be read, and its blob is there ---------------------------------------------------------

    def _manifests_pass(self) -> Iterator[int]:
        for key in self._manifests.keys():
            try:
                with self._manifests.folder.folder(key, create=False) as model:
                    numbers = [number for name, _ in model.scan() if (number := number_of(name)) is not None]
                    for number in numbers:
                        self._manifest(key, model, number)
                        yield _MANIFEST
            except FileNotFoundError:
                pass  # The model was deleted meanwhile.
            except OSError:
                self.unreadable += 1

    def _manifest(self, key: str, model: Folder, number: int) -> None:
        try:
            version = read_version(model, number)
        except FileNotFoundError:
            return  # Deleted meanwhile.
        except OSError:
            self.unreadable += 1  # The others are looked at all the same.
            return
        except StoreCorrupt:
            self._try(lambda: self._quarantine.manifest_wrong(key, number))
            return
        with suppress(OSError):  # What the disk does not give is counted when its turn comes.
            if self._blobs.size(version.sha256) is None and not self._quarantine.reader.is_bad(version.sha256):
                self._quarantine.missing(version)

    # --- blobs: each is what its name says ---------------------------------------------------------------------------

    def _shelf(self, prefix: str) -> Iterator[int]:
        try:
            found = self._blobs.shelf(prefix)
        except OSError:
            self.unreadable += 1
            return
        for sha256 in found:
            try:
                fd = self._blobs.open(sha256)
            except FileNotFoundError:
                continue  # Deleted meanwhile.
            except StoreCorrupt:
                continue  # No file of ours stands there: a read says so.
            except OSError:
                self.unreadable += 1
                continue
            yield from self._compare(fd, sha256, quarantined=False)

    def _quarantined(self, sha256: str) -> Iterator[int]:
        """Perhaps it was the reading that went wrong, or somebody put the right file there."""
        try:
            fd = self._blobs.quarantine.open_file(sha256)
        except (FileNotFoundError, StoreCorrupt):
            return
        except OSError:
            self.unreadable += 1
            return
        yield from self._compare(fd, sha256, quarantined=True)

    def _compare(self, fd: int, sha256: str, *, quarantined: bool) -> Iterator[int]:
        try:
            found, whole = identity_of(fd), hashlib.sha256()
            for piece in from_disk(fd):
                whole.update(piece)
                self.bytes_read += len(piece)
                yield len(piece)
            self._judge(sha256, found, right=whole.hexdigest() == sha256, quarantined=quarantined)
        except OSError:
            self.unreadable += 1
        finally:
            os.close(fd)

    def _judge(self, sha256: str, found: Identity, *, right: bool, quarantined: bool) -> None:
        if quarantined and right:
            self._try(lambda: self._quarantine.acquit(sha256))
        elif right:
            self._quarantine.right(sha256, found)
        elif not quarantined:
            self._quarantine.wrong(sha256, found)

    def _try(self, mend: Callable[[], None]) -> None:
        """What needs the disk to take writes is left to the next pass when it does not."""
        try:
            mend()
        except (StoreUnavailable, NoSpace):
            self.unreadable += 1

    # --- where it was ------------------------------------------------------------------------------------------------

    def _remembered(self) -> tuple[str, float]:
        try:
            said = json.loads(self._layout.root.read(PROGRESS, 4096))
            return str(said["done"]), min(float(said["last_complete"]), time.time())
        except (OSError, ValueError, KeyError, TypeError, BroadcasterError):
            return "", 0.0

    def _remember(self, done: str, complete: float) -> None:
        self._done = done
        if done and time.monotonic() - self._saved < _SAVED:
            return
        self._saved = time.monotonic()
        aside, name = self._layout.staging, secrets.token_hex(16)
        try:
            fd = aside.create(name)
            try:
                write_all(fd, json.dumps({"done": done, "last_complete": complete}).encode(), 0)
                aside.move(name, self._layout.root, PROGRESS)
            finally:
                os.close(fd)
                aside.discard(name)
        except OSError:
            pass  # A disk that takes no writes: the next life begins anew.


def from_disk(fd: int) -> Iterator[memoryview]:
    """The whole file in pieces of 1 MiB, each good until the next is asked for, past the page cache where the file system can.

    What is in the page cache is what readers want, and says nothing about the disk: it is neither asked nor pushed out.
    """
    buffer = memoryview(mmap.mmap(-1, CHUNK))  # Aligned to a page, as O_DIRECT wants it.
    at, size, direct = 0, os.fstat(fd).st_size, _set_direct(fd, on=True)
    while at < size:
        wanted, filled = min(CHUNK, size - at), 0
        while filled < wanted:
            try:
                hit("scrub")
                count = os.preadv(fd, [buffer[filled:]], at + filled)
            except OSError as error:
                if not direct or error.errno != errno.EINVAL:
                    raise
                direct = _set_direct(fd, on=False)  # A piece that ended early, or a file system that took the flag only.
                continue
            if not count:
                break
            filled += count
        if not filled:
            return
        yield buffer[:filled]
        if not direct and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(fd, at, filled, os.POSIX_FADV_DONTNEED)
        at += filled


def _set_direct(fd: int, *, on: bool) -> bool:
    """Whether reads of `fd` go past the page cache from now on."""
    flag = getattr(os, "O_DIRECT", 0)
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    try:
        fcntl.fcntl(fd, fcntl.F_SETFL, flags | flag if on else flags & ~flag)
    except OSError:
        return False
    return on and bool(flag)
