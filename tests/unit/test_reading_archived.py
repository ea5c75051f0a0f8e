"""Reads of archived versions: at once out of the page cache, the rest as one job, and one word when that fails."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from broadcaster.broker.reading import Reading
from broadcaster.broker.waiting import Waiting
from broadcaster.protocol.errors import Busy, StoreUnavailable
from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.limits import CHUNK
from broadcaster.protocol.messages import Read
from broadcaster.stats import Stats
from broadcaster.store.reading import OpenBlob, Reader

SIZE = 7 * CHUNK + 5


class Caller:
    expires = float("inf")
    timing = None

    def __init__(self) -> None:
        self.said: list[int | str] = []

    def chunk(self, header: ChunkHeader, data: memoryview, *, track: bool) -> None:
        assert header.length == len(data) and header.transfer == b"r" * 16
        self.said.append(header.offset // CHUNK)

    def refuse(self, error: Exception) -> None:
        self.said.append(type(error).__name__)


class Archive:
    """Has some chunks in the page cache; the disk refuses others."""

    def __init__(self, cached: set[int], bad: set[int]) -> None:
        self.cached, self.bad = cached, bad
        self.read_from_disk: list[int] = []

    def read_cached(self, version: object, offset: int, length: int) -> memoryview | None:
        return memoryview(bytes(length)) if offset // CHUNK in self.cached else None

    def read(self, version: object, offset: int, length: int) -> memoryview:
        self.read_from_disk.append(offset // CHUNK)
        if offset // CHUNK in self.bad:
            raise StoreUnavailable(operation="reading", where="here", reason="it failed", hint="Try again.")
        return memoryview(bytes(length))


def asked(archive: Archive, offset: int, length: int, *, busy: bool = False) -> tuple[Caller, Stats, int]:
    """What a caller heard of a read, what was counted, and how many jobs it took."""
    jobs: list[Callable[[], None]] = []
    stats, caller = Stats(), Caller()

    def submit(job: Callable[[], Any], done: Callable[[Any], None]) -> None:
        if busy:
            raise Busy(what="the line of readers", retry_after=1)

        def run() -> None:
            try:
                result: Any = job()
            except StoreUnavailable as error:
                result = error
            done(result)

        jobs.append(run)

    kept = SimpleNamespace(info=SimpleNamespace(size=SIZE, number=1, archived=True), resident=False)
    rooms: Any = SimpleNamespace(
        catalog=SimpleNamespace(find=lambda key, number: kept),
        stats=stats,
        archive=archive,
        readers=SimpleNamespace(submit=submit),
    )
    front: Any = SimpleNamespace(post=lambda done: done())
    archiving: Any = SimpleNamespace(versions={(("lab", "policy"), 1): "version"})
    memory: Any = SimpleNamespace(let_go=None)
    reading: Any = Reading(rooms, front, memory, archiving, Waiting(front, stats, lambda: 0.0))
    read = Read(request_id=b"r" * 16, namespace="lab", model_id="policy", number=1, offset=offset, length=length)
    try:
        reading.read(read, caller)
    except Busy as error:
        caller.refuse(error)
    for job in jobs:
        job()
    return caller, stats, len(jobs)


@pytest.mark.parametrize(
    ("cached", "said", "jobs"),
    [({0, 1, 2, 3}, [0, 1, 2, 3], 0), (set(), [0, 1, 2, 3], 1), ({0, 1}, [0, 1, 2, 3], 1), ({0, 2}, [0, 1, 2, 3], 1)],
)
def test_what_is_not_in_the_page_cache_is_one_job(cached: set[int], said: list[int], jobs: int) -> None:
    caller, stats, count = asked(Archive(cached, set()), 0, 4 * CHUNK)
    assert caller.said == said and count == jobs
    assert stats.values()["reads"] == 4 and stats.values()["bytes_read"] == 4 * CHUNK


@pytest.mark.parametrize(("bad", "tried"), [({0}, [0]), ({2}, [0, 1, 2]), ({0, 1, 2, 3}, [0])])
def test_a_disk_that_fails_is_said_once_and_tried_no_more(bad: set[int], tried: list[int]) -> None:
    archive = Archive(set(), bad)
    caller, _, _ = asked(archive, 0, 4 * CHUNK)
    assert caller.said == ["StoreUnavailable"] and archive.read_from_disk == tried


@pytest.mark.parametrize("cached", [set(), {0}, {0, 1, 2}])
def test_nothing_comes_behind_an_error(cached: set[int]) -> None:
    caller, _, _ = asked(Archive(cached, {3}), 0, 4 * CHUNK)
    assert caller.said == [*sorted(cached), "StoreUnavailable"]
    caller, _, _ = asked(Archive(cached, set()), 0, 4 * CHUNK, busy=True)
    assert caller.said == [*sorted(cached), "Busy"]


@pytest.mark.parametrize(("offset", "length", "bytes_read"), [(SIZE, 1, 0), (SIZE, 0, 0), (0, 0, 0), (7 * CHUNK, 4 * CHUNK, 5)])
def test_a_read_at_the_end_has_one_answer(offset: int, length: int, bytes_read: int) -> None:
    caller, stats, _ = asked(Archive(set(range(8)), set()), offset, length)
    assert caller.said == [offset // CHUNK]
    assert stats.values()["reads"] == 1 and stats.values()["bytes_read"] == bytes_read


def test_a_blob_is_given_back_when_there_is_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    blobs: Any = SimpleNamespace(folder=SimpleNamespace(where="blobs"))
    reader, blob = Reader(blobs, lambda sha256, blob: True), OpenBlob(0)
    reader.open._open["sha"] = blob

    def no_memory(size: int) -> memoryview:
        raise MemoryError

    monkeypatch.setattr(reader._pool, "take", no_memory)
    version: Any = SimpleNamespace(info=SimpleNamespace(size=CHUNK), sha256="sha", chunk_size=CHUNK)
    with pytest.raises(MemoryError):
        reader.read_cached(version, 0, CHUNK)
    assert blob.readers == 0
    reader.open._open.clear()
