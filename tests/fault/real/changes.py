"""What is done to an archive through a broadcaster, and the system calls with which the broadcaster makes it durable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.bare_peer import BarePeer
from tests.broadcaster_process import BroadcasterProcess, runs_broadcaster
from tests.fault.real.ledger import Ledger
from tests.fault.tracing import CALLS, Point, points, threads, tracing

SMALL, LARGE = 10_000, (2 << 20) + 5


class Change(NamedTuple):
    """`prepare` sets the scene and returns what `act`, which is to be killed, needs."""

    prepare: Callable[[Ledger, BarePeer], int]
    act: Callable[[Ledger, BarePeer, int], object]


def nothing(_ledger: Ledger, _peer: BarePeer) -> int:
    return 0


def several(ledger: Ledger, peer: BarePeer) -> int:
    """Archived versions, two of which are one blob; returns one of them."""
    payload = ledger.payload(SMALL)
    ledger.upload(peer, "many", ledger.payload(SMALL))
    return [ledger.upload(peer, "many", payload) for _ in range(2)][0]


CHANGES = {
    "upload": Change(nothing, lambda ledger, peer, _: ledger.upload(peer, "policy", ledger.payload(SMALL))),
    "upload in chunks": Change(nothing, lambda ledger, peer, _: ledger.upload(peer, "policy", ledger.payload(LARGE))),
    "archive": Change(
        lambda ledger, peer: ledger.publish(peer, "policy", ledger.payload(LARGE)),
        lambda ledger, peer, number: ledger.archive(peer, "policy", number),
    ),
    "delete a version": Change(several, lambda ledger, peer, number: ledger.delete(peer, "many", number)),
    "delete a model": Change(several, lambda ledger, peer, _: ledger.delete(peer, "many")),
    "prune": Change(several, lambda ledger, peer, _: ledger.prune(peer, "many", 1)),
}


def calls_of(broadcaster: BroadcasterProcess, ledger: Ledger, change: Change, log: Path) -> list[tuple[int, Point]]:
    """The calls of each thread (by its place among all) until the change is durable, and one more, with which it says so."""
    with BarePeer(broadcaster.ready) as peer:
        number = change.prepare(ledger, peer)
        with tracing(core(broadcaster), CALLS, log=log, follow=True) as tracer:
            change.act(ledger, peer, number)
    found: list[tuple[int, Point]] = []
    for place, thread in enumerate(threads(core(broadcaster))):
        lines = tracer.seen().get(thread, [])
        durable = [at for at, line in enumerate(lines, 1) if str(broadcaster.archive_dir) in line]
        found += [(place, point) for point in points(lines)[: durable[-1] + 1 if durable else 0]]
    assert len(found) > 8, found
    return found


def living_core(broadcaster: BroadcasterProcess) -> Callable[[], bool]:
    """Tells whether the process that holds the archive now still lives; another in its place is another."""
    pid = core(broadcaster)
    return lambda: runs_broadcaster(pid)


def core(broadcaster: BroadcasterProcess) -> int:
    """The process that holds the archive."""
    return int((broadcaster.archive_dir / "lock").read_text())
