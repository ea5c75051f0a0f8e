"""The figures of a run, added up from the reports of its processes. Time is an argument."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from broadcaster.demo.reports import ActorReport, Finished, LearnerReport, Report

Value = TypeVar("Value", bound=float)

RECENT = 3.0
"""Seconds over which a rate counts as the present one."""
KEPT = 200_000
"""Latencies kept of one actor: more than a long run makes."""


def percentile(counts: Mapping[Value, int], share: float) -> Value | None:
    """The smallest value that is at least as large as `share` (0 to 1) of all; None when there is none."""
    total, seen = sum(counts.values()), 0
    for value in sorted(counts):
        seen += counts[value]
        if seen >= share * total:
            return value
    return None


class Rate:
    """How often something has happened lately."""

    def __init__(self) -> None:
        self._events: deque[tuple[float, int]] = deque()

    def add(self, count: int, now: float) -> None:
        self._events.append((now, count))
        while now - self._events[0][0] > RECENT:
            self._events.popleft()

    def per_second(self, now: float, since: float) -> float:
        """Events per second in the last `RECENT` seconds, or since `since` if that is not so long ago."""
        span = max(min(RECENT, now - since), 1e-9)
        return sum(count for at, count in self._events if now - at <= RECENT) / span


@dataclass(slots=True)
class ActorTally:
    """What is known of one actor."""

    version: int = 0
    visible_ms: deque[float] = field(default_factory=lambda: deque(maxlen=KEPT))
    lags: Counter[int] = field(default_factory=Counter)

    def visible(self, share: float) -> float | None:
        """Milliseconds from publication to visibility."""
        return percentile(Counter(self.visible_ms), share)

    def lag(self, share: float) -> float | None:
        """Versions that a sample was behind the newest when the learner got it."""
        return percentile(self.lags, share)


@dataclass(frozen=True, slots=True)
class Point:
    """The state of the training at one moment, for the learning curve."""

    seconds: float
    version: int
    samples: int
    mean_return: float


class Tally:
    """All figures of a run that began at `started` on the clock that `now` is always read from."""

    def __init__(self, actors: int, started: float) -> None:
        self.started = started
        self.actors = [ActorTally() for _ in range(actors)]
        self.version = self.versions = self.used = self.dropped = self.episodes = 0
        self.mean_return = 0.0
        self.curve: list[Point] = []
        self.returns: list[tuple[float, float]] = []
        """(seconds, return) of each episode."""
        self.finished: Finished | None = None
        self.ended = started
        """When the learner had said its last word."""
        self.first_version: float | None = None
        """When training began: seconds since the start, or None."""
        self._version_rate, self._episode_rate = Rate(), Rate()

    def receive(self, reports: Iterable[Report], now: float) -> None:
        """Adds reports."""
        for report in reports:
            if isinstance(report, ActorReport):
                self.actors[report.actor].version = report.version
                self.actors[report.actor].visible_ms.extend(report.visible_ms)
            elif isinstance(report, LearnerReport):
                self._learned(report, now)
            else:
                self.finished, self.ended = report, now

    def versions_per_second(self, now: float) -> float:
        """Over the last seconds."""
        return self._version_rate.per_second(now, self._training_since(now))

    def episodes_per_second(self, now: float) -> float:
        """Over the last seconds."""
        return self._episode_rate.per_second(now, self._training_since(now))

    def visible(self, share: float) -> float | None:
        """Milliseconds from publication to visibility, over all actors."""
        return percentile(Counter(value for actor in self.actors for value in actor.visible_ms), share)

    def lag(self, share: float) -> float | None:
        """Versions that a sample was behind the newest when the learner got it, over all actors."""
        return percentile(sum((actor.lags for actor in self.actors), Counter[int]()), share)

    def _learned(self, report: LearnerReport, now: float) -> None:
        seconds = now - self.started
        if self.first_version is None:
            self.first_version = seconds
        self.version, self.mean_return = report.version, report.mean_return
        self.versions += report.versions
        self.used += report.used
        self.dropped += report.dropped
        self.episodes += len(report.returns)
        self._version_rate.add(report.versions, now)
        self._episode_rate.add(len(report.returns), now)
        for actor, lags in report.lags.items():
            self.actors[actor].lags.update(lags)
        self.returns.extend((seconds, value) for value in report.returns)
        self.curve.append(Point(seconds, self.version, self.used + self.dropped, self.mean_return))

    def _training_since(self, now: float) -> float:
        return now if self.first_version is None else self.started + self.first_version
