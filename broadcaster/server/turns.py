"""Changes of one model, one after the other: each sees what became of the one before, and takes nothing back but its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from broadcaster.broker import Key
from broadcaster.protocol.errors import Busy

MOST = 1024
"""Changes that may wait for their turn, of all models together."""


@dataclass(slots=True)
class _Line:
    waiting: deque[Callable[[], None]] = field(default_factory=deque)
    free: bool = True
    """Whether nobody has the turn."""
    running: bool = False


class Turns:
    """Who has the turn says so when it is `over`."""

    def __init__(self) -> None:
        self._lines: dict[Key, _Line] = {}
        self.waiting = 0
        """Changes that wait for their turn."""

    def take(self, key: Key, start: Callable[[], None]) -> None:
        """Calls `start` when it is its turn: now, if no other change of this model is under way. Raises Busy."""
        if self.waiting >= MOST:
            raise Busy(what="the line of changes", retry_after=0.1)
        line = self._lines.setdefault(key, _Line())
        line.waiting.append(start)
        self.waiting += 1
        self._go_on(key, line)

    def over(self, key: Key) -> None:
        """The change that had the turn is answered."""
        line = self._lines[key]
        line.free = True
        self._go_on(key, line)

    def _go_on(self, key: Key, line: _Line) -> None:
        if line.running:
            return  # One that was answered as soon as it began: the loop below goes on with the next.
        line.running = True
        while line.free and line.waiting:
            line.free = False
            self.waiting -= 1
            line.waiting.popleft()()
        line.running = False
        if line.free:
            del self._lines[key]
