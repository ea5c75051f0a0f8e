"""The broadcaster is killed at system calls that make a change durable: it serves again at once, and nothing is lost or half."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broadcaster.store import Archive
from tests.bare_peer import BarePeer
from tests.broadcaster_process import BroadcasterProcess
from tests.fault.archives import NOW, keep, payload
from tests.fault.real.changes import CHANGES, Change, calls_of, core, living_core
from tests.fault.real.ledger import Ledger
from tests.fault.tracing import needs_strace, threads, tracing

pytestmark = needs_strace

READY = 2.0
"""Seconds within which a killed broadcaster serves again."""
READY_WITH_MANY = 5.0
"""The same with 10,000 archived versions."""


@pytest.fixture
def broadcaster(folder: Path) -> Iterator[BroadcasterProcess]:
    with BroadcasterProcess(folder / "broadcaster") as process:
        yield process


@pytest.mark.parametrize("name", ["upload", "prune"])
def test_a_kill_at_a_system_call_of_a_change_loses_nothing(broadcaster: BroadcasterProcess, folder: Path, name: str) -> None:
    sweep(broadcaster, folder, CHANGES[name], stride=17)


@pytest.mark.fault_long
@pytest.mark.deadline(600)
@pytest.mark.parametrize("name", CHANGES)
def test_a_kill_at_every_system_call_of_a_change_loses_nothing(broadcaster: BroadcasterProcess, folder: Path, name: str) -> None:
    times = sweep(broadcaster, folder, CHANGES[name], stride=1)
    print(f"{name}: {len(times)} kills; ready again after {min(times):.2f} to {max(times):.2f} s")
    slow = [seconds for seconds in times if seconds > READY]
    if slow:  # The machine may have been busy: what is slow by itself is slow again.
        again = [restarted(broadcaster) for _ in range(3)]
        print(f"{len(slow)} took up to {max(slow):.2f} s; once more: {', '.join(f'{seconds:.2f}' for seconds in again)} s")
        assert min(again) <= READY, f"ready again only after {max(times):.2f} s"


def sweep(broadcaster: BroadcasterProcess, folder: Path, change: Change, stride: int) -> list[float]:
    """The change again and again, killed at one of its calls each time. Returns the seconds that each restart took."""
    ledger = Ledger(broadcaster.archive_dir, seed=7)
    with BarePeer(broadcaster.ready) as peer:
        change.act(ledger, peer, change.prepare(ledger, peer))
    next_life(broadcaster, ledger, folder)
    places = calls_of(broadcaster, ledger, change, folder / "calls")[::stride]
    times, missed = [], []
    for thread, point in places:
        lives = living_core(broadcaster)
        with BarePeer(broadcaster.ready, alive=lives) as peer:
            number = change.prepare(ledger, peer)
            with tracing(threads(core(broadcaster))[thread], point.name, inject=point.kill):
                try:
                    change.act(ledger, peer, number)
                    missed.append(point)
                except AssertionError:
                    assert not lives(), "it said no, and was not killed"
        times.append(next_life(broadcaster, ledger, folder))
    assert len(missed) <= len(places) // 4, f"of {len(places)} calls the change did not come to {missed}"
    return times


def next_life(broadcaster: BroadcasterProcess, ledger: Ledger, folder: Path) -> float:
    """It is restarted, and held to what it acknowledged. Returns the seconds until it served."""
    seconds = restarted(broadcaster)
    ledger.forget_memory()
    with BarePeer(broadcaster.ready) as peer:
        ledger.check(peer, folder)
        ledger.settle(peer)
    return seconds


def restarted(broadcaster: BroadcasterProcess) -> float:
    """It is killed if it lives, and started. Returns the seconds until it served."""
    broadcaster.kill()
    began = time.monotonic()
    broadcaster.start()
    return time.monotonic() - began


@pytest.mark.fault_long
@pytest.mark.deadline(300)
def test_a_killed_broadcaster_with_ten_thousand_versions_serves_again_within_five_seconds(folder: Path) -> None:
    count = 10_000
    with Archive.open(folder / "archive", now_ms=NOW) as archive:
        for number in range(1, count + 1):
            keep(archive, f"model-{number % 10}", number, payload(100, number), user_data={"step": str(number)})
    with BroadcasterProcess(folder / "broadcaster", archive_dir=folder / "archive") as broadcaster:
        times = [restarted(broadcaster) for _ in range(3)]
        print(f"ready again after {', '.join(f'{seconds:.2f}' for seconds in times)} s with {count} versions")
        with BarePeer(broadcaster.ready) as peer:
            assert peer.stats()["versions"] == count
            assert peer.read("model-0", count) == payload(100, count)
    assert min(times) <= READY_WITH_MANY, f"ready again only after {min(times):.2f} s"
