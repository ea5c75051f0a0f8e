"""Time that callers have, and time that they wait here: what nobody waits for any more is not begun."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from broadcaster.broker.rooms import Front
from broadcaster.protocol.errors import RequestTimeout
from broadcaster.protocol.hops import BROADCASTER, Hop
from broadcaster.stats import Stats

T = TypeVar("T")


class Timing:
    """One request's way through this node; made for who asked for it only.

    `wall` tells ns since 1970, for people to look at; `clock` tells ns that only ever grow, for how long something took.
    """

    def __init__(self, node: str, wall: Callable[[], int], clock: Callable[[], int]) -> None:
        self._node = node
        self._wall = wall
        self._clock = clock
        self._received = wall()
        self._queued = 0
        self._since: int | None = None

    def waits(self) -> None:
        """It waits for a thread."""
        self._since = self._clock()

    def begins(self) -> None:
        """The thread does its work."""
        if self._since is not None:
            self._queued += self._clock() - self._since
            self._since = None

    def hops(self) -> tuple[Hop, ...]:
        """As it is answered now."""
        hop = Hop(node=self._node, role=BROADCASTER, received=self._received, sent=self._wall(), queued=self._queued)
        return (hop,)


class Waiter(Protocol):
    """Whoever waits for work to be done: a caller, or an upload with a caller that may change."""

    @property
    def expires(self) -> float:
        """When its time is over, on the broker's clock."""
        ...

    @property
    def timing(self) -> Timing | None: ...


class Waiting:
    """Looks at the time of whoever waits, and counts what was not begun. `clock` tells seconds."""

    def __init__(self, front: Front, stats: Stats, clock: Callable[[], float]) -> None:
        self._front = front
        self._stats = stats
        self.clock = clock

    def require_time(self, waiter: Waiter) -> None:
        """Raises RequestTimeout when the waiter's time is over: nobody waits for what would be done now. On the loop."""
        if self.clock() >= waiter.expires:
            raise self.expired()

    def expired(self) -> RequestTimeout:
        """What is said of work that is not begun. On the loop."""
        self._stats.count("requests_expired")
        return _expired()

    def in_time(self, waiter: Waiter, job: Callable[[], T]) -> Callable[[], T]:
        """`job` for a worker: RequestTimeout instead when the waiter's time is over by the time a thread has come to it."""
        if waiter.timing is not None:
            waiter.timing.waits()

        def begun() -> T:
            if self.clock() >= waiter.expires:
                self._front.post(lambda: self._stats.count("requests_expired"))
                raise _expired()
            if waiter.timing is not None:
                waiter.timing.begins()
            return job()

        return begun


def _expired() -> RequestTimeout:
    return RequestTimeout(what="the request", timeout="its budget of time")
