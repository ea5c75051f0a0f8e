"""Actors are stopped: nobody else is slower for it, what is kept for them has a bound, and they catch up when they go on."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import clients
from tests.bare_peer import wait_until
from tests.broadcaster_process import ROOT, BroadcasterProcess
from tests.fault.history.checker import slowdown
from tests.fault.history.conductor import MIB, NO_SLOTS, private_memory
from tests.fault.history.events import Delivery, history_of
from tests.fault.history.parties import Part

MODEL = "policy"
BOUND = 258 * MIB
"""What is kept for stalled actors, all together: docs/promises.md."""
NOISE = 16 * MIB
"""By which private memory differs from one moment to another without any of them."""
BUDGET = 512 * MIB
CATCH_UP = 5.0
SLOWER = 1.5


@dataclass
class Actor:
    process: subprocess.Popen[bytes]
    part: Part

    def got(self) -> list[Delivery]:
        return history_of([self.part.path]).deliveries

    def has(self, number: int) -> bool:
        return any(delivery.number >= number for delivery in self.got()[-1:])


@contextlib.contextmanager
def acting(url: str, directory: Path, count: int) -> Iterator[list[Actor]]:
    """Actors of one model: every second one gets its versions in chunks."""
    actors = []
    try:
        for index in range(count):
            delivery = "chunks" if index % 2 else "shared"
            part = Part("actor", f"actor-{index}", url, str(directory), index, (MODEL,), delivery=delivery)
            actors.append(Actor(subprocess.Popen(part.command(), cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}), part))
        for actor in actors:
            wait_until(lambda actor=actor: actor.part.path.exists() and history_of([actor.part.path]).followers, "it follows")
        yield actors
    finally:
        for actor in actors:
            actor.process.kill()
            actor.process.wait()


class Round:
    """Versions published one after the other, each when everybody who is not stopped has the last one."""

    def __init__(self, broadcaster: BroadcasterProcess, size: int, slot_dir: str | None) -> None:
        self._client = clients.connect(broadcaster.url, slot_dir=slot_dir)
        self._publisher = self._client.publisher(MODEL)
        self._pids = broadcaster.pids
        self._payload = bytearray(os.urandom(size))
        self.number = 0
        self.most_memory = 0

    def publish(self, count: int, to: list[Actor]) -> list[float]:
        """Seconds from each publication until each of those actors had it."""
        begun: dict[int, float] = {}
        for _ in range(count):
            self._payload[:8] = os.urandom(8)
            start = time.monotonic()
            self.number = self._publisher.publish(self._payload).number
            begun[self.number] = start
            wait_until(lambda: all(actor.has(self.number) for actor in to), f"version {self.number} is everywhere")
            self.most_memory = max(self.most_memory, sum(map(memory_of, self._pids)))
        return [one.at - begun[one.number] for actor in to for one in actor.got() if one.number in begun]

    def close(self) -> None:
        self._client.close()


def memory_of(pid: int) -> int:
    """Bytes of private memory, and of slots beyond the budget."""
    slots = int(Path(f"/proc/{pid}/status").read_text().partition("RssShmem:")[2].split()[0]) << 10
    return private_memory(pid) + max(0, slots - BUDGET)


def stopped(
    tmp_path: Path, *, actors: int, stop: int, before: int, versions: int, size: int, slot_dir: str | None = None
) -> tuple[list[float], list[float]]:
    """What it took to the others before, and while some were stopped. Asserts on memory and on catching up."""
    files = tmp_path / "history"
    files.mkdir()
    options = ["--memory-budget", str(BUDGET)]
    with (
        BroadcasterProcess(tmp_path / "broadcaster", options=options) as broadcaster,
        acting(broadcaster.url, files, actors) as all_of_them,
        contextlib.closing(Round(broadcaster, size, slot_dir)) as turns,
    ):
        turns.publish(3, all_of_them)  # All is warm.
        still, others = all_of_them[:stop], all_of_them[stop:]
        baseline = turns.publish(before, others)
        base, turns.most_memory = turns.most_memory, 0
        for actor in still:
            actor.process.send_signal(signal.SIGSTOP)
        during = turns.publish(versions, others)
        kept = turns.most_memory - base
        print(f"memory: {base >> 20} MiB, {kept >> 20} MiB more for {stop} stopped ones")
        for actor in still:
            actor.process.send_signal(signal.SIGCONT)
        for actor in still:
            wait_until(lambda actor=actor: actor.has(turns.number), "it has caught up", seconds=CATCH_UP)
        assert kept <= BOUND + NOISE
        numbers = [one.number for actor in still for one in actor.got()]
        assert len(numbers) < stop * turns.number, "they skipped what was superseded"
        return baseline, during


@pytest.mark.deadline(120)
def test_stopped_actors_cost_a_bounded_amount_of_memory_and_catch_up(tmp_path: Path) -> None:
    """What is forwarded is kept for the one that takes chunks, until that is too much."""
    stopped(tmp_path, actors=3, stop=2, before=1, versions=13, size=24 * MIB, slot_dir=NO_SLOTS)


@pytest.mark.fault_long
@pytest.mark.deadline(300)
@pytest.mark.parametrize("slot_dir", [None, NO_SLOTS], ids=["slots", "chunks"])
@pytest.mark.parametrize("size", [300_000, 6 * MIB], ids=["small", "large"])
def test_three_of_eight_stopped_actors_slow_nobody(tmp_path: Path, size: int, slot_dir: str | None) -> None:
    baseline, during = stopped(tmp_path, actors=8, stop=3, before=60, versions=60, size=size, slot_dir=slot_dir)
    ratio = slowdown(baseline, during)
    print(f"p99 {ratio:.2f} times its baseline, of {len(baseline)} and {len(during)} deliveries")
    assert ratio <= SLOWER
