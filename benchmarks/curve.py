"""What do keys cost: the broadcaster's processor time for a chunk, and for each subscriber more, encrypted and plain? And how
long does a version take to be visible?

    python -m benchmarks.curve [--quick]

CURVE encrypts once per subscriber, and everything comes over TCP. One broadcaster without keys and one with, in turns, each time
anew: uploads of 64 MiB to one actor and to four. The cost of a subscriber is the difference, divided by three; a version is
visible when the last actor has it, whole and verified. Small versions, of 4 KiB, are timed as well.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.broker_cost import CHUNKS, SIZE, WARM_UP, Meter
from benchmarks.processes import Broadcaster, Child, Group, exit_on_sigterm
from benchmarks.result import Result, Spread
from broadcaster.security import KeyDirectory

FEW, MANY = 1, 4
TURNS, ROUNDS = 2, 6
SMALL, MORE = 4 << 10, 25
"""Bytes of a small version, and how many times more of them there are."""


@dataclass(slots=True)
class Found:
    """Of all turns: microseconds of the broadcaster's processors for a chunk, and milliseconds until a version was visible."""

    chunk: list[float] = field(default_factory=list)
    large: list[float] = field(default_factory=list)
    small: list[float] = field(default_factory=list)


@contextlib.contextmanager
def keys() -> Iterator[list[str]]:
    """The options of a broadcaster with keys; every process that is started meanwhile has one that may do all."""
    with tempfile.TemporaryDirectory() as place:
        directory = KeyDirectory(Path(place) / "keys")
        os.environ["BROADCASTER_KEY"] = str(directory.ensure())
        try:
            yield ["--keys-dir", str(directory.directory)]
        finally:
            del os.environ["BROADCASTER_KEY"]


def measure(found: Found, actors: int, rounds: int, *options: str) -> None:
    """What publishing to so many costs, and how long it takes."""
    with Broadcaster("--memory-budget", "2GiB", *options) as broadcaster, Group() as group:
        learner = group.start("benchmarks.learner", broadcaster.url, "policy", "--remote")
        learner.up()
        following = group.many(actors, "benchmarks.actor", "newest", broadcaster.url, "policy", "--delivery", "chunks")
        _times(learner, following, SIZE, WARM_UP)
        meter = Meter(broadcaster.pids)
        found.large += _times(learner, following, SIZE, rounds)
        found.chunk.append(meter.microseconds(CHUNKS * rounds)[0])
        found.small += _times(learner, following, SMALL, MORE * rounds)


def _times(learner: Child, following: list[Child], size: int, rounds: int) -> list[float]:
    """Milliseconds from each publication until all had it."""
    learner.ask(do="prepare", size=size)
    times = []
    for number in range(1, rounds + 1):
        begun = learner.ask(do="publish", size=size, number=number)["start"]
        times.append((max(actor.read()["at"] for actor in following) - begun) / 1e6)
    return times


def main() -> None:
    exit_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one turn of few rounds")
    quick = parser.parse_args().quick
    turns, rounds = (1, 3) if quick else (TURNS, ROUNDS)
    found = {(keyed, actors): Found() for keyed in (False, True) for actors in (FEW, MANY)}
    for _ in range(turns):
        for actors in (FEW, MANY):
            measure(found[False, actors], actors, rounds)
            with keys() as options:
                measure(found[True, actors], actors, rounds, *options)
    for actors in (FEW, MANY):
        keyed, plain = found[True, actors], found[False, actors]
        _result(f"upload to {actors}", "broadcaster's processor time for a chunk of 1 MiB", "µs", keyed.chunk, plain.chunk)
        _result(f"64 MiB to {actors}", "from the publication until all have it", "ms", keyed.large, plain.large)
        _result(f"4 KiB to {actors}", "from the publication until all have it", "ms", keyed.small, plain.small)
    more = {
        keyed: [(many - few) / (MANY - FEW) for few, many in zip(found[keyed, FEW].chunk, found[keyed, MANY].chunk, strict=True)]
        for keyed in (False, True)
    }
    _result("each subscriber more", "broadcaster's processor time for a chunk of 1 MiB", "µs", more[True], more[False])


def _result(case: str, what: str, unit: str, keyed: list[float], plain: list[float]) -> None:
    ours, theirs = Spread.of(keyed), Spread.of(plain)
    Result(
        question="curve",
        case=case,
        what=what,
        unit=unit,
        ours=ours,
        peer="without keys",
        theirs=theirs,
        ratio=ours.median / theirs.median if theirs.median else None,
        limit="CURVE (XSalsa20, Poly1305) of 1 MiB: about 1.2 ms at 0.8 GB/s, once for what comes and once for each subscriber",
    ).emit()


if __name__ == "__main__":
    main()
