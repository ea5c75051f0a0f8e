"""Broadcasters that several files of tests use."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.broadcaster_process import BroadcasterProcess


@contextmanager
def in_memory() -> Iterator[Path]:
    """A folder in memory where there is one: no test of these asks what a disk has flushed."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="mb-tests-", dir=shm if os.access(shm, os.W_OK) else None) as found:
        yield Path(found)


@pytest.fixture(scope="module")
def shared() -> Iterator[BroadcasterProcess]:
    """One broadcaster for all tests of a file."""
    with in_memory() as folder, BroadcasterProcess(folder / "broadcaster") as process:
        yield process


@pytest.fixture
def own() -> Iterator[BroadcasterProcess]:
    """A broadcaster that a test may stop and start again."""
    with in_memory() as folder, BroadcasterProcess(folder / "broadcaster") as process:
        yield process


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """A model of this test's own."""
    return "".join(character if character.isalnum() else "-" for character in request.node.name)[-100:].strip("-")
