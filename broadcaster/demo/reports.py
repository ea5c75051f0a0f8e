"""What the learner and the actors tell the process that shows the run: small msgpack messages, one way."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import msgpack
import zmq


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorReport:
    """What an actor saw since its last report."""

    actor: int
    version: int
    """The version it acts with now."""
    visible_ms: list[float]
    """For each version it received: milliseconds from the publication to the moment when `latest()` handed it out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerReport:
    """What the learner did since its last report; `version` and `mean_return` are as they stand now."""

    version: int
    mean_return: float
    """Over the last 100 episodes, or as many as there have been."""
    versions: int
    used: int
    """Samples it learned from, or will."""
    dropped: int
    """Samples it refused because the policy that made them was too old."""
    returns: list[float]
    """Of the episodes that ended."""
    lags: dict[int, dict[int, int]] = field(default_factory=dict)
    """By actor: how many steps arrived so many versions behind the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """The learner's last word."""

    solved: bool
    mean_return: float
    best: int
    """Number of the archived version."""
    best_return: float
    """The mean return that was known when it was published."""
    size: int
    """Bytes of its payload."""
    sha256: str
    """Of its payload, in hex."""


Report = ActorReport | LearnerReport | Finished
_KINDS: dict[str, type[Report]] = {kind.__name__: kind for kind in (ActorReport, LearnerReport, Finished)}


class Reporter:
    """A child's end: sends reports, and drops them when nobody takes any."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self._socket = context.socket(zmq.PUSH)
        self._socket.linger = 1000
        self._socket.connect(address)

    def send(self, report: Report) -> None:
        try:
            self._socket.send(msgpack.packb([type(report).__name__, asdict(report)]), zmq.NOBLOCK)
        except zmq.Again:
            return  # Only the picture suffers: the training must not wait for its spectator.


class ReportDesk:
    """The spectator's end, bound to `address`."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], address: str) -> None:
        self._socket = context.socket(zmq.PULL)
        self._socket.bind(address)

    def receive(self, milliseconds: int) -> list[Report]:
        """All reports that are there; waits up to so long for the first."""
        found: list[Report] = []
        while self._socket.poll(0 if found else milliseconds):
            kind, fields = msgpack.unpackb(self._socket.recv(), strict_map_key=False)
            found.append(_make(kind, fields))
        return found

    def close(self) -> None:
        self._socket.close(linger=0)


def _make(kind: str, fields: dict[str, Any]) -> Report:
    return _KINDS[kind](**fields)
