"""A follower behind a learner that never pauses: it stops reading what it is too late for, and receives what comes."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import xxhash

from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.limits import CHUNK
from broadcaster.protocol.machines.follow import Delivered, Follower
from broadcaster.protocol.messages import Abandon, Event, Read, State
from broadcaster.protocol.version import VersionInfo

CHUNKS = 8
PAYLOAD = bytes(CHUNKS * CHUNK)


class Buffers:
    """Lends and counts."""

    def __init__(self) -> None:
        self.out = 0

    def lend(self, size: int) -> memoryview:
        self.out += 1
        return memoryview(bytearray(size))

    def give(self, buffer: memoryview) -> None:
        self.out -= 1


def version(number: int) -> VersionInfo:
    digest = xxhash.xxh3_128_hexdigest(PAYLOAD)
    return VersionInfo(
        namespace="default", model_id="policy", number=number, size=len(PAYLOAD), digest=digest, creation_timestamp=1
    )


def event(number: int) -> Event:
    return Event(
        epoch=1,
        offset=number,
        previous=number - 1,
        namespace="default",
        model_id="policy",
        event="published",
        number=number,
        version=version(number),
        transfer=bytes([number] * 16),
        attempt=0,
    )


def push(follower: Follower, number: int, indices: range) -> int:
    """Pushes chunks of one version; returns how many were taken."""
    taken = 0
    for index in indices:
        header = ChunkHeader(bytes([number] * 16), len(PAYLOAD), index * CHUNK, CHUNK)
        if follower.place(header, 0.0) is not None:
            follower.placed(header, 0.0)
            taken += 1
    return taken


@pytest.fixture
def behind() -> tuple[Follower, Buffers]:
    """Version 1 is visible, version 2 was missed and is being read."""
    counter = itertools.count(1)
    make_id: Callable[[], bytes] = lambda: next(counter).to_bytes(16, "big")  # noqa: E731
    buffers = Buffers()
    follower = Follower("default", "policy", make_id, buffers)
    follower.start(0.0)
    push(follower, 1, range(CHUNKS))
    follower.receive(State(request_id=(1).to_bytes(16, "big"), epoch=1, offset=0, model_offset=0), 0.0)
    assert any(isinstance(item, Delivered) for item in follower.receive(event(1), 0.0))
    reads = follower.receive(event(2), 0.0)
    assert all(isinstance(item, Read) for item in reads) and reads
    return follower, buffers


def test_a_version_that_is_being_read_gives_way_to_one_that_begins_to_arrive(behind: tuple[Follower, Buffers]) -> None:
    follower, buffers = behind
    assert push(follower, 3, range(CHUNKS)) == CHUNKS
    delivered = [item for item in follower.receive(event(3), 0.0) if isinstance(item, Delivered)]
    assert [item.version.number for item in delivered] == [3]
    assert buffers.out == 2, "the two delivered ones; that of version 2 came back"


def test_it_gives_way_once_and_then_one_is_finished(behind: tuple[Follower, Buffers]) -> None:
    follower, _ = behind
    assert push(follower, 3, range(CHUNKS - 6)) == 2, "version 3 is taken up, and most of it is missed"
    assert any(isinstance(item, Read) for item in follower.receive(event(3), 0.0))
    assert push(follower, 4, range(CHUNKS)) == 0, "version 3 is finished first"


def test_a_transfer_that_has_begun_already_is_not_a_reason_to_give_way(behind: tuple[Follower, Buffers]) -> None:
    follower, _ = behind
    assert push(follower, 3, range(1, CHUNKS)) == 0


def test_what_gave_way_is_read_after_all_when_the_newer_one_leads_to_nothing(behind: tuple[Follower, Buffers]) -> None:
    follower, _ = behind
    push(follower, 3, range(2))
    reads = follower.receive(Abandon(transfer=bytes([3] * 16), attempt=0), 0.0)
    assert {item.number for item in reads if isinstance(item, Read)} == {2}


def test_the_first_version_is_finished_whatever_begins_to_arrive() -> None:
    counter = itertools.count(1)
    follower = Follower("default", "policy", lambda: next(counter).to_bytes(16, "big"), Buffers())
    follower.start(0.0)
    state = State(request_id=(1).to_bytes(16, "big"), epoch=1, offset=1, model_offset=1, newest=version(1))
    assert any(isinstance(item, Read) for item in follower.receive(state, 0.0))
    assert push(follower, 2, range(CHUNKS)) == 0
