"""Making the index of an archive anew, while no broadcaster runs, from its files alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from broadcaster.protocol.errors import BroadcasterError
from broadcaster.store.blobs import Blobs
from broadcaster.store.deletions import Deletions
from broadcaster.store.floors import Floors
from broadcaster.store.layout import INDEX, Layout, unusable
from broadcaster.store.manifests import Manifests
from broadcaster.store.metadata import Metadata
from broadcaster.store.reconcile import Reconciliation
from broadcaster.store.sqlite import IndexDamaged
from broadcaster.store.trash import Trash
from broadcaster.store.values import ModelKey


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """How many models and versions the new index holds, and what was found damaged."""

    models: int
    versions: int
    notes: list[str]


def rebuild_index(directory: Path) -> RebuildReport:
    """Make the index anew from manifests and floors alone; the old one stays beside it as `index.sqlite3.replaced`.

    The numbers that the old one knows as handed out stay so, if it can be read: the floors may be what is damaged.
    Raises DirectoryUnusable when a broadcaster holds the directory.
    """
    layout = Layout(directory)
    try:
        layout.require_archive()
        known = _known_floors(layout.index)
        for suffix in ("", "-wal"):
            if (old := directory / f"{INDEX}{suffix}").exists():
                os.replace(old, directory / f"{INDEX}.replaced{suffix}")
        layout.root.sync()
        index = Metadata(layout.index)
        try:
            return fill_index(layout, index, known)
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


def fill_index(layout: Layout, index: Metadata, known: dict[ModelKey, int]) -> RebuildReport:
    """Put into the new `index` what the files say. `known`: numbers that were handed out, beside those that the floors know."""
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
