"""Reading an archive whole, from its files alone: what the scrub does, and what it cannot do. A broadcaster may be using it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import xxhash

from broadcaster.protocol.errors import BroadcasterError, DirectoryUnusable, StoreCorrupt
from broadcaster.store.blobs import Blobs
from broadcaster.store.copying import name_of, unreadable
from broadcaster.store.folders import Folder
from broadcaster.store.layout import Layout, unusable
from broadcaster.store.manifests import MODEL_FILE, Manifests, key_of, number_of, read_model, read_version, version_file
from broadcaster.store.scrub import from_disk
from broadcaster.store.values import CHUNK_DIGEST, ArchivedVersion

T = TypeVar("T")

Progress = Callable[[int, int], None] | None
"""Told bytes that are done, and bytes in all."""


@dataclass(slots=True)
class VerifyReport:
    """What was read, and what is wrong: `problems` has a sentence each, the lists after it the SHA-256 of payloads.

    `damaged`: found wrong now, and put aside. `missing`: named by a manifest, and not there. `quarantined`: put aside, now or
    before. `restored`: left the quarantine, because they are right. `orphans`: named by no manifest, which the next start removes
    unless a manifest is `unreadable` (those are paths). `not_given`: the disk does not answer when they are read, so nobody
    knows whether they are damaged. `in_use`: a broadcaster was using the archive, so nothing was moved, and
    orphans were not looked for.
    """

    versions: int = 0
    blobs: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    quarantined: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)
    orphans: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)
    not_given: list[str] = field(default_factory=list)
    in_use: bool = False


def verify(directory: Path, *, full: bool = True, progress: Progress = None) -> VerifyReport:
    """Read every manifest and every blob and check all digests, the SHA-256 too. Without `full`, blobs are only looked at.

    A good blob leaves the quarantine, a bad one enters it, unless a broadcaster holds the directory: then it is only read, and
    what is deleted or healed meanwhile is no problem. Raises DirectoryUnusable.
    """
    layout = _layout(directory)
    try:
        return _Verification(layout, full, progress).run()
    except DirectoryUnusable:
        raise
    except (OSError, BroadcasterError) as error:
        raise unusable(directory, str(error)) from error
    finally:
        layout.close()


def _layout(directory: Path) -> Layout:
    try:
        return Layout(directory)
    except DirectoryUnusable as error:
        if "owner" not in error.facts:
            raise
    return Layout(directory, owned=False)


class _Verification:
    def __init__(self, layout: Layout, full: bool, progress: Progress) -> None:
        self._layout = layout
        self._full = full
        self._progress = progress
        self._blobs = Blobs(layout.blobs, layout.staging, layout.quarantine)
        self._manifests = Manifests(layout.manifests, layout.staging)
        self._report = VerifyReport(in_use=not layout.owned)

    def run(self) -> VerifyReport:
        report = self._report
        if self._full and self._layout.owned:
            self._acquit()
        by_blob: dict[str, list[ArchivedVersion]] = {}
        for version in self._manifested():
            report.versions += 1
            by_blob.setdefault(version.sha256, []).append(version)
        total, done = sum(versions[0].info.size for versions in by_blob.values()), 0
        for sha256, versions in by_blob.items():
            self._blob(sha256, versions)
            done += versions[0].info.size
            if self._progress is not None:
                self._progress(done, total)
        if self._layout.owned:
            report.orphans = sorted(sha256 for sha256 in self._blobs.names() if sha256 not in by_blob)
        report.quarantined = sorted(self._blobs.quarantined())
        return report

    def _acquit(self) -> None:
        for sha256 in list(self._blobs.quarantined()):
            fd = self._layout.quarantine.open_file(sha256)
            whole = hashlib.sha256()
            try:
                for piece in from_disk(fd):
                    whole.update(piece)
            except OSError:
                continue  # Nothing is known of it, so it stays.
            finally:
                os.close(fd)
            if whole.hexdigest() == sha256:
                self._blobs.restore(sha256)
                self._report.restored.append(sha256)

    def _manifested(self) -> Iterable[ArchivedVersion]:
        for key in self._manifests.keys():
            try:
                model = self._manifests.folder.folder(key, create=False)
            except FileNotFoundError:
                continue  # It was deleted meanwhile.
            with model:
                names = [name for name, _ in model.scan()]
                if MODEL_FILE in names:
                    self._read(model, MODEL_FILE, read_model)
                for number in sorted(found for name in names if (found := number_of(name)) is not None):
                    version = self._read(model, version_file(number), partial(read_version, number=number))
                    if version is not None:
                        yield version

    def _read(self, model: Folder, name: str, read: Callable[[Folder], T]) -> T | None:
        """What a manifest says; None when it is damaged, which is told, or was deleted meanwhile."""
        try:
            return read(model)
        except FileNotFoundError:
            pass
        except StoreCorrupt as error:
            self._unreadable(model.path(name), error)
        except OSError as error:
            self._unreadable(model.path(name), unreadable("reading a manifest", model.path(name), error))
        return None

    def _unreadable(self, where: str, error: BroadcasterError) -> None:
        self._report.unreadable.append(where)
        self._report.problems.append(str(error))

    def _blob(self, sha256: str, versions: list[ArchivedVersion]) -> None:
        reasons, of = self._reasons(sha256, versions)
        if reasons and not self._layout.owned:  # What is deleted or healed meanwhile is right when it is looked at again.
            versions = [one for one in versions if self._manifests.has_version(_key(one), one.info.number)]
            reasons, of = self._reasons(sha256, versions) if versions else ([], None)
        if of is not None:
            of.append(sha256)
        if reasons:
            names = ", ".join(map(name_of, versions))
            self._report.problems += [f"{names}: {reason}" for reason in reasons]
            if self._layout.owned and of is not self._report.not_given:
                self._blobs.set_aside(sha256)

    def _reasons(self, sha256: str, versions: list[ArchivedVersion]) -> tuple[list[str], list[str] | None]:
        """What is wrong with a blob, and in which list of the report it belongs for that."""
        try:
            reasons = list(self._faults(sha256, versions))
        except FileNotFoundError:
            if sha256 in self._blobs.quarantined():
                return ["its payload is damaged, and in quarantine"], None
            return ["the blob is missing"], self._report.missing
        except StoreCorrupt as error:
            return [str(error)], None
        except OSError as error:
            return [f"its payload cannot be read: {error.strerror or error}"], self._report.not_given
        return reasons, self._report.damaged if reasons else None

    def _faults(self, sha256: str, versions: list[ArchivedVersion]) -> Iterable[str]:
        fd = self._blobs.open(sha256)
        try:
            self._report.blobs += 1
            if not self._full:
                size = os.fstat(fd).st_size
                yield from (f"the blob has {size} bytes, not {one.info.size}" for one in versions if one.info.size != size)
                return
            whole, short, chunks, size = hashlib.sha256(), xxhash.xxh3_128(), bytearray(), 0
            for piece in from_disk(fd):
                whole.update(piece)
                short.update(piece)
                chunks += xxhash.xxh3_128_digest(piece)
                size += len(piece)
        finally:
            os.close(fd)
        self._report.bytes += size
        for version in versions:
            if size != version.info.size:
                yield f"the blob has {size} bytes, not {version.info.size}"
            elif bytes(chunks) != version.chunk_digests:
                yield f"chunk {_first_difference(chunks, version.chunk_digests)} is damaged"
            elif whole.hexdigest() != sha256 or short.hexdigest() != version.info.digest:
                yield "its digests do not agree with its manifest"


def _key(version: ArchivedVersion) -> str:
    return key_of(version.info.namespace, version.info.model_id)


def _first_difference(found: bytes | bytearray, expected: bytes) -> int:
    return (
        next((at for at in range(0, len(expected), CHUNK_DIGEST) if found[at : at + 16] != expected[at : at + 16]), 0)
        // CHUNK_DIGEST
    )
