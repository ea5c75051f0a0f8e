"""What comes out when a learner publishes as fast as it can: GiB a second of large versions, small versions a second?

    python -m benchmarks.goodput [--quick]

Large ones: the next is published when the one before is acknowledged; each of four actors takes the newest each time, so that
it may leave some out. Small ones: two are under way, and every actor gets every one; against messages of the same size
through libzmq's proxy, all of which every subscriber counts. Both take turns.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.arm import MODEL
from benchmarks.payload import MIB, size_name
from benchmarks.peers import zmq_proxy
from benchmarks.processes import Broadcaster, Child, Failed, Group, Member, exit_on_sigterm, probe
from benchmarks.result import Result, Spread
from benchmarks.usage import GIB, cpu_of

ACTORS = 4
LARGE, SMALL = 64 * MIB, 4 << 10
SECONDS, ROUNDS = 2.0, 3
WARM_UP = 14
MUST = 0.4
WITHIN = 60.0


def large(*, quick: bool) -> Result:
    """The newest of 64 MiB versions, in a stream."""
    with Broadcaster("--memory-budget", "2GiB") as broadcaster, Group() as group:
        learner = _learner(group, broadcaster)
        actors = group.herd(ACTORS, "benchmarks.actor", "tally", broadcaster.url, MODEL, "--delivery", "auto")
        probe(learner, actors, do="greet", size=LARGE)
        for _ in range(WARM_UP):
            learner.ask(do="greet", size=LARGE)
        everyone = [learner.pid, *broadcaster.pids, *(actor.pid for actor in actors)]
        speeds, made, handed, used, taken = [], [], [], 0.0, 0.0
        for _ in range(1 if quick else ROUNDS):
            before = cpu_of(everyone)
            said = learner.ask(WITHIN, do="stream", size=LARGE, seconds=SECONDS / 4 if quick else SECONDS)
            heard = [_ended(actor) for actor in actors]
            used += (cpu_of(everyone) - before).total
            if any(one["delivery"] != "shared" for one in heard):
                raise Failed(f"the actors were served by {heard[0]['delivery']}")
            seconds = (max(one["at"] for one in heard) - said["start"]) / 1e9
            taken += seconds
            delivered = sum(one["count"] for one in heard)
            speeds.append(delivered * LARGE / GIB / seconds)
            made.append(said["count"] / seconds)
            handed.append(delivered / ACTORS / said["count"])
    return Result(
        question="goodput",
        case=f"{size_name(LARGE)} to {ACTORS}, the newest each time",
        what="payload handed out, all actors together",
        unit="GiB/s",
        ours=Spread.of(speeds),
        limit=f"{used / taken:.1f} processors busy",
        details={
            "versions_per_s": Spread.of(made).median,
            "part_of_the_versions_that_an_actor_got": Spread.of(handed).median,
            "cpu_s_per_gib": used / (sum(speeds) / len(speeds) * taken),
        },
    )


def _ended(actor: Child | Member) -> dict[str, Any]:
    """What an actor says of a stream; it may have heard some probes before."""
    while True:
        said = actor.read(WITHIN)
        if "heard" not in said:
            return said


def small(*, quick: bool) -> Result:
    """Versions of 4 KiB, every one to every actor."""
    rounds = 1 if quick else ROUNDS
    with Broadcaster() as broadcaster, Group() as group:
        learner = _learner(group, broadcaster)
        actors = group.herd(ACTORS, "benchmarks.actor", "count", broadcaster.url, MODEL, "--delivery", "auto")
        peer = zmq_proxy.start(group, ACTORS, "counter")
        peer.resize(SMALL)
        probe(learner, actors, do="probe", size=SMALL)
        everyone = [learner.pid, *broadcaster.pids, *(actor.pid for actor in actors)]
        own, other, lost, used, taken = [], [], 0, 0.0, 0.0
        for number in range(1, rounds + 1):
            before = cpu_of(everyone)
            said = learner.ask(WITHIN, do="rush", size=SMALL, seconds=SECONDS / 4 if quick else SECONDS)
            heard = [_ended(actor) for actor in actors]
            lost += sum(said["count"] - one["received"] for one in heard)
            seconds = (max(one["at"] for one in heard) - said["start"]) / 1e9
            used, taken = used + (cpu_of(everyone) - before).total, taken + seconds
            own.append(said["count"] / seconds)
            began = peer.sender.ask(WITHIN, number=number, flood=zmq_proxy.FLOOD)["start"]
            ended = max(reader.read(WITHIN)["at"] for reader in peer.readers)
            other.append(zmq_proxy.FLOOD / (ended - began) * 1e9)
    ratio = Spread.of(own).median / Spread.of(other).median
    return Result(
        question="goodput",
        case=f"{size_name(SMALL)} to {ACTORS}, every one",
        what="versions a second",
        unit="versions/s",
        ours=Spread.of(own),
        peer="pyzmq through zmq.proxy, messages of the same size",
        theirs=Spread.of(other),
        ratio=ratio,
        target=f">= {MUST}, none lost (aim: 0.7)",
        met=ratio >= MUST and not lost,
        limit=f"{used / taken:.1f} processors busy",
        details={"lost": lost, "messages_of_the_peer": zmq_proxy.FLOOD},
    )


def _learner(group: Group, broadcaster: Broadcaster) -> Child:
    learner = group.start("benchmarks.learner", broadcaster.url, MODEL)
    learner.up()
    return learner


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds: whether it works, not how fast it is")
    arguments = parser.parse_args()
    exit_on_sigterm()
    large(quick=arguments.quick).emit()
    small(quick=arguments.quick).emit()


if __name__ == "__main__":
    main()
