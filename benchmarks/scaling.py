"""What do more actors, connections, models and versions cost?

    python -m benchmarks.scaling [--quick]

Actors are processes, up to 64. Connections are clients of a few processes, each with sockets of its own, up to 1000. Models and
versions are what the broadcaster knows: a full one and an empty one run at the same time and take turns.
"""

from __future__ import annotations

import argparse

from benchmarks.arm import Arm, ours
from benchmarks.payload import MIB, size_name
from benchmarks.processes import Broadcaster, Child, Group, exit_on_sigterm
from benchmarks.result import Result, Spread

SMALL, MEDIUM, LARGE = 4 << 10, MIB, 64 * MIB
ACTORS = (1, 4, 16, 64)
CONNECTIONS = (1, 10, 100, 1000)
PROCESSES = 4
"""That share the connections."""
KNOWN = ((10_000, 1), (10_000, 10))
"""Models, and versions of each."""
BESIDE = "1 actor, at the same time"
TINY, FOLLOWING, MOST = 64, 4, 1.1
FILL = 240.0
"""Seconds that filling may take."""
WARM_UP = 14
ROUNDS = {SMALL: 30, MEDIUM: 80, LARGE: 9}


def _rounds(arms: list[Arm], size: int, rounds: int) -> None:
    for arm in arms:
        arm.resize(size)
    for number in range(1, WARM_UP + rounds + 1):
        if number == WARM_UP + 1:
            for arm in arms:
                arm.count_from_here()
        for arm in arms if number % 2 else arms[::-1]:
            arm.round(number)


def actors(counts: tuple[int, ...], *, quick: bool) -> None:
    """The same versions to more and more processes, each time beside a single one."""
    with Broadcaster("--memory-budget", "3GiB") as broadcaster:
        for count in counts:
            with Group() as group:
                single = ours(group, broadcaster, 1, f"single-{count}")
                many = ours(group, broadcaster, count, f"many-{count}")
                for size in (SMALL, LARGE):
                    _rounds([single, many], size, 3 if quick else ROUNDS[size])
                    words = f"{size_name(size)}, {count} {'actor' if count == 1 else 'actors'}"
                    _beside(words, many, single, BESIDE, count=count, size=size).emit()


def connections(counts: tuple[int, ...], *, quick: bool) -> None:
    """The same version to more and more clients: the last of all has it."""
    with Broadcaster() as broadcaster:
        for count in counts:
            with Group() as group:
                single = ours(group, broadcaster, 1, f"single-{count}")
                many = _crowd(group, broadcaster, count)
                _rounds([single, many], SMALL, 3 if quick else ROUNDS[SMALL])
                words = f"{size_name(SMALL)}, {count} {'connection' if count == 1 else 'connections'}"
                result = _beside(words, many, single, BESIDE, count=count, size=SMALL)
                result.details["processes"] = len(many.readers)
                result.emit()


def _crowd(group: Group, broadcaster: Broadcaster, count: int) -> Arm:
    model, processes = f"many-{count}", min(PROCESSES, count)
    learner = group.start("benchmarks.learner", broadcaster.url, model)
    learner.up()
    options = ("crowd", broadcaster.url, model, "--delivery", "auto", "--clients")
    share = [count // processes + (index < count % processes) for index in range(processes)]
    started: list[Child] = [group.start("benchmarks.actor", *options, clients) for clients in share]
    for child in started:
        child.up()
    return Arm(learner, broadcaster.pids, started, {"do": "publish"})


def known(steps: tuple[tuple[int, int], ...], *, quick: bool) -> None:
    """1 MiB to four actors, with much and with nothing else in the broadcaster."""
    with Broadcaster() as full, Broadcaster() as empty, Group() as group:
        filling = group.start("benchmarks.learner", full.url, "filling")
        filling.up()
        arms = [ours(group, full, FOLLOWING), ours(group, empty, FOLLOWING)]
        have = 0
        for models, each in steps:
            filling.ask(FILL, do="models", count=models, each=each - have, size=TINY)
            have = each
            _rounds(arms, MEDIUM, 5 if quick else ROUNDS[MEDIUM])
            words = f"{models:,} models, {models * each:,} versions"
            result = _beside(words, *arms, "an empty broadcaster, at the same time", count=models * each, size=MEDIUM)
            result.details.update({f"{name}_known": int(full.stats()[name]) for name in ("models", "versions")})
            result.emit()


def _beside(case: str, arm: Arm, other: Arm, peer: str, *, count: int, size: int) -> Result:
    own, beside = Spread.of(arm.latency), Spread.of(other.latency)
    ratio, bounded = own.median / beside.median, peer.startswith("an empty")
    return Result(
        question="scaling",
        case=case,
        what=f"publish to ready at the last{f' of {FOLLOWING} actors' if bounded else ''}",
        unit="ms",
        ours=own,
        peer=peer,
        theirs=beside,
        ratio=ratio,
        target=f"<= {MOST} (aim: 1.0)" if bounded else None,
        met=ratio <= MOST if bounded else None,
        details={"count": count, "bytes": size, "delivery": arm.delivery},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds: whether it works, not how fast it is")
    quick = parser.parse_args().quick
    exit_on_sigterm()
    actors((1, 4) if quick else ACTORS, quick=quick)
    connections((1, 40) if quick else CONNECTIONS, quick=quick)
    known(((200, 1), (200, 5)) if quick else KNOWN, quick=quick)


if __name__ == "__main__":
    main()
