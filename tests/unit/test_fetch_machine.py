"""The Fetcher alone: what it asks for, where bytes go, when it is over."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import xxhash

from broadcaster.protocol.assembly import Assembly
from broadcaster.protocol.errors import (
    BroadcasterError,
    Busy,
    DigestMismatch,
    InvalidRequest,
    RemoteProtocolError,
    VersionEvicted,
)
from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.limits import CHUNK
from broadcaster.protocol.machines.fetch import MAX_PATIENCE, Fetcher, FetcherState
from broadcaster.protocol.messages import Deleted, Error, Message, Read
from broadcaster.protocol.version import VersionInfo

PAYLOAD = (bytes(range(251)) * (3 * CHUNK // 251 + 1))[: 3 * CHUNK] + b"the last chunk"
COUNT = -(-len(PAYLOAD) // CHUNK)


def ids() -> Callable[[], bytes]:
    """1, 2, 3, ... as 16 bytes."""
    counter = itertools.count(1)
    return lambda: next(counter).to_bytes(16, "big")


def id_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def version(payload: bytes = PAYLOAD, digest: str | None = None) -> VersionInfo:
    digest = digest or xxhash.xxh3_128_hexdigest(payload)
    return VersionInfo(
        namespace="lab", model_id="policy", number=7, size=len(payload), digest=digest, creation_timestamp=1, archived=True
    )


def fetcher(held: tuple[int, ...] = (), *, reads: int = 2, digest: str | None = None) -> Fetcher:
    """A fetcher of PAYLOAD that has some chunks already."""
    assembly = Assembly(memoryview(bytearray(len(PAYLOAD))))
    for index in held:
        assembly.view(index)[:] = PAYLOAD[index * CHUNK : (index + 1) * CHUNK]
        assembly.add(index)
    return Fetcher(version(digest=digest), assembly, ids(), reads=reads, fast_reads=reads)


def read(number: int, index: int) -> Read:
    length = min(CHUNK, len(PAYLOAD) - index * CHUNK)
    return Read(request_id=id_of(number), namespace="lab", model_id="policy", number=7, offset=index * CHUNK, length=length)


def answer(machine: Fetcher, number: int, index: int, now: float = 0.0) -> list[object] | None:
    """The bytes of chunk `index` come; what the machine wants then, or None when it does not want them."""
    data = PAYLOAD[index * CHUNK : (index + 1) * CHUNK]
    header = ChunkHeader(id_of(number), len(PAYLOAD), index * CHUNK, len(data))
    view = machine.place(header)
    if view is None:
        return None
    view[:] = data
    return list(machine.placed(header, now))


def refusal(number: int, error: BroadcasterError) -> Error:
    return Error(request_id=id_of(number), code=error.code, message=str(error), facts=error.facts)


def test_it_asks_for_what_is_missing_and_keeps_so_many_requests_under_way() -> None:
    machine = fetcher(held=(1,))
    assert machine.start(0.0) == [read(1, 0), read(2, 2)]
    assert machine.owns(id_of(1)) and not machine.owns(id_of(3))
    assert answer(machine, 2, 2) == [read(3, 3)]
    assert answer(machine, 1, 0) == []
    assert machine.state is FetcherState.READING and not machine.over
    assert answer(machine, 3, 3) == []
    assert machine.state is FetcherState.DONE and machine.over and machine.deadline is None
    assert bytes(machine.assembly.buffer) == PAYLOAD


def test_a_payload_that_is_here_already_is_only_checked() -> None:
    machine = fetcher(held=tuple(range(COUNT)))
    assert machine.start(0.0) == []
    assert machine.state is FetcherState.DONE


def test_an_empty_payload_needs_no_request() -> None:
    machine = Fetcher(version(b""), Assembly(memoryview(bytearray())), ids())
    assert machine.start(0.0) == []
    assert machine.state is FetcherState.DONE


def test_an_answer_that_came_already_is_not_wanted_again() -> None:
    machine = fetcher()
    machine.start(0.0)
    assert answer(machine, 1, 0) == [read(3, 2)]
    assert answer(machine, 1, 0) is None
    assert answer(machine, 99, 0) is None


def test_silence_asks_again_with_the_same_ids_and_with_growing_patience() -> None:
    machine = fetcher()
    machine.start(10.0)
    waits, now = [], 10.0
    for _ in range(6):
        assert machine.deadline is not None
        assert machine.expire(machine.deadline - 0.001) == []
        waits.append(machine.deadline - now)
        now = machine.deadline
        assert machine.expire(now) == [read(1, 0), read(2, 1)]
    assert waits == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0] and waits[-1] == MAX_PATIENCE
    answer(machine, 1, 0, now)
    # Half again: a way that was slow is not filled with repetitions at once, and one that was cut a few times is quick again.
    assert machine.deadline == now + MAX_PATIENCE / 2


def test_an_error_instead_of_bytes_ends_the_fetch() -> None:
    machine = fetcher()
    machine.start(0.0)
    assert machine.receive(refusal(9, Busy(what="x", retry_after=1)), 0.0) == []
    assert not machine.over
    assert machine.receive(Deleted(request_id=id_of(1)), 0.0) == []
    assert machine.receive(refusal(1, VersionEvicted(model_id="policy", number=7)), 0.0) == []
    assert machine.state is FetcherState.FAILED and isinstance(machine.error, VersionEvicted)
    assert machine.deadline is None
    assert machine.expire(100.0) == [] and answer(machine, 2, 1) is None
    assert machine.receive(refusal(2, Busy(what="x", retry_after=1)), 0.0) == [] and isinstance(machine.error, VersionEvicted)
    assert machine.came(1.0) == []


def test_wrong_bytes_are_never_taken_for_the_version() -> None:
    machine = fetcher(held=tuple(range(1, COUNT)), digest="0" * 32)
    machine.start(0.0)
    assert answer(machine, 1, 0) == []
    assert machine.state is FetcherState.FAILED and isinstance(machine.error, DigestMismatch)
    assert machine.error.facts["declared"] == "0" * 32


@pytest.mark.parametrize(
    ("size", "offset", "length"),
    [
        (len(PAYLOAD) + 1, 0, CHUNK),
        (len(PAYLOAD), CHUNK, CHUNK),
        (len(PAYLOAD), 1, CHUNK),
        (len(PAYLOAD), 0, CHUNK - 1),
        (len(PAYLOAD), 0, 0),
    ],
)
def test_bytes_that_were_not_asked_for_are_refused(size: int, offset: int, length: int) -> None:
    machine = fetcher()
    machine.start(0.0)
    with pytest.raises(RemoteProtocolError):
        machine.place(ChunkHeader(id_of(1), size, offset, length))
    assert machine.state is FetcherState.READING
    assert answer(machine, 1, 0) == [read(3, 2)]


def test_what_came_another_way_is_neither_read_nor_waited_for() -> None:
    machine = fetcher()
    machine.start(0.0)
    for index in (0, 2):
        machine.assembly.view(index)[:] = PAYLOAD[index * CHUNK : (index + 1) * CHUNK]
        machine.assembly.add(index)
    assert answer(machine, 1, 0) is None
    assert machine.came(0.5) == [read(3, 3)]
    assert not machine.owns(id_of(1)) and machine.deadline == 1.5
    assert answer(machine, 3, 3) == []
    machine.assembly.view(1)[:] = PAYLOAD[CHUNK : 2 * CHUNK]
    machine.assembly.add(1)
    assert machine.came(0.6) == []
    assert machine.state is FetcherState.DONE


def of_many(count: int, held: tuple[int, ...] = (), **given: int) -> Fetcher:
    """A fetcher of that many chunks of zeros, some of which are here."""
    payload = bytes(count * CHUNK)
    assembly = Assembly(memoryview(bytearray(len(payload))))
    for index in held:
        assembly.add(index)
    return Fetcher(version(payload), assembly, ids(), **given)


def asked(out: list[object]) -> list[tuple[int, range]]:
    """What is asked for: the number in the id, and the chunks."""
    reads = [one for one in out if isinstance(one, Read)]
    assert len(reads) == len(out) and all(one.offset % CHUNK == 0 and one.length % CHUNK == 0 for one in reads)
    first = [(int.from_bytes(one.request_id, "big"), one.offset // CHUNK, one.length // CHUNK) for one in reads]
    return [(number, range(start, start + length)) for number, start, length in first]


def comes(machine: Fetcher, number: int, index: int, now: float = 0.0) -> list[tuple[int, range]] | None:
    """Chunk `index` comes as an answer to a request; what is asked for then, or None when it is not wanted."""
    header = ChunkHeader(id_of(number), machine.assembly.size, index * CHUNK, CHUNK)
    return None if machine.place(header) is None else asked(list(machine.placed(header, now)))


def test_one_request_asks_for_as_many_chunks_in_a_row_as_it_may() -> None:
    machine = of_many(9, held=(2,), chunks_per_read=4, reads=8, fast_reads=8)
    assert asked(list(machine.start(0.0))) == [(1, range(2)), (2, range(3, 7))]  # Seven under way would leave no room for four.
    assert comes(machine, 2, 4) == [] and comes(machine, 2, 4) is None
    assert comes(machine, 1, 1) == [(3, range(7, 9))]
    for number, index in ((1, 0), (2, 3), (2, 6), (3, 8), (2, 5)):
        assert machine.owns(id_of(number)) and comes(machine, number, index) == []
    assert not machine.owns(id_of(1)) and not machine.owns(id_of(2)) and machine.state is FetcherState.READING
    assert comes(machine, 3, 7) == [] and machine.state is FetcherState.DONE


def test_a_request_whose_answer_came_in_part_asks_for_the_rest() -> None:
    machine = of_many(8, chunks_per_read=4, reads=8, fast_reads=8)
    assert asked(list(machine.start(0.0))) == [(1, range(4)), (2, range(4, 8))]
    for number, index in ((1, 0), (1, 2), (2, 4)):
        assert comes(machine, number, index) == []
    assert asked(list(machine.expire(1.0))) == [(1, range(1, 4)), (2, range(5, 8))]
    assert comes(machine, 1, 2, 1.0) is None  # It lies between two that are missing, and comes again.
    for index in (1, 3):
        assert comes(machine, 1, index, 1.0) == []
    machine.assembly.add(6)  # It came another way.
    assert machine.came(1.5) == [] and asked(list(machine.expire(9.0))) == [(2, range(5, 8))]


def test_a_broadcaster_that_gives_no_more_than_a_chunk_is_asked_for_one_at_a_time() -> None:
    """An older one took the place of the one that said it would give more."""
    machine = of_many(6, chunks_per_read=4, reads=8, fast_reads=8)
    assert asked(list(machine.start(0.0))) == [(1, range(4)), (2, range(4, 6))]
    assert comes(machine, 1, 1) == []
    again = asked(list(machine.receive(refusal(1, InvalidRequest(field="length", reason="at most 1 MiB")), 0.1)))
    assert again == [(number, range(index, index + 1)) for number, index in zip(range(3, 8), (0, 2, 3, 4, 5), strict=True)]
    assert machine.receive(refusal(2, InvalidRequest(field="length", reason="at most 1 MiB")), 0.1) == []  # It is nobody's now.
    for number, index in zip(range(3, 8), (0, 2, 3, 4, 5), strict=True):
        assert comes(machine, number, index) == []
    assert machine.state is FetcherState.DONE


def test_what_is_refused_one_at_a_time_is_refused() -> None:
    machine = of_many(6, chunks_per_read=1)
    machine.start(0.0)
    assert machine.receive(refusal(1, InvalidRequest(field="offset", reason="no")), 0.1) == []
    assert machine.state is FetcherState.FAILED and isinstance(machine.error, InvalidRequest)


def test_a_chunk_of_another_request_is_refused() -> None:
    machine = of_many(8, chunks_per_read=4, reads=8)
    machine.start(0.0)
    with pytest.raises(RemoteProtocolError, match="asked for chunks"):
        machine.place(ChunkHeader(id_of(1), 8 * CHUNK, 5 * CHUNK, CHUNK))
    assert machine.state is FetcherState.READING and comes(machine, 2, 5) == []


def test_the_answer_that_comes_next_is_known_by_its_header() -> None:
    machine = of_many(6, chunks_per_read=2, reads=4, fast_reads=4)
    machine.start(0.0)
    for index in range(6):
        header = ChunkHeader(id_of(index // 2 + 1), 6 * CHUNK, index * CHUNK, CHUNK)
        assert machine.expected == header.pack() and machine.place(header) is not None
        place = machine.front
        place[:] = bytes(CHUNK)
        out = asked(list(machine.placed_next(place, 0.0)))
        assert out == ([(3, range(4, 6))] if index == 1 else []) and not machine.over == (index < 5)
    assert machine.expected is None and machine.state is FetcherState.DONE


def test_the_header_of_what_is_not_asked_for_is_not_expected() -> None:
    machine = of_many(4, chunks_per_read=1, reads=2, fast_reads=2)
    machine.start(0.0)
    assert comes(machine, 2, 1) == [(3, range(2, 3))]
    assert machine.expected == ChunkHeader(id_of(1), 4 * CHUNK, 0, CHUNK).pack()  # Not the third, which is no longer the front.
    machine.assembly.add(0)
    assert machine.came(0.0) == [] or machine.expected is not None


@pytest.mark.parametrize(("seconds", "more"), [(0.009, True), (0.011, False)])
def test_where_chunks_come_fast_more_are_under_way(seconds: float, more: bool) -> None:
    machine = of_many(40, chunks_per_read=1, reads=4, fast_reads=8)
    under_way, now = len(machine.start(100.0)), 100.0
    for index in range(20):
        now += seconds
        out = comes(machine, index + 1, index, now)
        assert out is not None
        under_way += len(out) - 1
        assert under_way == (8 if more and index else 4)


def test_other_messages_do_not_disturb_it() -> None:
    machine = fetcher()
    machine.start(0.0)
    other: Message = Deleted(request_id=id_of(1))
    assert machine.receive(other, 0.0) == [] and not machine.over
