"""Who waits for acks, and the table as it is told: with the real rooms that know of versions, and no socket."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any, cast

import pytest

from broadcaster.acks import AckTable
from broadcaster.beacons import Beacons
from broadcaster.broker import Caller, Rooms, acknowledging
from broadcaster.broker.acknowledging import Acknowledging
from broadcaster.catalog import Catalog, Retention
from broadcaster.eventlog import EventLog
from broadcaster.numbers import Numbers
from broadcaster.protocol.errors import Busy, InvalidRequest, RequestTimeout, UnknownModel
from broadcaster.protocol.messages import Ack, Acks, AwaitAcks, ListSubscribers
from broadcaster.protocol.version import VersionInfo
from broadcaster.stats import Stats

EPOCH = 7
KEY = ("default", "policy")


class Asker:
    """Whoever waits for an answer, and what it got."""

    def __init__(self, expires: float = 50.0) -> None:
        self.expires = expires
        self.got: list[Any] = []

    def reply(self, message: Any, payload: memoryview | None = None) -> None:
        self.got.append(message)

    refuse = reply


class World:
    """The rooms of a broadcaster whose earlier lives used numbers up to `floor`."""

    def __init__(self, floor: int = 0, old: tuple[int, ...] = ()) -> None:
        nothing = cast(Any, None)  # No disk, no shared memory and no threads are looked at here.
        self.rooms = Rooms(
            catalog=Catalog(Retention()),
            numbers=Numbers({KEY: floor} if floor else {}),
            log=EventLog(EPOCH),
            beacons=Beacons(),
            acks=AckTable(),
            slots=nothing,
            archive=nothing,
            writer=nothing,
            reserver=nothing,
            readers=nothing,
            stats=Stats(),
        )
        self.now = 0.0
        self.part = Acknowledging(self.rooms)
        for number in old:
            self._ensure_model()
            self.rooms.catalog.load(version(number), os.urandom(16))

    def _ensure_model(self) -> None:
        if not self.rooms.catalog.has(KEY):
            self.rooms.catalog.create(KEY, 1)

    def publish(self, count: int = 1) -> int:
        """So many versions, and the number of the last."""
        self._ensure_model()
        for _ in range(count):
            ceiling = self.rooms.numbers.wants(KEY, self.now)
            if ceiling is not None:
                self.rooms.numbers.reserved(KEY, ceiling, self.now)
            number = self.rooms.numbers.take(KEY)
            assert number is not None
            self.rooms.catalog.add(version(number), os.urandom(16), 10, self.now)
            self.rooms.acks.published(KEY, number, self.now)
        return self.rooms.numbers.last(KEY)

    def ack(self, subscriber: int, at: int = 0, **fields: Any) -> None:
        given = {"received": at, "applied": at, "epoch": EPOCH, "model_id": "policy"} | fields
        self.part.ack(Ack(subscriber=subscriber.to_bytes(16), **given), self.now)

    def wait(self, number: int, count: int, *, by: Asker | None = None, **fields: Any) -> tuple[AwaitAcks, Asker]:
        given = {"request_id": os.urandom(16), "model_id": "policy"} | fields
        request, asker = AwaitAcks(number=number, count=count, **given), by or Asker()
        self.part.wait(request, cast(Caller, asker), self.now)
        return request, asker

    def settle(self, now: float | None = None) -> None:
        self.now = self.now if now is None else now
        self.part.settle(self.now)

    def lags(self) -> list[tuple[int, int]]:
        """Versions and milliseconds, by subscriber."""
        page = self.part.subscribers(ListSubscribers(request_id=bytes(16), model_id="policy"), self.now).subscribers
        return [(one.lag, one.lag_ms) for one in page]


def version(number: int) -> VersionInfo:
    return VersionInfo(namespace="default", model_id="policy", number=number, size=10, digest="0" * 32, creation_timestamp=1)


def counts(asker: Asker) -> list[tuple[int, int]]:
    return [(one.received, one.applied) for one in asker.got]


# --- waiting -------------------------------------------------------------------------------------------------------


def test_who_waits_is_answered_once_enough_have_applied() -> None:
    world = World()
    world.publish(5)
    _, asker = world.wait(5, 2)
    world.ack(1, 5)
    world.ack(2, received=5, applied=4)
    world.settle()
    assert asker.got == []
    world.ack(2, 5)
    world.settle()
    assert counts(asker) == [(2, 2)]
    world.ack(3, 5)
    world.settle()
    assert len(asker.got) == 1 and world.part.deadline is None


def test_received_may_be_waited_for_instead() -> None:
    world = World()
    world.publish(5)
    _, asker = world.wait(5, 1, stage="received")
    world.ack(1, received=5, applied=1)
    world.settle()
    assert counts(asker) == [(1, 0)]


def test_what_is_so_already_is_answered_at_once() -> None:
    world = World()
    world.publish(5)
    world.ack(1, 5)
    assert counts(world.wait(3, 1)[1]) == [(1, 1)] and counts(world.wait(9, 0)[1]) == [(0, 0)]
    assert world.part.gauges(0.0)["ack_waiters"] == 0


def test_asking_again_answers_who_asked_last_and_only_once() -> None:
    world = World()
    world.publish(5)
    request, first = world.wait(5, 1)
    second = Asker()
    for _ in range(3):
        world.part.wait(replace(request, budget_ms=10), cast(Caller, second), world.now)
    assert world.part.gauges(0.0)["ack_waiters"] == 1
    world.ack(1, 5)
    world.settle()
    assert first.got == [] and counts(second) == [(1, 1)]
    world.part.wait(request, cast(Caller, second), world.now)
    assert counts(second) == [(1, 1)] * 2, "an answer that was lost is given again"


def test_another_request_under_the_same_id_is_refused() -> None:
    world = World()
    world.publish(5)
    request, _ = world.wait(5, 1)
    with pytest.raises(InvalidRequest, match="request_id"):
        world.wait(4, 1, request_id=request.request_id)


def test_when_the_time_is_over_the_answer_names_how_many_had_it() -> None:
    world = World()
    world.publish(5)
    _, asker = world.wait(5, 3, by=Asker(expires=2.0))
    world.ack(1, 5)
    world.ack(2, received=5, applied=2)
    world.settle(1.99)
    assert asker.got == [] and world.part.deadline == 2.0
    world.settle(2.0)
    (error,) = asker.got
    assert isinstance(error, RequestTimeout) and (error.received, error.applied) == (2, 1)
    assert str(error) == (
        "waiting until 3 subscribers of policy have applied version 5 (received by 2, applied by 1) did not finish within 2.0 s"
    )
    assert world.part.deadline is None


def test_who_does_not_ask_again_for_a_minute_is_waited_for_no_longer() -> None:
    world = World()
    world.publish(5)
    request, asker = world.wait(5, 1, by=Asker(expires=1e9))
    world.now = 59.0
    world.part.wait(request, cast(Caller, asker), world.now)
    world.settle(118.0)
    assert asker.got == []
    world.settle(119.0)
    assert isinstance(asker.got[0], RequestTimeout)


def test_so_many_wait_and_not_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acknowledging, "WAITERS", 3)
    world = World()
    world.publish(5)
    askers = [world.wait(5, 1)[1] for _ in range(3)]
    with pytest.raises(Busy):
        world.wait(5, 1)
    world.ack(1, 5)
    world.settle()
    assert all(counts(asker) == [(1, 1)] for asker in askers)


def test_what_cannot_be_waited_for_is_said() -> None:
    world = World()
    with pytest.raises(UnknownModel):
        world.wait(1, 1)
    with pytest.raises(UnknownModel):
        world.lags()
    world.ack(1, 0)
    assert world.lags() == [(0, 0)], "a model that is followed may not exist yet"
    with pytest.raises(InvalidRequest, match="stage"):
        world.wait(1, 1, stage="elsewhere")
    with pytest.raises(InvalidRequest, match="limit"):
        world.part.subscribers(ListSubscribers(request_id=bytes(16), model_id="policy", limit=0), 0.0)


# --- what is said wrong --------------------------------------------------------------------------------------------


def test_words_of_another_epoch_and_of_no_model_are_dropped_and_counted() -> None:
    world = World()
    world.publish(5)
    world.ack(1, 5, epoch=EPOCH - 1)
    world.ack(1, 5, model_id="d/e")
    world.ack(1, 5, namespace="")
    assert world.rooms.acks.count == 0 and world.rooms.stats.values()["acks_dropped"] == 3
    world.ack(1, 5)
    world.ack(1, 5, epoch=EPOCH + 1, gone=True)
    assert world.rooms.acks.count == 1


def test_numbers_that_were_never_given_out_satisfy_nobody() -> None:
    world = World()
    world.publish(5)
    world.ack(1, (1 << 63) - 1)
    _, asker = world.wait(6, 1)
    assert asker.got == [] and counts(world.wait(5, 1)[1]) == [(1, 1)]


# --- the table -----------------------------------------------------------------------------------------------------


def test_lag_is_counted_from_what_was_applied() -> None:
    world = World()
    world.publish()
    world.ack(1, 1)
    world.ack(2, received=1, applied=0)
    for _ in range(4):
        world.now += 1.0
        world.publish()
    world.now += 0.5
    assert world.lags() == [(4, 3500), (5, 4500)]
    assert world.part.gauges(world.now) == {
        "subscribers": 2,
        "subscribers_behind": 2,
        "worst_lag_versions": 5,
        "worst_lag_seconds": 4.5,
        "ack_waiters": 0,
    }
    world.ack(1, 5)
    world.ack(2, 4)
    assert world.lags() == [(0, 0), (1, 500)]


def test_versions_that_left_memory_count_as_well() -> None:
    world = World()
    world.publish()
    world.ack(1, 1)
    world.publish(2500)
    assert world.lags() == [(2500, 0)]


def test_numbers_that_a_restart_skipped_do_not_count_but_what_earlier_lives_left_does() -> None:
    world = World(floor=1024, old=(3, 5, 9))
    world.ack(1, 4)
    world.ack(2, 9)
    world.ack(3, 1000)
    assert [lag for lag, _ in world.lags()] == [2, 0, 0]
    assert world.publish(3) == 1027
    assert [lag for lag, _ in world.lags()] == [5, 3, 3]


def test_who_is_silent_for_half_a_minute_is_gone() -> None:
    world = World()
    world.publish()
    world.ack(1, 1)
    world.part.tick(29.9)
    assert world.lags() == [(0, 0)]
    world.part.tick(30.0)
    assert world.lags() == [] and world.part.gauges(30.0)["subscribers"] == 0


def test_a_page_ends_with_its_bytes_and_the_next_goes_on() -> None:
    world = World()
    world.publish()
    for number in range(1500):
        world.ack(number, 1, name="ü" * 128)
    found: list[int] = []
    after: bytes | None = None
    while after is not None or not found:
        page = world.part.subscribers(ListSubscribers(request_id=bytes(16), model_id="policy", after=after), 1.0)
        assert 0 < len(page.subscribers) < 300
        found += [int.from_bytes(one.subscriber) for one in page.subscribers]
        after = page.next
    assert found == list(range(1500))
    assert isinstance(page.request_id, bytes) and Acks.KIND == b"acks"
