"""The SHA-256 of versions, which the interface tells with every one of them.

The archive knows that of what it keeps, and an upload over gRPC is hashed as it comes. A version that a learner published
otherwise is hashed here, in the background, where it lies in the shared memory of this host: the learner, its actors and the core
do not notice. What is not hashed yet when somebody asks is hashed then, once for all who ask.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import logging
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor

from broadcaster.cogment.limits import HASH_EVENTS, HASH_POLL, HASH_STEP, HASH_WAITING, HASHES
from broadcaster.cogment.link import Link, answer
from broadcaster.cogment.reading import pieces
from broadcaster.protocol.errors import BroadcasterError, EventsGone
from broadcaster.protocol.messages import Event
from broadcaster.protocol.version import VersionInfo
from clients.slots.directory import SlotDirectory, SlotsUnusable
from clients.slots.leases import Leases

log = logging.getLogger("broadcaster.cogment")

Key = tuple[str, int]
Where = tuple[int, str, int]
"""Epoch, slot and generation."""
Place = tuple[int, int]
"""Epoch and offset in the log."""


class Hashes:
    """The sums of one namespace's versions, in base64. All of it runs on the event loop, but for the hashing."""

    def __init__(self, link: Link, threads: ThreadPoolExecutor) -> None:
        self._link = link
        self._threads = threads
        self._known: OrderedDict[Key, str] = OrderedDict()
        self._slots: OrderedDict[tuple[str, int], str] = OrderedDict()
        """Of payloads that lie in a slot, by its name and generation: known before they have a number."""
        self._working: dict[Key, asyncio.Task[str]] = {}
        self._waiting: deque[tuple[VersionInfo, Where]] = deque(maxlen=HASH_WAITING)

    async def of(self, version: VersionInfo, where: Where | None = None) -> str:
        """The sum of a version, which may lie in a slot. Raises what reading it raises."""
        found = self.known(version, where)
        if found is not None:
            return found
        key = version.model_id, version.number
        working = self._working.get(key)
        if working is None:
            working = self._working[key] = asyncio.create_task(self._work(version, where))
            working.add_done_callback(lambda done: self._worked(key, done))
        return await asyncio.shield(working)

    async def soon(self, version: VersionInfo, where: Where | None, patience: float) -> str:
        """The sum of a version; empty when it is not known within `patience` seconds, or the version is not there any more."""
        try:
            async with asyncio.timeout(patience):
                return await self.of(version, where)
        except (TimeoutError, BroadcasterError):
            return ""

    def known(self, version: VersionInfo, where: Where | None = None) -> str | None:
        """The sum of a version, if it is known already."""
        if version.sha256 is not None:
            return encoded(bytes.fromhex(version.sha256))
        found = self._known.get((version.model_id, version.number))
        if found is None and where is not None and (found := self._slots.get(where[1:])) is not None:
            self.remember(version, found)
        return found

    def remember(self, version: VersionInfo, sha256: str) -> None:
        """The sum of this version is known. Numbers are never used twice, so that holds for ever."""
        _keep(self._known, (version.model_id, version.number), sha256)

    def remember_slot(self, slot: str, generation: int, sha256: str) -> None:
        """The sum of what was written into this slot."""
        _keep(self._slots, (slot, generation), sha256)

    # --- the work --------------------------------------------------------------------------------------------------

    async def _work(self, version: VersionInfo, where: Where | None) -> str:
        loop, slots = asyncio.get_running_loop(), self._link.slots
        found = None
        if where is not None and slots is not None:
            found = await loop.run_in_executor(self._threads, _hash_slot, slots, version, where)
        if found is None:
            sha256 = hashlib.sha256()
            async with contextlib.aclosing(pieces(self._link.calls(), version)) as parts:
                async for piece in parts:
                    await loop.run_in_executor(self._threads, sha256.update, piece)
            found = encoded(sha256.digest())
        self.remember(version, found)
        return found

    def _worked(self, key: Key, done: asyncio.Task[str]) -> None:
        del self._working[key]
        if not done.cancelled():
            done.exception()  # Who asked has it; in the background it is none.

    # --- the background --------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Hashes what is published, newest first when it cannot keep up, until it is cancelled."""
        place: Place | None = None
        while True:
            try:
                place = await self._look(place)
                while self._waiting:
                    await self._next()
            except BroadcasterError as error:
                log.debug("nothing to hash code=%s", error.code)
            await asyncio.sleep(HASH_POLL)

    async def _look(self, place: Place | None) -> Place:
        """Notes what was published since `place`; where the next look begins."""
        calls = self._link.calls()
        if place is None:
            stats = await answer(calls.stats())
            return int(stats["epoch"]), max(0, int(stats["offset"]) - HASH_EVENTS)
        epoch, after = place
        try:
            page = await answer(calls.events(epoch, after, HASH_EVENTS))
        except EventsGone as gone:
            return int(gone.current), max(int(gone.oldest) - 1, int(gone.newest) - HASH_EVENTS)
        for event in page.events:
            self._note(event)
        if page.next is None:
            return page.epoch, page.offset
        return page.epoch, max(page.next, page.offset - HASH_EVENTS)

    def _note(self, event: Event) -> None:
        version = event.version
        if event.event != "published" or version is None or event.slot is None or event.generation is None:
            return  # What is small is hashed when somebody asks.
        where = event.epoch, event.slot, event.generation
        if self.known(version, where) is None and (version.model_id, version.number) not in self._working:
            self._waiting.append((version, where))

    async def _next(self) -> None:
        version, where = self._waiting.pop()
        with contextlib.suppress(BroadcasterError):  # It has left memory already.
            await self.of(version, where)


def encoded(digest: bytes) -> str:
    """As the interface writes it: standard base64, with padding."""
    return base64.b64encode(digest).decode()


def _hash_slot(slots: SlotDirectory, version: VersionInfo, where: Where) -> str | None:
    """The sum of a version where it lies, under a lease; None when it does not lie there any more. On a thread."""
    epoch, slot, generation = where
    try:
        root = Leases(slots, kept=0).lease(slot, generation, epoch, version)
    except SlotsUnusable:
        return None
    sha256 = hashlib.sha256()
    view = memoryview(root)  # type: ignore[arg-type]
    for start in range(0, version.size, HASH_STEP):
        sha256.update(view[start : start + HASH_STEP])
    return encoded(sha256.digest())


def _keep(known: OrderedDict[Key, str], key: Key, sha256: str) -> None:
    known[key] = sha256
    known.move_to_end(key)
    if len(known) > HASHES:
        known.popitem(last=False)
