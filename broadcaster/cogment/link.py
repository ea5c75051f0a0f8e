"""The front's line to the core: one client of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from concurrent.futures import Future
from typing import TypeVar

from broadcaster.cogment.limits import REQUEST
from broadcaster.protocol.errors import BroadcasterError, RequestTimeout
from broadcaster.protocol.names import DEFAULT_NAMESPACE
from broadcaster.protocol.version import ModelInfo
from clients import aio
from clients._calls import Calls
from clients._inflow import Inflow
from clients._newest import NewestVersion
from clients.slots.directory import SlotDirectory

T = TypeVar("T")

NAMESPACE = DEFAULT_NAMESPACE
"""The interface has no word for namespaces: all of it is about this one."""


class Link:
    """Opened once, when the core serves. The client finds a core that was started again by itself."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: aio.AsyncClient | None = None

    async def open(self) -> None:
        """Raises NoBroadcaster."""
        self._client = await aio.connect(self._url, name="cogment")

    async def close(self) -> None:
        """Everything that is asked ends with Closed."""
        if self._client is not None:
            await self._client.close()

    def calls(self, timeout: float = REQUEST) -> Calls:
        """What can be asked of the core."""
        return self._calls.of(NAMESPACE, timeout)

    def inflow(self, model_id: str, size: int, *, archived: bool, user_data: Mapping[str, str]) -> Inflow:
        """A payload on its way to becoming a version. Raises InvalidName, InvalidRequest."""
        return Inflow(self._calls.driver, NAMESPACE, model_id, size, archived=archived, user_data=user_data)

    def newest(self, model: ModelInfo) -> NewestVersion:
        """Follows the newest version of a model as it is now."""
        return NewestVersion(self._calls.driver, model)

    @property
    def memory_budget(self) -> int:
        """Bytes that the core has for all payloads."""
        welcome = self._calls.driver.welcome
        return 0 if welcome is None else welcome.limits.get("memory_budget", 0)

    @property
    def slots(self) -> SlotDirectory | None:
        """Where the core's slots are, when they can be used."""
        return self._calls.driver.slots

    def sweep(self) -> SlotDirectory | None:
        """Lets go of slots that were granted once and are unlinked by now; where the core's slots are. For any thread."""
        driver = self._calls.driver
        driver.grants.sweep(driver.slots)
        return driver.slots

    @property
    def _calls(self) -> Calls:
        assert self._client is not None, "opened before the first request"
        return self._client.registry._calls


async def answer(future: Future[T], timeout: float = REQUEST) -> T:
    """What comes of a call. Raises what went wrong, RequestTimeout after `timeout` seconds whatever the client's thread does."""
    try:
        async with asyncio.timeout(timeout + 0.25):
            return await asyncio.wrap_future(future)
    except TimeoutError as late:
        if isinstance(late, BroadcasterError):
            raise
        raise RequestTimeout(what="asking the core", timeout=timeout) from late
