"""Who reads what just now: a client that is busy with one version is not told of the next ones until it has that.

A stream takes hundreds of updates before anybody sees that its client is behind, and the client goes through them one by one. So
it is told of one, and of the newest when it comes back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator

Reader = tuple[str, str]
"""A client's connection and a model."""


class Pacing:
    """All of it runs on the event loop."""

    def __init__(self) -> None:
        self._reading = Counter[Reader]()
        self._over: dict[Reader, asyncio.Event] = {}

    @contextlib.contextmanager
    def reading(self, reader: Reader) -> Iterator[None]:
        """While it reads data of the model."""
        self._reading[reader] += 1
        self._over.setdefault(reader, asyncio.Event())
        try:
            yield
        finally:
            self._reading[reader] -= 1
            if not self._reading[reader]:
                del self._reading[reader]
                self._over.pop(reader).set()

    async def idle(self, reader: Reader, patience: float) -> None:
        """Returns when it reads nothing of the model any more, after `patience` seconds at the latest."""
        over = self._over.get(reader)
        if over is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), patience)
