"""How long until actors with the real Cogment SDK have a version, over gRPC? Does memory stay flat while ten clients read?

    python -m benchmarks.cogment [--quick]

An actor is the SDK's own tracker: it is told of the version, asks for its data, and puts the chunks together. The learner is the
SDK in one arm, a publisher of ours in the other, each with a broadcaster of its own; the peer is a gRPC server that does no more
than hand on what comes. They take turns, round by round, and the next version is published when all actors have the last one.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable

import numpy as np

from benchmarks.arm import Arm
from benchmarks.payload import MIB, size_name
from benchmarks.peers import cogment_sdk, grpc_stream
from benchmarks.processes import Broadcaster, Child, Failed, Group, exit_on_sigterm
from benchmarks.result import Result, Spread
from benchmarks.usage import Sampler, private_apart
from clients import connect

SDK = "benchmarks.peers.cogment_sdk"
CASES = [(size * MIB, actors) for size in (1, 12) for actors in (1, 4)]
QUICK = [(MIB, 1), (12 * MIB, 4)]
WARM_UP = 12
"""Rounds that do not count: more than there are slots, so that all memory has been written before."""
ROUNDS = {1: 60, 12: 25}
"""Counted rounds by MiB."""
READERS, LARGE, SMALLER = 10, 256 * MIB, 64 * MIB
READS = 2
"""How often each of them reads all of it."""
ROOM = 16 * MIB
"""More private memory than before that the broadcaster may take for each of them: some chunks on their way, whatever the size."""
INTERVAL = 0.02


def measure(size: int, actors: int, rounds: int) -> None:
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(Group())
        arms = {who: start(group, stack.enter_context(_front()), actors) for who, start in LEARNERS.items()}
        if not grpc_stream.missing():
            arms[grpc_stream.NAME] = grpc_stream.start(group, actors)
        for arm in arms.values():
            arm.resize(size)
        names = list(arms)
        for number in range(1, WARM_UP + rounds + 1):
            if number == WARM_UP + 1:
                for arm in arms.values():
                    arm.count_from_here()
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                arms[name].round(number)
        peer = arms.pop(grpc_stream.NAME, None)
        for who, arm in arms.items():
            _report(f"{size_name(size)} to {actors}, {who}", size, arm, peer)


def _front() -> Broadcaster:
    return Broadcaster("--grpc-port", 0)


def _sdk(group: Group, broadcaster: Broadcaster, actors: int) -> Arm:
    """The SDK at both ends."""
    learner = group.start(SDK, "publisher", broadcaster.grpc, "sdk", python=cogment_sdk.PYTHON)
    learner.up()
    return _arm(group, broadcaster, learner, "sdk", actors)


def _ours(group: Group, broadcaster: Broadcaster, actors: int) -> Arm:
    """A learner of ours on the broadcaster's host."""
    with connect(broadcaster.url) as client:
        client.registry.create("ours")  # An actor of the SDK's looks for a model that is not there once a second only.
    learner = group.start("benchmarks.learner", broadcaster.url, "ours")
    learner.up()
    return _arm(group, broadcaster, learner, "ours", actors)


def _arm(group: Group, broadcaster: Broadcaster, learner: Child, model: str, actors: int) -> Arm:
    following = group.many(actors, SDK, "actor", broadcaster.grpc, model, python=cogment_sdk.PYTHON)
    return Arm(learner, broadcaster.pids, following, {"do": "publish"})


LEARNERS: dict[str, Callable[[Group, Broadcaster, int], Arm]] = {"the SDK publishes": _sdk, "our learner publishes": _ours}


def _report(case: str, size: int, arm: Arm, peer: Arm | None) -> None:
    own = Spread.of(arm.latency)
    other = Spread.of(peer.latency) if peer else None
    Result(
        question="cogment",
        case=case,
        what="publish to the bytes at the last of N actors",
        unit="ms",
        ours=own,
        peer=grpc_stream.NAME if peer else None,
        theirs=other,
        ratio=own.median / other.median if other else None,
        limit=f"{arm.cores_busy():.1f} processors busy" + (f" (peer {peer.cores_busy():.1f})" if peer else ""),
        details={"publish_blocks_ms": Spread.of(arm.blocked).median, "cpu_s_per_gib": arm.cpu_per_gib(size)},
    ).emit()


def measure_memory(size: int, reads: int) -> None:
    """The broadcaster's private memory while many read one large version, above what it was before."""
    with _front() as broadcaster, Group() as group:
        with connect(broadcaster.url) as client:
            client.publisher("large").publish(np.random.default_rng(0).bytes(size))
        readers = group.start(SDK, "readers", broadcaster.grpc, "large", READERS, python=cogment_sdk.PYTHON)
        readers.up()
        before = _private(broadcaster)
        with Sampler({"private": lambda: _private(broadcaster)}, INTERVAL) as sampler:
            said = [readers.ask(read=True) for _ in range(reads)]
        if any(one["least"] != size for one in said):
            raise Failed(f"a reader got {min(one['least'] for one in said)} of {size} bytes")
        grown = sampler.peak("private") - before
    rates = [READERS * size / MIB / one["seconds"] for one in said]
    Result(
        question="cogment",
        case=f"{READERS} clients read {size_name(size)}",
        what="private memory of all processes of the broadcaster, the peak above what it was before",
        unit="MiB",
        ours=Spread(grown / MIB, grown / MIB, grown / MIB, len(sampler.series["private"])),
        target=f"<= {ROOM // MIB} MiB for each client, whatever the size",
        met=grown <= READERS * ROOM,
        details={"read_mib_per_s": Spread.of(rates).median, "before_mib": before / MIB},
    ).emit()


def _private(broadcaster: Broadcaster) -> int:
    return sum(private_apart(pid, broadcaster.slot_dir) for pid in broadcaster.pids)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds: whether it works, not how fast it is")
    arguments = parser.parse_args()
    exit_on_sigterm()
    if why := cogment_sdk.missing():
        Result(question="cogment", case="all cases", what=why, unit="").emit()
        return
    for size, actors in QUICK if arguments.quick else CASES:
        measure(size, actors, 3 if arguments.quick else ROUNDS[size // MIB])
    for size in (SMALLER,) if arguments.quick else (SMALLER, LARGE):
        measure_memory(size, READS)


if __name__ == "__main__":
    main()
