"""When each subscribed model's next beacon is due. Pure: the clock is an argument, and sending is the caller's."""

from __future__ import annotations

import heapq

from broadcaster.protocol.limits import BEACON, BEACON_IDLE

Key = tuple[str, str]

CROWD = 0.05
"""Seconds between beacons that newcomers cause."""


class Beacons:
    """One schedule for all subscribed models: every second while there is news, slower when idle, at once for a newcomer."""

    def __init__(self) -> None:
        self._due: dict[Key, float] = {}
        self._news: dict[Key, float] = {}
        self._sent: dict[Key, float] = {}
        self._heap: list[tuple[float, Key]] = []

    def subscribed(self, key: Key, now: float) -> None:
        """Somebody subscribed: a beacon tells him at once where the log stands, so that nothing falls between.

        It goes to all subscribers of the model, so a crowd that joins together shares one every 50 ms.
        """
        self._schedule(key, max(now, self._sent.get(key, 0.0) + CROWD))

    def unsubscribed(self, key: Key) -> None:
        """Nobody is left."""
        self._due.pop(key, None)
        self._news.pop(key, None)
        self._sent.pop(key, None)

    def news(self, key: Key, now: float) -> None:
        """An event went out: the next beacon follows it within a second."""
        due = self._due.get(key)
        if due is not None:
            self._news[key] = now
            if due > now + BEACON:
                self._schedule(key, now + BEACON)

    @property
    def deadline(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> list[tuple[Key, float]]:
        """The models whose beacon is due, each with the seconds until its next one."""
        found = []
        while self._heap and self._heap[0][0] <= now:
            at, key = heapq.heappop(self._heap)
            if self._due.get(key) != at:
                continue  # Moved or nobody is left: this entry is an old one.
            interval = BEACON if now - self._news.get(key, now - BEACON_IDLE) < BEACON_IDLE else BEACON_IDLE
            self._sent[key] = now
            self._schedule(key, now + interval)
            found.append((key, interval))
        return found

    def _schedule(self, key: Key, at: float) -> None:
        self._due[key] = at
        heapq.heappush(self._heap, (at, key))
