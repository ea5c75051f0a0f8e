"""Handles and pages, as the interface has them. Pure.

A handle is decimal text: an offset, or the number of the version to start from. It is given at the end as well, where it leads to
an empty page.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeVar

from broadcaster.protocol.errors import InvalidRequest

T = TypeVar("T")

_DECIMAL = re.compile(r"\d{1,18}", re.ASCII)


def parse_handle(field: str, handle: str) -> int:
    """What a handle says; 0 for an empty one. Raises InvalidRequest for anything but a whole number from 0 on."""
    if not handle:
        return 0
    if _DECIMAL.fullmatch(handle) is None:
        raise InvalidRequest(field=field, reason=f"{handle[:40]!r} is no handle: give back the one of the reply before")
    return int(handle)


def page_of(asked: Sequence[T], field: str, start: int, count: int) -> tuple[Sequence[T], str]:
    """Those of an explicit list from index `start` on, at most `count` (0: no limit), and the handle of the next page.

    Raises InvalidRequest for a start behind the end, and for a count larger than the whole list: neither can be meant.
    """
    if start > len(asked):
        raise InvalidRequest(field=f"{field}_handle", reason=f"{start} is behind the end of a list of {len(asked)}")
    if count > len(asked):
        raise InvalidRequest(field=f"{field}s_count", reason=f"{count} is more than the {len(asked)} that were listed")
    page = asked[start : start + count] if count else asked[start:]
    return page, str(start + len(page))


def next_number(handle: int, last: int | None) -> str:
    """The handle behind a page of versions that ended with number `last` (None: it was empty)."""
    return str(handle if last is None else last + 1)
