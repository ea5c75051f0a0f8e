"""Bytes of versions for whoever asks: zero-copy out of memory, verified out of the archive."""

from __future__ import annotations

from broadcaster.broker.archiving import Archiving
from broadcaster.broker.checks import store_error
from broadcaster.broker.memory import Memory
from broadcaster.broker.rooms import Caller, Front, Rooms, submit
from broadcaster.broker.waiting import Waiting
from broadcaster.protocol.errors import InvalidRequest
from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.limits import CHUNK
from broadcaster.protocol.messages import Read


class Reading:
    """Answers reads, while their callers still wait."""

    def __init__(self, rooms: Rooms, front: Front, memory: Memory, archiving: Archiving, waiting: Waiting) -> None:
        self._rooms = rooms
        self._front = front
        self._memory = memory
        self._archiving = archiving
        self._waiting = waiting

    def read(self, read: Read, caller: Caller) -> None:
        """At most one chunk of a version. Raises InvalidRequest, Busy, or what the catalog says."""
        key = (read.namespace, read.model_id)
        kept = self._rooms.catalog.find(key, read.number)
        if read.length > CHUNK or read.offset > kept.info.size:
            raise InvalidRequest(field="offset and length", reason=f"at most {CHUNK} bytes inside a payload of {kept.info.size}")
        length = min(read.length, kept.info.size - read.offset)
        self._rooms.stats.count("reads")
        self._rooms.stats.count("bytes_read", length)
        header = ChunkHeader(read.request_id, kept.info.size, read.offset, length)
        if kept.resident:
            place = self._memory.place(key, read.number)
            tracker = caller.chunk(header, place.view[read.offset : read.offset + length], track=True)
            if tracker is not None:
                place.lend(tracker)
            return
        version, archive = self._archiving.versions[key, read.number], self._rooms.archive
        cached = archive.read_cached(version, read.offset, length)
        if cached is not None:
            caller.chunk(header, cached, track=False)
            return

        def finished(result: memoryview | BaseException) -> None:
            if isinstance(result, BaseException):
                caller.refuse(store_error(result, "reading"))
            else:
                caller.chunk(header, result, track=False)  # the frame alone keeps the bytes

        job = self._waiting.in_time(caller, lambda: archive.read(version, read.offset, length))
        submit(self._rooms.readers, self._front, job, finished)
