"""How fast is an upload alone, from `publish()` to its acknowledgement, against one TCP connection with the same hash?

    python -m benchmarks.upload [--quick]

Nobody follows. Ours copies the weights (a snapshot: the learner goes on changing them; bytes cannot change and are not copied),
hashes, sends, is hashed again, becomes a version. The peer hashes, sends, is hashed again, is acknowledged; once as it is, and
once with a copy into a kept buffer first, as every publisher needs whose weights may change while they are sent.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

from benchmarks.payload import MIB, size_name
from benchmarks.processes import Broadcaster, Group, exit_on_sigterm
from benchmarks.result import Result, Spread
from benchmarks.usage import Cpu, cpu_of

SIZE = 64 * MIB
ROUNDS, WARM_UP = 40, 12
TARGET = 0.8
PLAIN, COPYING = "one TCP connection, xxh3-128 at both ends", "the same after a copy into a kept buffer"
TENSORS, BYTES = "tensors", "bytes"


def measure(rounds: int) -> None:
    with Broadcaster("--memory-budget", "2GiB") as broadcaster, Group() as group:
        learner = group.start("benchmarks.learner", broadcaster.url, "policy", "--remote")
        receiver = group.start("benchmarks.peers.raw_tcp", "receive", SIZE)
        sender = group.start("benchmarks.peers.raw_tcp", "send", receiver.up()["address"], SIZE)
        learner.up()
        sender.up()
        free: list[float] = []

        def publish(form: str) -> float:
            said = learner.ask(do="publish", size=SIZE, form=form)
            free.append(said["copied"] / 1e6)
            return float(said["done"])

        steps: dict[str, Callable[[], float]] = {
            TENSORS: lambda: publish(TENSORS),
            PLAIN: lambda: float(sender.ask(copy=False)["done"]),
            BYTES: lambda: publish(BYTES),
            COPYING: lambda: float(sender.ask(copy=True)["done"]),
        }
        cores = {
            TENSORS: [learner.pid, *broadcaster.pids],
            BYTES: [learner.pid, *broadcaster.pids],
            PLAIN: [sender.pid, receiver.pid],
            COPYING: [sender.pid, receiver.pid],
        }
        taken: dict[str, list[float]] = {name: [] for name in steps}
        used = {name: Cpu() for name in steps}
        names = list(steps)
        for number in range(WARM_UP + rounds):
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                before = cpu_of(cores[name])
                nanoseconds = steps[name]()
                if number >= WARM_UP:
                    taken[name].append(nanoseconds / 1e9)
                    used[name] += cpu_of(cores[name]) - before
        for form in (TENSORS, BYTES):
            for peer in (PLAIN, COPYING):
                _result(form, peer, taken, used, free[WARM_UP * 2 :]).emit()


def _result(form: str, peer: str, taken: dict[str, list[float]], used: dict[str, Cpu], free: list[float]) -> Result:
    own, other = (Spread.of([SIZE / MIB / one for one in taken[name]]) for name in (form, peer))
    ratio, rounds = own.median / other.median, len(taken[form])
    busy, busy_peer = (used[name].total / sum(taken[name]) for name in (form, peer))
    return Result(
        question="upload",
        case=f"{size_name(SIZE)}, {form}",
        what="publish to acknowledged, nobody follows",
        unit="MiB/s",
        ours=own,
        peer=peer,
        theirs=other,
        ratio=ratio,
        target=f">= {TARGET}" if peer == PLAIN else None,
        met=ratio >= TARGET if peer == PLAIN else None,
        limit=f"{busy:.1f} processors busy (peer {busy_peer:.1f})",
        details={
            "weights_free_ms": Spread.of(free).median,
            "cpu_ms_per_upload": used[form].total / rounds * 1e3,
            "peer_cpu_ms_per_upload": used[peer].total / rounds * 1e3,
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds: whether it works, not how fast it is")
    arguments = parser.parse_args()
    exit_on_sigterm()
    measure(5 if arguments.quick else ROUNDS)


if __name__ == "__main__":
    main()
