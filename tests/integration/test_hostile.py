"""A little of every attack: nothing ends, all are served, and memory is what it was. The long ones, with what those who mean well
notice of them, are in tests/fault/real/test_hostile.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import clients
from broadcaster.protocol.keyfile import Key, parse_key
from broadcaster.security import Grant, KeyDirectory
from tests.bare_peer import wait_until
from tests.broadcaster_process import BroadcasterProcess
from tests.hostile import ATTACKS, attacked, private, reached

SECONDS = 0.4
GROWTH, GROWTH_WHEN_OPEN = 16 << 20, 48 << 20
"""Bytes that a broadcaster may differ by whose event log is not full yet; and one where an attacker gets past the handshake."""


@pytest.fixture(scope="module", params=["keyed", "open"])
def attacked_one(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[BroadcasterProcess, Key | None]]:
    directory, key = tmp_path_factory.mktemp("hostile"), None
    if request.param == "keyed":
        file = KeyDirectory(directory / "archive" / "keys").make("healthy", Grant("admin", "*", "*"))
        key = parse_key(file.read_text(), str(file))
    with BroadcasterProcess(directory, http=True) as process:
        with clients.connect(process.url, key=key) as client:
            client.publisher("policy").publish(bytes(1000))
        yield process, key


@pytest.mark.parametrize("attack", ATTACKS)
def test_nobody_without_a_key_ends_it_or_makes_it_grow(attacked_one: tuple[BroadcasterProcess, Key | None], attack: str) -> None:
    process, key = attacked_one
    before = private(process)
    with clients.connect(process.url, key=key) as client:
        publisher, subscriber = client.publisher("policy"), client.subscriber("policy")
        with attacked(attack, reached(process, key), SECONDS) as attacker:
            while attacker.poll() is None:
                number = publisher.publish(bytes(1000)).number
                assert subscriber.wait(newer_than=number - 1, timeout=20).version.number >= number
        most = before + (GROWTH if key else GROWTH_WHEN_OPEN)
        wait_until(lambda: private(process) <= most, "its memory is what it was")
        assert all(Path(f"/proc/{pid}").exists() for pid in process.pids), process.log()
        assert client.registry.stats()["epoch"] > 0 and len(process.log()) < 20_000
