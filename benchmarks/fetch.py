"""How fast is an archived version read, against sendfile from the page cache?

    python -m benchmarks.fetch [--quick]

The version is published, archived, and the broadcaster restarted, so it comes from its file, which is in the page cache. Ours is
looked up, read with each MiB compared with its digest at the broadcaster, hashed whole at the client. The peer checks nothing.
"""

from __future__ import annotations

import argparse

from benchmarks.payload import MIB, size_name
from benchmarks.processes import Broadcaster, Child, Failed, Group, exit_on_sigterm
from benchmarks.result import Result, Spread
from benchmarks.usage import Cpu, cpu_of

SIZE = 64 * MIB
ROUNDS, WARM_UP = 25, 4
CLIENTS = (1, 4)
PEER = "sendfile to recv_into one kept buffer"
TARGET = 0.7


class Arm:
    """Clients that begin at the same time; a round ends with the last of them."""

    def __init__(self, clients: list[Child], server: list[int]) -> None:
        self.speeds: list[float] = []
        self.seconds = 0.0
        self.used = Cpu()
        self._clients = clients
        self._pids = [*server, *(client.pid for client in clients)]

    def round(self, *, counts: bool) -> None:
        before = cpu_of(self._pids)
        for client in self._clients:
            client.tell(number=1)
        said = [client.read() for client in self._clients]
        taken = (max(one["end"] for one in said) - min(one["start"] for one in said)) / 1e9
        if counts:
            self.used += cpu_of(self._pids) - before
            self.seconds += taken
            self.speeds.append(len(said) * SIZE / MIB / taken)

    @property
    def busy(self) -> float:
        """Processors at work, on average."""
        return self.used.total / self.seconds


def archive(broadcaster: Broadcaster) -> None:
    """Puts one version into the archive, and takes it out of memory."""
    with Group() as group:
        learner = group.start("benchmarks.learner", broadcaster.url, "policy", "--remote")
        learner.up()
        learner.ask(do="publish", size=SIZE, form="bytes", archived=True)
    broadcaster.restart()
    if broadcaster.stats()["memory_versions"]:
        raise Failed("the version is still in memory")


def measure(broadcaster: Broadcaster, count: int, rounds: int) -> Result:
    with Group() as group:
        blob = max((path for path in broadcaster.archive_dir.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)
        server = group.start("benchmarks.peers.raw_tcp", "serve", blob)
        address = server.up()["address"]
        mine = Arm(group.many(count, "benchmarks.actor", "fetch", broadcaster.url, "policy"), broadcaster.pids)
        peer = Arm(group.many(count, "benchmarks.peers.raw_tcp", "fetch", address, SIZE), [server.pid])
        for number in range(WARM_UP + rounds):
            for arm in (mine, peer) if number % 2 else (peer, mine):
                arm.round(counts=number >= WARM_UP)
        stats = broadcaster.stats()
        own, other = Spread.of(mine.speeds), Spread.of(peer.speeds)
        ratio = own.median / other.median
        return Result(
            question="fetch",
            case=f"{size_name(SIZE)}, {count} {'client' if count == 1 else 'clients'}",
            what="an archived version from the page cache, in sum",
            unit="MiB/s",
            ours=own,
            peer=PEER,
            theirs=other,
            ratio=ratio,
            target=f">= {TARGET}",
            met=ratio >= TARGET,
            limit=f"{mine.busy:.1f} processors busy (peer {peer.busy:.1f})",
            details={
                "cpu_s_per_gib": mine.used.total / (count * rounds * SIZE / (1 << 30)),
                "peer_cpu_s_per_gib": peer.used.total / (count * rounds * SIZE / (1 << 30)),
                "in_memory_afterwards": stats["memory_versions"],
            },
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds: whether it works, not how fast it is")
    arguments = parser.parse_args()
    exit_on_sigterm()
    with Broadcaster() as broadcaster:
        archive(broadcaster)
        for count in CLIENTS:
            measure(broadcaster, count, 5 if arguments.quick else ROUNDS).emit()


if __name__ == "__main__":
    main()
