"""Taking an archive's index to another schema while no broadcaster runs: back for an older program, or up again."""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from broadcaster.protocol.errors import BroadcasterError, ConfigError, DirectoryUnusable
from broadcaster.store import sqlite
from broadcaster.store.folders import sync, write_all
from broadcaster.store.layout import INDEX, Layout, unusable
from broadcaster.store.metadata import SCHEMAS, Metadata, downgrade

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class MigrateReport:
    """The schema that was found, the one that there is now, all that this program knows (oldest first), and where the index as it
    was before is kept; `copy` is None when nothing was changed."""

    found: str
    schema: str
    known: tuple[str, ...]
    copy: str | None


def migrate(directory: Path, schema: str | None) -> MigrateReport:
    """Bring the index to `schema`, up or down; None only looks. What was there before stays beside it as `index.sqlite3.SCHEMA`.

    The change is whole or does not happen. What a step down drops is in the manifests, and read again on the way up. Raises
    ConfigError for a schema that this program does not know, DirectoryUnusable when a broadcaster holds the directory, or the
    index is not there, damaged, or of a newer program: nothing is changed then.
    """
    if schema is not None and schema not in SCHEMAS:
        raise ConfigError(key="--to", reason=f"{schema!r} is no schema of this program: it knows {', '.join(SCHEMAS)}")
    layout = Layout(directory)
    try:
        layout.require_archive()
        found = _schema_of(layout)
        if schema is None or schema == found:
            return MigrateReport(found, found, SCHEMAS, None)
        copy = _keep_copy(layout, found)
        if schema == SCHEMAS[-1]:
            Metadata(layout.index).close()  # Which is what every start does.
        else:
            downgrade(layout.index, schema)
        return MigrateReport(found, _schema_of(layout), SCHEMAS, copy)
    except DirectoryUnusable:
        raise
    except sqlite.IndexDamaged as error:
        raise unusable(directory, f"its index is damaged ({error}): run `broadcaster rebuild-index`") from error
    except (OSError, BroadcasterError) as error:
        raise unusable(directory, str(error)) from error
    finally:
        layout.close()


def _schema_of(layout: Layout) -> str:
    """Of the index as it is, all of which is in its main file afterwards."""
    if not layout.index.exists():
        raise unusable(layout.path, "it has no index: a program makes one of its own schema when it starts")
    raw, schema = sqlite.open_durable(layout.index, SCHEMAS)
    with closing(raw):
        sqlite.checkpoint(raw)
    if schema is None:
        raise unusable(layout.path, "its index is empty: a program makes one of its own schema when it starts")
    return schema


def _keep_copy(layout: Layout, schema: str) -> str:
    """The index, durably under another name."""
    name, aside = f"{INDEX}.{schema}", f"index-{os.getpid()}"
    source, copy = layout.root.open_file(INDEX), layout.staging.create(aside)
    try:
        at = 0
        while piece := os.pread(source, _PIECE, at):
            write_all(copy, memoryview(piece), at)
            at += len(piece)
        sync(copy)
    finally:
        os.close(source)
        os.close(copy)
    layout.staging.move(aside, layout.root, name)
    layout.root.sync()
    return name
