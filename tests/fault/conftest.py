"""Places for what the fault tests write."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broadcaster.store import Archive, failpoints
from tests.fault.archives import NOW


@contextmanager
def _folder() -> Iterator[Path]:
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="mb-fault-", dir=shm if os.access(shm, os.W_OK) else None) as found:
        yield Path(found)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory where there is one: a kill does not ask what a disk has flushed, and a test does ask for speed."""
    with _folder() as found:
        yield found


@pytest.fixture(scope="module")
def shared_folder() -> Iterator[Path]:
    """Another one, for all tests of a module."""
    with _folder() as found:
        yield found


@pytest.fixture
def archive(folder: Path) -> Iterator[Archive]:
    """An open archive, empty."""
    with Archive.open(folder / "archive", now_ms=NOW, spare=0) as archive:
        yield archive


@pytest.fixture
def archive_on_disk(tmp_path: Path) -> Iterator[Archive]:
    """Another one, where flushes and the page cache mean something."""
    with Archive.open(tmp_path / "archive", now_ms=NOW, spare=0) as archive:
        yield archive


@pytest.fixture(autouse=True)
def nothing_armed() -> Iterator[None]:
    yield
    failpoints.arm(None)
