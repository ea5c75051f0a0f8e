"""What is done to an archive while no broadcaster runs: rebuild the index, verify every byte. Both take the archive's lock."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import xxhash

from broadcaster.protocol.errors import BroadcasterError, StoreCorrupt
from broadcaster.store.blobs import Blobs
from broadcaster.store.deletions import Deletions
from broadcaster.store.floors import Floors
from broadcaster.store.layout import INDEX, Layout, unusable
from broadcaster.store.manifests import Manifests, number_of, read_version
from broadcaster.store.metadata import Metadata
from broadcaster.store.reconcile import Reconciliation
from broadcaster.store.sqlite import IndexDamaged
from broadcaster.store.trash import Trash
from broadcaster.store.values import CHUNK_DIGEST, ArchivedVersion, ModelKey


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """How many models and versions the new index holds, and what was found damaged."""

    models: int
    versions: int
    notes: list[str]


@dataclass(slots=True)
class VerifyReport:
    """What was read, what is wrong (a sentence each), and which blobs (SHA-256) left the quarantine because they are right."""

    versions: int = 0
    blobs: int = 0
    bytes: int = 0
    problems: list[str] = field(default_factory=list)
    restored: list[str] = field(default_factory=list)


def rebuild_index(directory: Path) -> RebuildReport:
    """Make the index anew from manifests and floors alone; the old one stays beside it as `index.sqlite3.replaced`.

    The numbers that the old one knows as handed out stay so, if it can be read: the floors may be what is damaged.
    Raises DirectoryUnusable when a broadcaster holds the directory.
    """
    layout = Layout(directory)
    try:
        known = _known_floors(layout.index)
        for suffix in ("", "-wal"):
            if (old := directory / f"{INDEX}{suffix}").exists():
                os.replace(old, directory / f"{INDEX}.replaced{suffix}")
        layout.root.sync()
        index = Metadata(layout.index)
        try:
            return _fill(layout, index, known)
        finally:
            index.close()
    except OSError as error:
        raise unusable(directory, str(error)) from error
    finally:
        layout.close()


def _known_floors(index: Path) -> dict[ModelKey, int]:
    if not index.exists():
        return {}
    try:
        old = Metadata(index)
        try:
            return old.floors()
        finally:
            old.close()
    except (IndexDamaged, BroadcasterError):
        return {}


def _fill(layout: Layout, index: Metadata, known: dict[ModelKey, int]) -> RebuildReport:
    blobs = Blobs(layout.blobs, layout.staging, layout.quarantine)
    manifests = Manifests(layout.manifests, layout.staging)
    deletions = Deletions(layout.root, layout.staging)
    Trash(layout.trash, manifests, deletions).empty(index, None)
    deletions.close()
    found = Reconciliation(index, manifests, blobs, deletions)
    found.run()
    floors = Floors(layout.root, layout.staging)
    try:
        floors.raise_to((*key, number) for numbers in (known, found.highest) for key, number in numbers.items())
        index.set_floors((*key, number) for key, number in floors.ceilings.items())
        index.begin_epoch(floors.epoch)
    finally:
        floors.close()
    return RebuildReport(len(index.models()), len(index.versions()), found.notes)


def verify(directory: Path) -> VerifyReport:
    """Read every manifest and every blob and check all digests, the SHA-256 too.

    A good blob leaves the quarantine, a bad one enters it. Raises DirectoryUnusable when a broadcaster holds the directory.
    """
    layout = Layout(directory)
    try:
        report = VerifyReport()
        blobs = Blobs(layout.blobs, layout.staging, layout.quarantine)
        for sha256 in list(blobs.quarantined()):
            if _digest_of(layout, sha256) == sha256:
                blobs.restore(sha256)
                report.restored.append(sha256)
        by_blob: dict[str, list[ArchivedVersion]] = {}
        for version in _manifested(layout, report):
            report.versions += 1
            by_blob.setdefault(version.sha256, []).append(version)
        for sha256, versions in by_blob.items():
            _verify_blob(blobs, sha256, versions, report)
        return report
    except (OSError, BroadcasterError) as error:
        raise unusable(directory, str(error)) from error
    finally:
        layout.close()


def _digest_of(layout: Layout, quarantined: str) -> str:
    fd = layout.quarantine.open_file(quarantined)
    with os.fdopen(fd, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _manifested(layout: Layout, report: VerifyReport) -> Iterable[ArchivedVersion]:
    manifests = Manifests(layout.manifests, layout.staging)
    for key in manifests.keys():
        with manifests.folder.folder(key, create=False) as model:
            for number in sorted(found for name, _ in model.scan() if (found := number_of(name)) is not None):
                try:
                    yield read_version(model, number)
                except StoreCorrupt as error:
                    report.problems.append(str(error))


def _verify_blob(blobs: Blobs, sha256: str, versions: list[ArchivedVersion], report: VerifyReport) -> None:
    try:
        reasons = list(_faults(blobs, sha256, versions, report))
    except (FileNotFoundError, StoreCorrupt) as error:
        reasons = [str(error)] if isinstance(error, StoreCorrupt) else ["the blob is missing"]
    if reasons:
        names = ", ".join(
            f"{version.info.namespace}/{version.info.model_id} version {version.info.number}" for version in versions
        )
        report.problems += [f"{names}: {reason}" for reason in reasons]
        blobs.set_aside(sha256)


def _faults(blobs: Blobs, sha256: str, versions: list[ArchivedVersion], report: VerifyReport) -> Iterable[str]:
    fd = blobs.open(sha256)
    whole, short, chunks, size = hashlib.sha256(), xxhash.xxh3_128(), bytearray(), 0
    with os.fdopen(fd, "rb", buffering=0) as file:
        buffer = memoryview(bytearray(versions[0].chunk_size))
        while count := file.readinto(buffer):
            whole.update(buffer[:count])
            short.update(buffer[:count])
            chunks += xxhash.xxh3_128_digest(buffer[:count])
            size += count
    report.blobs += 1
    report.bytes += size
    for version in versions:
        if size != version.info.size:
            yield f"the blob has {size} bytes, not {version.info.size}"
        elif bytes(chunks) != version.chunk_digests:
            yield f"chunk {_first_difference(chunks, version.chunk_digests)} is damaged"
        elif whole.hexdigest() != sha256 or short.hexdigest() != version.info.digest:
            yield "its digests do not agree with its manifest"


def _first_difference(found: bytes | bytearray, expected: bytes) -> int:
    return (
        next((at for at in range(0, len(expected), CHUNK_DIGEST) if found[at : at + 16] != expected[at : at + 16]), 0)
        // CHUNK_DIGEST
    )
