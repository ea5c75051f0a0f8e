"""Where the time of requests goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from broadcaster.protocol.hops import Hop

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timed:
    """One request that was answered. `round_trip` is in seconds, from the call to its answer; `hops` are the nodes where it was,
    the one that answered it first."""

    what: str
    round_trip: float
    hops: tuple[Hop, ...]


def timed(what: str, turn: Callable[[Any], T], timings: list[Timed]) -> Callable[[Any], T]:
    """`turn`, which makes something of a reply, for a request that is made now: its timing is added to `timings`."""
    began = time.monotonic()

    def turned(reply: Any) -> T:
        timings.append(Timed(what, time.monotonic() - began, reply.hops or ()))
        return turn(reply)

    return turned
