"""The web process's line to the core: one client, and no question that waits for long."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from broadcaster.protocol.errors import BroadcasterError, RequestTimeout
from broadcaster.protocol.names import DEFAULT_NAMESPACE, check_name
from broadcaster.web.limits import LOOK, PATIENCE, REQUEST
from clients import aio
from clients._calls import Calls

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Look:
    """How the core was found: its counters and gauges or None, why there are none, how long the answer took, and when (monotonic)
    that was."""

    stats: Mapping[str, float] | None
    why: str
    seconds: float
    at: float


class Link:
    """Opened once, when the core serves. The client finds a core that was started again by itself."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: aio.AsyncClient | None = None
        self._looking: asyncio.Task[Look] | None = None

    async def open(self) -> None:
        """Raises NoBroadcaster."""
        self._client = await aio.connect(self._url, name="web")

    async def close(self) -> None:
        if self._looking is not None:
            self._looking.cancel()
        if self._client is not None:
            await self._client.close()

    @property
    def client(self) -> aio.AsyncClient:
        assert self._client is not None, "opened before the first request"
        return self._client

    def calls(self, namespace: str = DEFAULT_NAMESPACE, timeout: float = REQUEST) -> Calls:
        """What can be asked of a namespace. Raises InvalidName."""
        return self.client.registry._calls.of(check_name("namespace", namespace), timeout)

    async def look(self) -> Look:
        """How the core is. One look is shared by all who ask within `LOOK` seconds, or before it is over: however many ask of a
        core that is stopped, one question waits."""
        looking = self._looking
        if looking is None or (looking.done() and time.monotonic() >= looking.result().at + LOOK):
            looking = self._looking = asyncio.create_task(self._look())
        return await asyncio.shield(looking)

    async def _look(self) -> Look:
        begun = time.monotonic()
        stats, why = None, ""
        try:
            stats = await answer(self.calls(timeout=PATIENCE).stats(), PATIENCE)
        except BroadcasterError as error:
            why = f"{error.code}: {error}"
        now = time.monotonic()
        return Look(stats, why, now - begun, now)


async def answer(future: Future[T], timeout: float = REQUEST) -> T:
    """What comes of a call. Raises what went wrong, RequestTimeout after `timeout` seconds whatever the client's thread does."""
    try:
        async with asyncio.timeout(timeout + 0.25):
            return await asyncio.wrap_future(future)
    except TimeoutError as late:
        if isinstance(late, BroadcasterError):
            raise
        raise RequestTimeout(what="asking the core", timeout=timeout) from late
