"""The header `Range`, and which bytes of a payload it asks for. Pure."""

from __future__ import annotations

import re

_ONE = re.compile(r"\s*bytes\s*=\s*(\d*)\s*-\s*(\d*)\s*", re.ASCII | re.IGNORECASE)
_LONGEST = 100
"""Characters: no two numbers that a payload can have need more."""


class Unsatisfiable(Exception):
    """The range lies outside of the payload."""


def range_of(header: str | None, size: int) -> tuple[int, int] | None:
    """(first, behind the last) of the one range that is asked for; None where all is to be sent: without a range, with one that
    is none, or with several, which a server may answer with all. Raises Unsatisfiable."""
    if header is None or len(header) > _LONGEST or (found := _ONE.fullmatch(header)) is None:
        return None
    first, last = found[1], found[2]
    if not first:
        return _suffix(last, size)
    begin = int(first)
    if last and int(last) < begin:
        return None
    if begin >= size:
        raise Unsatisfiable
    return begin, min(int(last) + 1, size) if last else size


def _suffix(last: str, size: int) -> tuple[int, int] | None:
    """The last so many bytes."""
    if not last:
        return None
    if int(last) == 0 or size == 0:
        raise Unsatisfiable
    return max(0, size - int(last)), size


def matches(header: str | None, etag: str) -> bool:
    """Whether `If-None-Match` names this tag. Weak ones count, as the standard has it for this header."""
    if header is None:
        return False
    named = [one.strip().removeprefix("W/") for one in header.split(",")]
    return "*" in named or etag in named
