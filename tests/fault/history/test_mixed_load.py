"""Learners, actors and keepers on five models while faults run; then all that they did and saw is held to the invariants.

A run is made from its seed: what fails is had again with the seed that is printed. Only the moment in which a fault meets an
operation differs from run to run.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from tests.fault.history.checker import Bounds, check
from tests.fault.history.conductor import MIB, Run
from tests.fault.history.events import History
from tests.fault.history.schedule import FILL, KINDS, schedule

STALLED = 258 * MIB
"""What is kept for actors that take nothing, at most: docs/promises.md."""
RESTING = 250 * MIB
"""What the processes of a broadcaster take beside that, and beside the payloads in its slots."""
BOUNDS = Bounds(converge=5.0, grace=2.0, memory=RESTING + STALLED, descriptors=400)


def run(directory: Path, seed: int, seconds: float, pace: float) -> History:
    history = Run(directory, seed, seconds, pace).play()
    counts = Counter(f"{one.name} {one.outcome}" for one in history.operations)
    errors = Counter(f"{one.name}: {one['error']}" for one in history.operations if one["error"])
    print(dict(counts), dict(errors), f"{len(history.deliveries)} deliveries", sep="\n")
    found = check(history, BOUNDS)
    assert not found, "\n".join([f"seed {seed}: {len(found)} breaches", *found[:40]])
    return history


def test_the_same_seed_makes_the_same_faults() -> None:
    parties, kinds = ["a", "b"], [*KINDS, FILL]
    assert schedule(7, 60, 1.0, parties, kinds) == schedule(7, 60, 1.0, parties, kinds)
    assert schedule(7, 60, 1.0, parties, kinds) != schedule(8, 60, 1.0, parties, kinds)
    for seed in range(50):
        faults = schedule(seed, 60, 1.0, parties, kinds)
        assert all(1.0 <= fault.at and fault.over <= 60 for fault in faults)
        assert {fault.kind for fault in faults} == {kind for kind, _, _ in kinds}


@pytest.mark.deadline(150)
def test_a_mixed_load_keeps_to_every_invariant_while_faults_run(tmp_path: Path) -> None:
    history = run(tmp_path, seed=1, seconds=8, pace=1.5)
    assert len([one for one in history.named("publish") if one.ok]) > 20 and len(history.deliveries) > 20
    assert any(one.ok for one in history.named("delete", "archive", "set-alias", "prune"))


@pytest.mark.fault_long
@pytest.mark.deadline(600)
@pytest.mark.parametrize("seed", range(100, 106))
def test_a_mixed_load_keeps_to_every_invariant_for_minutes(tmp_path: Path, seed: int) -> None:
    history = run(tmp_path, seed, seconds=90, pace=0.7)
    assert len([one for one in history.named("publish") if one.ok]) > 500 and len(history.deliveries) > 500
