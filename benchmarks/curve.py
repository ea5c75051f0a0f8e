"""What do keys cost: the broadcaster's processor time for a chunk, and for each subscriber more, encrypted and plain?

    python -m benchmarks.curve [--quick]

CURVE encrypts once per subscriber, and everything comes over TCP. One broadcaster without keys and one with, in turns, each time
anew: uploads of 64 MiB to one actor and to four. The cost of a subscriber is the difference, divided by three.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.broker_cost import CHUNKS, SIZE, WARM_UP, Meter
from benchmarks.processes import Broadcaster, Group, exit_on_sigterm
from benchmarks.result import Result, Spread
from broadcaster.security import KeyDirectory

FEW, MANY = 1, 4
TURNS, ROUNDS = 3, 8


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


def chunk_cost(actors: int, rounds: int, *options: str) -> float:
    """Microseconds of the broadcaster's processors for a chunk that goes to so many."""
    with Broadcaster("--memory-budget", "2GiB", *options) as broadcaster, Group() as group:
        learner = group.start("benchmarks.learner", broadcaster.url, "policy", "--remote")
        learner.up()
        learner.ask(do="prepare", size=SIZE)
        following = group.many(actors, "benchmarks.actor", "newest", broadcaster.url, "policy")
        for number in range(1, WARM_UP + rounds + 1):
            if number == WARM_UP + 1:
                meter = Meter(broadcaster.pids)
            learner.ask(do="publish", size=SIZE, number=number)
            for actor in following:
                actor.read()
        return meter.microseconds(CHUNKS * rounds)[0]


def main() -> None:
    exit_on_sigterm()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one turn of few rounds")
    quick = parser.parse_args().quick
    turns, rounds = (1, 3) if quick else (TURNS, ROUNDS)
    costs: dict[tuple[bool, int], list[float]] = {(keyed, actors): [] for keyed in (False, True) for actors in (FEW, MANY)}
    for _ in range(turns):
        for actors in (FEW, MANY):
            costs[False, actors].append(chunk_cost(actors, rounds))
            with keys() as options:
                costs[True, actors].append(chunk_cost(actors, rounds, *options))
    for actors in (FEW, MANY):
        _result(
            f"upload to {actors}", "broadcaster's processor time for a chunk of 1 MiB", costs[True, actors], costs[False, actors]
        )
    more = {keyed: [(many - few) / (MANY - FEW) for few, many in _pairs(costs, keyed=keyed)] for keyed in (False, True)}
    _result("each subscriber more", "of that", more[True], more[False])


def _pairs(costs: dict[tuple[bool, int], list[float]], *, keyed: bool) -> list[tuple[float, float]]:
    return list(zip(costs[keyed, FEW], costs[keyed, MANY], strict=True))


def _result(case: str, what: str, keyed: list[float], plain: list[float]) -> None:
    ours, theirs = Spread.of(keyed), Spread.of(plain)
    Result(
        question="curve",
        case=case,
        what=what,
        unit="µs",
        ours=ours,
        peer="without keys",
        theirs=theirs,
        ratio=ours.median / theirs.median if theirs.median else None,
        limit="CURVE (XSalsa20, Poly1305) of 1 MiB: about 1.2 ms at 0.8 GB/s, once for what comes and once for each subscriber",
    ).emit()


if __name__ == "__main__":
    main()
