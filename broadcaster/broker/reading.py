"""Bytes of versions for whoever asks: zero-copy out of memory, verified out of the archive."""

from __future__ import annotations

from collections import OrderedDict

from broadcaster.broker.archiving import Archiving
from broadcaster.broker.checks import store_error
from broadcaster.broker.memory import Memory
from broadcaster.broker.rooms import Caller, Front, Key, Rooms, submit
from broadcaster.broker.waiting import Waiting
from broadcaster.catalog import Kept
from broadcaster.protocol.errors import InvalidRequest
from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.limits import CHUNK, READ
from broadcaster.protocol.messages import Read
from broadcaster.store.values import ArchivedVersion

HOLD = 2.0
"""Seconds for which a transient version stays in memory behind a read of a part of it."""
SHARE = 8
"""The part of the memory budget that versions may take which stay for that alone: an eighth."""


class Reading:
    """Answers reads, while their callers still wait. What is being read stays until it is read, unless its memory is needed."""

    def __init__(self, rooms: Rooms, front: Front, memory: Memory, archiving: Archiving, waiting: Waiting) -> None:
        self._rooms = rooms
        self._front = front
        self._memory = memory
        self._archiving = archiving
        self._waiting = waiting
        self._held: OrderedDict[tuple[Key, int], tuple[Kept, int, float]] = OrderedDict()
        """Versions of which parts were read: the bytes of each, and until when it stays; the first to go is the first."""
        self._held_bytes = 0
        memory.let_go = self.let_go

    def read(self, read: Read, caller: Caller) -> None:
        """A few chunks of a version, or as far as it goes. Raises InvalidRequest, Busy, or what the catalog says."""
        key = (read.namespace, read.model_id)
        kept = self._rooms.catalog.find(key, read.number)
        size, end = kept.info.size, min(read.offset + read.length, kept.info.size)
        if read.length > READ or read.offset > size:
            raise InvalidRequest(field="offset and length", reason=f"at most {READ} bytes inside a payload of {size}")
        headers = [
            ChunkHeader(read.request_id, size, offset, min(CHUNK, end - offset))
            for offset in range(read.offset, max(end, read.offset + 1), CHUNK)
        ]
        self._rooms.stats.count("reads", len(headers))
        self._rooms.stats.count("bytes_read", end - read.offset)
        if kept.resident:
            place = self._memory.place(key, read.number)
            for header in headers:
                tracker = caller.chunk(header, place.view[header.offset : header.offset + header.length], track=True)
                if tracker is not None:
                    place.lend(tracker)
            if size > CHUNK and not kept.info.archived:
                self._hold(key, kept)
        else:
            self._read_archived(self._archiving.versions[key, read.number], headers, caller)

    def _read_archived(self, version: ArchivedVersion, headers: list[ChunkHeader], caller: Caller) -> None:
        """At once as far as the page cache has them, the rest as soon as the disk gives it: or why it does not, once."""
        archive = self._rooms.archive
        for index, header in enumerate(headers):
            cached = archive.read_cached(version, header.offset, header.length)
            if cached is None:
                left = headers[index:]
                break
            caller.chunk(header, cached, track=False)
        else:
            return

        def read() -> list[memoryview]:
            return [archive.read(version, header.offset, header.length) for header in left]

        def finished(result: list[memoryview] | BaseException) -> None:
            if isinstance(result, BaseException):
                caller.refuse(store_error(result, "reading"))
                return
            for header, data in zip(left, result, strict=True):
                caller.chunk(header, data, track=False)  # the frame alone keeps the bytes

        submit(self._rooms.readers, self._front, self._waiting.in_time(caller, read), finished)

    # --- what stays meanwhile ----------------------------------------------------------------------------------------

    def _hold(self, key: Key, kept: Kept) -> None:
        """More of this version is going to be read: it stays for a while, if there is room for that."""
        place, until = (key, kept.info.number), self._waiting.clock() + HOLD
        held = self._held.pop(place, None)
        charge = kept.charge if held is None else held[1]
        if held is None:
            if self._held_bytes + charge > self._rooms.catalog.retention.budget // SHARE:
                return
            self._rooms.catalog.pin(kept)
            self._held_bytes += charge
        self._held[place] = kept, charge, until

    def tick(self, now: float) -> None:
        """What nobody read of for a while may leave."""
        while self._held and next(iter(self._held.values()))[2] <= now:
            self._drop()

    def let_go(self) -> bool:
        """Memory is needed for what is published: nothing stays for its readers. Whether anything did."""
        any_held = bool(self._held)
        while self._held:
            self._drop()
        return any_held

    def _drop(self) -> None:
        _, (kept, charge, _) = self._held.popitem(last=False)
        self._held_bytes -= charge
        self._rooms.catalog.unpin(kept)
