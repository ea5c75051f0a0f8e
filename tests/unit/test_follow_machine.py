"""The Follower alone, one conversation at a time: what comes in, what goes out, what is visible."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import xxhash

from broadcaster.protocol.errors import BroadcasterError, EventsGone, NoSpace, RemoteProtocolError, UnknownModel, VersionEvicted
from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.limits import BEACON_IDLE, CHUNK, RETRY
from broadcaster.protocol.machines.follow import LONGEST_NAP, NAP, Delivered, Follower, FollowerState, Hole, Lease, Listed, Out
from broadcaster.protocol.messages import (
    Abandon,
    Beacon,
    Deleted,
    Error,
    Event,
    Events,
    Follow,
    Message,
    Read,
    Replay,
    State,
)
from broadcaster.protocol.version import VersionInfo

LARGE = 2 * CHUNK + 5
T1, T2 = b"1" * 16, b"2" * 16


def id_of(number: int) -> bytes:
    return number.to_bytes(16, "big")


def payload_of(number: int, size: int = LARGE) -> bytes:
    return (number.to_bytes(2, "big") * (size // 2 + 1))[:size]


def version(number: int, size: int = LARGE) -> VersionInfo:
    digest = xxhash.xxh3_128_hexdigest(payload_of(number, size))
    return VersionInfo(namespace="lab", model_id="policy", number=number, size=size, digest=digest, creation_timestamp=number)


def published(offset: int, number: int, *, size: int = LARGE, previous: int | None = None, transfer: bytes = T1) -> Event:
    return Event(
        epoch=1,
        offset=offset,
        previous=offset - 1 if previous is None else previous,
        namespace="lab",
        model_id="policy",
        event="published",
        number=number,
        version=version(number, size),
        transfer=transfer,
        attempt=0,
    )


def other(offset: int, *, previous: int | None = None, epoch: int = 1) -> Event:
    previous = offset - 1 if previous is None else previous
    return Event(epoch=epoch, offset=offset, previous=previous, namespace="lab", model_id="policy", event="updated")


def beacon(model_offset: int, *, epoch: int = 1) -> Beacon:
    return Beacon(epoch=epoch, offset=99, model_offset=model_offset, namespace="lab", model_id="policy", interval_ms=1000)


def state(ask: int, model_offset: int, newest: VersionInfo | None, *, epoch: int = 1) -> State:
    return State(request_id=id_of(ask), epoch=epoch, offset=model_offset, model_offset=model_offset, newest=newest)


def header(transfer: bytes, index: int, size: int = LARGE, attempt: int = 0) -> ChunkHeader:
    return ChunkHeader(transfer, size, index * CHUNK, min(CHUNK, size - index * CHUNK), attempt)


def follow(number: int) -> Follow:
    return Follow(request_id=id_of(number), namespace="lab", model_id="policy")


def read(request: int, number: int, index: int, size: int = LARGE) -> Read:
    length = min(CHUNK, size - index * CHUNK)
    return Read(request_id=id_of(request), namespace="lab", model_id="policy", number=number, offset=index * CHUNK, length=length)


def replay(request: int, after: int, *, epoch: int = 1) -> Replay:
    return Replay(request_id=id_of(request), namespace="lab", model_id="policy", epoch=epoch, after=after)


def refusal(request: int, error: BroadcasterError) -> Error:
    return Error(request_id=id_of(request), code=error.code, message=str(error), facts=error.facts)


class Buffers:
    """A pool that knows what is out."""

    def __init__(self) -> None:
        self.out: list[memoryview] = []
        self.full = False

    def lend(self, size: int) -> memoryview:
        if self.full:
            raise NoSpace(size=size, where="memory")
        self.out.append(memoryview(bytearray(size)))
        return self.out[-1]

    def give(self, buffer: memoryview) -> None:
        self.out = [one for one in self.out if one is not buffer]


class Desk:
    """A follower and its pool. Request ids are 1, 2, 3, ..."""

    def __init__(self, *, every: bool = False, shared: bool = False) -> None:
        counter = itertools.count(1)
        self.pool = Buffers()
        self.machine = Follower("lab", "policy", lambda: id_of(next(counter)), self.pool, every=every, shared=shared)
        self.now = 100.0
        assert self.machine.start(self.now) == [follow(1)]

    def get(self, message: Message, payload: bytes | None = None) -> Out:
        return self.machine.receive(message, self.now, payload)

    def push(self, transfer: bytes, number: int, *indices: int, size: int = LARGE, attempt: int = 0) -> list[bool]:
        """Chunks of a version come; whether each was wanted."""
        return [self._place(header(transfer, index, size, attempt), number, size, read=False) is not None for index in indices]

    def push_expected(self, transfer: bytes, number: int, index: int, size: int = LARGE) -> bool:
        """A chunk comes that is asked about by its bytes; whether it was the expected one."""
        head = header(transfer, index, size)
        if head.pack() != self.machine.expected:
            return False
        place = self.machine.front
        place[:] = payload_of(number, size)[head.offset : head.offset + head.length]
        assert self.machine.came(place, self.now) == self.machine.expected
        return True

    def serve(self, request: int, number: int, index: int, size: int = LARGE) -> Out | None:
        """The answer to a read comes; what the machine wants then, or None when it was not awaited."""
        return self._place(header(id_of(request), index, size), number, size, read=True)

    def _place(self, head: ChunkHeader, number: int, size: int, *, read: bool) -> Out | None:
        view = self.machine.place_read(head) if read else self.machine.place(head, self.now)
        if view is None:
            return None
        view[:] = payload_of(number, size)[head.offset : head.offset + head.length]
        return self.machine.placed(head, self.now)

    def wait(self, seconds: float) -> Out:
        self.now += seconds
        return self.machine.expire(self.now)


def following(*, every: bool = False, shared: bool = False, newest: VersionInfo | None = None, model_offset: int = 10) -> Desk:
    """A follower whose first question was answered."""
    desk = Desk(every=every, shared=shared)
    desk.get(state(1, model_offset, newest), None if newest is None else payload_of(newest.number, newest.size))
    assert desk.machine.state is FollowerState.FOLLOWING
    return desk


def is_delivery(out: Out, number: int, size: int = LARGE) -> bool:
    match out:
        case [Delivered(version=found, payload=payload), *_]:
            return found == version(number, size) and bytes(payload) == payload_of(number, size)
    return False


def rest(out: Out) -> Out:
    return out[1:]


# --- the beginning -------------------------------------------------------------------------------------------------


def test_the_newest_version_comes_inside_the_first_answer() -> None:
    desk = Desk()
    assert is_delivery(desk.get(state(1, 3, version(7, 9)), payload_of(7, 9)), 7, 9)
    assert (desk.machine.visible, desk.machine.model_offset, desk.machine.epoch) == (7, 3, 1)
    assert desk.pool.out == []


def test_a_large_newest_version_is_read() -> None:
    desk = Desk()
    assert desk.get(state(1, 3, version(7))) == [read(2, 7, 0), read(3, 7, 1), read(4, 7, 2)]
    assert desk.serve(2, 7, 0) == [] and desk.serve(4, 7, 2) == []
    assert desk.serve(99, 7, 1) is None
    out = desk.serve(3, 7, 1)
    assert out is not None and is_delivery(out, 7)
    assert desk.machine.known == version(7)


def test_a_model_without_versions_is_waited_for() -> None:
    desk = Desk()
    assert desk.get(state(1, 0, None)) == []
    assert desk.machine.state is FollowerState.FOLLOWING and desk.machine.visible == 0


def test_a_model_that_does_not_exist_is_asked_for_again() -> None:
    desk = Desk()
    assert desk.get(refusal(1, UnknownModel(model_id="policy", namespace="lab"))) == []
    assert isinstance(desk.machine.error, UnknownModel) and desk.machine.state is FollowerState.ASKING
    assert desk.machine.deadline == desk.now + RETRY
    assert desk.wait(0.5) == []
    assert desk.wait(0.5) == [follow(2)]
    assert desk.get(state(1, 3, version(7, 9)), payload_of(7, 9)) == []  # The answer to the older question.


def test_an_event_before_the_first_answer_counts() -> None:
    desk = Desk()
    assert is_delivery(desk.get(published(5, 7, size=9), payload_of(7, 9)), 7, 9)
    assert desk.get(other(6)) == []
    assert desk.machine.epoch is None
    assert desk.get(beacon(5)) == []
    assert desk.get(state(1, 4, version(6))) == []
    assert desk.machine.visible == 7


def test_answers_and_messages_that_are_not_awaited_change_nothing() -> None:
    desk = following()
    assert desk.get(Deleted(request_id=id_of(1))) == []
    assert desk.get(state(77, 30, version(30))) == []
    assert desk.get(Events(request_id=id_of(77), epoch=1, offset=30, events=(published(30, 30),))) == []
    assert desk.get(refusal(77, UnknownModel(model_id="policy", namespace="lab"))) == []
    assert (desk.machine.known, desk.machine.error) == (None, None)


# --- chunks that are pushed ----------------------------------------------------------------------------------------


def test_pushed_chunks_become_visible_with_their_event_and_not_before() -> None:
    desk = following()
    assert desk.push(T1, 7, 0, 1, 2) == [True, True, True]
    assert desk.machine.visible == 0
    out = desk.get(published(11, 7))
    assert is_delivery(out, 7) and rest(out) == []
    delivered = out[0]
    assert isinstance(delivered, Delivered) and delivered.payload is desk.pool.out[0]


def test_an_event_without_an_attempt_means_the_first() -> None:
    desk = following()
    desk.push(T1, 7, 0, 1, 2)
    assert is_delivery(desk.get(replace(published(11, 7), attempt=None)), 7)


def test_the_chunk_that_comes_next_is_known_by_its_header_alone() -> None:
    desk = following()
    assert not desk.push_expected(T1, 11, 0), "nothing has come of it yet"
    assert desk.push(T1, 11, 0) == [True]
    assert not desk.push_expected(T1, 11, 2) and not desk.push_expected(T2, 11, 1)
    assert desk.push_expected(T1, 11, 1)
    assert not desk.push_expected(T1, 11, 1), "it is here already"
    assert desk.push_expected(T1, 11, 2)
    assert is_delivery(desk.get(published(11, 11, transfer=T1)), 11)


def test_an_expected_chunk_with_other_bytes_is_found_by_the_digest_and_read_again() -> None:
    desk = following()
    desk.push(T1, 11, 0)
    assert desk.push_expected(T1, 12, 1) and desk.push_expected(T1, 11, 2)
    assert desk.get(published(11, 11, transfer=T1)) == [read(2, 11, 0), read(3, 11, 1), read(4, 11, 2)]
    assert not desk.push_expected(T1, 11, 0), "it is read now"


def test_there_is_time_for_a_nap_in_the_middle_of_a_transfer_only() -> None:
    desk, size = following(), 20 * CHUNK
    naps = []
    for index in range(20):
        naps.append(desk.machine.nap(desk.now))
        desk.push(T1, 11, index, size=size)
        desk.now += 0.001
    assert naps[:NAP] == [0.0] * NAP and naps[-3:] == [0.0] * 3
    assert all(nap == pytest.approx(0.001 * min(NAP, (20 - index) // 2), rel=0.3) for index, nap in enumerate(naps) if nap)
    assert sum(nap > 0 for nap in naps) > 10
    desk.now += 10
    assert desk.machine.nap(desk.now) <= LONGEST_NAP
    assert desk.push_expected(T1, 11, 20, size=size) is False
    assert is_delivery(desk.get(published(11, 11, size=size, transfer=T1)), 11, size)


def test_a_pushed_chunk_that_is_here_already_is_not_wanted() -> None:
    desk = following()
    assert desk.push(T1, 7, 0, 0, 2, 2) == [True, False, True, False]


def test_missing_chunks_are_read() -> None:
    desk = following()
    desk.push(T1, 7, 0, 2)
    assert desk.get(published(11, 7)) == [read(2, 7, 1)]
    assert desk.machine.repaired == 1
    out = desk.serve(2, 7, 1)
    assert out is not None and is_delivery(out, 7)


def test_chunks_behind_their_event_complete_a_version_that_is_being_read() -> None:
    desk = following()
    desk.push(T1, 7, 0)
    assert desk.get(published(11, 7)) == [read(2, 7, 1), read(3, 7, 2)]
    assert desk.push(T1, 7, 1) == [True]
    assert desk.serve(2, 7, 1) is None
    view = desk.machine.place(header(T1, 2), desk.now)
    assert view is not None
    view[:] = payload_of(7)[2 * CHUNK :]
    assert is_delivery(desk.machine.placed(header(T1, 2), desk.now), 7)
    assert desk.serve(3, 7, 2) is None


def test_pushed_bytes_of_another_digest_are_read_again() -> None:
    desk = following()
    desk.push(T1, 8, 0, 1, 2)  # Bytes of 8 under the transfer of 7.
    assert desk.get(published(11, 7)) == [read(2, 7, 0), read(3, 7, 1), read(4, 7, 2)]
    assert desk.push(T1, 8, 0) == [False]
    for request, index in ((2, 0), (3, 1)):
        desk.serve(request, 7, index)
    out = desk.serve(4, 7, 2)
    assert out is not None and is_delivery(out, 7)


def test_a_transfer_of_another_size_than_its_version_is_not_used() -> None:
    desk = following()
    desk.push(T1, 7, 0, size=CHUNK + 1)
    assert desk.get(published(11, 7)) == []
    assert desk.wait(RETRY) == [read(2, 7, 0), read(3, 7, 1), read(4, 7, 2)]
    assert len(desk.pool.out) == 1


def test_a_chunk_that_fits_no_payload_is_refused() -> None:
    desk = following()
    with pytest.raises(RemoteProtocolError):
        desk.machine.place(ChunkHeader(T1, LARGE, 1, CHUNK), desk.now)


def test_an_abandoned_transfer_gives_its_buffer_back() -> None:
    desk = following()
    desk.push(T1, 7, 0)
    for stranger in (Abandon(transfer=T2, attempt=0), Abandon(transfer=T1, attempt=1)):
        assert desk.get(stranger) == [] and len(desk.pool.out) == 1
    assert desk.get(Abandon(transfer=T1, attempt=0)) == []
    assert desk.pool.out == []
    assert desk.push(T2, 8, 0) == [True]


def test_an_abandoned_transfer_makes_room_for_the_version_that_waits() -> None:
    desk = following()
    desk.push(T1, 7, 0)
    assert desk.get(published(11, 6, transfer=T2)) == []
    assert desk.get(Abandon(transfer=T1, attempt=0)) == [read(2, 6, 0), read(3, 6, 1), read(4, 6, 2)]


def test_an_abandon_of_what_is_being_read_already_changes_nothing() -> None:
    desk = following()
    desk.push(T1, 7, 0)
    desk.get(published(11, 7))
    assert desk.get(Abandon(transfer=T1, attempt=0)) == []
    assert len(desk.pool.out) == 1


def test_another_transfer_waits_until_the_first_is_silent() -> None:
    desk = following()
    assert desk.push(T1, 7, 0) == [True]
    assert desk.push(T2, 8, 0) == [False]
    desk.now += RETRY
    assert desk.push(T2, 8, 0) == [True]
    assert len(desk.pool.out) == 1


def test_a_second_attempt_is_another_transfer() -> None:
    desk = following()
    assert desk.push(T1, 7, 0) == [True]
    assert desk.push(T1, 7, 0, attempt=1) == [False]


def test_a_small_version_that_came_in_chunks_too_leaves_the_place_to_the_next() -> None:
    desk = following()
    desk.push(T1, 7, 0, size=9)
    assert is_delivery(desk.get(published(11, 7, size=9), payload_of(7, 9)), 7, 9)
    assert desk.pool.out == []
    assert desk.push(T2, 8, 0, 1, 2) == [True, True, True]
    assert is_delivery(desk.get(published(12, 8, transfer=T2)), 8)


def test_chunks_of_a_version_that_is_visible_already_are_given_back_with_its_event() -> None:
    desk = following(newest=version(7, 9))
    desk.push(T1, 7, 0)
    assert desk.get(published(11, 7)) == []
    assert desk.pool.out == []
    assert desk.get(published(12, 6, transfer=T2)) == []


# --- several versions at a time ------------------------------------------------------------------------------------


def test_while_one_version_is_read_the_newest_of_the_others_waits() -> None:
    desk = following()
    assert desk.get(published(11, 7)) == [read(2, 7, 0), read(3, 7, 1), read(4, 7, 2)]
    assert desk.get(published(12, 8)) == [] and desk.get(published(13, 9)) == []
    desk.serve(2, 7, 0)
    desk.serve(3, 7, 1)
    out = desk.serve(4, 7, 2)
    assert out is not None and is_delivery(out, 7)
    assert rest(out) == [read(5, 9, 0), read(6, 9, 1), read(7, 9, 2)]


def test_an_older_version_does_not_wait_behind_a_newer_one() -> None:
    desk = following()
    desk.get(published(11, 8))
    assert desk.get(published(12, 7, transfer=T2)) == []
    for request, index in ((2, 0), (3, 1)):
        desk.serve(request, 8, index)
    out = desk.serve(4, 8, 2)
    assert out is not None and is_delivery(out, 8) and rest(out) == []


def test_a_version_for_which_there_was_no_memory_is_asked_for_later() -> None:
    desk = following(newest=version(7, 9))
    desk.pool.full = True
    assert desk.get(published(11, 8)) == []
    assert desk.pool.out == [] and isinstance(desk.machine.error, NoSpace) and desk.machine.visible == 7
    assert desk.wait(RETRY / 2) == []
    desk.pool.full = False
    assert desk.wait(RETRY / 2) == [follow(3)]
    assert desk.get(state(3, 11, version(8))) == [read(4, 8, 0), read(5, 8, 1), read(6, 8, 2)]


def test_what_comes_out_is_not_lost_because_the_next_one_finds_no_memory() -> None:
    desk = following()
    desk.push(T1, 7, 0, 1)
    desk.get(published(11, 7))
    desk.get(published(12, 8, transfer=T2))
    desk.pool.full = True
    out = desk.serve(2, 7, 2)
    assert out is not None and is_delivery(out, 7) and rest(out) == []
    assert isinstance(desk.machine.error, NoSpace)
    every = following(every=True, newest=version(7, 9))
    every.pool.full = True
    assert every.get(published(11, 8)) == [Listed(version(8), None, None)]
    assert every.get(state(0, 1, version(9), epoch=2)) == [] and every.get(other(1, epoch=2))[0] == Hole(8)


def test_what_gave_way_to_a_version_for_which_there_is_no_memory_is_read_again() -> None:
    size = 10 * CHUNK
    desk = following(newest=version(6, 9))
    desk.get(published(11, 7, size=size))
    desk.pool.full = True
    with pytest.raises(NoSpace):
        desk.push(T2, 8, 0, size=size)
    desk.pool.full = False
    asked = desk.wait(RETRY)
    assert len(asked) == 1 and isinstance(asked[0], Follow)
    question = int.from_bytes(asked[0].request_id, "big")
    out = desk.get(state(question, 11, version(7, size)))
    assert [one.number for one in out if isinstance(one, Read)] == [7] * len(out) and out


def test_a_small_newer_version_overtakes_the_one_that_is_being_read() -> None:
    desk = following()
    desk.get(published(11, 7))
    desk.get(published(12, 8))
    out = desk.get(published(13, 9, size=9), payload_of(9, 9))
    assert is_delivery(out, 9, 9) and rest(out) == []
    assert desk.pool.out == [] and desk.serve(2, 7, 0) is None


def test_a_version_that_is_being_read_is_not_delivered_twice_when_it_comes_inside_an_answer() -> None:
    desk = Desk()
    assert desk.get(state(1, 10, version(7, 9))) == [read(2, 7, 0, 9)]
    assert desk.get(beacon(11)) == [follow(3)]
    assert is_delivery(desk.get(state(3, 11, version(7, 9)), payload_of(7, 9)), 7, 9)
    assert desk.serve(2, 7, 0, 9) is None
    assert desk.pool.out == []


def test_an_inline_payload_leaves_a_newer_transfer_alone() -> None:
    desk = following()
    desk.push(T2, 8, 0)
    assert is_delivery(desk.get(published(11, 7, size=9), payload_of(7, 9)), 7, 9)
    assert desk.push(T2, 8, 1, 2) == [True, True]
    assert is_delivery(desk.get(published(12, 8, transfer=T2)), 8)


@pytest.mark.parametrize("payload", [payload_of(8, 9), payload_of(7, 8), b""])
def test_an_inline_payload_of_other_bytes_is_read_instead(payload: bytes) -> None:
    desk = following()
    assert desk.get(published(11, 7, size=9), payload) == [read(2, 7, 0, 9)]
    out = desk.serve(2, 7, 0, 9)
    assert out is not None and is_delivery(out, 7, 9)


def test_a_version_that_is_gone_is_asked_for_when_the_time_comes() -> None:
    desk = following()
    desk.get(published(11, 7))
    assert desk.get(refusal(2, VersionEvicted(model_id="policy", number=7))) == []
    assert isinstance(desk.machine.error, VersionEvicted) and desk.pool.out == []
    assert desk.machine.state is FollowerState.ASKING
    assert desk.wait(RETRY) == [follow(6)]
    assert is_delivery(desk.get(state(6, 12, version(9, 9)), payload_of(9, 9)), 9, 9)
    assert desk.machine.error is None


def test_a_version_that_is_gone_makes_room_for_the_one_that_waits() -> None:
    desk = following()
    desk.get(published(11, 7))
    desk.get(published(12, 8))
    assert desk.get(refusal(3, VersionEvicted(model_id="policy", number=7))) == [read(5, 8, 0), read(6, 8, 1), read(7, 8, 2)]


def test_a_transfer_that_fell_silent_makes_room_for_the_one_that_waits() -> None:
    desk = following()
    desk.push(T1, 8, 0)
    assert desk.get(published(11, 7, transfer=T2)) == []
    assert desk.machine.deadline == desk.now + RETRY
    assert desk.wait(RETRY / 2) == []
    assert desk.wait(RETRY / 2) == [read(2, 7, 0), read(3, 7, 1), read(4, 7, 2)]


def test_a_read_without_an_answer_is_sent_again() -> None:
    desk = following()
    reads = desk.get(published(11, 7))
    assert desk.machine.deadline == desk.now + RETRY
    assert desk.wait(RETRY) == reads


# --- what was missed -----------------------------------------------------------------------------------------------


def test_a_beacon_tells_of_a_missed_event() -> None:
    desk = following()
    assert desk.get(beacon(10)) == []
    assert desk.get(beacon(11)) == [follow(2)]
    assert desk.get(beacon(11)) == []  # Asked already.
    assert desk.machine.gaps == 1 and desk.machine.state is FollowerState.ASKING
    assert desk.get(state(2, 11, version(7, 9)), payload_of(7, 9))[:1] != []
    assert desk.machine.model_offset == 11


def test_a_gap_before_a_publication_needs_no_question() -> None:
    desk = following()
    out = desk.get(published(13, 9, size=9, previous=12), payload_of(9, 9))
    assert is_delivery(out, 9, 9) and rest(out) == []
    assert desk.machine.gaps == 1


def test_a_gap_before_another_event_is_asked_about() -> None:
    desk = following()
    assert desk.get(other(13, previous=12)) == [follow(2)]
    assert desk.get(beacon(13)) == []
    assert desk.machine.gaps == 1
    assert is_delivery(desk.get(state(2, 13, version(8, 9)), payload_of(8, 9)), 8, 9)


def test_silence_is_asked_about() -> None:
    desk = following()
    assert desk.machine.deadline == desk.now + 3 * BEACON_IDLE
    assert desk.wait(3 * BEACON_IDLE) == [follow(2)]
    assert desk.machine.deadline == desk.now + RETRY
    desk.get(beacon(10))
    assert desk.machine.deadline == desk.now + RETRY
    desk.get(state(2, 10, None))
    desk.get(beacon(10))
    assert desk.machine.deadline == desk.now + 3.0


def test_an_event_that_is_known_already_changes_nothing() -> None:
    desk = following()
    assert desk.get(published(10, 7)) == []
    assert desk.machine.known is None


@pytest.mark.parametrize("told_by", [other(1, previous=0, epoch=2), beacon(0, epoch=2)])
def test_a_new_epoch_is_asked_about(told_by: Message) -> None:
    desk = following(newest=version(7, 9))
    assert desk.get(told_by) == [follow(2)]
    assert is_delivery(desk.get(state(2, 1, version(8, 9), epoch=2), payload_of(8, 9)), 8, 9)
    assert (desk.machine.epoch, desk.machine.model_offset) == (2, 1)


def test_a_restart_that_an_answer_tells_of_brings_nothing_older() -> None:
    desk = following(newest=version(7, 9))
    desk.wait(3 * BEACON_IDLE)
    assert desk.get(state(2, 0, version(5, 9), epoch=2), payload_of(5, 9)) == []
    assert desk.machine.visible == 7 and desk.machine.epoch == 2


def test_closing_gives_the_buffer_back() -> None:
    desk = following()
    desk.push(T1, 7, 0)
    desk.machine.close()
    desk.machine.close()
    assert desk.pool.out == []


# --- every version, in order ---------------------------------------------------------------------------------------


def listed(out: Out) -> list[object]:
    """Numbers that were listed, holes as they are."""
    return [one.version.number if isinstance(one, Listed) else one for one in out if isinstance(one, (Listed, Hole))]


def asked(out: Out) -> list[object]:
    return [one for one in out if isinstance(one, (Replay, Follow))]


def test_every_version_is_listed_from_the_newest_on() -> None:
    desk = Desk(every=True)
    assert listed(desk.get(state(1, 10, version(7, 9)), payload_of(7, 9))) == [7]
    assert listed(desk.get(published(11, 8, size=9), payload_of(8, 9))) == [8]
    out = desk.get(published(12, 9))
    assert listed(out) == [9] and isinstance(out[0], Listed) and out[0].payload is None


def test_a_gap_is_filled_from_the_log() -> None:
    desk = following(every=True, newest=version(7, 9))
    out = desk.get(published(13, 10, size=9), payload_of(10, 9))
    assert listed(out) == [] and asked(out) == [replay(2, 10)]
    page = (published(11, 8, size=9), other(12))
    assert desk.get(Events(request_id=id_of(2), epoch=1, offset=13, events=page, next=12)) == [
        Listed(version(8, 9), None),
        replay(3, 12),
    ]
    assert listed(desk.get(Events(request_id=id_of(3), epoch=1, offset=13, events=(published(13, 10, size=9),)))) == [10]
    assert desk.machine.gaps == 1


def test_what_comes_while_the_log_is_read_is_read_too() -> None:
    desk = following(every=True, newest=version(7, 9))
    desk.get(published(13, 10, size=9), payload_of(10, 9))
    assert listed(desk.get(published(14, 11, size=9), payload_of(11, 9))) == []
    events = tuple(published(offset, offset - 3, size=9) for offset in (10, 11, 12, 13))
    out = desk.get(Events(request_id=id_of(2), epoch=1, offset=13, events=events))
    assert listed(out) == [8, 9, 10] and asked(out) == [replay(3, 13)]
    out = desk.get(Events(request_id=id_of(3), epoch=1, offset=14, events=(published(14, 11, size=9),)))
    assert listed(out) == [11] and asked(out) == []


def test_a_gap_that_a_beacon_tells_of_is_filled_from_the_log() -> None:
    desk = following(every=True, newest=version(7, 9))
    assert asked(desk.get(beacon(12))) == [follow(2)]
    out = desk.get(state(2, 12, version(9, 9)), payload_of(9, 9))
    assert asked(out) == [replay(3, 10)] and listed(out) == []


def test_a_replay_without_an_answer_is_asked_for_again() -> None:
    desk = following(every=True, newest=version(7, 9))
    desk.get(published(13, 10, size=9), payload_of(10, 9))
    assert desk.wait(RETRY) == [replay(3, 10)]
    events = (published(11, 8, size=9),)
    assert desk.get(Events(request_id=id_of(2), epoch=1, offset=13, events=events)) == []


def test_a_log_that_forgot_is_a_hole() -> None:
    desk = following(every=True, newest=version(7, 9))
    desk.get(published(13, 10, size=9), payload_of(10, 9))
    gone = refusal(2, EventsGone(offset=10, epoch=1, oldest=12, newest=13, current=1))
    assert desk.get(gone) == [Hole(7)]
    assert listed(desk.get(published(14, 11, size=9), payload_of(11, 9))) == [11]


def test_events_of_another_epoch_than_the_one_asked_for_are_not_used() -> None:
    desk = following(every=True, newest=version(7, 9))
    desk.get(published(13, 10, size=9), payload_of(10, 9))
    assert desk.get(Events(request_id=id_of(2), epoch=2, offset=13, events=(published(11, 8, size=9),))) == []


def test_a_restart_is_a_hole_before_anything_else() -> None:
    desk = following(every=True, newest=version(7, 9))
    event = replace(published(1, 9, size=9), epoch=2)
    out = desk.get(event, payload_of(9, 9))
    assert listed(out) == [Hole(7), 9] and asked(out) == [follow(2)]


def test_a_restart_that_an_answer_tells_of_is_a_hole_too() -> None:
    desk = following(every=True, newest=version(7, 9))
    desk.wait(3 * BEACON_IDLE)
    out = desk.get(state(2, 4, version(9, 9), epoch=2), payload_of(9, 9))
    assert listed(out) == [Hole(7)] and asked(out) == [replay(3, 0, epoch=2)]


def test_an_event_before_the_first_answer_is_where_the_listing_begins() -> None:
    desk = Desk(every=True)
    assert listed(desk.get(published(5, 7, size=9), payload_of(7, 9))) == [7]
    assert listed(desk.get(published(6, 8, size=9), payload_of(8, 9))) == [8]
    out = desk.get(state(1, 7, version(9, 9)), payload_of(9, 9))
    assert listed(out) == [] and asked(out) == [replay(2, 6)]


def test_listing_can_begin_later() -> None:
    early, late = Desk(), following(newest=version(7, 9))
    assert early.machine.list_every() == []
    assert listed(early.get(state(1, 10, version(7, 9)), payload_of(7, 9))) == [7]
    assert late.machine.list_every() == [Listed(version(7, 9), None)]
    assert late.machine.list_every() == []
    assert listed(late.get(published(11, 8, size=9), payload_of(8, 9))) == [8]
    assert following().machine.list_every() == []


def test_an_old_number_is_not_listed_again() -> None:
    desk = following(every=True, newest=version(7, 9))
    assert listed(desk.get(published(11, 7, size=9), payload_of(7, 9))) == []


# --- versions that lie in slots ------------------------------------------------------------------------------------


def in_slot(told: Event | State, generation: int = 1) -> Event | State:
    return replace(told, slot="slot-1-00000000", generation=generation)


def lease(number: int, generation: int = 1, *, epoch: int = 1) -> Lease:
    return Lease(version(number), epoch, "slot-1-00000000", generation)


def take(desk: Desk, number: int, generation: int = 1) -> Out:
    return desk.machine.leased(lease(number, generation), memoryview(payload_of(number)), desk.now)


def test_a_version_in_a_slot_becomes_visible_with_its_lease_and_not_before() -> None:
    desk = following(shared=True)
    assert desk.get(in_slot(published(11, 7))) == [lease(7)]
    assert desk.machine.visible == 0 and desk.machine.known == version(7)
    out = take(desk, 7)
    assert is_delivery(out, 7) and rest(out) == []
    assert desk.machine.visible == 7 and desk.pool.out == [] and desk.machine.repaired == 0


def test_the_newest_version_of_the_first_answer_is_leased_too() -> None:
    desk = Desk(shared=True)
    assert desk.get(in_slot(state(1, 3, version(7)))) == [lease(7)]
    assert is_delivery(take(desk, 7), 7)


def test_an_event_before_the_first_answer_is_leased_too() -> None:
    desk = Desk(shared=True)
    assert desk.get(in_slot(published(5, 7))) == [lease(7)]


def test_a_version_whose_lease_failed_is_read() -> None:
    desk = following(shared=True)
    desk.get(in_slot(published(11, 7)))
    assert desk.machine.lease_failed(lease(7), desk.now) == [read(2, 7, 0), read(3, 7, 1), read(4, 7, 2)]
    assert desk.machine.repaired == 1
    desk.serve(2, 7, 0)
    desk.serve(3, 7, 1)
    out = desk.serve(4, 7, 2)
    assert out is not None and is_delivery(out, 7)


def test_a_lease_is_tried_once_for_each_place() -> None:
    desk = following(shared=True)
    desk.get(in_slot(published(11, 7)))
    desk.machine.lease_failed(lease(7), desk.now)
    desk.get(refusal(2, VersionEvicted(model_id="policy", number=7)))
    assert desk.wait(RETRY) == [follow(6)]
    assert desk.get(in_slot(state(6, 11, version(7)))) == [read(7, 7, 0), read(8, 7, 1), read(9, 7, 2)]


def test_a_version_that_lies_elsewhere_now_is_tried_again() -> None:
    desk = following(shared=True)
    desk.get(in_slot(published(11, 7)))
    desk.machine.lease_failed(lease(7), desk.now)
    desk.get(refusal(2, VersionEvicted(model_id="policy", number=7)))
    assert desk.wait(RETRY) == [follow(6)]
    assert desk.get(in_slot(state(6, 11, version(7)), generation=2)) == [lease(7, 2)]


def test_a_newer_lease_overtakes_the_version_that_is_being_read() -> None:
    desk = following(shared=True)
    desk.get(published(11, 7))
    assert desk.get(in_slot(published(12, 8))) == [lease(8)]
    out = take(desk, 8)
    assert is_delivery(out, 8) and rest(out) == []
    assert desk.pool.out == [] and desk.serve(2, 7, 0) is None


def test_a_lease_that_failed_waits_behind_the_version_that_is_being_read() -> None:
    desk = following(shared=True)
    desk.get(published(11, 7))
    desk.get(in_slot(published(12, 8)))
    assert desk.machine.lease_failed(lease(8), desk.now) == []
    assert desk.get(refusal(3, VersionEvicted(model_id="policy", number=7))) == [read(5, 8, 0), read(6, 8, 1), read(7, 8, 2)]


def test_what_is_said_of_a_lease_too_late_changes_nothing() -> None:
    desk = following(shared=True)
    desk.get(in_slot(published(11, 7)))
    desk.get(in_slot(published(12, 8), generation=2))
    assert is_delivery(take(desk, 8, 2), 8)
    assert take(desk, 7) == [] and desk.machine.lease_failed(lease(7), desk.now) == []
    assert desk.machine.visible == 8 and desk.machine.repaired == 0


def test_the_slots_of_a_version_are_not_looked_at_by_whoever_takes_chunks() -> None:
    desk = following()
    assert desk.get(in_slot(published(11, 7))) == [read(2, 7, 0), read(3, 7, 1), read(4, 7, 2)]


def test_a_version_whose_chunks_came_needs_no_lease() -> None:
    desk = following(shared=True)
    desk.push(T1, 7, 0, 1, 2)
    assert is_delivery(desk.get(in_slot(published(11, 7))), 7)


def test_a_version_without_a_slot_is_read_by_whoever_shares() -> None:
    desk = following(shared=True)
    assert desk.get(replace(published(11, 7), slot="slot-1-00000000")) == [read(2, 7, 0), read(3, 7, 1), read(4, 7, 2)]


def test_listed_versions_say_where_they_lie() -> None:
    desk = Desk(every=True)
    out = desk.get(in_slot(state(1, 10, version(7))))
    assert out[0] == Listed(version(7), None, lease(7))
    assert desk.get(in_slot(published(11, 8), generation=2))[0] == Listed(version(8), None, lease(8, 2))
    desk.get(published(14, 11, size=9), payload_of(11, 9))
    replayed = (published(12, 9, size=9), in_slot(published(13, 10), generation=3))
    out = desk.get(Events(request_id=id_of(5), epoch=1, offset=14, events=replayed))  # type: ignore[arg-type]
    assert out[:2] == [Listed(version(9, 9), None, None), Listed(version(10), None, lease(10, 3))]
