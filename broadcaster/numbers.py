"""Version numbers: taken at commit, from blocks that were durable before. Pure: says what to reserve, reserves nothing.

A number is never used twice, transient ones included: whatever was reserved counts as used after a crash. A block is refilled
when half of it is used, and sized so that the other half lasts ten minutes at the pace that was seen: that is how long the live
path outlasts a dead disk. A model whose pace is not known has small ones, so that a crash skips few numbers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Key = tuple[str, str]
"""(namespace, model_id)"""
NO_MODEL = ("", "")
"""In the place of a model: the numbers of models without a floor are above this one's."""

FIRST_BLOCK = 1024
"""Numbers reserved for a model whose pace is not known."""
LASTS = 600.0
"""Seconds that half a block should last."""
GROWTH = 8
"""How many times larger than the last one a block is at most: one burst is no pace yet."""


@dataclass(slots=True)
class _Line:
    used: int
    """The last number taken; the next is one more."""
    ceiling: int
    """The last number that is durably reserved."""
    block: int = FIRST_BLOCK
    wanted: int = 0
    """The ceiling that was asked for and is not durable yet, or 0."""
    refilled: float | None = None
    """When the newest block became durable, until it was weighed."""
    marked: int = 0
    """The last number taken then."""


class Numbers:
    """The lines of numbers of all models, deleted ones included."""

    def __init__(self, floors: dict[Key, int]) -> None:
        self._least = floors.get(NO_MODEL, 0)
        self._lines = {key: _Line(floor, floor) for key, floor in floors.items() if key != NO_MODEL}
        self._floors = dict(floors)

    def take(self, key: Key) -> int | None:
        """The next number of this model; None while no durable block has one (then `wants` names what to reserve)."""
        line = self._lines.get(key)
        if line is None or line.used >= line.ceiling:
            return None
        line.used += 1
        return line.used

    def floor(self, key: Key) -> int:
        """The number above which all are of this life, one after the other: those up to it may never have been taken."""
        return self._floors.get(key, self._least)

    def last(self, key: Key) -> int:
        """The last number taken, 0 for none."""
        line = self._lines.get(key)
        return 0 if line is None else line.used

    def wants(self, key: Key, now: float) -> int | None:
        """The ceiling to make durable now, or None while there is enough or a reservation is under way."""
        line = self._lines.setdefault(key, _Line(self._least, self._least))
        if line.wanted or line.ceiling - line.used > line.block // 2:
            return None
        if line.refilled is not None and now - line.refilled < LASTS:
            pace = (line.used - line.marked) / max(now - line.refilled, 1e-3)
            line.block = min(max(2 * line.block, math.ceil(2 * pace * LASTS)), GROWTH * line.block)
            line.refilled = None  # Once for each refill: a disk that fails is asked again and again.
        line.wanted = line.used + line.block
        return line.wanted

    def reserved(self, key: Key, ceiling: int, now: float) -> None:
        """`ceiling` is durable."""
        line = self._lines[key]
        line.ceiling, line.wanted, line.refilled, line.marked = max(line.ceiling, ceiling), 0, now, line.used

    def failed(self, key: Key) -> None:
        """The reservation failed: the next `wants` asks again."""
        self._lines[key].wanted = 0

    def used(self) -> dict[Key, int]:
        """The last number taken of each line: what a clean stop may lower the floors to."""
        return {key: line.used for key, line in self._lines.items()}
