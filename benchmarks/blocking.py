"""How long is the user's own thread held: by `publish_nowait`, by `commit` of a draft, by `latest()`?

    python -m benchmarks.blocking [--quick]

Each against what it cannot do without, in the same rounds and the same process: one memcpy of the weights into warm shared
memory; one hash of them. Four actors follow.
"""

from __future__ import annotations

import argparse

from benchmarks.arm import MODEL, Arm, ours, require
from benchmarks.payload import MIB, size_name
from benchmarks.processes import Broadcaster, Failed, Group, exit_on_sigterm
from benchmarks.result import Result, Spread

SIZE, ACTORS = 64 * MIB, 4
ROUNDS, WARM_UP = 40, 14
LOOKS, BATCH, NEWER = 200, 1000, 200
"""Batches of so many calls of `latest()`, and how often it finds something new."""
COPY, ROOM = 1.3, 1.0
NOTHING, SOMETHING = 1.0, 50.0
"""Microseconds that `latest()` may take."""


def weights(rounds: int) -> None:
    """`publish_nowait` against a memcpy, a draft against a hash: each in turn."""
    with Broadcaster("--memory-budget", "2GiB") as broadcaster, Group() as group:
        copying = ours(group, broadcaster, ACTORS)
        drafting = Arm(copying.sender, broadcaster.pids, copying.readers, {"do": "draft"})
        memcpy = Arm(copying.sender, [], [], {"do": "memcpy"})
        digest = Arm(copying.sender, [], [], {"do": "digest"})
        arms = [copying, memcpy, drafting, digest]
        for arm in arms:
            arm.resize(SIZE)
        for number in range(1, WARM_UP + rounds + 1):
            if number == WARM_UP + 1:
                for arm in arms:
                    arm.count_from_here()
            turn = number % len(arms)
            for arm in arms[turn:] + arms[:turn]:
                arm.round(number)
        require(copying, "shared")
    _nowait(copying, memcpy).emit()
    _draft(drafting, digest).emit()


def _nowait(copying: Arm, memcpy: Arm) -> Result:
    own, other = Spread.of(copying.copied), Spread.of(memcpy.latency)
    ratio = own.median / other.median
    return Result(
        question="blocking",
        case=f"{size_name(SIZE)}, publish_nowait",
        what="until the call returned",
        unit="ms",
        ours=own,
        peer="one memcpy into warm shared memory",
        theirs=other,
        ratio=ratio,
        target=f"<= {COPY}",
        met=ratio <= COPY,
    )


def _draft(drafting: Arm, digest: Arm) -> Result:
    own, other = Spread.of(drafting.latency), Spread.of(digest.latency)
    return Result(
        question="blocking",
        case=f"{size_name(SIZE)}, draft",
        what=f"commit to visible at the last of {ACTORS} actors",
        unit="ms",
        ours=own,
        peer="one xxh3-128 of the same bytes",
        theirs=other,
        ratio=own.median / other.median,
        target=f"<= hashing + {ROOM:.0f} ms",
        met=own.median <= other.median + ROOM,
        details={"commit_blocks_ms": Spread.of(drafting.copied).median},
    )


def latest(*, quick: bool) -> None:
    """In one process, many calls one after the other with nothing new; then one after each new version."""
    with Broadcaster() as broadcaster, Group() as group:
        newest = ours(group, broadcaster, 1)
        newest.resize(MIB)
        looking = group.start("benchmarks.actor", "look", broadcaster.url, MODEL, "--delivery", "auto")
        newest.round(1)
        looking.up()
        idle = [float(looking.ask(times=BATCH)["taken"]) / 1e3 for _ in range(20 if quick else LOOKS)]
        calls, arrays = [], []
        for number in range(2, (20 if quick else NEWER) + 2):
            newest.round(number)
            said = looking.ask(times=1)
            if said["stamp"] == number:  # Else another actor has it and this one does not yet.
                calls.append(said["taken"] / 1e3)
                arrays.append(said["with_arrays"] / 1e3)
        if len(calls) < 10:
            raise Failed(f"only {len(calls)} of the versions were there when they were looked for")
    _latest("nothing new", idle, NOTHING, {"calls_each": BATCH}).emit()
    _latest("a new version", calls, SOMETHING, {"with_its_arrays_us": Spread.of(arrays).median}).emit()


def _latest(case: str, taken: list[float], most: float, details: dict[str, float]) -> Result:
    own = Spread.of(taken)
    return Result(
        question="blocking",
        case=f"latest(), {case}",
        what="one call",
        unit="µs",
        ours=own,
        target=f"<= {most:.0f} µs",
        met=own.median <= most,
        details=details,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds: whether it works, not how fast it is")
    arguments = parser.parse_args()
    exit_on_sigterm()
    weights(3 if arguments.quick else ROUNDS)
    latest(quick=arguments.quick)


if __name__ == "__main__":
    main()
