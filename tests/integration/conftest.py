"""Broadcasters that several files of tests use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broadcaster_process import BroadcasterProcess


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BroadcasterProcess]:
    """One broadcaster for all tests of a file."""
    with BroadcasterProcess(tmp_path_factory.mktemp("shared") / "broadcaster") as process:
        yield process


@pytest.fixture
def own(tmp_path: Path) -> Iterator[BroadcasterProcess]:
    """A broadcaster that a test may stop and start again."""
    with BroadcasterProcess(tmp_path / "broadcaster") as process:
        yield process


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """A model of this test's own."""
    return "".join(character if character.isalnum() else "-" for character in request.node.name)[-100:].strip("-")
