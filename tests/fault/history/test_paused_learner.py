"""A learner is stopped in the middle of what it does, another one publishes, and the first one goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import clients
from tests.bare_peer import wait_until
from tests.broadcaster_process import ROOT, BroadcasterProcess
from tests.fault.history.checker import Bounds, check
from tests.fault.history.conductor import MIB, NO_SLOTS
from tests.fault.history.events import History, Recorder, history_of
from tests.fault.history.parties import Part, publish

MODEL = "policy"
TAKEN = 5
"""Versions of the other one while the first is stopped."""
WAYS = pytest.mark.parametrize("slot_dir", [None, NO_SLOTS], ids=["slots", "chunks"])


class Stage:
    """A broadcaster, an actor that wants every version, a learner that can be stopped, and another one: this process."""

    def __init__(self, directory: Path, seed: int, *, exclusive: bool, slot_dir: str | None) -> None:
        print(f"seed {seed}")
        self.random = random.Random(seed)
        self.files = directory / "history"
        self.files.mkdir()
        self.recorder = Recorder(self.files / "other.jsonl", "other")
        self.broadcaster = BroadcasterProcess(directory / "broadcaster", options=["--keep-large", "500"])
        self.broadcaster.start()
        about = {"url": self.broadcaster.url, "directory": str(self.files), "seed": seed, "models": (MODEL,)}
        sizes = (100, 300_000, 4 * MIB)
        self.parts = [
            Part("actor", "actor", every=True, **about),  # type: ignore[arg-type]
            Part("learner", "first", sizes=sizes, pause=0.005, exclusive=exclusive, slot_dir=slot_dir, **about),  # type: ignore[arg-type]
        ]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.actor, self.first = (subprocess.Popen(part.command(), cwd=ROOT, env=environment) for part in self.parts)

    def read(self) -> History:
        return history_of(sorted(self.files.iterdir()))

    def published_by(self, who: str, outcome: str = "ok") -> int:
        return sum(one.who == who and one.outcome == outcome for one in self.read().named("publish"))

    def wait_for_more(self, outcome: str = "ok") -> None:
        """The first one has published a few versions more, or was refused a few."""
        wanted = self.published_by("first", outcome) + self.random.randint(2, 6)
        wait_until(
            lambda: self.published_by("first", outcome) >= wanted, f"the first learner: more that is {outcome}", seconds=30
        )

    def stop_the_first(self) -> None:
        self.first.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        self.first.send_signal(signal.SIGCONT)

    def take(self, publisher: clients.Publisher) -> list[int]:
        """The other one publishes while the first is stopped."""
        numbers = [publish(self.recorder, publisher, os.urandom(300_000), archived=False) for _ in range(TAKEN)]
        assert None not in numbers
        return [number for number in numbers if number is not None]

    def end(self, publisher: clients.Publisher) -> History:
        """Everybody has the last version; the history of it all, which has no breach."""
        self.first.terminate()
        assert self.first.wait(30) == 0
        self.recorder.write("healed")
        last = publish(self.recorder, publisher, b"the last one", archived=False)
        wait_until(lambda: self.read().deliveries[-1].number == last, "the actor has the last version")
        with self.recorder.operation("list", limit=30, model=MODEL) as result:
            registry = publisher.keeps.registry  # type: ignore[attr-defined]
            result["versions"] = [(info.number, info.digest) for info in registry.versions(MODEL)]
        history = self.read()
        found = check(history, Bounds(converge=10, grace=600))
        assert not found, "\n".join(found)
        return history

    def close(self) -> None:
        for process in (self.actor, self.first):
            process.kill()
            process.wait()
        self.broadcaster.close()


@contextmanager
def staged(directory: Path, seed: int, *, exclusive: bool, slot_dir: str | None) -> Iterator[Stage]:
    stage = Stage(directory, seed, exclusive=exclusive, slot_dir=slot_dir)
    try:
        yield stage
    finally:
        stage.close()


def paused(directory: Path, seed: int, rounds: int, slot_dir: str | None) -> None:
    """Nobody excludes the other: what the first one finishes afterwards is one more version, whole and in order."""
    with staged(directory, seed, exclusive=False, slot_dir=slot_dir) as stage, clients.connect(stage.broadcaster.url) as client:
        publisher = client.publisher(MODEL)
        for _ in range(rounds):
            stage.wait_for_more()
            stage.stop_the_first()
            taken = stage.take(publisher)
            assert taken == list(range(taken[0], taken[0] + TAKEN)), "a stopped learner takes no number"
            stage.go_on()
        stage.wait_for_more()
        stage.end(publisher)


def fenced(directory: Path, seed: int, slot_dir: str | None) -> None:
    """The other one takes over: whatever the first one was in the middle of, nothing of it becomes a version any more."""
    with staged(directory, seed, exclusive=True, slot_dir=slot_dir) as stage, clients.connect(stage.broadcaster.url) as client:
        stage.wait_for_more()
        stage.stop_the_first()
        publisher = client.publisher(MODEL, exclusive=True)
        taken = stage.take(publisher)
        stage.go_on()
        stage.wait_for_more("failed")
        history = stage.end(publisher)
        late = [one for one in history.named("publish") if one.who == "first" and one.ok and one["number"] >= taken[0]]
        assert not late, "a version of who was replaced"
        refused = {one["error"] for one in history.named("publish") if one.who == "first" and not one.ok and one.end}
        assert refused == {"fenced"}
        theirs = {one["digest"] for one in history.named("publish") if one.who == "other"}
        assert all(one.digest in theirs for one in history.deliveries if one.number >= taken[0])


def test_a_stopped_learner_that_goes_on_disturbs_nobody(tmp_path: Path) -> None:
    paused(tmp_path, 1, 2, NO_SLOTS)


def test_a_stopped_learner_that_was_replaced_publishes_nothing_more(tmp_path: Path) -> None:
    fenced(tmp_path, 1, None)


@pytest.mark.fault_long
@pytest.mark.deadline(300)
@WAYS
@pytest.mark.parametrize("seed", range(50, 54))
def test_a_stopped_learner_that_goes_on_again_and_again_disturbs_nobody(tmp_path: Path, seed: int, slot_dir: str | None) -> None:
    paused(tmp_path, seed, 10, slot_dir)


@pytest.mark.fault_long
@WAYS
@pytest.mark.parametrize("seed", range(60, 70))
def test_wherever_a_learner_was_stopped_it_publishes_nothing_when_replaced(
    tmp_path: Path, seed: int, slot_dir: str | None
) -> None:
    fenced(tmp_path, seed, slot_dir)
