"""A migration is killed between its statements: the next start finds the old schema or the new one, and goes on from there."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from broadcaster.protocol.version import ModelInfo
from broadcaster.store import Archive, sqlite
from broadcaster.store.metadata import SCHEMAS, Metadata, downgrade
from tests.fault.archives import NOW, forked, keep, payload

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]


@pytest.mark.parametrize("way", ["up", "down"])
def test_a_kill_between_the_statements_of_a_migration_leaves_the_old_schema_or_the_new(folder: Path, way: str) -> None:
    whole = folder / "whole"
    with Archive.open(whole, now_ms=NOW, spare=0) as archive:
        archive.set_model(ModelInfo(namespace="default", model_id="policy", description="what it is for"))
        for number in (1, 2, 3):
            keep(archive, "policy", number, payload(10, number), description="good", pinned=True)
        archive.delete_version("default", "policy", 2)
        before = archive.load()
    if way == "up":
        downgrade(whole / "index.sqlite3", SCHEMAS[-2])
    seen, statement, killed = set(), 1, True
    while killed:
        directory = folder / str(statement)
        shutil.copytree(whole, directory)
        with forked(lambda _say, directory=directory, statement=statement: migrate(directory, way, statement)) as child:  # type: ignore[misc]
            child.finish()
        killed = child.killed
        raw, schema = sqlite.open_durable(directory / "index.sqlite3", SCHEMAS)
        raw.close()
        seen.add(schema)
        with Archive.open(directory, now_ms=NOW) as archive:
            after = archive.load()
        assert (after.models, after.versions, after.tombstones) == (before.models, before.versions, before.tombstones), statement
        assert not after.notes
        shutil.rmtree(directory)
        statement += 1
    assert seen == set(SCHEMAS[-2:]) and statement > 10


def migrate(directory: Path, way: str, statement: int) -> None:
    """Migrate, and die before statement number `statement` or before the commit, if that is it."""
    count = 0

    def next_statement(*_: Any) -> None:
        nonlocal count
        count += 1
        if count == statement:
            os.kill(os.getpid(), signal.SIGKILL)

    for event in ("before_cursor_execute", "commit"):
        sa.event.listen(sa.Engine, event, next_statement)
    if way == "up":
        Metadata(directory / "index.sqlite3").close()
    else:
        downgrade(directory / "index.sqlite3", SCHEMAS[-2])
