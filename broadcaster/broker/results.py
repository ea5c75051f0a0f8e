"""What the newest searches found, in order, so that their next pages need not look at every version again."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

KEPT = 10_000
"""Places that are kept of one search: what comes behind them is found by another look at all versions."""
RESULTS = 4
"""Searches of which they are kept, the newest."""
LASTS = 60.0
"""Seconds for which they are kept once nobody asks for a page."""

Place = tuple[Any, ...]


class Places(NamedTuple):
    """Places behind `after`, in order; `whole` when there are no more than these."""

    after: Place
    places: Sequence[Place]
    whole: bool


class Results:
    """By what was asked, pages apart. Places and not versions: what is told of a version is what it is then."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, tuple[float, Places]] = OrderedDict()

    def keep(self, question: Hashable, found: Places, now: float) -> None:
        """The newest look at all versions found this."""
        self._forget(now)
        self._kept[question] = now, found
        self._kept.move_to_end(question)
        if len(self._kept) > RESULTS:
            self._kept.popitem(last=False)

    def behind(self, question: Hashable, after: Place, now: float) -> Places | None:
        """What is known to come behind a place; None when all versions have to be looked at."""
        self._forget(now)
        if question not in self._kept:
            return None
        found = self._kept[question][1]
        if after < found.after:
            return None
        self._kept[question] = now, found
        self._kept.move_to_end(question)
        places = found.places[bisect_right(found.places, after) :]
        return Places(after, places, found.whole) if places or found.whole else None

    def _forget(self, now: float) -> None:
        while self._kept:
            question, (used, _) = next(iter(self._kept.items()))
            if now < used + LASTS:
                return
            del self._kept[question]
