"""How much private memory do broadcaster, actors and learner take under load, with actors that stand still?

    python -m benchmarks.memory [--quick]

Payloads of 64 MiB, with 1 MiB and 4 KiB ones of other models between them, 16 actors of which four are stopped by a signal for
the whole run. Private memory is Private_Clean + Private_Dirty of the process less what it has after its imports (a learner's:
with its weights made). Slots are files in shared memory: they are counted once, apart, and belong to the budget.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from benchmarks.payload import MIB
from benchmarks.processes import ROOT, Broadcaster, Child, Failed, Group, exit_on_sigterm
from benchmarks.result import Result, Spread
from benchmarks.usage import Sampler, allocated_bytes, anonymous_bytes, private_apart, private_bytes
from broadcaster.protocol.sockets import PUSH_HWM

SIZE, MEDIUM, SMALL = 64 * MIB, MIB, 4 << 10
ACTORS, STOPPED = 16, 4
PUBLISHES = 100
BUDGET = 1024 * MIB
ROOM = 64 * MIB
INTERVAL, OFTEN = 0.5, 0.05
CATCH_UP = 60.0
QUEUES = f"kept versions; chunks queued for stopped actors, at most {PUSH_HWM + 2} MiB together"
TWO = "the visible version and the one on its way; messages that wait to be received"
ONE = "the snapshot that is sent"
IMPORTS = {
    "broadcaster": "import broadcaster.cli.serve, broadcaster.config, broadcaster.server.core",
    "client": "import json, numpy, clients, benchmarks.payload, benchmarks.processes",
}
"""What the processes import before they do anything."""


def baseline(imports: str) -> int:
    """Private bytes of a process that has imported this and nothing else."""
    code = f"import sys\n{imports}\nprint(flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        return private_bytes(process.pid)  # Leaving closes its pipe, which ends it.


def measure(publishes: int) -> None:
    before = {name: baseline(imports) for name, imports in IMPORTS.items()}
    with Broadcaster("--memory-budget", BUDGET) as broadcaster, Group() as group:
        learners = _learners(group, broadcaster)
        large = learners["large"]
        with_weights = private_bytes(large.pid)
        actors = group.many(ACTORS, "benchmarks.actor", "newest", broadcaster.url, "large")
        _publish(learners, actors, 1)
        for actor in actors[-STOPPED:]:
            actor.signal(signal.SIGSTOP)
        moving = actors[:-STOPPED]
        with Sampler(_sources(broadcaster, moving, large), INTERVAL) as sampler, Sampler(_often(broadcaster), OFTEN) as often:
            for number in range(2, publishes + 2):
                _publish(learners, moving, number)
        _release(actors[-STOPPED:], publishes + 1)
        read = broadcaster.stats()["reads"]
        base = before["broadcaster"] * len(broadcaster.pids)
        private = sampler.peak("broadcaster") - base
        slots = sampler.peak("slots")
        details = {
            "private_mib": private / MIB,
            "slots_mib": slots / MIB,
            "anonymous_peak_mib": often.peak("anonymous") / MIB,
            "budget_mib": BUDGET / MIB,
            "stopped_actors": STOPPED,
            "chunks_read_to_catch_up": read,
        }
        _row("broadcaster: slots + private", private + slots, BUDGET + ROOM, "budget + 64 MiB", sampler, QUEUES, details)
        worst = max(sampler.peak(f"actor {index}") for index in range(len(moving))) - before["client"]
        _row("actor: private, the worst", worst, 2 * SIZE + ROOM, "2 payloads + 64 MiB", sampler, TWO, {})
        beside = sampler.peak("learner") - with_weights
        _row("learner: private beside its weights", beside, SIZE + ROOM, "1 payload + 64 MiB", sampler, ONE, {})


def _learners(group: Group, broadcaster: Broadcaster) -> dict[str, Child]:
    learners = {}
    for model, size in (("large", SIZE), ("medium", MEDIUM), ("small", SMALL)):
        learners[model] = group.start("benchmarks.learner", broadcaster.url, model, "--remote")
        learners[model].up()
        learners[model].ask(do="prepare", size=size)
    return learners


def _publish(learners: dict[str, Child], actors: list[Child], number: int) -> None:
    """One of each size; ends when these actors have the large one."""
    for model, size in (("medium", MEDIUM), ("small", SMALL), ("large", SIZE)):
        learners[model].ask(do="publish", size=size, number=number)
    for actor in actors:
        _wait_for(actor, number)


def _wait_for(actor: Child, number: int) -> None:
    """Until the actor has this version. Raises Failed when it does not come."""
    deadline = time.monotonic() + CATCH_UP
    while time.monotonic() < deadline:
        said = actor.read()
        if said["stamp"] == number:
            return
    raise Failed(f"an actor did not get version {number}")


def _release(stopped: list[Child], number: int) -> None:
    """Lets the stopped actors go on, until they have the newest version."""
    for actor in stopped:
        actor.signal(signal.SIGCONT)
    for actor in stopped:
        _wait_for(actor, number)


def _sources(broadcaster: Broadcaster, actors: list[Child], learner: Child) -> dict[str, Callable[[], int]]:
    return {
        "broadcaster": lambda: sum(private_apart(pid, broadcaster.slot_dir) for pid in broadcaster.pids),
        "slots": lambda: allocated_bytes(broadcaster.slot_dir),
        "learner": partial(private_bytes, learner.pid),
        **{f"actor {index}": partial(private_bytes, actor.pid) for index, actor in enumerate(actors)},
    }


def _often(broadcaster: Broadcaster) -> dict[str, Callable[[], int]]:
    return {"anonymous": lambda: sum(anonymous_bytes(pid) for pid in broadcaster.pids)}


def _row(case: str, peak: int, allowed: int, words: str, sampler: Sampler, limit: str, details: dict[str, Any]) -> None:
    Result(
        question="memory",
        case=case,
        what="peak above the import baseline",
        unit="MiB",
        ours=Spread(peak / MIB, peak / MIB, peak / MIB, len(sampler.series["slots"])),
        limit=limit,
        target=f"<= {words} = {allowed // MIB} MiB",
        met=peak <= allowed,
        details=details,
    ).emit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few publishes: whether it works, not how much it takes")
    arguments = parser.parse_args()
    exit_on_sigterm()
    measure(10 if arguments.quick else PUBLISHES)


if __name__ == "__main__":
    main()
