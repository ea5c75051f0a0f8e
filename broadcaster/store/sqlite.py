"""Opening the index's file so that a commit is durable: what is SQLite's alone, and no SQL of the archive's."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Sequence
from pathlib import Path

from broadcaster.store.layout import unusable


class IndexDamaged(Exception):
    """The file is no database, or its own check fails: rebuild it."""


def open_durable(path: Path, known: Sequence[str]) -> tuple[sqlite3.Connection, str | None]:
    """The connection, and the schema found (None in a new file). One connection per file and process.

    DirectoryUnusable when the schema is not one of `known` (nothing was written then) or the file cannot be opened or made
    durable; IndexDamaged when it is not a whole database.
    """
    fresh = _prepare(path)
    raw = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    try:
        schema = None if fresh else _check_schema(raw, path, known)
        _make_durable(raw, path)
        return raw, schema
    except sqlite3.DatabaseError as error:
        raw.close()
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise IndexDamaged(str(error)) from error
        raise unusable(path.parent, f"its index cannot be opened: {error}") from error
    except BaseException:
        raw.close()
        raise


def checkpoint(raw: sqlite3.Connection) -> None:
    """Write everything into the main file; OSError when that cannot be done."""
    if raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] != 0:
        raise OSError("the index could not be checkpointed")


def _prepare(path: Path) -> bool:
    """Whether the index is new. A new one is made 0600, and SQLite gives its other files the same mode."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        return True
    except FileExistsError:
        status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise unusable(path.parent, f"{path.name} is not a regular file")
    return status.st_size == 0


def _check_schema(raw: sqlite3.Connection, path: Path, known: Sequence[str]) -> str | None:
    if not raw.execute("SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'").fetchone():
        return None
    found = raw.execute("SELECT version_num FROM alembic_version").fetchone()
    if found is not None and found[0] not in known:
        _require_whole(raw)
        raise unusable(path.parent, f"its index has schema {found[0]}, newer than {known[-1]}: upgrade the program")
    return found[0] if found else None


def _make_durable(raw: sqlite3.Connection, path: Path) -> None:
    # Exclusive: nobody else ever checkpoints (SQLite before 3.51.3 can corrupt the log when two do), and no shared memory.
    for name, wanted in {"locking_mode": "exclusive", "journal_mode": "wal", "synchronous": 2}.items():
        raw.execute(f"PRAGMA {name}={wanted}")
        if (found := raw.execute(f"PRAGMA {name}").fetchone()[0]) != wanted:
            raise unusable(path.parent, f"the index cannot be made durable: {name} is {found}, not {wanted}")
    _require_whole(raw)


def _require_whole(raw: sqlite3.Connection) -> None:
    if (checked := raw.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise IndexDamaged(checked)
