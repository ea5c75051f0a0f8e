"""Following which version is the newest, step by step: never back, one life of a model, and no question too many."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest

from broadcaster.protocol.errors import AccessDenied, BroadcasterError, Busy, UnknownModel
from broadcaster.protocol.limits import BEACON_IDLE
from broadcaster.protocol.machines.newest import NewestFollower, NewestState, Out
from broadcaster.protocol.messages import Beacon, Error, Event, Follow, GetModel, Model, State
from broadcaster.protocol.version import ModelInfo, VersionInfo

EPOCH = 7


def info(number: int) -> VersionInfo:
    return VersionInfo(namespace="default", model_id="policy", number=number, size=1, digest="d", creation_timestamp=number)


def error_of(request_id: bytes, error: BroadcasterError) -> Error:
    return Error(request_id=request_id, code=error.code, message=str(error), facts=error.facts)


class Core:
    """A model's log, and the answers about it. `told` are the events of which a follower may hear any."""

    def __init__(self, created: int = 1) -> None:
        self.epoch, self.offset, self.created = EPOCH, 0, created
        self.newest = self.given = 0
        self.there = True
        self.told: list[Event] = []

    def event(self, kind: str, **facts: Any) -> Event:
        previous, self.offset = self.offset, self.offset + 1
        made = Event(
            epoch=self.epoch, offset=self.offset, previous=previous, namespace="default", model_id="policy", event=kind, **facts
        )
        self.told.append(made)
        return made

    def publish(self) -> Event:
        self.newest = self.given = self.given + 1
        return self.event("published", version=info(self.newest), number=self.newest, slot="slot-1-x", generation=self.newest)

    def drop(self) -> Event:
        """The newest version is deleted: an older one is the newest then."""
        self.newest = max(0, self.newest - 1)
        return self.event("version-deleted", number=self.newest + 1)

    def delete(self) -> Event:
        self.there = False
        return self.event("deleted")

    def make(self) -> Event:
        self.there, self.created = True, self.created + 1
        return self.event("created")

    def answer(self, question: Follow | GetModel) -> State | Model | Error:
        if isinstance(question, Follow):
            newest = info(self.newest) if self.newest and self.there else None
            return State(
                request_id=question.request_id, epoch=self.epoch, offset=self.offset, model_offset=self.offset, newest=newest
            )
        if not self.there:
            return error_of(question.request_id, UnknownModel(model_id="policy", namespace="default"))
        model = ModelInfo(namespace="default", model_id="policy", creation_timestamp=self.created)
        return Model(request_id=question.request_id, model=model)


class Followed:
    def __init__(self, core: Core) -> None:
        ids = itertools.count(1)
        self.core = core
        self.machine = NewestFollower("default", "policy", core.created, lambda: next(ids).to_bytes(16, "big"))
        self.now = 100.0
        self.asked: list[Follow | GetModel] = []
        self.act(self.machine.start(self.now))

    def act(self, out: Out) -> int:
        questions = [message for message in out if isinstance(message, (Follow, GetModel))]
        assert len(questions) == len(out)
        self.asked += questions
        return len(out)

    def hear(self, message: Event | Beacon | State | Model | Error) -> int:
        return self.act(self.machine.receive(message, self.now))

    def answer(self) -> None:
        """All questions, as things are now."""
        while self.asked:
            self.hear(self.core.answer(self.asked.pop(0)))

    def beacon(self) -> int:
        core = self.core
        return self.hear(
            Beacon(
                epoch=core.epoch,
                offset=core.offset,
                model_offset=core.offset,
                namespace="default",
                model_id="policy",
                interval_ms=1000,
            )
        )

    def sleep(self, seconds: float) -> int:
        self.now += seconds
        due = self.machine.deadline
        return self.act(self.machine.expire(self.now)) if due is not None and self.now >= due else 0

    @property
    def newest(self) -> int:
        return 0 if self.machine.newest is None else self.machine.newest.number


def test_it_begins_with_what_is_newest_and_takes_each_newer_one() -> None:
    core = Core()
    core.publish()
    followed = Followed(core)
    assert [type(question) for question in followed.asked] == [Follow, GetModel] and followed.machine.state is NewestState.ASKING
    followed.answer()
    assert followed.newest == 1 and followed.machine.state is NewestState.FOLLOWING
    assert followed.hear(core.publish()) == 0 and followed.newest == 2
    assert followed.machine.where == (EPOCH, "slot-1-x", 2)


def test_a_model_without_versions_is_waited_for() -> None:
    core = Core()
    followed = Followed(core)
    followed.answer()
    assert (followed.newest, followed.machine.state) == (0, NewestState.FOLLOWING)
    followed.hear(core.publish())
    assert followed.newest == 1


def test_an_event_that_comes_before_the_answer_is_not_lost() -> None:
    core = Core()
    followed = Followed(core)
    old = [core.answer(question) for question in followed.asked]
    followed.asked.clear()
    followed.hear(core.publish())
    for answer in old:
        followed.hear(answer)
    assert followed.asked, "what was answered may be from before"
    followed.answer()
    assert followed.newest == 1


def test_a_missed_event_is_found_out_by_the_next_one_and_by_a_beacon() -> None:
    core = Core()
    followed = Followed(core)
    followed.answer()
    core.publish()
    assert followed.hear(core.publish()) == 2 and followed.newest == 0, "the model may be another one by now"
    followed.answer()
    assert followed.newest == 2 and followed.machine.gaps == 1
    core.publish()
    assert followed.beacon() == 2
    followed.answer()
    assert followed.newest == 3 and followed.beacon() == 0


def test_a_question_without_an_answer_is_put_again_and_silence_is_a_reason_to_ask() -> None:
    core = Core()
    followed = Followed(core)
    followed.asked.clear()
    assert followed.sleep(0.5) == 0 and followed.sleep(0.6) == 2
    followed.answer()
    assert followed.sleep(1.5) == 0 and followed.sleep(3 * BEACON_IDLE) == 2
    core.publish()
    followed.answer()
    assert followed.newest == 1


def test_an_answer_to_a_question_that_was_put_again_does_not_count() -> None:
    core = Core()
    followed = Followed(core)
    late = [core.answer(question) for question in followed.asked]
    followed.asked.clear()
    core.publish()
    followed.sleep(1.1)
    for answer in late:
        followed.hear(answer)
    assert followed.newest == 0 and followed.machine.state is NewestState.ASKING
    followed.answer()
    assert followed.newest == 1


@pytest.mark.parametrize("heard", ["the event", "a gap", "a beacon", "another life of the core"])
def test_it_ends_with_the_model_even_when_that_is_made_again(heard: str) -> None:
    core = Core()
    core.publish()
    followed = Followed(core)
    followed.answer()
    deleted = core.delete()
    core.make()
    news = core.publish()
    if heard == "the event":
        followed.hear(deleted)
    elif heard == "a gap":
        followed.hear(news)
    elif heard == "a beacon":
        followed.beacon()
    else:
        core.epoch, core.offset = EPOCH + 1, 0
        followed.beacon()
    followed.answer()
    assert followed.machine.over and isinstance(followed.machine.error, UnknownModel)
    assert followed.newest == 1, "a version of the next one is not told"
    assert followed.machine.deadline is None and followed.hear(core.publish()) == 0
    again = Followed(core)
    again.answer()
    assert again.newest == 3


@pytest.mark.parametrize("error", [UnknownModel(model_id="policy", namespace="default"), AccessDenied(what="it", reason="no")])
def test_it_ends_where_there_is_no_model_or_it_may_not_be_seen(error: BroadcasterError) -> None:
    followed = Followed(Core())
    followed.hear(error_of(followed.asked[1].request_id, error))
    assert followed.machine.over and type(followed.machine.error) is type(error)


def test_what_passes_is_waited_for() -> None:
    followed = Followed(Core())
    followed.hear(error_of(followed.asked[0].request_id, Busy(what="it", retry_after=1)))
    assert not followed.machine.over and followed.sleep(1.1) == 2


@pytest.mark.parametrize("seed", range(200))
def test_whatever_is_lost_numbers_only_grow_and_the_last_one_comes(seed: int) -> None:
    """Events are lost and answers come late; in the end a beacon is heard, and all questions are answered."""
    dice = random.Random(seed)
    core = Core()
    followed = Followed(core)
    shown = [0]
    pending: list[State | Model | Error] = []
    for _ in range(60):
        act = dice.random()
        if act < 0.4:
            event = core.publish() if dice.random() < 0.8 else core.drop()
            if dice.random() < 0.6:
                followed.hear(event)
        elif act < 0.6 and followed.asked:
            pending += [core.answer(question) for question in followed.asked]
            followed.asked.clear()
        elif act < 0.8 and pending:
            followed.hear(pending.pop(0))
        elif act < 0.9:
            followed.beacon()
        else:
            followed.sleep(dice.choice([0.1, 1.1, 20.0]))
        assert followed.newest >= shown[-1], f"seed {seed}"
        shown.append(followed.newest)
    core.publish()
    for _ in range(3):
        followed.sleep(1.1)
        followed.beacon()
        followed.answer()
    assert followed.newest == core.newest, f"seed {seed}"
