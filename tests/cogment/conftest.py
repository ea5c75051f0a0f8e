"""A broadcaster with its Cogment front, and who speaks to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import clients
from tests.cogment.front import Front, Registry
from tests.cogment.sdk import Sdk, missing


@pytest.fixture(scope="session")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """One for all tests here: each has models of its own."""
    with Front(tmp_path_factory.mktemp("front") / "broadcaster") as process:
        yield process


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Front]:
    """One that a test may stop and start again."""
    with Front(tmp_path / "broadcaster") as process:
        yield process


@pytest.fixture(scope="session")
def registry(front: Front) -> Iterator[Registry]:
    """Bare gRPC."""
    with Registry(front.address) as calls:
        yield calls


@pytest.fixture(scope="session")
def client(front: Front) -> Iterator[clients.Client]:
    """A client of our own, over ZeroMQ."""
    with clients.connect(front.url) as connected:
        yield connected


@pytest.fixture(scope="session")
def sdk(front: Front) -> Iterator[Sdk]:
    """The real Cogment SDK."""
    if why := missing():
        pytest.skip(why)
    with Sdk(front.address) as driver:
        yield driver


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """A model of this test's own."""
    name = f"{request.module.__name__.rpartition('.')[2]}-{request.node.name}"
    return "".join(character if character.isalnum() else "-" for character in name)[-100:].strip("-")
