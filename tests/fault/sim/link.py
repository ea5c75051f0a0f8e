"""A simulated link: what goes in comes out later, not at all, twice, or in another order. Seeded; the clock is an argument."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

Frames = Sequence[bytes]


@dataclass(frozen=True, slots=True)
class Faults:
    """What a link does to messages. Probabilities for each message, delays in seconds."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: bool = False
    delay: float = 0.01
    """The longest time under way."""


NONE = Faults()


class Link:
    """One direction. Frames are bytes: what is sent is what was in the buffer at that time."""

    def __init__(self, random: Random, faults: Faults = NONE) -> None:
        self.faults = faults
        self.cuts = 0
        self._random = random
        self._last = 0.0
        self._count = 0
        self._under_way: list[tuple[float, int, Frames]] = []

    def send(self, frames: Frames, now: float) -> None:
        """Takes a message. It is lost, comes once or twice, behind all before it unless the link reorders."""
        random, faults = self._random, self.faults
        if random.random() < faults.loss:
            return
        for _ in range(2 if random.random() < faults.duplicate else 1):
            at = now + random.random() * faults.delay
            if not faults.reorder:
                at = self._last = max(at, self._last)
            self._count += 1
            heapq.heappush(self._under_way, (at, self._count, frames))

    def cut(self) -> None:
        """The connection is lost, and a new one is there: everything under way is gone."""
        self.cuts += 1
        self._under_way.clear()

    @property
    def deadline(self) -> float | None:
        """When the next message comes out."""
        return self._under_way[0][0] if self._under_way else None

    def take(self, now: float) -> Frames | None:
        """The next message that is there by now."""
        if self._under_way and self._under_way[0][0] <= now:
            return heapq.heappop(self._under_way)[2]
        return None


def profile(random: Random) -> Faults:
    """Any mixture of faults, from a slow link to one that loses a quarter and reorders the rest."""
    return Faults(
        loss=random.choice([0.0, 0.02, 0.1, 0.25]),
        duplicate=random.choice([0.0, 0.1, 0.3]),
        reorder=random.random() < 0.5,
        delay=random.choice([0.001, 0.05, 0.7]),
    )


def connection(random: Random) -> Faults:
    """What a connection does between two cuts: everything comes, once, in order, some time."""
    return Faults(delay=random.choice([0.001, 0.05, 0.7]))


def lossy_push(random: Random) -> Faults:
    """What PUB does: in order, once, and sometimes not at all."""
    return Faults(loss=random.choice([0.0, 0.05, 0.3, 0.6]), delay=random.choice([0.001, 0.05, 0.7]))
