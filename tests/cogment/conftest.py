"""A broadcaster with its Cogment front, and who speaks to it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import clients
from tests.cogment.front import Front, Registry
from tests.cogment.sdk import Sdk, missing


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    """One for all tests of a file."""
    with Front(tmp_path_factory.mktemp("front") / "broadcaster") as process:
        yield process


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Front]:
    """One that a test may stop and start again."""
    with Front(tmp_path / "broadcaster") as process:
        yield process


@pytest.fixture(scope="module")
def registry(front: Front) -> Iterator[Registry]:
    """Bare gRPC."""
    with Registry(front.address) as calls:
        yield calls


@pytest.fixture(scope="module")
def client(front: Front) -> Iterator[clients.Client]:
    """A client of our own, over ZeroMQ."""
    with clients.connect(front.url) as connected:
        yield connected


@pytest.fixture(scope="module")
def sdk(front: Front) -> Iterator[Sdk]:
    """The real Cogment SDK."""
    if why := missing():
        pytest.skip(why)
    with Sdk(front.address) as driver:
        yield driver


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """A model of this test's own."""
    return "".join(character if character.isalnum() else "-" for character in request.node.name)[-100:].strip("-")
