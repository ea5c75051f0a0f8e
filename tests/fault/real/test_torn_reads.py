"""The hunt for a torn read: actors that keep views, are stopped and are killed; learners that are stopped and killed while they
copy; writers that lost their grant and go on writing. Every 4 KiB block of every read says what it should be."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.broadcaster_process import ROOT, BroadcasterProcess

MODEL = "policy"
BLOCKS = 96
"""Of 4 KiB: 384 KiB, so that a slot is needed and thousands of versions fit into a test."""
STALL = 60.0
"""Seconds without a single read after which the hunt is over: nobody may hang."""


class Hunter:
    """One process of the hunt, started again when it is killed."""

    def __init__(self, hunt: Hunt, role: str, arguments: Callable[[], tuple[object, ...]]) -> None:
        self.role = role
        self._hunt = hunt
        self._arguments = arguments
        self.stopped = False
        self._start()

    def _start(self) -> None:
        line = [sys.executable, "-m", "tests.fault.real.blocks", self.role, *map(str, self._arguments())]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self._process = subprocess.Popen(
            line, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        threading.Thread(target=self._read, args=(self._process,), daemon=True).start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                if line.endswith("\n"):  # The last one of a killed process may be half a line.
                    self._hunt.said.put((self.role, json.loads(line)))

    def toggle(self) -> None:
        """Stops it, or lets it go on."""
        self.stopped = not self.stopped
        self._process.send_signal(signal.SIGSTOP if self.stopped else signal.SIGCONT)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.stopped = False

    def replace(self) -> None:
        self.kill()
        self._start()

    def check(self) -> None:
        code = self._process.poll()
        assert code is None, f"a {self.role} ended by itself with {code}"


class Hunt:
    """Counts what everyone says. `torn` are the findings."""

    def __init__(self, broadcaster: BroadcasterProcess, seed: int, actors: int, learners: int) -> None:
        print(f"seed {seed}")
        self.random = random.Random(seed)
        self.said: queue.SimpleQueue[tuple[str, dict[str, Any]]] = queue.SimpleQueue()
        self.counts: Counter[str] = Counter()
        self.deliveries: Counter[str] = Counter()
        self.torn: list[dict[str, Any]] = []
        addresses = json.dumps({name: broadcaster.ready[name] for name in ("upload", "push", "data")})
        self.parties: list[Hunter] = []
        self._who = 0
        url = broadcaster.url
        for index in range(actors):
            delivery = "chunks" if index == actors - 1 else "shared"
            self._add("actor", lambda delivery=delivery: (url, MODEL, self.random.randrange(1 << 30), delivery))  # type: ignore[misc]
        for _ in range(learners):
            self._add("learner", lambda: (url, MODEL, self._next(), BLOCKS))
        self._add("stalled", lambda: (addresses, MODEL, BLOCKS))

    def _add(self, role: str, arguments: Callable[[], tuple[object, ...]]) -> None:
        self.parties.append(Hunter(self, role, arguments))

    def _next(self) -> int:
        """Each learner, also one that takes a killed one's place, has stamps of its own."""
        self._who += 1
        return self._who

    def until(self, reads: int) -> None:
        """Goes on until there were `reads` reads. A fault comes after every so many of them."""
        due, heard, looked = 500, time.monotonic(), 0.0
        while self.counts["reads"] < reads and not self.torn:
            with contextlib.suppress(queue.Empty):
                role, said = self.said.get(timeout=1.0)
                self._hear(role, said)
                heard = time.monotonic() if role == "actor" else heard
            if time.monotonic() > looked + 1.0:
                looked = time.monotonic()
                for party in self.parties:
                    party.check()
            assert time.monotonic() < heard + STALL, f"nobody reads any more: {self.counts}"
            if self.counts["reads"] >= due:
                due = self.counts["reads"] + self.random.randrange(300, 1500)
                self._disturb()

    def _hear(self, role: str, said: dict[str, Any]) -> None:
        if "torn" in said:
            self.torn.append(said)
        for name in ("reads", "kept"):
            self.counts[name] += said.get(name, 0)
        self.counts["scribbles"] = max(self.counts["scribbles"], said.get("scribbles", 0))
        self.counts["refused"] += "refused" in said
        if "delivery" in said:
            self.deliveries[said["delivery"]] += said["reads"]

    def _disturb(self) -> None:
        stopped = [party for party in self.parties if party.stopped]
        if stopped and self.random.random() < 0.6:
            self.random.choice(stopped).toggle()
            return
        party = self.random.choice([one for one in self.parties if one.role != "stalled"])
        if self.random.random() < 0.4:
            party.replace()
            self.counts[f"{party.role}s killed"] += 1
        elif not party.stopped and sum(one.stopped for one in self.parties if one.role == party.role) < 1:
            party.toggle()
            self.counts[f"{party.role}s stopped"] += 1

    def end(self) -> None:
        for party in self.parties:
            party.kill()


def hunt(directory: Path, seed: int, reads: int) -> Hunt:
    with BroadcasterProcess(directory / "broadcaster", options=["--memory-budget", "96MiB"]) as broadcaster:
        found = Hunt(broadcaster, seed, actors=4, learners=2)
        try:
            found.until(reads)
            for party in found.parties:
                party.check()
        finally:
            found.end()
        assert broadcaster.running
    print(dict(found.counts), dict(found.deliveries))
    return found


def test_no_read_is_torn(tmp_path: Path) -> None:
    found = hunt(tmp_path, 4711, 3_000)
    assert not found.torn
    assert found.deliveries["shared"] > 500 and found.deliveries["chunks"] > 0
    assert found.counts["scribbles"] > 10


@pytest.mark.fault_long
@pytest.mark.deadline(1200)
@pytest.mark.parametrize("seed", [1, 2])
def test_no_read_of_a_hundred_thousand_is_torn(tmp_path: Path, seed: int) -> None:
    found = hunt(tmp_path, seed, 60_000)
    assert not found.torn
    for name in ("actors killed", "actors stopped", "learners killed", "learners stopped"):
        assert found.counts[name] > 3, name
    assert found.counts["kept"] > 5_000 and found.counts["scribbles"] > 100
    assert found.deliveries["shared"] > 30_000
