"""What does a chunk cost in the broadcaster, and what a small version?

    python -m benchmarks.broker_cost [--quick] [--profile]

Processor time of the broadcaster's process, by its own clocks: user and system apart, the thread that runs the loop (`main`) and
ZeroMQ's own threads (`zmq`) apart. A chunk of 1 MiB is copied once and hashed once there, which is the floor
that is measured beside it.
`--profile` adds where the loop's time goes, as py-spy sees it.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import numpy as np
import xxhash

from benchmarks.payload import MIB
from benchmarks.processes import Broadcaster, Child, Group, exit_on_sigterm, probe
from benchmarks.result import Result, Spread, percentile
from benchmarks.usage import Cpu, cpu_of, threads_of

SIZE = 64 * MIB
CHUNKS = SIZE // MIB
ROUNDS, WARM_UP = 40, 12
SMALL, SMALL_SECONDS = 1 << 10, 5
LINES = 12


class Meter:
    """The broadcaster's clocks, read before and after."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids
        self._before = self._threads(), cpu_of(pids)

    def _threads(self) -> dict[str, Cpu]:
        found: dict[str, Cpu] = {}
        for pid in self._pids:
            for name, used in threads_of(pid).items():
                name = "zmq" if name.startswith("ZMQ") else "main" if name == "main" else "workers"
                found[name] = found.get(name, Cpu()) + used
        return found

    def microseconds(self, count: int) -> tuple[float, dict[str, float]]:
        """For each of `count`: all, and `thread_user_us`, `thread_system_us` of each thread."""
        threads, (before, all_before) = self._threads(), self._before
        parts = {}
        for name, used in threads.items():
            spent = used - before.get(name, Cpu())
            parts[f"{name}_user_us"], parts[f"{name}_system_us"] = spent.user / count * 1e6, spent.system / count * 1e6
        return (cpu_of(self._pids) - all_before).total / count * 1e6, parts


def chunks(*, actors: int, rounds: int) -> Result:
    """Uploads of 64 MiB, to nobody or to an actor."""
    with Broadcaster("--memory-budget", "2GiB") as broadcaster, Group() as group:
        learner = group.start("benchmarks.learner", broadcaster.url, "policy", "--remote")
        learner.up()
        learner.ask(do="prepare", size=SIZE)
        following = group.many(actors, "benchmarks.actor", "newest", broadcaster.url, "policy")
        costs: list[float] = []
        for number in range(1, WARM_UP + 1):
            _round(learner, following, number)
        meter = Meter(broadcaster.pids)
        for number in range(WARM_UP + 1, WARM_UP + rounds + 1):
            single = Meter(broadcaster.pids)
            _round(learner, following, number)
            costs.append(single.microseconds(CHUNKS)[0])
        _, parts = meter.microseconds(CHUNKS * rounds)
    return Result(
        question="broker_cost",
        case=f"upload with fan-out to {actors}" if actors else "upload alone",
        what="broadcaster's processor time for a chunk of 1 MiB",
        unit="µs",
        ours=Spread.of(costs),
        limit=f"copy + xxh3-128 of 1 MiB that is not in the cache: {_floor():.0f} µs; the rest is the kernel's and ZeroMQ's",
        details=parts,
    )


def _round(learner: Child, actors: list[Child], number: int) -> None:
    learner.ask(do="publish", size=SIZE, number=number)
    for actor in actors:
        actor.read()


def _floor() -> float:
    """Microseconds to copy 1 MiB from one large warm buffer to another and hash it there."""
    source, target = np.ones(SIZE, np.uint8), np.ones(SIZE, np.uint8)
    taken = []
    for at in [*range(0, SIZE, MIB)] * 3:
        start = time.perf_counter()
        target[at : at + MIB] = source[at : at + MIB]
        xxhash.xxh3_128(target.data[at : at + MIB]).digest()
        taken.append(time.perf_counter() - start)
    return percentile(taken, 50) * 1e6


def small(*, actors: int, seconds: float) -> Result:
    """Versions of 1 KiB, one after the other, to nobody or to actors that read each."""
    with Broadcaster() as broadcaster, Group() as group:
        learner = group.start("benchmarks.learner", broadcaster.url, "policy", "--remote")
        learner.up()
        following = group.many(actors, "benchmarks.actor", "every", broadcaster.url, "policy")
        probe(learner, following, do="probe", size=SMALL)
        meter = Meter(broadcaster.pids)
        count = int(learner.ask(do="flood", size=SMALL, seconds=seconds)["count"]) + 1
        cost, parts = meter.microseconds(count)
    return Result(
        question="broker_cost",
        case=f"publish of 1 KiB to {actors}" if actors else "publish of 1 KiB to nobody",
        what="broadcaster's processor time for a version",
        unit="µs",
        ours=Spread(cost, cost, cost, count),
        details=parts,
    )


def profile(*, seconds: int) -> None:
    """Where the time of the broadcaster's Python goes during uploads to one actor: shares of samples."""
    spy = Path(sys.executable).with_name("py-spy")
    if not spy.exists():
        Result(question="broker_cost", case="profile", what="left out: py-spy is not installed", unit="").emit()
        return
    with Broadcaster("--memory-budget", "2GiB") as broadcaster, Group() as group, tempfile.TemporaryDirectory() as place:
        learner = group.start("benchmarks.learner", broadcaster.url, "policy", "--remote")
        learner.up()
        following = group.many(1, "benchmarks.actor", "newest", broadcaster.url, "policy")
        number = 0
        for number in range(1, WARM_UP + 1):
            learner.ask(do="publish", size=SIZE, number=number)
            following[0].read()
        raw = Path(place) / "samples"
        options = ["--format", "raw", "--threads", "--output", str(raw), "--rate", "200", "--duration", str(seconds)]
        command = [str(spy), "record", "--pid", str(broadcaster.core), *options]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as recording:
            while recording.poll() is None:
                number += 1
                _round(learner, following, number)
            said = recording.stderr.read().decode() if recording.stderr else ""
        if not raw.exists():
            Result(question="broker_cost", case="profile", what=f"left out: {said.strip().splitlines()[-1:]}", unit="").emit()
            return
        _shares(raw.read_text()).emit()


def _shares(raw: str) -> Result:
    own: Counter[str] = Counter()
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        if "MainThread" in frames[0] and not frames[-1].startswith("Poller.poll"):  # Waiting is no work.
            own[frames[-1]] += int(count)
    total = sum(own.values()) or 1
    shares = {name: f"{count / total:.0%}" for name, count in own.most_common(LINES)}
    return Result(
        question="broker_cost",
        case="profile",
        what="where the loop's own time goes, upload with fan-out to 1",
        unit="samples",
        ours=Spread(total, total, total, 1),
        details=shares,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds: whether it works, not how fast it is")
    parser.add_argument("--profile", action="store_true", help="where the time goes, too (py-spy)")
    arguments = parser.parse_args()
    exit_on_sigterm()
    for actors in (0, 1):
        chunks(actors=actors, rounds=5 if arguments.quick else ROUNDS).emit()
    for actors in (0, 4):
        small(actors=actors, seconds=1 if arguments.quick else SMALL_SECONDS).emit()
    if arguments.profile:
        profile(seconds=2 if arguments.quick else 10)


if __name__ == "__main__":
    main()
