"""A broadcaster that is started again gets the last transient version of each living learner back, under its number."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import clients
from tests.bare_peer import wait_until
from tests.broadcaster_process import BroadcasterProcess

MIB = 1 << 20
NO_SLOTS = "/nowhere"


def by_publish(size: int, slot_dir: str | None) -> Callable[[BroadcasterProcess], tuple[clients.Client, object, int]]:
    def learn(process: BroadcasterProcess) -> tuple[clients.Client, object, int]:
        client = clients.connect(process.url, slot_dir=slot_dir)
        publisher = client.publisher("policy")
        for value in range(3):
            number = publisher.publish(bytes([value]) * size, metrics={"reward": 2.0}, user_data={"step": "7"}).number
        return client, publisher, number

    return learn


def by_draft(process: BroadcasterProcess) -> tuple[clients.Client, object, int]:
    client = clients.connect(process.url)
    publisher = client.publisher("policy")
    draft = publisher.draft({"w": np.zeros(3 * MIB, np.uint8)})
    draft.tree["w"][:] = 2
    return client, publisher, draft.commit(metrics={"reward": 2.0}, user_data={"step": "7"}).number


LEARNERS = {
    "inside the message": by_publish(100, None),
    "in one message": by_publish(300_000, NO_SLOTS),
    "in chunks": by_publish(3 * MIB, NO_SLOTS),
    "through a slot": by_publish(3 * MIB, None),
    "a draft": by_draft,
}


@pytest.mark.parametrize("learn", LEARNERS.values(), ids=LEARNERS.keys())
def test_the_last_version_is_there_again_under_its_number(
    own: BroadcasterProcess, learn: Callable[[BroadcasterProcess], tuple[clients.Client, object, int]]
) -> None:
    learner, publisher, number = learn(own)
    with learner, clients.connect(own.url) as before:
        follower = before.subscriber("policy")
        was = follower.wait(timeout=20)
        assert was.version.number == number
        own.restart(kill=True)
        with clients.connect(own.url) as actor:
            snapshot = actor.subscriber("policy").wait(timeout=20)
            assert snapshot.version == was.version and bytes(snapshot.payload) == bytes(was.payload)
        assert follower.latest().version.number == number  # type: ignore[union-attr]
        assert isinstance(publisher, clients.Publisher) and publisher.publish(b"next").number > number
        assert follower.wait(timeout=20, newer_than=number).payload == b"next"


def test_an_alias_names_it_again_and_who_follows_the_alias_gets_it(own: BroadcasterProcess) -> None:
    with clients.connect(own.url) as learner:
        publisher = learner.publisher("policy")
        number = publisher.publish(b"weights").number
        learner.registry.set_alias("policy", "champion", number)
        own.restart(kill=True)
        with clients.connect(own.url) as actor:
            assert actor.subscriber("policy", alias="champion").wait(timeout=20).payload == b"weights"
            with pytest.raises(clients.Conflict):
                actor.registry.set_alias("policy", "champion", None, expect=0)
            assert actor.registry.model("policy").aliases == {"champion": number}


def test_a_learner_that_publishes_meanwhile_brings_only_the_newer_one(own: BroadcasterProcess) -> None:
    with clients.connect(own.url) as learner:
        publisher = learner.publisher("policy")
        publisher.publish(bytes(3 * MIB))
        own.restart(kill=True)
        number = publisher.publish(b"newer").number
        with clients.connect(own.url) as actor:
            assert actor.subscriber("policy").wait(timeout=20).version.number == number
            assert [info.number for info in actor.registry.versions("policy")][-1] == number


@pytest.mark.parametrize("whole_model", [False, True], ids=["the version", "the model"])
def test_what_was_deleted_does_not_come_back(own: BroadcasterProcess, *, whole_model: bool) -> None:
    with clients.connect(own.url) as learner, clients.connect(own.url) as other:
        number = learner.publisher("policy").publish(b"weights").number
        kept = learner.publisher("other")  # Comes again behind the other one: then that has had its turn.
        kept.publish(b"kept")
        publisher = learner.publisher("policy")
        number = publisher.publish(b"unwanted").number
        kept.publish(b"kept")
        if whole_model:
            other.registry.delete_model("policy", force=True)
        else:
            other.registry.delete("policy", number, force=True)
        own.restart(kill=True)
        assert other.subscriber("other").wait(timeout=20).payload == b"kept"
        with pytest.raises((clients.UnknownModel, clients.UnknownVersion, clients.VersionDeleted, clients.VersionEvicted)):
            other.registry.get("policy", number)


def test_a_newer_archived_version_stays_the_newest(own: BroadcasterProcess) -> None:
    with clients.connect(own.url) as first, clients.connect(own.url) as second:
        publisher = first.publisher("policy")
        publisher.publish(b"transient")
        newer = second.publisher("policy").publish(b"archived", archived=True).number
        own.restart(kill=True)
        with clients.connect(own.url) as actor:
            subscriber = actor.subscriber("policy")
            assert subscriber.wait(timeout=20).version.number == newer
            wait_until(lambda: actor.registry.stats()["requests_refused"] > 0, "the older one is refused")
            assert [info.number for info in actor.registry.versions("policy")] == [newer]


def test_what_replaced_exclusive_publishers_had_does_not_come_back(own: BroadcasterProcess) -> None:
    with clients.connect(own.url) as first, clients.connect(own.url) as second:
        old = first.publisher("policy", exclusive=True)
        old.publish(b"old")
        new = second.publisher("policy", exclusive=True)
        number = new.publish(b"new").number
        own.restart(kill=True)
        with clients.connect(own.url) as actor:
            snapshot = actor.subscriber("policy").wait(timeout=20)
            assert (snapshot.version.number, bytes(snapshot.payload)) == (number, b"new")
