"""Which version is to leave memory next: the oldest commit first. Pure."""

from __future__ import annotations

import heapq

Key = tuple[str, str]
Entry = tuple[int, Key, int]
"""Place in the order of all commits, model, number."""

SLACK = 1024
"""Entries of versions that have left which are always put up with."""


class EvictionQueue:
    """Versions that may leave memory, the smallest place first.

    One that leaves otherwise stays in the heap until it comes to the top, and that may take long: the versions of a model that
    nobody publishes any more stay above it. So when most entries are such, all of them are dropped.
    """

    def __init__(self) -> None:
        self._heap: list[Entry] = []
        self._there: set[int] = set()
        """Places of the entries that count."""

    def __bool__(self) -> bool:
        return bool(self._heap)

    def __len__(self) -> int:
        """Entries, those that do not count any more among them."""
        return len(self._heap)

    def push(self, place: int, key: Key, number: int) -> None:
        """One more, unless it is there."""
        if place in self._there:
            return
        self._there.add(place)
        heapq.heappush(self._heap, (place, key, number))
        if len(self._heap) > 2 * len(self._there) + SLACK:
            self._heap = [entry for entry in self._heap if entry[0] in self._there]
            heapq.heapify(self._heap)

    def discard(self, place: int) -> None:
        """It has left."""
        self._there.discard(place)

    def first(self) -> Entry:
        """The next one, which may have left."""
        return self._heap[0]

    def pop(self) -> Entry:
        """Takes the next one out, which may have left."""
        entry = heapq.heappop(self._heap)
        self._there.discard(entry[0])
        return entry
