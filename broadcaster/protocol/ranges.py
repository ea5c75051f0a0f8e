"""Numbers of versions that were deleted, as ranges: (first, last), both included, ascending, never touching. Pure.

Numbers that follow each other are one range, and where there are too many ranges, numbers between two of them that are not
archived join them: so there are never many more ranges than versions left in the archive.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence

Ranges = tuple[tuple[int, int], ...]

MAX_RANGES = 1000
"""Ranges of one model beyond which those with nothing archived between them become one."""


def merged(ranges: Ranges, numbers: Iterable[int]) -> Ranges:
    """`ranges` and these numbers."""
    found: list[tuple[int, int]] = []
    for first, last in sorted([*ranges, *((number, number) for number in numbers)]):
        if found and first <= found[-1][1] + 1:
            found[-1] = found[-1][0], max(found[-1][1], last)
        else:
            found.append((first, last))
    return tuple(found)


def bounded(ranges: Ranges, archived: Sequence[int], most: int = MAX_RANGES) -> Ranges:
    """At most `most` ranges, or as few as there can be with none of the numbers `archived` (ascending) in any."""
    if len(ranges) <= most:
        return ranges
    found = [ranges[0]]
    for first, last in ranges[1:]:
        if bisect_left(archived, first) == bisect_left(archived, found[-1][1]):
            found[-1] = found[-1][0], last
        else:
            found.append((first, last))
    return tuple(found)


def without(ranges: Ranges, number: int) -> Ranges:
    """`ranges`, less this number: it had come between two of them when there were too many, and is archived after all."""
    found: list[tuple[int, int]] = []
    for first, last in ranges:
        if first <= number <= last:
            found += [piece for piece in ((first, number - 1), (number + 1, last)) if piece[0] <= piece[1]]
        else:
            found.append((first, last))
    return tuple(found)


def covers(ranges: Ranges, number: int) -> bool:
    """Whether a number was deleted."""
    at = bisect_right(ranges, number, key=lambda one: one[0])
    return at > 0 and number <= ranges[at - 1][1]


def pack(ranges: Ranges) -> list[int]:
    """The shortest form: numbers from the end of one range to the start of the next, and to its end, in turns."""
    steps, before = [], 0
    for number in (edge for one in ranges for edge in one):
        steps.append(number - before)
        before = number
    return steps


def unpack(steps: Sequence[int]) -> Ranges:
    """What `pack` made it of. Raises ValueError when it made no such thing."""
    edges, before = [], 0
    for at, step in enumerate(steps):
        if type(step) is not int or step < (0 if at % 2 else 1 if at == 0 else 2):
            raise ValueError("its steps do not go up")
        before += step
        edges.append(before)
    if len(edges) % 2 or before >= 1 << 63:
        raise ValueError("its last range has no end")
    return tuple(zip(edges[::2], edges[1::2], strict=True))
