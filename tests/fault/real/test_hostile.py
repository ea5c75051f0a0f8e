"""Peers without a key that mean harm: nothing ends, nothing grows for good, and those who mean well notice next to nothing."""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import clients
from broadcaster.protocol.errors import RequestTimeout
from broadcaster.protocol.keyfile import parse_key
from broadcaster.security import Grant, KeyDirectory
from broadcaster.server.watchdog import STUCK
from tests.bare_peer import wait_until
from tests.broadcaster_process import BroadcasterProcess
from tests.fault.real.live import p99
from tests.hostile import ATTACKS, attacked, private, reached

pytestmark = [pytest.mark.fault_long, pytest.mark.deadline(300)]

TURNS, SECONDS = 3, 3.0
GROWTH, GROWTH_WHEN_OPEN = 10 << 20, 64 << 20
"""Bytes that the broadcaster's own memory may grow by once an attack is over; and where nobody needs a key, so that an attacker
gets as far as those who mean well."""
SETTLES = 30.0
LONGEST = 9000
"""Publications after which the event log does not grow any more."""


class Healthy:
    """A learner and an actor over TCP, which go on whatever happens."""

    def __init__(self, process: BroadcasterProcess, key: Path | None) -> None:
        self.key = parse_key(key.read_text(), str(key)) if key else None
        self.client = clients.connect(process.url, key=self.key)
        self._publisher, self._subscriber = self.client.publisher("live"), self.client.subscriber("live")
        for _ in range(LONGEST):
            self._publisher.publish(bytes(1000))

    def times(self, seconds: float) -> list[float]:
        """Seconds from a publication until it is visible, of all in that time."""
        until, found = time.monotonic() + seconds, []
        while time.monotonic() < until:
            began = time.perf_counter()
            number = self._publisher.publish(bytes(1000)).number
            while self._subscriber.wait(newer_than=number - 1, timeout=20).version.number < number:
                pass
            found.append(time.perf_counter() - began)
        return found


@pytest.fixture(scope="module", params=["keyed", "open"])
def attacked_one(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[BroadcasterProcess, Healthy]]:
    """A broadcaster that is attacked again and again, and who goes on meanwhile."""
    directory = tmp_path_factory.mktemp("hostile")
    key = None
    if request.param == "keyed":
        key = KeyDirectory(directory / "archive" / "keys").make("healthy", Grant("admin", "*", "*"))
    with BroadcasterProcess(directory, http=True, options=["--keep", "10"]) as process:
        healthy = Healthy(process, key)
        try:
            yield process, healthy
        finally:
            healthy.client.close()


@pytest.mark.parametrize("attack", ATTACKS)
def test_whoever_has_no_key_harms_nobody(attacked_one: tuple[BroadcasterProcess, Healthy], attack: str) -> None:
    """By turns, so that both see the same machine. What the machine itself varies by is allowed beside the half."""
    process, healthy = attacked_one
    pids, before = process.pids, private(process)
    alone, under = [], []
    for _ in range(TURNS):
        alone.append(p99(healthy.times(SECONDS)))
        with attacked(attack, reached(process, healthy.key), SECONDS):
            under.append(p99(healthy.times(SECONDS)))
    growth = GROWTH if healthy.key else GROWTH_WHEN_OPEN
    settled = wait_until(lambda: private(process) - before <= growth, "its memory is what it was", seconds=SETTLES)
    stats = healthy.client.registry.stats()
    told = {name: int(stats[name]) for name in ("connections", "connections_refused", "connections_cut", "keys_refused")}
    print(
        f"{attack}: p99 alone {[f'{one * 1e3:.2f}' for one in alone]} ms, attacked {[f'{one * 1e3:.2f}' for one in under]} ms, "
        f"memory {before >> 20} -> {private(process) >> 20} MiB, {told}"
    )
    assert settled and pids == process.pids and all(Path(f"/proc/{pid}").exists() for pid in pids)
    if healthy.key:  # Where nobody needs a key, an attacker has its turn like everybody else.
        assert statistics.median(under) <= statistics.median(alone) * max(1.5, max(alone) / min(alone))


def test_a_core_that_subscriptions_keep_busy_gives_way_to_another_one(tmp_path: Path) -> None:
    """Where nobody needs a key. libzmq goes through all topics whenever a subscriber goes, which can take it minutes."""
    with BroadcasterProcess(tmp_path, options=["--keep", "10"]) as process, clients.connect(process.url) as client:
        publisher = client.publisher("live")
        publisher.publish(bytes(1000))
        with attacked("subscriptions", reached(process), SECONDS):
            pass

        def publishes() -> bool:
            with contextlib.suppress(RequestTimeout):
                return publisher.publish(bytes(1000), timeout=2).number > 0
            return False

        wait_until(publishes, "it serves again", seconds=STUCK + 20)
