"""Time that callers have and time that they wait, on clocks that stand still until they are moved."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from broadcaster.broker import Timing
from broadcaster.broker.waiting import Waiting
from broadcaster.protocol.errors import RequestTimeout
from broadcaster.stats import Stats


class Someone:
    """Who waits, until `expires`."""

    def __init__(self, expires: float, timing: Timing | None = None) -> None:
        self.expires = expires
        self.timing = timing


class Loop:
    """Takes posts, and runs them when it is told."""

    def __init__(self) -> None:
        self.posted: list[Callable[[], None]] = []

    def post(self, done: Callable[[], None]) -> None:
        self.posted.append(done)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def made() -> tuple[Waiting, Clock, Stats, Any]:
    clock, stats, loop = Clock(), Stats(), Loop()
    return Waiting(loop, stats, clock), clock, stats, loop  # type: ignore[arg-type]  # of a Front it needs the posts alone


@pytest.mark.parametrize(("expires", "in_time"), [(101.0, True), (float("inf"), True), (100.0, False), (99.0, False)])
def test_who_has_no_time_is_refused_and_counted(expires: float, in_time: bool) -> None:
    waiting, _, stats, _ = made()
    if in_time:
        waiting.require_time(Someone(expires))
    else:
        with pytest.raises(RequestTimeout):
            waiting.require_time(Someone(expires))
    assert stats.values()["requests_expired"] == (0 if in_time else 1)


def test_a_job_that_a_thread_comes_to_in_time_is_done() -> None:
    waiting, clock, stats, _ = made()
    job = waiting.in_time(Someone(105.0), lambda: "done")
    clock.now = 104.9
    assert job() == "done" and stats.values()["requests_expired"] == 0


def test_a_job_that_nobody_waits_for_any_more_is_not_begun_and_counted_on_the_loop() -> None:
    waiting, clock, stats, loop = made()
    begun: list[str] = []
    job = waiting.in_time(Someone(105.0), lambda: begun.append("begun"))
    clock.now = 105.0
    with pytest.raises(RequestTimeout):
        job()
    assert begun == [] and stats.values()["requests_expired"] == 0, "not on the worker's thread"
    for done in loop.posted:
        done()
    assert stats.values()["requests_expired"] == 1


def test_whoever_asks_again_with_more_time_has_the_job_done() -> None:
    waiting, clock, _, _ = made()
    someone = Someone(105.0)
    job = waiting.in_time(someone, lambda: "done")
    clock.now, someone.expires = 110.0, 120.0
    assert job() == "done"


def test_the_wait_for_each_thread_is_added_up() -> None:
    waiting, _, _, _ = made()
    clock = iter([10, 25, 100, 105])
    timing = Timing("lab", iter([1_000, 2_000, 3_000]).__next__, clock.__next__)
    assert timing.hops()[0].queued == 0
    waiting.in_time(Someone(200.0, timing), lambda: None)()
    waiting.in_time(Someone(200.0, timing), lambda: None)()
    timing.begins()
    (hop,) = timing.hops()
    assert (hop.received, hop.sent, hop.queued) == (1_000, 3_000, 15 + 5)
