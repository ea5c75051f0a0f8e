"""HTTP under load, and under attack, while a learner publishes: the learner and its actor notice next to nothing."""

from __future__ import annotations

import contextlib
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

import clients
from tests.bare_peer import wait_until
from tests.broadcaster_process import BroadcasterProcess

pytestmark = [pytest.mark.fault_long, pytest.mark.deadline(300)]

ROUND = 120
"""Publications that are timed in a row."""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[BroadcasterProcess]:
    with BroadcasterProcess(tmp_path / "broadcaster", http=True) as process:
        yield process


@contextlib.contextmanager
def repeated(calls: list[Callable[[], object]]) -> Iterator[None]:
    """Each of these again and again, on a thread of its own, about 20 times a second."""
    stop = threading.Event()

    def run(call: Callable[[], object]) -> None:
        while not stop.wait(0.05):
            with contextlib.suppress(httpx.TransportError):
                call()

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def median(publisher: clients.Publisher, payload: bytes) -> float:
    """Seconds that a publication takes."""
    times = []
    for _ in range(ROUND):
        begun = time.perf_counter()
        publisher.publish(payload)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def test_a_crowd_that_reads_pages_does_not_slow_publishing_beyond_noise(served: BroadcasterProcess) -> None:
    """Rounds with and without the crowd in turns, so that both see the same machine. The load is modest because all of it, and
    the crowd, share the machine's cores with the publisher: more would measure the scheduler."""
    payload = bytes(1 << 20)
    with clients.connect(served.url) as client, httpx.Client(base_url=served.ready["http"], timeout=30) as web:
        publisher = client.publisher("policy")
        median(publisher, payload)
        paths = ["/metrics", "/v1/stats", "/v1/models/policy/versions?limit=20", "/readyz"]
        alone, crowded = [], []
        for _ in range(5):
            alone.append(median(publisher, payload))
            with repeated([lambda path=path: web.get(path) for path in paths]):  # type: ignore[misc]
                crowded.append(median(publisher, payload))
        print(f"alone {[f'{one * 1e3:.2f}' for one in alone]} ms, crowded {[f'{one * 1e3:.2f}' for one in crowded]} ms")
        spread = max(alone) / min(alone)
        assert statistics.median(crowded) <= statistics.median(alone) * max(1.5, spread)


def test_two_thousand_silent_connections_change_nothing_for_others(served: BroadcasterProcess) -> None:
    where = urlsplit(served.ready["http"])
    with clients.connect(served.url) as client, contextlib.ExitStack() as open_ones:
        publisher, subscriber = client.publisher("policy"), client.subscriber("policy")
        for _ in range(2000):
            line = open_ones.enter_context(socket.socket())
            line.settimeout(20)
            with contextlib.suppress(OSError):
                line.connect((where.hostname, where.port))
        number = publisher.publish(b"weights").number
        assert subscriber.wait(timeout=20).version.number == number

        def alive() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return httpx.get(served.ready["http"] + "/livez", timeout=5).status_code == 200
            return False

        wait_until(alive, "those that say nothing were hung up on", seconds=30)
    assert served.running and all(Path(f"/proc/{pid}").exists() for pid in served.pids)
