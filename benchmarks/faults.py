"""How many page faults does a version cost in the steady state, and how much processor time?

    python -m benchmarks.faults [--quick]

64 MiB to four actors on the learner's host. Minor faults are those that the kernel counts for each process, with all its
threads (`/proc/PID/stat`), after a warm-up in which every slot has been used.
"""

from __future__ import annotations

import argparse

from benchmarks.arm import ours, require
from benchmarks.payload import MIB, size_name
from benchmarks.processes import Broadcaster, Group, exit_on_sigterm
from benchmarks.result import Result, Spread
from benchmarks.usage import GIB, cpu_of, minor_faults

SIZE, ACTORS = 64 * MIB, 4
ROUNDS, WARM_UP = 100, 30
MOST = 100


def measure(rounds: int) -> None:
    with Broadcaster("--memory-budget", "2GiB") as broadcaster, Group() as group:
        arm = ours(group, broadcaster, ACTORS)
        arm.resize(SIZE)
        pids = {
            "learner": [arm.sender.pid],
            "broadcaster, all its processes": broadcaster.pids,
            **{f"actor {index}": [actor.pid] for index, actor in enumerate(arm.readers)},
        }
        for number in range(1, WARM_UP + 1):
            arm.round(number)
        everyone = [pid for some in pids.values() for pid in some]
        used, counts = cpu_of(everyone), {name: minor_faults(some) for name, some in pids.items()}
        series: dict[str, list[float]] = {name: [] for name in pids}
        for number in range(WARM_UP + 1, WARM_UP + rounds + 1):
            arm.round(number)
            for name, some in pids.items():
                now = minor_faults(some)
                series[name].append(now - counts[name])
                counts[name] = now
        seconds = (cpu_of(everyone) - used).total
        require(arm, "shared")
    for name in ("learner", "broadcaster, all its processes"):
        _faults(name, series[name]).emit()
    worst = max((name for name in series if name.startswith("actor")), key=lambda name: sum(series[name]))
    _faults("the worst actor", series[worst]).emit()
    _cpu(seconds / (SIZE * ACTORS * rounds / GIB), rounds).emit()


def _faults(name: str, counts: list[float]) -> Result:
    mean = sum(counts) / len(counts)
    return Result(
        question="faults",
        case=name,
        what=f"minor page faults for each version of {size_name(SIZE)}",
        unit="faults",
        ours=Spread.of(counts),
        target=f"mean < {MOST} (aim: 0)",
        met=mean < MOST,
        details={"mean": mean, "most": max(counts)},
    )


def _cpu(seconds: float, rounds: int) -> Result:
    return Result(
        question="faults",
        case="processor time",
        what="of all processes, for each GiB that was handed out",
        unit="s/GiB",
        ours=Spread(seconds, seconds, seconds, rounds),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds: whether it works, not how fast it is")
    arguments = parser.parse_args()
    exit_on_sigterm()
    measure(10 if arguments.quick else ROUNDS)


if __name__ == "__main__":
    main()
