"""Who follows which model, and how far each is. Pure: the clock is an argument, and what is newest is too."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from broadcaster.protocol.limits import ACK_IDLE, ACK_INTERVAL, ACK_SILENT, NAME, SUBSCRIBERS

Key = tuple[str, str]
"""(namespace, model_id)"""

ALL_SUBSCRIBERS = 50_000
"""Subscribers that are remembered over all models: about 25 MiB."""
RATE = 500
"""Acks a second that all subscribers together are asked to stay below: each costs the loop about a tenth of a millisecond."""
GRAIN = 0.1
"""Seconds within which two versions count as published at the same time."""
TIMES = 512
"""Times of publication that are remembered of a model: more than `ACK_SILENT` and `ACK_IDLE` together, at one each GRAIN."""


@dataclass(slots=True)
class Acked:
    """One subscriber. `base` is what it lags from while it has applied nothing: one less than was newest when it came."""

    subscriber: bytes
    base: int
    joined: float
    heard: float
    name: str | None = None
    received: int = 0
    applied: int = 0
    behind: float | None = None
    """When the oldest version that it had not applied was published, as of its last ack."""

    @property
    def at(self) -> int:
        """The number that it lags from."""
        return self.applied or self.base


@dataclass(slots=True)
class _Line:
    """One model that somebody follows."""

    subscribers: OrderedDict[bytes, Acked] = field(default_factory=OrderedDict)
    """By id, the one silent for longest first."""
    ids: list[bytes] = field(default_factory=list)
    """Ascending: pages are cut out of it."""
    numbers: deque[int] = field(default_factory=lambda: deque(maxlen=TIMES))
    times: deque[float] = field(default_factory=lambda: deque(maxlen=TIMES))
    """When each of `numbers`, the first of its grain, was published."""
    newest: tuple[int, float] = (0, 0.0)
    """The number that was published last, and when."""


class AckTable:
    """The subscribers of all models. One that is silent for `silent` seconds is forgotten; where there are more than are
    remembered, so is the one silent for longest."""

    def __init__(self, *, silent: float = ACK_SILENT, most: int = SUBSCRIBERS, most_of_all: int = ALL_SUBSCRIBERS) -> None:
        self._silent = silent
        self._most = most
        self._most_of_all = most_of_all
        self._lines: dict[Key, _Line] = {}
        self._heard: OrderedDict[tuple[Key, bytes], float] = OrderedDict()
        """When each was heard last, the one silent for longest first."""

    # --- what comes --------------------------------------------------------------------------------------------------

    def published(self, key: Key, number: int, now: float) -> None:
        """The next version of a model is out. Costs a look-up for a model that nobody follows."""
        line = self._lines.get(key)
        if line is None:
            return
        line.newest = number, now
        if not line.times or now - line.times[-1] >= GRAIN:
            line.numbers.append(number)
            line.times.append(now)

    def heard(
        self, key: Key, subscriber: bytes, name: str | None, *, received: int, applied: int, newest: int, last: int, now: float
    ) -> None:
        """A subscriber is at these numbers, which never go back. `newest` is the newest version that can be fetched (0: none) and
        `last` the highest number ever given out: nobody is beyond that."""
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line()
        acked = line.subscribers.get(subscriber)
        if acked is None:
            acked = line.subscribers[subscriber] = Acked(subscriber, max(0, newest - 1), now, now)
            insort(line.ids, subscriber)
        acked.name = acked.name if name is None else name[:NAME]
        acked.heard = self._heard[key, subscriber] = now
        line.subscribers.move_to_end(subscriber)
        self._heard.move_to_end((key, subscriber))
        before = acked.at
        acked.applied = max(acked.applied, min(applied, last))
        acked.received = max(acked.received, acked.applied, min(received, last))
        if acked.at != before or acked.behind is None:
            acked.behind = _published(line, acked.at) if acked.at < newest else None
        if len(line.subscribers) > self._most:
            self.gone(key, next(iter(line.subscribers)))
        elif len(self._heard) > self._most_of_all:
            self.gone(*next(iter(self._heard)))

    def gone(self, key: Key, subscriber: bytes) -> None:
        """A subscriber will say no more."""
        line = self._lines.get(key)
        if line is None or line.subscribers.pop(subscriber, None) is None:
            return
        del line.ids[bisect_right(line.ids, subscriber) - 1]
        del self._heard[key, subscriber]
        if not line.subscribers:
            del self._lines[key]

    def forget_silent(self, now: float) -> list[Key]:
        """Forgets who was silent for too long; the models that they followed."""
        left: list[Key] = []
        while self._heard:
            (key, subscriber), heard = next(iter(self._heard.items()))
            if now - heard < self._silent:
                break
            self.gone(key, subscriber)
            left.append(key)
        return left

    # --- what is asked -----------------------------------------------------------------------------------------------

    def follows(self, key: Key) -> bool:
        """Whether anybody follows this model."""
        return key in self._lines

    @property
    def count(self) -> int:
        """Subscribers over all models."""
        return len(self._heard)

    @property
    def pace_ms(self) -> int | None:
        """Milliseconds that each subscriber shall let pass between two acks; None for what is usual."""
        pace = min(ACK_IDLE, len(self._heard) / RATE)
        return round(pace * 1000) if pace > ACK_INTERVAL else None

    def published_at(self, key: Key, number: int) -> float | None:
        """When a version was published, if it is the one that was last, and somebody followed the model then."""
        line = self._lines.get(key)
        return line.newest[1] if line is not None and line.newest[0] == number else None

    def counts(self, key: Key) -> Counts:
        """How far the subscribers of a model are, to be asked for many numbers."""
        line = self._lines.get(key)
        found = () if line is None else line.subscribers.values()
        return Counts(sorted(one.received for one in found), sorted(one.applied for one in found))

    def page(self, key: Key, after: bytes | None, limit: int) -> list[Acked]:
        """At most `limit` subscribers of a model in order of their ids, from the one behind `after`."""
        line = self._lines.get(key)
        if line is None:
            return []
        first = 0 if after is None else bisect_right(line.ids, after)
        return [line.subscribers[one] for one in line.ids[first : first + limit]]

    def behind(self, newest: Callable[[Key], int]) -> Iterator[Behind]:
        """The models that somebody lags in, given the newest version of each."""
        for key, line in self._lines.items():
            number = newest(key)
            late = [one for one in line.subscribers.values() if one.at < number]
            if late:
                yield Behind(key, number, len(late), min(one.at for one in late), min(_since(line, one) for one in late))

    def since(self, key: Key, acked: Acked) -> float:
        """When the oldest version that a subscriber has not applied was published, or when it came if that is later."""
        return _since(self._lines[key], acked)


@dataclass(frozen=True, slots=True)
class Counts:
    """The numbers that the subscribers of one model have received and applied, ascending."""

    all_received: list[int]
    all_applied: list[int]

    def received(self, number: int) -> int:
        """How many have received `number` or a newer one."""
        return len(self.all_received) - bisect_right(self.all_received, number - 1)

    def applied(self, number: int) -> int:
        """How many have applied `number` or a newer one."""
        return len(self.all_applied) - bisect_right(self.all_applied, number - 1)


class Behind(NamedTuple):
    """How far the subscribers of one model lag: `late` of them do, the last of them from number `at` on, the longest `since`
    then."""

    key: Key
    newest: int
    late: int
    at: int
    since: float


def _since(line: _Line, acked: Acked) -> float:
    behind = acked.behind if acked.behind is not None else _published(line, acked.at)
    return acked.joined if behind is None else max(behind, acked.joined)


def _published(line: _Line, number: int) -> float | None:
    """When the first version above `number` was published; the longest ago that is remembered, if it was before that; None if it
    was before anybody followed the model."""
    at = bisect_right(line.numbers, number + 1) - 1
    if at < 0 and len(line.times) < TIMES:
        return None
    return line.times[max(0, at)]
