"""How long until the last of N actors on the learner's host holds a verified view, against one memcpy and what else there is?

    python -m benchmarks.host [--quick] [--actors N ...] [--peer NAME ...]

The view is verified once per host. All arms are up at the same time and take turns, round by round; a slow one takes part in
fewer rounds, and the next one begins when every reader of the last one has said that it has the payload. The limit is one memcpy
of the same bytes into warm shared memory, by the learner's process.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from types import ModuleType

from benchmarks.arm import Arm, ours, require
from benchmarks.payload import MIB, size_name
from benchmarks.peers import file_replace, gloo, grpc_stream, ray_store, redis_store, zmq_proxy
from benchmarks.processes import Broadcaster, Group, exit_on_sigterm
from benchmarks.result import Result, Spread, percentile

PEERS: dict[str, ModuleType] = {
    "zmq": zmq_proxy,
    "redis": redis_store,
    "ray": ray_store,
    "gloo": gloo,
    "grpc": grpc_stream,
    "file": file_replace,
}
SMALL, LARGE, HUGE = 4 << 10, 64 * MIB, 256 * MIB
SIZES = {
    1: (SMALL, MIB, 16 * MIB, LARGE, HUGE),
    4: (SMALL, 64 << 10, MIB, 16 * MIB, LARGE, HUGE),
    16: (SMALL, MIB, 16 * MIB, LARGE, HUGE),
    64: (SMALL, MIB, LARGE),
}
QUICK = {4: (SMALL, LARGE), 16: (LARGE,)}
"""All peers in the first, none in the second."""
OURS, LIMIT, ALONE = "ours", "one memcpy", "the same to 1 actor"
READER = "maps the slot; the broadcaster has verified it for the host"
WARM_UP, WARM_UP_PEER = 14, 2
"""Rounds that do not count: more than there are slots, so that all memory has been written before; peers keep two buffers."""
SECONDS, LEAST, MOST = 0.4, 3, 60
"""Seconds that one arm may take for the counted rounds of a case, and how many these are."""
LEAST_OURS = 15
MAPPING = {"ray", "file"}
"""Peers whose readers have no memory of their own."""


def left_out(name: str, size: int, actors: int) -> str:
    """Why a peer has no part in a case; empty when it has."""
    if actors >= 64 and name in ("ray", "gloo"):
        return "one interpreter with its library for each of 64 actors takes most of the memory and minutes to start"
    if name in PEERS and name not in MAPPING and (size * actors > 16 * LARGE or (size == HUGE and actors > 1)):
        return "each reader has buffers of its own: together they take many GiB, and a round takes seconds"
    return ""


@dataclass(frozen=True, slots=True)
class Target:
    """`met` answers for the medians of ours and the other, in milliseconds."""

    words: str
    factor: float
    more: float = 0.0

    def met(self, own: float, other: float) -> bool:
        return own <= self.factor * other + self.more


TARGETS = {(LARGE, actors, LIMIT): Target("<= 2.0 × + 2 ms (aim: 1.5 × + 0.5 ms)", 2.0, 2.0) for actors in (1, 4, 16)} | {
    (LARGE, 16, ALONE): Target("<= 1.5 (aim: 1.25)", 1.5),
    (LARGE, 16, "ray"): Target("<= 1/5", 1 / 5),
    (LARGE, 16, "zmq"): Target("<= 1/20", 1 / 20),
    (LARGE, 16, "redis"): Target("<= 1/80", 1 / 80),
    (MIB, 4, LIMIT): Target("ours <= 0.6 ms (aim: 0.25 ms)", 0.0, 0.6),
    (SMALL, 16, "zmq"): Target("<= 1.5 (aim: 1.0)", 1.5),
}


def arms(group: Group, broadcaster: Broadcaster, actors: int, peers: list[str]) -> dict[str, Arm]:
    """Everything that takes part with so many actors."""
    mine = ours(group, broadcaster, actors)
    found = {OURS: mine, LIMIT: Arm(mine.sender, [], [], {"do": "memcpy"})}
    if actors == 16:
        found[ALONE] = ours(group, broadcaster, 1, "alone")
    for name in peers:
        if not left_out(name, SMALL, actors):
            found[name] = PEERS[name].start(group, actors)
    return found


def case(arms: dict[str, Arm], size: int, actors: int, *, quick: bool) -> None:
    """One size: warm-up, then the rounds, then a line for each comparison."""
    part = {name: arm for name, arm in arms.items() if not left_out(name, size, actors) and (name != ALONE or size == LARGE)}
    for arm in part.values():
        arm.resize(size)
    counts = _warm_up(part, quick=quick)
    rounds, names = max(counts.values()), list(part)
    for number in range(rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            if (number + 1) * counts[name] // rounds != number * counts[name] // rounds:
                part[name].round(WARM_UP + number)
    if size >= MIB:
        require(part[OURS], "shared")
    _report(part, size, actors)


def _warm_up(part: dict[str, Arm], *, quick: bool) -> dict[str, int]:
    """In how many rounds each arm takes part: as many as its share of the time allows; ours and what is ours in as many."""
    counts = {}
    for name, arm in part.items():
        for number in range(1, (WARM_UP_PEER if name in PEERS else WARM_UP) + 1):
            arm.round(number)
            if name in PEERS and arm.latency[-1] > SECONDS * 1e3:
                break
        taken = percentile(arm.latency[-3:], 50) / 1e3
        least = LEAST if name in PEERS else LEAST_OURS
        counts[name] = LEAST if quick else min(max(round(SECONDS / taken), least), MOST)
        arm.count_from_here()
    return counts | {name: counts[OURS] for name in (LIMIT, ALONE) if name in counts}


def _report(part: dict[str, Arm], size: int, actors: int) -> None:
    own = Spread.of(part[OURS].latency)
    for name, arm in part.items():
        if name == OURS:
            continue
        other, target = Spread.of(arm.latency), TARGETS.get((size, actors, name))
        peer = PEERS[name].NAME if name in PEERS else name
        Result(
            question="host",
            case=f"{size_name(size)} to {actors}",
            what="publish to ready at the last of N actors",
            unit="ms",
            ours=own,
            peer=peer,
            theirs=other,
            ratio=own.median / other.median,
            target=target.words if target else None,
            met=target.met(own.median, other.median) if target else None,
            details={
                "bytes": size,
                "actors": actors,
                "delivery": part[OURS].delivery,
                "reader": READER,
                "peer_reader": PEERS[name].READER if name in PEERS else READER if name == ALONE else "nobody reads",
                "weights_free_ms": Spread.of(part[OURS].copied).median,
            },
        ).emit()


def gaps(wanted: list[str], groups: dict[int, tuple[int, ...]]) -> list[str]:
    """Says which peers have no part, in all cases or in some, and why; returns those that have one."""
    there = []
    for name in wanted:
        if why := PEERS[name].missing():
            _missing(PEERS[name].NAME, why)
            continue
        there.append(name)
        cases: dict[str, list[str]] = {}
        for actors, sizes in groups.items():
            for size in sizes:
                if why := left_out(name, size, actors):
                    cases.setdefault(why, []).append(f"{size_name(size)} to {actors}")
        for why, some in cases.items():
            _missing(f"{PEERS[name].NAME}, left out of {', '.join(some)}", why)
    return there


def _missing(case: str, why: str) -> None:
    Result(question="host", case=case, what=why, unit="").emit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few rounds: whether it works, not how fast it is")
    parser.add_argument("--actors", type=int, nargs="+", help="only these numbers of actors")
    parser.add_argument("--peer", nargs="*", choices=list(PEERS), help="only these peers")
    arguments = parser.parse_args()
    exit_on_sigterm()
    groups = QUICK if arguments.quick else SIZES
    groups = {actors: sizes for actors, sizes in groups.items() if not arguments.actors or actors in arguments.actors}
    peers = gaps(list(PEERS) if arguments.peer is None else arguments.peer, groups)
    for actors, sizes in groups.items():
        with Broadcaster("--memory-budget", "4GiB") as broadcaster, Group() as group:
            taking = arms(group, broadcaster, actors, [] if arguments.quick and actors > 4 else peers)
            for size in sizes:
                case(taking, size, actors, quick=arguments.quick)


if __name__ == "__main__":
    main()
