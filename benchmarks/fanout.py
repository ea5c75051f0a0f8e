"""How long until the last of N actors on other hosts has a version, over TCP chunks, against plain ZeroMQ through its C proxy?

    python -m benchmarks.fanout [--quick]

All are on this host, but use no slots, as between hosts. Both arms run side by side and take turns, round by round; the next
version is published when all actors have the last one.
"""

from __future__ import annotations

import argparse

from benchmarks.arm import Arm, ours, require
from benchmarks.payload import MIB, size_name
from benchmarks.peers import zmq_proxy
from benchmarks.processes import Broadcaster, Group, exit_on_sigterm
from benchmarks.result import Result, Spread

CASES = [(size * MIB, actors) for size in (1, 16, 64) for actors in (1, 4, 16)]
QUICK = [(MIB, 1), (16 * MIB, 4), (64 * MIB, 16)]
WARM_UP = 12
"""Rounds that do not count: more than there are slots, so that all memory has been written before."""
ROUNDS = {1: 80, 16: 15, 64: 11}
"""Counted rounds by MiB."""
LARGE, BEST, GOOD = 64 * MIB, 1.25, 1.4


def measure(size: int, actors: int, rounds: int) -> Result:
    with Broadcaster("--memory-budget", "2GiB") as broadcaster, Group() as group:
        mine = ours(group, broadcaster, actors, remote=True)
        peer = zmq_proxy.start(group, actors)
        for arm in (mine, peer):
            arm.resize(size)
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
    require(mine, "chunks")
    own, other = Spread.of(mine.latency), Spread.of(peer.latency)
    target, ratio = (BEST if size >= LARGE else GOOD), own.median / other.median
    busy, busy_peer = mine.cores_busy(), peer.cores_busy()
    return Result(
        question="fanout",
        case=f"{size_name(size)} to {actors}",
        what="publish to ready at the last of N actors",
        unit="ms",
        ours=own,
        peer=zmq_proxy.NAME,
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
        measure(size, actors, 3 if arguments.quick else ROUNDS[size // MIB]).emit()


if __name__ == "__main__":
    main()
