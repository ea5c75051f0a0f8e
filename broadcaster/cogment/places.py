"""Where versions lie in the shared memory of this host: they are hashed and sent from there, and the core serves no read for it.

The core's log says which slot each version was published in. A version that does not lie there any more, or never did, is read
over the data channel like any other.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

from broadcaster.cogment.limits import EVENTS, HELD, HELD_SHARE, HOLD, LEASED_SHARE, PLACES, POLL
from broadcaster.cogment.link import Link, answer
from broadcaster.cogment.reading import pieces
from broadcaster.protocol.errors import BroadcasterError, EventsGone, UnknownVersion
from broadcaster.protocol.limits import INLINE
from broadcaster.protocol.messages import Event
from broadcaster.protocol.version import VersionInfo
from clients.slots.directory import SlotDirectory, SlotsUnusable
from clients.slots.leases import Leases

log = logging.getLogger("broadcaster.cogment")

Key = tuple[str, int]
Where = tuple[int, str, int]
"""Epoch, slot and generation."""


class _Held(NamedTuple):
    version: VersionInfo
    view: memoryview
    end: asyncio.TimerHandle


class Places:
    """All of it runs on the event loop, but for taking leases, which a thread of its own does. `published` hears of each version
    that lies in a slot, and where."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.published: Callable[[VersionInfo, Where], None] = lambda version, where: None
        self._known: OrderedDict[Key, Where] = OrderedDict()
        self._log: tuple[int, int] | None = None
        """Epoch and offset up to which the log was read."""
        self._reading = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "cogment leases")
        self._leases: Leases | None = None
        self._leased = Counter[Key]()
        """Downloads of each version that they hold under leases, and the bytes of all those versions."""
        self._leased_bytes = 0
        self._held: OrderedDict[Key, _Held] = OrderedDict()
        self._held_bytes = 0

    def note(self, version: VersionInfo, where: Where | None) -> None:
        """This is where a version lies."""
        if where is not None:
            self._known[version.model_id, version.number] = where
            if len(self._known) > PLACES:
                self._known.popitem(last=False)

    async def of(self, version: VersionInfo) -> Where | None:
        """Where a version was when it was published, if that is known. Raises BroadcasterError."""
        key = version.model_id, version.number
        if version.size > INLINE and self._link.slots is not None and key not in self._known:
            await self.catch_up()
        return self._known.get(key)

    # --- leases ----------------------------------------------------------------------------------------------------

    async def view(self, version: VersionInfo) -> memoryview | None:
        """The payload where it lies, which stays as it is while the view or a part of it lives; None when it does not lie
        there."""
        held = self._held.get((version.model_id, version.number))
        if held is not None:
            return held.view
        where, slots = await self.of(version), self._link.slots
        if where is None or slots is None:
            return None
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._lease, slots, version, where)

    def _lease(self, slots: SlotDirectory, version: VersionInfo, where: Where) -> memoryview | None:
        """On the thread."""
        if self._leases is None or self._leases.directory is not slots:
            self._leases = Leases(slots)
        epoch, slot, generation = where
        try:
            found: Any = self._leases.lease(slot, generation, epoch, version)
        except SlotsUnusable:
            return None
        return memoryview(found)

    def _sweep(self) -> None:
        """Slots that were unlinked take memory for as long as they are mapped here. On the thread."""
        slots = self._link.sweep()
        if self._leases is not None and self._leases.directory is not slots:
            self._leases = None
        if self._leases is not None:
            self._leases.sweep(time.monotonic())

    def admit(self, version: VersionInfo) -> bool:
        """Whether a download may hold this version under a lease, for as long as its client takes: to be given back by `dismiss`.
        What all of them hold is bounded, for the core needs other memory meanwhile."""
        key = version.model_id, version.number
        if key not in self._leased:
            most = self._link.memory_budget // LEASED_SHARE
            if self._leased_bytes + version.size > most and key not in self._held:  # Of what is held there may be no more.
                return False
            self._leased_bytes += version.size
        self._leased[key] += 1
        return True

    def dismiss(self, version: VersionInfo) -> None:
        key = version.model_id, version.number
        self._leased[key] -= 1
        if not self._leased[key]:
            del self._leased[key]
            self._leased_bytes -= version.size

    async def hold(self, version: VersionInfo) -> bool:
        """Somebody is told of this version, and will ask for its data: for a moment it can be had, whatever is published. False
        when it has left memory already. What is archived, or too much to be held, is as it is. Raises BroadcasterError."""
        key = version.model_id, version.number
        if version.archived or key in self._held or version.size > self._link.memory_budget // HELD_SHARE:
            return True
        view = await self._view_to_hold(version)
        if view is None:
            return False
        if key not in self._held:
            self._held[key] = _Held(version, view, asyncio.get_running_loop().call_later(HOLD, self._let_go, key))
            self._held_bytes += version.size
        while len(self._held) > HELD or self._held_bytes > self._link.memory_budget // HELD_SHARE:
            self._let_go(next(iter(self._held)))
        return True

    async def _view_to_hold(self, version: VersionInfo) -> memoryview | None:
        """Where it lies; for what is small, or lies in no slot that can be used, the bytes themselves. None when it is gone."""
        if version.size > INLINE and self._link.slots is not None:
            return await self.view(version)
        try:
            async with contextlib.aclosing(pieces(self._link.calls(), version)) as parts:
                return memoryview(b"".join([part async for part in parts]))
        except UnknownVersion:
            return None

    def _let_go(self, key: Key) -> None:
        held = self._held.pop(key, None)
        if held is not None:
            held.end.cancel()
            self._held_bytes -= held.version.size

    def held(self, model_id: str, number: int) -> VersionInfo | None:
        """This version, if it is held."""
        held = self._held.get((model_id, number))
        return None if held is None else held.version

    def close(self) -> None:
        for key in list(self._held):
            self._let_go(key)
        self._thread.shutdown(wait=False, cancel_futures=True)

    # --- the log ---------------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Reads the log now and then, and lets go of memory that is not the core's any more, until it is cancelled."""
        while True:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._sweep)
            try:
                await self.catch_up()
            except BroadcasterError as error:
                log.debug("the log was not read code=%s", error.code)
            await asyncio.sleep(POLL)

    async def catch_up(self) -> None:
        """Reads what is new in the log. Of a flood, only the end: what is before is read otherwise. Raises BroadcasterError."""
        async with self._reading:
            calls = self._link.calls()
            if self._log is None:
                stats = await answer(calls.stats())
                self._log = int(stats["epoch"]), max(0, int(stats["offset"]) - EVENTS)
            epoch, after = self._log
            try:
                page = await answer(calls.events(epoch, after, EVENTS))
                if page.offset - after > EVENTS:
                    page = await answer(calls.events(epoch, max(after, page.offset - EVENTS), EVENTS))
            except EventsGone as gone:
                self._log = int(gone.current), max(int(gone.oldest) - 1, int(gone.newest) - EVENTS)
                return
            for event in page.events:
                self._event(event)
            self._log = page.epoch, page.offset if page.next is None else page.next

    def _event(self, event: Event) -> None:
        version = event.version
        if event.event == "published" and version is not None and event.slot is not None and event.generation is not None:
            where = event.epoch, event.slot, event.generation
            self.note(version, where)
            self.published(version, where)
