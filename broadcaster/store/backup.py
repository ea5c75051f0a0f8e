"""A copy of an archive, taken while a broadcaster may be using it; and a new archive made of such a copy.

A backup has the layout of an archive without an index, and `backup.json`, which says that it is one, and whether it is complete.
It needs no lock, because nothing in an archive changes in place; the order makes it consistent:

1. manifests,
2. the blobs that they name (a version whose blob is gone was deleted meanwhile, and is left out, if its manifest is gone too),
3. what was deleted,
4. the floors, last: no number in the copied manifests, and none handed out before that moment, is above them.

Numbers that were handed out after the backup are known to nobody. A restore leaves room for them: more than there can be.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

from broadcaster.protocol.errors import BroadcasterError, DirectoryUnusable, NoSpace, StoreCorrupt, StoreUnavailable
from broadcaster.store.blobs import Blobs
from broadcaster.store.copying import CopyReport, Manifest, Place, copy_blob, name_of, read_manifests
from broadcaster.store.deletions import DELETIONS
from broadcaster.store.floors import Floors
from broadcaster.store.folders import Folder
from broadcaster.store.layout import BACKUP, FLOORS, RESTORING, Layout, unusable
from broadcaster.store.manifests import MAX_MANIFEST, is_key
from broadcaster.store.metadata import Metadata
from broadcaster.store.offline import fill_index
from broadcaster.store.values import ArchivedVersion, ModelKey

LEAST_STEP = 1_000_000
"""Numbers that a restore leaves out at least, for each model."""
FASTEST = 10_000
"""Versions of one model that a broadcaster commits in a second at most, with room to spare: what a restore reckons with."""

_LOG_LIMIT = 1 << 30

Progress = Callable[[int, int], None] | None
"""Told bytes that are done, and bytes in all."""


@dataclass(slots=True)
class RestoreReport(CopyReport):
    """`step`: how many numbers each model leaves out, unless it was said where they go on. `notes` are for the operator."""

    step: int = 0
    notes: list[str] = field(default_factory=list)


# --- backup -----------------------------------------------------------------------------------------------------------


def backup(archive: Path, target: Path, now: float, progress: Progress = None) -> CopyReport:
    """Make `target` a backup of `archive`, or bring the one that is there up to date: what it has already is not copied again.

    `now` is the time in s since 1970. A broadcaster may be using the archive, and goes on. Raises DirectoryUnusable when `target`
    holds something else, or cannot be written, NoSpace when it is full: what was complete there before is not complete then.
    """
    report = CopyReport()
    try:
        with Folder.open(archive) as root, Target(target, BACKUP, "a backup") as copy:
            with root.folder("manifests", create=False) as folder:
                found = list(read_manifests(folder, report))
                copy.put_manifests(found)
                with root.folder("blobs", create=False) as shelves:
                    lost = copy.put_blobs(shelves, found, report, progress)
                gone = {manifest.place for manifest, _ in lost if not _is_there(folder, manifest)}
            report.problems += [f"{_name(manifest)}: {reason}" for manifest, reason in lost if manifest.place not in gone]
            report.dropped = len(gone)
            kept = [manifest for manifest in found if manifest.place not in gone]
            copy.keep_only(kept, gone, whole=not report.problems)
            copy.put_log(root, DELETIONS)
            copy.put_log(root, FLOORS)
            _count(kept, report)
            copy.complete({"taken": now, "versions": report.versions, "bytes": report.bytes})
    except (NoSpace, DirectoryUnusable):
        raise
    except (OSError, BroadcasterError) as error:
        raise unusable(target, str(error)) from error
    return report


# --- restore ----------------------------------------------------------------------------------------------------------


def restore(source: Path, archive: Path, now: float, *, above: int | None = None, progress: Progress = None) -> RestoreReport:
    """Make a new archive in `archive`, which is empty or not there, of the backup in `source`: every byte is checked.

    Version numbers go on above `above`; without it, above all that can have been used since the backup was taken: `FASTEST` for
    each second until `now` (s since 1970), `LEAST_STEP` at least. What is damaged in the backup is told, and answered with
    store-corrupt by the new archive. A restore that was interrupted is begun again by another. Raises DirectoryUnusable.
    """
    report = RestoreReport()
    taken = _when_taken(source)
    report.step = max(LEAST_STEP, math.ceil((now - taken) * FASTEST))
    if now < taken:
        report.notes.append("the backup was taken later than this machine's clock says it is: check where numbers go on")
    try:
        with Folder.open(source) as root, Target(archive, RESTORING, "an interrupted restore") as copy:
            with root.folder("manifests", create=False) as folder, root.folder("blobs", create=False) as shelves:
                found = list(read_manifests(folder, report))
                copy.put_manifests(found)
                lost = copy.put_blobs(shelves, found, report, progress)
            report.problems += [f"{_name(manifest)}: {reason}" for manifest, reason in lost]
            copy.put_log(root, DELETIONS)
            copy.put_log(root, FLOORS)
            copy.raise_floors(_highest(found), step=report.step, above=above)
            _count(found, report)
            report.notes += copy.index()
            copy.layout.root.remove(RESTORING)
            copy.layout.root.sync()
    except (NoSpace, DirectoryUnusable):
        raise
    except (OSError, BroadcasterError) as error:
        raise unusable(archive, str(error)) from error
    return report


def _when_taken(source: Path) -> float:
    try:
        with Folder.open(source) if source.is_dir() else _none(source) as root:
            said = json.loads(root.read(BACKUP, 4096))
        if said["complete"]:
            return float(said["taken"])
        reason = "it is a backup that was interrupted: take it again"
    except (OSError, ValueError, KeyError, TypeError, StoreCorrupt):
        reason = "it is no backup"
    raise unusable(source, reason)


def _none(source: Path) -> Folder:
    raise FileNotFoundError(source)


# --- the copy ---------------------------------------------------------------------------------------------------------


class Target:
    """The directory that a copy is made in; `mark` is the file that says so until it is complete."""

    def __init__(self, path: Path, mark: str, what: str) -> None:
        """Begin, or begin again. DirectoryUnusable when there is something else."""
        if path.is_dir() and any(path.iterdir()) and not (path / mark).exists():
            raise unusable(path, f"it is not empty, and not {what}")
        self.layout = Layout(path)
        self._mark = mark
        self._blobs = Blobs(self.layout.blobs, self.layout.staging, self.layout.quarantine)
        try:
            self._put(mark, {"complete": False})
        except BaseException:
            self.layout.close()
            raise

    def __enter__(self) -> Target:
        return self

    def __exit__(self, *_: object) -> None:
        self.layout.close()

    def put_manifests(self, found: list[Manifest]) -> None:
        for manifest in found:
            with self.layout.manifests.folder(manifest.key) as model:
                if _content(model, manifest.name) != manifest.data:
                    model.put(manifest.name, manifest.data, self.layout.staging)

    def put_blobs(
        self, shelves: Folder, found: list[Manifest], report: CopyReport, progress: Progress
    ) -> list[tuple[Manifest, str]]:
        """Copy what the manifests name and is not here yet; returns those whose payload could not be had, and why."""
        wanted: dict[str, list[tuple[Manifest, ArchivedVersion]]] = {}
        for manifest in found:
            if manifest.version is not None:
                wanted.setdefault(manifest.version.sha256, []).append((manifest, manifest.version))
        total, done = sum(named[0][1].info.size for named in wanted.values()), 0
        lost: list[tuple[Manifest, str]] = []
        for sha256, named in sorted(wanted.items()):
            size = named[0][1].info.size
            try:
                if self._blobs.size(sha256) != size:
                    copy_blob(shelves, sha256, size, self._blobs)
                    report.copied, report.copied_bytes = report.copied + 1, report.copied_bytes + size
                report.blobs, report.bytes = report.blobs + 1, report.bytes + size
            except FileNotFoundError:
                lost += [(manifest, "its payload is missing, or in quarantine") for manifest, _ in named]
            except StoreCorrupt as error:
                lost += [(manifest, f"its payload is damaged: {error}") for manifest, _ in named]
            except StoreUnavailable as error:
                lost += [(manifest, f"its payload cannot be read: {error}") for manifest, _ in named]
            done += size
            if progress is not None:
                progress(done, total)
        return lost

    def keep_only(self, kept: list[Manifest], gone: Collection[Place], *, whole: bool) -> None:
        """Remove what is `gone`, and if this copy is `whole` what an earlier one had and this one has not."""
        names = {manifest.place for manifest in kept}
        for key in [name for name, _ in self.layout.manifests.scan() if is_key(name)]:
            with self.layout.manifests.folder(key, create=False) as model:
                files = [name for name, _ in model.scan()]
                for name in files:
                    if (key, name) in gone or (whole and (key, name) not in names):
                        model.remove(name)
                model.sync()
            if whole and not any(one == key for one, _ in names):
                self.layout.manifests.remove_folder(key)
        used = {manifest.version.sha256 for manifest in kept if manifest.version is not None}
        for sha256 in list(self._blobs.names()) if whole else ():
            if sha256 not in used:
                self._blobs.remove(sha256)

    def put_log(self, root: Folder, name: str) -> None:
        """A log as it is now. A record that is being written now is of no consequence yet: its piece is stepped over."""
        try:
            data = root.read(name, _LOG_LIMIT)
        except FileNotFoundError:
            return
        self.layout.root.put(name, data, self.layout.staging)

    def raise_floors(self, highest: dict[ModelKey, int], *, step: int, above: int | None) -> None:
        floors = Floors(self.layout.root, self.layout.staging)
        try:
            floors.raise_to((*key, number) for key, number in highest.items())
            floors.step_over(step, above)
        finally:
            floors.close()

    def index(self) -> list[str]:
        """Make the index; returns what there is to say."""
        for suffix in ("", "-wal"):
            (self.layout.index.parent / f"{self.layout.index.name}{suffix}").unlink(missing_ok=True)
        index = Metadata(self.layout.index)
        try:
            return fill_index(self.layout, index, {}).notes
        finally:
            index.close()

    def complete(self, facts: dict[str, object]) -> None:
        self._put(self._mark, facts | {"complete": True})

    def _put(self, name: str, facts: dict[str, object]) -> None:
        self.layout.root.put(name, json.dumps(facts).encode(), self.layout.staging)


def _content(folder: Folder, name: str) -> bytes | None:
    try:
        return folder.read(name, MAX_MANIFEST)
    except (FileNotFoundError, StoreCorrupt):
        return None


def _is_there(manifests: Folder, manifest: Manifest) -> bool:
    try:
        with manifests.folder(manifest.key, create=False) as model:
            os.close(model.open_file(manifest.name))
            return True
    except FileNotFoundError:
        return False


def _highest(found: list[Manifest]) -> dict[ModelKey, int]:
    highest: dict[ModelKey, int] = {}
    for version in (manifest.version for manifest in found if manifest.version is not None):
        key = (version.info.namespace, version.info.model_id)
        highest[key] = max(version.info.number, highest.get(key, 0))
    return highest


def _count(kept: list[Manifest], report: CopyReport) -> None:
    report.versions = sum(manifest.version is not None for manifest in kept)
    report.models = len({manifest.key for manifest in kept})


def _name(manifest: Manifest) -> str:
    return name_of(manifest.version) if manifest.version is not None else manifest.key
