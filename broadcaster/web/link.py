"""The web process's line to the core: one client, and no question that waits for long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping

from broadcaster.protocol.errors import BroadcasterError, RequestTimeout
from clients import aio

PATIENCE = 1.0
"""Seconds after which the core counts as not answering."""


class Link:
    """Opened once, when the core serves. The client finds a core that was started again by itself."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: aio.AsyncClient | None = None

    async def open(self) -> None:
        """Raises NoBroadcaster."""
        self._client = await aio.connect(self._url, name="web")

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()

    @property
    def client(self) -> aio.AsyncClient:
        assert self._client is not None, "opened before the first request"
        return self._client

    async def stats(self) -> Mapping[str, float]:
        """The core's counters and gauges. Raises BroadcasterError, RequestTimeout after PATIENCE seconds."""
        try:
            async with asyncio.timeout(PATIENCE):
                return await self.client.registry.stats()
        except TimeoutError as late:
            raise RequestTimeout(what="asking the core", timeout=PATIENCE) from late

    async def look(self) -> tuple[Mapping[str, float] | None, str, float]:
        """(counters and gauges or None, why there are none, seconds that the answer took)."""
        begun = time.monotonic()
        try:
            return await self.stats(), "", time.monotonic() - begun
        except BroadcasterError as error:
            return None, f"{error.code}: {error}", time.monotonic() - begun
