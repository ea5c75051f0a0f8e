"""Following an alias, step by step: one question at a time, whichever version it names, the last one while it names none."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import xxhash

from broadcaster.protocol.errors import BroadcasterError, Busy, NoSpace, UnknownModel, UnknownVersion, VersionEvicted
from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.limits import BEACON_IDLE
from broadcaster.protocol.machines.alias import AliasFollower, AliasState, Moved, Out
from broadcaster.protocol.messages import Beacon, Error, Event, GetVersion, Read, Version
from broadcaster.protocol.version import VersionInfo

SIZE = (1 << 20) + 5
"""Two chunks."""


def payload_of(number: int) -> bytes:
    return bytes([number]) * SIZE


def info(number: int, size: int = SIZE) -> VersionInfo:
    digest = xxhash.xxh3_128_hexdigest(payload_of(number)[:size])
    return VersionInfo(namespace="default", model_id="policy", number=number, size=size, digest=digest, creation_timestamp=number)


class Pool:
    def __init__(self) -> None:
        self.out = 0
        self.full = False

    def lend(self, size: int) -> memoryview:
        if self.full:
            raise NoSpace(size=size, where="memory")
        self.out += 1
        return memoryview(bytearray(size))

    def give(self, buffer: memoryview) -> None:
        self.out -= 1


class Followed:
    """A machine, and the answers of a broadcaster where an alias names what `say` says."""

    def __init__(self) -> None:
        ids = itertools.count(1)
        self.pool = Pool()
        self.machine = AliasFollower("default", "policy", "champion", lambda: next(ids).to_bytes(16, "big"), self.pool)
        self.now = 100.0
        self.asked: list[GetVersion] = []
        self.reads: list[Read] = []
        self.shown: list[int] = []
        self.offset = 0
        self.act(self.machine.start(self.now))

    def act(self, out: Out) -> int:
        for item in out:
            match item:
                case GetVersion():
                    self.asked.append(item)
                case Read():
                    self.reads.append(item)
                case Moved():
                    assert bytes(item.payload) == payload_of(item.version.number)[: item.version.size]
                    self.shown.append(item.version.number)
        return len(out)

    def say(self, answer: VersionInfo | BroadcasterError, question: GetVersion | None = None) -> None:
        """What the newest question is answered with."""
        request_id = (question or self.asked[-1]).request_id
        if isinstance(answer, VersionInfo):
            self.act(self.machine.receive(Version(request_id=request_id, version=answer), self.now))
        else:
            error = Error(request_id=request_id, code=answer.code, message=str(answer), facts=answer.facts)
            self.act(self.machine.receive(error, self.now))

    def read_all(self) -> None:
        """Answers every read that was asked for."""
        while self.reads:
            self.read_one()

    def read_one(self) -> None:
        read = self.reads.pop(0)
        data = payload_of(read.number)[read.offset : read.offset + read.length]
        header = ChunkHeader(read.request_id, SIZE, read.offset, len(data))
        view = self.machine.place(header)
        if view is not None:
            self.act(self.machine.placed(header, self.now, memoryview(data)))

    def event(self, event: str = "aliased", *, epoch: int = 1, previous: int | None = None, **facts: Any) -> int:
        before, self.offset = self.offset, self.offset + 1
        told = Event(
            epoch=epoch,
            offset=self.offset,
            previous=before if previous is None else previous,
            namespace="default",
            model_id="policy",
            event=event,
            **facts,
        )
        return self.act(self.machine.receive(told, self.now))

    def beacon(self, model_offset: int, *, epoch: int = 1, interval_ms: int = 1000) -> int:
        told = Beacon(
            epoch=epoch,
            offset=model_offset,
            model_offset=model_offset,
            namespace="default",
            model_id="policy",
            interval_ms=interval_ms,
        )
        return self.act(self.machine.receive(told, self.now))

    def moved(self, answer: VersionInfo | BroadcasterError) -> None:
        self.event(alias="champion", number=1)
        self.say(answer)


@pytest.fixture
def following() -> Followed:
    """Version 5 is shown, and the log is known."""
    made = Followed()
    made.say(info(5))
    made.read_all()
    made.event()  # The first event that is heard: what came before it is not known.
    made.say(info(5))
    assert made.shown == [5] and made.machine.state is AliasState.FOLLOWING
    return made


def test_what_the_alias_names_is_read_verified_and_shown() -> None:
    made = Followed()
    assert made.asked[0].ref == "champion" and made.machine.state is AliasState.ASKING
    made.say(info(3))
    assert made.machine.state is AliasState.READING and len(made.reads) == 2 and made.shown == []
    made.read_all()
    assert made.shown == [3] and made.machine.state is AliasState.FOLLOWING


def test_it_follows_backwards_too(following: Followed) -> None:
    for number in (2, 9, 2):
        following.moved(info(number))
        following.read_all()
    assert following.shown == [5, 2, 9, 2]


def test_a_move_of_another_alias_and_new_versions_ask_nothing(following: Followed) -> None:
    assert following.event(alias="other", number=1) == 0
    for event in ("published", "archived", "updated", "evicted"):
        assert following.event(event) == 0
    for event in ("version-deleted", "deleted", "made-tomorrow"):
        assert following.event(event) == 1
        following.say(info(5))


def test_a_missed_event_a_beacon_another_epoch_and_silence_are_reasons_to_ask(following: Followed) -> None:
    asked = len(following.asked)

    def asks() -> bool:
        nonlocal asked
        new, asked = len(following.asked) > asked, len(following.asked)
        if new:
            following.say(info(5))
        return new

    following.event("published", previous=following.offset + 1)
    assert asks() and following.machine.gaps == 1
    following.beacon(following.offset)
    assert not asks()
    following.beacon(following.offset + 1)
    assert asks() and following.machine.gaps == 2
    following.beacon(1, epoch=2)
    assert asks()
    following.offset = 1
    following.event("published", epoch=3)
    assert asks()
    following.now += 3 * BEACON_IDLE + 0.01
    following.act(following.machine.expire(following.now))
    assert asks() and following.shown == [5]


def test_one_question_is_under_way_at_a_time_and_is_put_again_when_something_happened_since(following: Followed) -> None:
    following.event(alias="champion", number=6)
    before = len(following.asked)
    following.event(alias="champion", number=7)
    following.event(alias="champion", number=8)
    assert len(following.asked) == before
    following.say(info(6))
    assert len(following.asked) == before + 1 and following.machine.state is AliasState.READING
    following.say(info(8))
    assert len(following.asked) == before + 1
    following.read_all()
    assert following.shown == [5, 8] and following.pool.out == 2


def test_an_unanswered_question_is_put_again_and_its_late_answer_does_not_count(following: Followed) -> None:
    following.event(alias="champion", number=6)
    late = following.asked[-1]
    following.now = following.machine.deadline
    following.act(following.machine.expire(following.now))
    assert following.asked[-1] is not late
    following.say(info(6), late)
    assert following.reads == []
    following.say(info(7))
    following.read_all()
    assert following.shown == [5, 7]


def test_when_it_moves_back_to_what_is_shown_the_read_is_given_up(following: Followed) -> None:
    following.moved(info(6))
    following.read_one()
    following.moved(info(5))
    assert following.machine.state is AliasState.FOLLOWING and following.pool.out == 1
    following.read_all()
    assert following.shown == [5]


def test_a_version_gives_way_once_and_the_next_one_is_finished(following: Followed) -> None:
    following.moved(info(6))
    following.moved(info(7))
    following.moved(info(8))
    assert {read.number for read in following.reads} == {6, 7}
    following.read_all()
    assert following.shown == [5, 7] and following.machine.state is AliasState.ASKING
    following.say(info(8))
    following.read_all()
    assert following.shown == [5, 7, 8] and following.pool.out == 3


def test_a_named_version_that_is_announced_again_is_read(following: Followed) -> None:
    following.moved(VersionEvicted(model_id="policy", number=6))
    assert following.event("published", number=7) == 0
    assert following.event("published", number=6) == 1
    following.say(info(6))
    following.read_all()
    assert following.shown == [5, 6] and following.event("published", number=6) == 0


@pytest.mark.parametrize(
    "error", [UnknownModel(model_id="policy", namespace="default"), VersionEvicted(model_id="policy", number=6)]
)
def test_while_it_names_nothing_that_is_there_the_last_one_stays_and_nothing_is_asked(
    following: Followed, error: BroadcasterError
) -> None:
    following.moved(info(6))
    following.moved(error)
    assert following.machine.state is AliasState.FOLLOWING and following.machine.error is not None
    assert following.machine.visible == info(5) and following.pool.out == 1
    asked = len(following.asked)
    following.now += 2 * BEACON_IDLE
    assert following.now < following.machine.deadline and len(following.asked) == asked
    following.moved(info(6))
    following.reads = [read for read in following.reads if following.machine.place(_header(read)) is not None]
    following.read_all()
    assert following.shown == [5, 6] and following.machine.error is None


def _header(read: Read) -> ChunkHeader:
    return ChunkHeader(read.request_id, SIZE, read.offset, read.length)


def test_what_fails_is_tried_again_ever_more_patiently(following: Followed) -> None:
    following.event(alias="champion", number=6)
    waited: list[float] = []
    for _ in range(6):
        following.say(Busy(what="the broadcaster", retry_after=1))
        waited.append(following.machine.deadline - following.now)
        following.now = following.machine.deadline
        following.act(following.machine.expire(following.now))
    assert waited[:4] == [1, 2, 4, 8] and max(waited) == 8
    following.say(info(6))
    read = following.reads[0]
    gone = UnknownVersion(model_id="policy", number=6)
    error = Error(request_id=read.request_id, code=gone.code, message=str(gone), facts=gone.facts)
    following.act(following.machine.receive(error, following.now))
    assert following.machine.state is AliasState.ASKING and following.pool.out == 1
    assert isinstance(following.machine.error, UnknownVersion)


def test_without_memory_for_it_the_old_one_stays_and_it_is_tried_later(following: Followed) -> None:
    following.pool.full = True
    with pytest.raises(NoSpace) as caught:
        following.moved(info(6))
    following.machine.retry_later(following.now, caught.value)
    assert following.machine.visible == info(5)
    following.pool.full = False
    following.now = following.machine.deadline
    following.act(following.machine.expire(following.now))
    following.say(info(6))
    following.read_all()
    assert following.shown == [5, 6]


def test_lost_reads_are_asked_for_again_and_closing_gives_the_buffer_back(following: Followed) -> None:
    following.moved(info(6, size=0))
    assert following.shown == [5, 6]
    following.moved(info(7))
    following.reads.clear()
    following.now = following.machine.deadline
    following.act(following.machine.expire(following.now))
    assert len(following.reads) == 2
    following.machine.close()
    assert following.pool.out == 2 and following.machine.nap(following.now) == 0.0


def test_an_event_that_comes_twice_is_one(following: Followed) -> None:
    following.event(alias="champion", number=6)
    following.say(info(5))
    following.offset -= 1
    assert following.event(alias="champion", number=6) == 0


def test_a_read_that_fails_while_a_question_is_under_way_waits_for_its_answer(following: Followed) -> None:
    following.moved(info(6))
    following.event(alias="champion", number=7)
    gone = UnknownVersion(model_id="policy", number=6)
    error = Error(request_id=following.reads[0].request_id, code=gone.code, message=str(gone), facts=gone.facts)
    following.act(following.machine.receive(error, following.now))
    following.say(info(7))
    following.read_all()
    assert following.shown == [5, 7] and following.pool.out == 2


def test_without_memory_a_question_that_was_due_is_put_when_its_time_comes(following: Followed) -> None:
    following.event(alias="champion", number=6)
    following.event(alias="champion", number=7)
    following.pool.full = True
    with pytest.raises(NoSpace) as caught:
        following.say(info(6))
    following.machine.retry_later(following.now, caught.value)
    following.pool.full = False
    following.now = following.machine.deadline
    following.act(following.machine.expire(following.now))
    following.say(info(7))
    following.read_all()
    assert following.shown == [5, 7]
