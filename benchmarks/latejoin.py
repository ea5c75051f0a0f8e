"""How long does an actor that comes late wait for its first snapshot?

    python -m benchmarks.latejoin [--quick]

From `client.subscriber(...)` to what `wait()` returns: subscribed, asked what is newest, read over the data channel into
fresh memory, verified. Connecting is timed apart. Each round is a new client, as in a process that has just started.
"""

from __future__ import annotations

import argparse

from benchmarks.payload import MIB, size_name
from benchmarks.processes import Broadcaster, Group, exit_on_sigterm
from benchmarks.result import Result, Spread

SIZES = (4 << 10, MIB, 64 * MIB)
ROUNDS, WARM_UP = 30, 2


def measure(broadcaster: Broadcaster, size: int, rounds: int) -> Result:
    model = f"policy-{size}"
    with Group() as group:
        learner = group.start("benchmarks.learner", broadcaster.url, model, "--remote")
        learner.up()
        learner.ask(do="publish", size=size)
        joiner = group.start("benchmarks.actor", "join", broadcaster.url, model)
        joiner.up()
        said = [joiner.ask(join=True) for _ in range(WARM_UP + rounds)][WARM_UP:]
    first, connect = ([one[name] / 1e6 for one in said] for name in ("first", "connect"))
    return Result(
        question="latejoin",
        case=size_name(size),
        what="subscriber() to the first snapshot",
        unit="ms",
        ours=Spread.of(first),
        limit="round trips: subscribe, follow" if size <= 64 << 10 else "reads of 4 MiB into fresh memory",
        details={"connect_ms": Spread.of(connect).median, "mib_per_s": size / MIB / (Spread.of(first).median / 1e3)},
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds: whether it works, not how fast it is")
    arguments = parser.parse_args()
    exit_on_sigterm()
    with Broadcaster() as broadcaster:
        for size in SIZES:
            measure(broadcaster, size, 5 if arguments.quick else ROUNDS).emit()


if __name__ == "__main__":
    main()
