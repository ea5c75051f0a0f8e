"""Reading versions over slow and broken ways: what the machines ask again, and what they no longer take."""

from __future__ import annotations

import itertools
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import xxhash

from broadcaster.protocol.assembly import Assembly
from broadcaster.protocol.errors import DigestMismatch, NoSpace, RequestTimeout
from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.limits import CHUNK, RETRY
from broadcaster.protocol.machines.fetch import Fetcher
from broadcaster.protocol.machines.follow import Delivered, Follower, Listed
from broadcaster.protocol.messages import Abandon, Event, Follow, Read, Replay, State
from broadcaster.protocol.version import VersionInfo
from clients._driver.delivery import Delivery
from clients._driver.feed import Feed
from clients._driver.fetching import Fetch
from clients._driver.loop import Driver
from clients.buffers import BufferPool

PAYLOAD = bytes(range(256)) * (5 * CHUNK // 512)  # two chunks and a half


def info(number: int, payload: bytes = PAYLOAD) -> VersionInfo:
    digest = xxhash.xxh3_128_hexdigest(payload)
    return VersionInfo(
        namespace="default", model_id="policy", number=number, size=len(payload), digest=digest, creation_timestamp=0
    )


class Ids:
    def __init__(self) -> None:
        self._count = itertools.count(1)

    def __call__(self) -> bytes:
        return next(self._count).to_bytes(16, "big")


def answer(read: Read, payload: bytes = PAYLOAD) -> tuple[ChunkHeader, bytes]:
    data = payload[read.offset : read.offset + read.length]
    return ChunkHeader(read.request_id, len(payload), read.offset, len(data)), data


def feed(fetcher: Fetcher, read: Read, now: float) -> list:
    header, data = answer(read)
    place = fetcher.place(header)
    if place is None:
        return []
    place[:] = data
    return fetcher.placed(header, now)


def test_a_way_slower_than_the_patience_still_brings_every_chunk() -> None:
    fetcher = Fetcher(info(1), Assembly(memoryview(bytearray(len(PAYLOAD)))), Ids())
    under_way, now, asked = list(fetcher.start(0.0)), 0.0, 0
    while not fetcher.over:
        read = under_way.pop(0)
        for _ in range(5):  # Each chunk takes five times as long as an answer is waited for.
            now += RETRY
            again = fetcher.expire(now)
            asked += len(again)
            under_way += again
        under_way += feed(fetcher, read, now)
        assert now < 60
    assert asked <= 10, "a slow way is not filled with repetitions"


def test_a_question_that_is_repeated_keeps_its_id() -> None:
    fetcher = Fetcher(info(1), Assembly(memoryview(bytearray(len(PAYLOAD)))), Ids())
    first = fetcher.start(0.0)
    assert fetcher.expire(RETRY / 2) == []
    assert fetcher.expire(RETRY) == first
    assert fetcher.expire(2 * RETRY) == [] and fetcher.expire(3 * RETRY) == first


def follower(pool: BufferPool, *, every: bool = False) -> Follower:
    made = Follower("default", "policy", Ids(), pool, every=every)
    made.start(0.0)
    return made


def state(made: Follower, ask: Follow, offset: int, newest: VersionInfo | None, now: float = 0.0) -> list:
    return made.receive(State(request_id=ask.request_id, epoch=1, offset=offset, model_offset=offset, newest=newest), now)


def published(number: int, offset: int, previous: int, *, epoch: int = 1) -> Event:
    return Event(
        epoch=epoch,
        offset=offset,
        previous=previous,
        namespace="default",
        model_id="policy",
        event="published",
        number=number,
        version=info(number, b"abc"),
    )


def test_an_answer_that_comes_after_the_fetch_was_dropped_is_not_taken_for_a_push() -> None:
    made = Follower("default", "policy", Ids(), BufferPool())
    (ask,) = made.start(0.0)
    assert isinstance(ask, Follow)
    reads = [message for message in state(made, ask, 1, info(1)) if isinstance(message, Read)]
    small = published(2, 2, 1)
    out = made.receive(small, 0.1, b"abc")  # Newer, and whole: the fetch is given up.
    assert [type(item) for item in out] == [Delivered]
    assert [made.place_read(answer(read)[0]) for read in reads] == [None] * len(reads)
    pushed = ChunkHeader(b"p" * 16, len(PAYLOAD), 0, CHUNK)
    assert made.place(pushed, 0.2) is not None, "a late answer must not keep pushed chunks out"


def test_listing_begins_with_the_newest_known_and_misses_nothing_after() -> None:
    made = Follower("default", "policy", Ids(), BufferPool())
    (ask,) = made.start(0.0)
    state(made, ask, 4, info(2, b"abc"))
    assert [item.version.number for item in made.list_every() if isinstance(item, Listed)] == [2]
    assert made.list_every() == []
    out = made.receive(published(3, 7, 4), 0.1, b"abc")
    assert [item.version.number for item in out if isinstance(item, Listed)] == [3]
    out = made.receive(published(5, 12, 9), 0.2, b"abc")  # The event at 9 was missed.
    assert any(isinstance(item, Replay) and item.after == 7 for item in out)


def test_events_before_the_first_state_are_listed_when_every_version_is_wanted() -> None:
    made = Follower("default", "policy", Ids(), BufferPool(), every=True)
    (ask,) = made.start(0.0)
    listed = []
    for number in (8, 9):
        listed += made.receive(published(number, number, number - 1), 0.1, b"abc")
    listed += state(made, ask, 9, info(9, b"abc"), 0.2)
    assert [item.version.number for item in listed if isinstance(item, Listed)] == [8, 9]


def test_an_abandoned_transfer_gives_its_memory_back() -> None:
    pool = BufferPool()
    made = follower(pool)
    assert made.place(ChunkHeader(b"t" * 16, len(PAYLOAD), 0, CHUNK, 1), 0.0) is not None
    made.receive(Abandon(transfer=b"t" * 16, attempt=1), 0.1)
    assert len(pool.idle) == 1


def fetch(sent: list, given: list) -> Fetch[bytes]:
    buffer = memoryview(bytearray(len(PAYLOAD)))
    return Fetch(info(1), buffer, lambda _, filled: bytes(filled), sent.append, 10.0, 10.0, given.append)


@pytest.mark.parametrize(("limits", "run"), [({}, 1), ({"read": 4 << 20}, 4), ({"read": 64 << 20}, 4), ({"read": 1}, 1)], ids=str)
def test_one_read_asks_for_as_much_as_the_broadcaster_said_it_gives(limits: dict[str, int], run: int) -> None:
    driver: Any = SimpleNamespace(welcome=SimpleNamespace(limits=limits))
    assert Driver.chunks_per_read.fget is not None and Driver.chunks_per_read.fget(driver) == run
    assert Driver.chunks_per_read.fget(SimpleNamespace(welcome=None)) == 1


def test_a_fetch_ends_with_the_whole_payload() -> None:
    sent: list = []
    reading = fetch(sent, [])
    reading.start(0.0)
    for read in list(sent):
        header, data = answer(read)
        assert reading.wants(header)
        reading.put(header, memoryview(data), 0.1)
    assert reading.over and reading.future.result(0) == PAYLOAD and reading.received == len(PAYLOAD)


@pytest.mark.parametrize("how", ["late", "damaged"])
def test_a_fetch_that_fails_gives_its_buffer_back(how: str) -> None:
    sent: list = []
    given: list = []
    reading = fetch(sent, given)
    reading.start(0.0)
    if how == "late":
        assert reading.deadline == RETRY and reading.expire(10.0)
        expected: type[Exception] = RequestTimeout
    else:
        expected = DigestMismatch
        for read in list(sent):
            header, data = answer(read)
            assert reading.wants(header)
            reading.put(header, memoryview(bytes(len(data))), 0.1)
    assert reading.over and len(given) == 1
    with pytest.raises(expected):
        reading.future.result(0)


class Full(BufferPool):
    """Has no memory as long as `full`."""

    full = True

    def lend(self, size: int) -> memoryview:
        if self.full:
            raise NoSpace(size=size, where="the memory of this process")
        return super().lend(size)


def test_a_version_that_finds_no_memory_is_tried_again_in_a_while() -> None:
    sent: list = []
    outside: Any = SimpleNamespace(add=None, epoch_seen=lambda epoch, now: None, leases=None, no_slots="", chunks_per_read=1)
    made = Feed("default", "policy", Delivery("auto", verify=False), outside, sent.append)
    made.pool = made.follower._pool = pool = Full()
    made.start(0.0)
    newest = State(request_id=sent[-1].request_id, epoch=1, offset=1, model_offset=1, newest=info(1))
    made.receive(newest, None, 0.1)
    assert not made.over and isinstance(made.follower.error, NoSpace) and len(sent) == 1
    assert not made.expire(0.9) and made.expire(0.1 + RETRY)
    pool.full = False
    made.receive(replace(newest, request_id=sent[-1].request_id), None, 1.2)
    for read in [message for message in sent if isinstance(message, Read)]:
        header, data = answer(read)
        assert made.wants(header)
        made.put(header, memoryview(data), 1.3)
    assert made.snapshot is not None and made.snapshot.payload == PAYLOAD
