"""How long until the last of N actors has a published version, over TCP chunks, against plain ZeroMQ through its C proxy?

    python -m benchmarks.fanout [--quick]

Both arms run side by side and take turns, round by round; the next version is published when all actors have the last one.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from typing import Any

from benchmarks.payload import MIB, size_name
from benchmarks.processes import Broadcaster, Child, Failed, Group, exit_on_sigterm, probe
from benchmarks.result import Result, Spread
from benchmarks.usage import GIB, Cpu, cpu_of

PEER = "pyzmq, 1 MiB messages, zmq.proxy"
CASES = [(size * MIB, actors) for size in (1, 16, 64) for actors in (1, 4, 16)]
QUICK = [(MIB, 1), (MIB, 16), (16 * MIB, 4), (64 * MIB, 1), (64 * MIB, 16)]
WARM_UP = 12
"""Rounds that do not count: more than there are slots, so that all memory has been written before."""
ROUNDS = {1: 200, 16: 30, 64: 20}
"""Counted rounds by MiB."""
LARGE, BEST, GOOD = 64 * MIB, 1.25, 1.4


@dataclass
class Arm:
    """One side of a comparison: who publishes, who stands in the middle, who receives; and what was measured."""

    learner: Child
    middle: list[int]
    actors: list[Child]
    wishes: dict[str, Any]
    latency: list[float] = field(default_factory=list)
    copied: list[float] = field(default_factory=list)
    blocked: list[float] = field(default_factory=list)
    delivery: str = ""
    _before: list[Cpu] = field(default_factory=list)

    def round(self, number: int) -> None:
        """Publishes once and waits for all. Raises Failed when an actor got something else."""
        said = self.learner.ask(number=number, **self.wishes)
        heard = [actor.read() for actor in self.actors]
        if any(one["stamp"] != number for one in heard):
            raise Failed(f"round {number}: the actors have {sorted({one['stamp'] for one in heard})}")
        self.latency.append((max(one["at"] for one in heard) - said["start"]) / 1e6)
        self.copied.append(said["copied"] / 1e6)
        self.blocked.append(said.get("done", said["copied"]) / 1e6)
        self.delivery = heard[0].get("delivery", "")

    def _cpu(self) -> list[Cpu]:
        return [cpu_of([self.learner.pid]), cpu_of(self.middle), cpu_of(actor.pid for actor in self.actors)]

    def count_from_here(self) -> None:
        """What was measured so far was the warm-up."""
        for values in (self.latency, self.copied, self.blocked):
            values.clear()
        self._before = self._cpu()

    def cpu_per_gib(self, size: int) -> dict[str, Any]:
        """Seconds of processor time for each GiB that reached an actor: all, and learner / middle / actors."""
        delivered = size * len(self.actors) * len(self.latency) / GIB
        used = [after - before for after, before in zip(self._cpu(), self._before, strict=True)]
        names = ("learner", "middle", "actors")
        parts = {name: one.parts(delivered) for name, one in zip(names, used, strict=True)}
        return {"all": sum(one.total for one in used) / delivered, **parts}

    def cores_busy(self) -> float:
        """Processors that were at work on average while a version was on its way."""
        used = sum((after - before).total for after, before in zip(self._cpu(), self._before, strict=True))
        return used / (sum(self.latency) / 1e3)


def ours(group: Group, broadcaster: Broadcaster, size: int, actors: int) -> Arm:
    learner = group.start("benchmarks.learner", broadcaster.url, "policy")
    learner.up()
    learner.ask(do="prepare", size=size)
    following = group.many(actors, "benchmarks.actor", "newest", broadcaster.url, "policy")
    return Arm(learner, broadcaster.pids, following, {"do": "publish", "size": size})


def theirs(group: Group, size: int, actors: int) -> Arm:
    proxy = group.start("benchmarks.peers.zmq_proxy", "proxy")
    addresses = proxy.up()
    publisher = group.start("benchmarks.peers.zmq_proxy", "publisher", addresses["upload"], size)
    publisher.up()
    following = group.many(actors, "benchmarks.peers.zmq_proxy", "subscriber", addresses["push"], size)
    probe(publisher, following, number=0)
    return Arm(publisher, [proxy.pid], following, {})


def measure(size: int, actors: int, rounds: int) -> Result:
    with Broadcaster("--memory-budget", "2GiB") as broadcaster, Group() as group:
        mine = ours(group, broadcaster, size, actors)
        peer = theirs(group, size, actors)
        read_before = 0.0
        for number in range(1, WARM_UP + rounds + 1):
            if number == WARM_UP + 1:
                read_before = broadcaster.stats()["reads"]
                mine.count_from_here()
                peer.count_from_here()
            for arm in (mine, peer) if number % 2 else (peer, mine):
                arm.round(number)
        return _result(size, actors, mine, peer, broadcaster.stats()["reads"] - read_before)


def _result(size: int, actors: int, mine: Arm, peer: Arm, read: float) -> Result:
    if mine.delivery != "chunks":
        raise Failed(f"the actors were served by {mine.delivery}, and chunks are what this is about")
    own, other = Spread.of(mine.latency), Spread.of(peer.latency)
    target, ratio = (BEST if size >= LARGE else GOOD), own.median / other.median
    busy, busy_peer = mine.cores_busy(), peer.cores_busy()
    return Result(
        question="fanout",
        case=f"{size_name(size)} to {actors}",
        what="publish to ready at the last of N actors",
        unit="ms",
        ours=own,
        peer=PEER,
        theirs=other,
        ratio=ratio,
        target=f"<= {target}",
        met=ratio <= target,
        limit=f"{busy:.1f} processors busy (peer {busy_peer:.1f})",
        details={
            "delivery": mine.delivery,
            "chunks_repaired_by_reading": read,
            "weights_free_ms": Spread.of(mine.copied).median,
            "publish_blocks_ms": Spread.of(mine.blocked).median,
            "peer_send_blocks_ms": Spread.of(peer.blocked).median,
            "cpu_s_per_gib": mine.cpu_per_gib(size),
            "peer_cpu_s_per_gib": peer.cpu_per_gib(size),
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds: whether it works, not how fast it is")
    parser.add_argument("--case", action="append", help="only this one: MiB x actors, as in 64x4")
    arguments = parser.parse_args()
    exit_on_sigterm()
    for size, actors in QUICK if arguments.quick else CASES:
        if arguments.case and f"{size // MIB}x{actors}" not in arguments.case:
            continue
        measure(size, actors, 5 if arguments.quick else ROUNDS[size // MIB]).emit()


if __name__ == "__main__":
    main()
