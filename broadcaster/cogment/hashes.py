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
from collections import OrderedDict, deque
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from broadcaster.cogment.limits import HASH_STEP, HASH_WAITING, HASHES
from broadcaster.cogment.link import Link
from broadcaster.cogment.places import Key, Places, Where
from broadcaster.cogment.reading import pieces
from broadcaster.protocol.errors import BroadcasterError
from broadcaster.protocol.version import VersionInfo


class Hashes:
    """The sums of one namespace's versions, in base64. All of it runs on the event loop, but for the hashing."""

    def __init__(self, link: Link, places: Places, threads: ThreadPoolExecutor) -> None:
        self._link = link
        self._places = places
        self._threads = threads
        self._known: OrderedDict[Key, str] = OrderedDict()
        self._slots: OrderedDict[tuple[str, int], str] = OrderedDict()
        """Of payloads that lie in a slot, by its name and generation: known before they have a number."""
        self._working: dict[Key, asyncio.Task[str]] = {}
        self._waiting: deque[VersionInfo] = deque(maxlen=HASH_WAITING)
        self._noted = asyncio.Event()

    async def of(self, version: VersionInfo, where: Where | None = None) -> str:
        """The sum of a version, which may lie in a slot. Raises what reading it raises."""
        self._places.note(version, where)
        found = self.known(version, where)
        if found is not None:
            return found
        key = version.model_id, version.number
        working = self._working.get(key)
        if working is None:
            working = self._working[key] = asyncio.create_task(self._work(version))
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

    async def _work(self, version: VersionInfo) -> str:
        sha256, run = hashlib.sha256(), asyncio.get_running_loop().run_in_executor
        view = await self._places.view(version)
        if view is not None:
            await run(self._threads, _add_all, sha256, view)
        else:
            async with contextlib.aclosing(pieces(self._link.calls(), version)) as parts:
                async for piece in parts:
                    await run(self._threads, sha256.update, piece)
        found = encoded(sha256.digest())
        self.remember(version, found)
        return found

    def _worked(self, key: Key, done: asyncio.Task[str]) -> None:
        del self._working[key]
        if not done.cancelled():
            done.exception()  # Who asked has it; in the background it is none.

    # --- the background --------------------------------------------------------------------------------------------

    async def follow(self) -> None:
        """Hashes what was noted, the newest first, until it is cancelled."""
        while True:
            await self._noted.wait()
            self._noted.clear()
            while self._waiting:
                with contextlib.suppress(BroadcasterError):  # It has left memory already.
                    await self.of(self._waiting.pop())

    def note(self, version: VersionInfo, where: Where) -> None:
        """A version was published, and lies in a slot. What is small is hashed when somebody asks."""
        if self.known(version, where) is None and (version.model_id, version.number) not in self._working:
            self._waiting.append(version)
            self._noted.set()


class Sum(Protocol):
    def update(self, data: memoryview, /) -> None: ...


def encoded(digest: bytes) -> str:
    """As the interface writes it: standard base64, with padding."""
    return base64.b64encode(digest).decode()


def _add_all(sha256: Sum, view: memoryview) -> None:
    """On a thread: in steps, so that nobody waits for its end."""
    for start in range(0, len(view), HASH_STEP):
        sha256.update(view[start : start + HASH_STEP])


def _keep(known: OrderedDict[Key, str], key: Key, sha256: str) -> None:
    known[key] = sha256
    known.move_to_end(key)
    if len(known) > HASHES:
        known.popitem(last=False)
