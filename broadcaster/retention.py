"""Which archived versions a policy lets go, and why the others stay. Pure: decides what to delete, deletes nothing.

A decision made again after its deletions lets nothing more go, unless time has passed: so it may be cut short anywhere, and a
look beforehand shows exactly what will happen.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from broadcaster.protocol.retention import RetentionPolicy
from broadcaster.protocol.version import VersionInfo

JUMP = 3600.0
"""Seconds: when the wall clock has moved by so much more, or less, than the monotonic one, no age is believed."""


@dataclass(frozen=True, slots=True)
class Decision:
    """What a policy says of a model's archived versions."""

    going: tuple[VersionInfo, ...] = ()
    """Ascending."""
    staying: Mapping[int, str] = field(default_factory=dict)
    """Number -> the first reason that was found to keep it."""


def decide(infos: Iterable[VersionInfo], aliases: Mapping[str, int], policy: RetentionPolicy | None, now: int) -> Decision:
    """Judges the archived versions of one model, given in ascending order; `now` is in nanoseconds since 1970.

    Any rule keeps a version. The newest one, those that an alias names and those that are pinned stay whatever the rules
    are; without a rule all stay.
    """
    versions = list(infos)
    if policy is None or policy.is_empty:
        return Decision((), {info.number: "there is no policy" for info in versions})
    staying: dict[int, str] = {}
    for numbers, reason in _reasons(versions, aliases, policy, now):
        for number in numbers:
            staying.setdefault(number, reason)
    return Decision(tuple(info for info in versions if info.number not in staying), staying)


def _reasons(
    versions: list[VersionInfo], aliases: Mapping[str, int], policy: RetentionPolicy, now: int
) -> Iterable[tuple[Iterable[int], str]]:
    known = {info.number for info in versions}
    yield [info.number for info in versions[-1:]], "it is the newest"
    for alias, number in sorted(aliases.items()):
        yield {number} & known, f"alias {alias} names it"
    yield [info.number for info in versions if info.pinned], "it is pinned"
    if policy.last is not None:
        yield [info.number for info in versions[-policy.last :]], f"it is one of the last {policy.last}"
    if policy.every is not None:
        yield [info.number for info in versions if info.number % policy.every == 0], f"it is a multiple of {policy.every}"
    if policy.best is not None:
        yield _best(versions, policy.best, policy.mode, policy.count), f"it is one of the {policy.count} best by {policy.best}"
    if policy.age is not None:
        youngest_to_go = now - int(policy.age * 1e9)
        yield [info.number for info in versions if info.creation_timestamp > youngest_to_go], f"it is under {policy.age:g} s old"


def _best(versions: list[VersionInfo], metric: str, mode: str, count: int) -> list[int]:
    """The numbers of the best; of equal ones the newest, NaN never wins."""
    sign = 1.0 if mode == "max" else -1.0
    values = ((info.metrics.get(metric, math.nan), info.number) for info in versions)
    return [number for _, number in heapq.nlargest(count, [(sign * value, n) for value, n in values if not math.isnan(value)])]


class ClockGuard:
    """Whether ages may be believed: the wall clock is compared with the monotonic one from a moment at which it was trusted.

    A clock that was set (or a host that slept) makes versions look older than they are. It is trusted again when both clocks
    agree again, or when somebody who looked at it says so.
    """

    def __init__(self, wall: int, now: float) -> None:
        self.trust(wall, now)

    def trust(self, wall: int, now: float) -> None:
        """From here on; `wall` in nanoseconds since 1970, `now` in seconds of the monotonic clock."""
        self._wall, self._now = wall, now

    def moved(self, wall: int, now: float) -> float:
        """Seconds by which the wall clock has gone ahead of (or, negative, fallen behind) the monotonic one."""
        return (wall - self._wall) / 1e9 - (now - self._now)

    def believes(self, wall: int, now: float) -> bool:
        """Whether that is little enough."""
        return abs(self.moved(wall, now)) <= JUMP
