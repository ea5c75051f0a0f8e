"""Whose turn it is: a client that reads what it is told of is told of the newest when it has read that.

A stream takes hundreds of updates before anybody sees that its client is behind, and the client goes through them one by one:
through versions that have left memory long ago.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from broadcaster.cogment.limits import UPDATE_PATIENCE, UPDATE_PAUSE

Reader = tuple[str, str]
"""A client's connection and a model."""


class Turn:
    """One stream of updates of a model, and what its client reads of that model meanwhile."""

    def __init__(self) -> None:
        self._begun = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._under_way = 0
        self._patience = UPDATE_PAUSE

    def told(self) -> None:
        """An update is on its way."""
        self._begun.clear()

    async def over(self) -> None:
        """Returns when the client may be told of the next one: at once when it only listens, else when it has read. A client that
        has read after an update is given more time to begin after the next."""
        begun = await _within(self._patience, self._begun)
        self._patience = UPDATE_PATIENCE if begun else UPDATE_PAUSE
        await _within(UPDATE_PATIENCE, self._idle)

    def begin(self) -> None:
        """The client begins to read."""
        self._under_way += 1
        self._begun.set()
        self._idle.clear()

    def end(self) -> None:
        """A reading that has begun is over."""
        self._under_way -= 1
        if not self._under_way:
            self._idle.set()


class Pacing:
    """The turns of all clients. All of it runs on the event loop."""

    def __init__(self) -> None:
        self._turns: dict[Reader, list[Turn]] = {}

    @contextlib.contextmanager
    def turn(self, reader: Reader) -> Iterator[Turn]:
        """For as long as a stream of updates lasts."""
        turn = Turn()
        self._turns.setdefault(reader, []).append(turn)
        try:
            yield turn
        finally:
            self._turns[reader].remove(turn)
            if not self._turns[reader]:
                del self._turns[reader]

    @contextlib.contextmanager
    def reading(self, reader: Reader) -> Iterator[None]:
        """While data of the model is read."""
        turns = list(self._turns.get(reader, ()))
        for turn in turns:
            turn.begin()
        try:
            yield
        finally:
            for turn in turns:
                turn.end()


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Whether it has come by then."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()
