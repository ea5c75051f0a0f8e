"""A learner or an actor is killed with kill -9 in the middle: everyone else goes on, and no half version is ever seen."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator

import pytest

import clients
from tests.bare_peer import BarePeer, digest, staged, wait_until
from tests.broadcaster_process import BroadcasterProcess
from tests.fault.real.parties import STEPS, Actor, Learner, payload_of

SIZE = (4 << 20) + 9


@pytest.fixture(scope="module")
def broadcaster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BroadcasterProcess]:
    with BroadcasterProcess(tmp_path_factory.mktemp("killed") / "broadcaster") as process:
        yield process


@pytest.fixture
def peer(broadcaster: BroadcasterProcess) -> Iterator[BarePeer]:
    with BarePeer(broadcaster.ready) as connected:
        yield connected


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    return hashlib.sha256(request.node.name.encode()).hexdigest()[:20]


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("step", STEPS)
def test_a_killed_learner_leaves_a_whole_version_or_none_and_a_second_one_finishes_it(
    broadcaster: BroadcasterProcess, peer: BarePeer, model: str, step: str, archived: bool
) -> None:
    upload_id = os.urandom(16)
    with clients.connect(broadcaster.url) as client, client.subscriber(model) as subscriber:
        with Learner(broadcaster.ready, model, upload_id, SIZE, step, archived=archived):
            pass  # It has come to its step, and is killed.
        if step == "committed":
            wait_until(lambda: peer.numbers(model) == [1], "the version of the killed learner")
        else:
            assert peer.numbers(model) == [] and subscriber.latest() is None
        said = peer.publish(model, payload_of(SIZE), upload_id=upload_id, archived=archived)
        assert said.fields["version"]["number"] == 1 and said.fields["version"]["archived"] == archived
        assert bytes(subscriber.wait(timeout=20).payload) == payload_of(SIZE)
        assert peer.numbers(model) == [1]
        assert peer.read(model, 1) == payload_of(SIZE)


@pytest.mark.fault_long
@pytest.mark.deadline(150)
@pytest.mark.parametrize("archived", [False, True])
def test_what_a_killed_learner_had_reserved_is_free_again_after_a_minute(
    broadcaster: BroadcasterProcess, peer: BarePeer, model: str, archived: bool
) -> None:
    wait_until(lambda: peer.stats()["memory_uploads"] == 0, "uploads of other tests are given up", seconds=70)
    used = peer.stats()["slots_used"]
    with Learner(broadcaster.ready, model, os.urandom(16), SIZE, "some chunks", archived=archived):
        assert peer.stats()["memory_uploads"] >= SIZE
    wait_until(lambda: peer.stats()["memory_uploads"] == 0, "the upload is given up", seconds=70)
    assert peer.stats()["slots_used"] == used and not staged(broadcaster.archive_dir) and peer.numbers(model) == []


def test_another_learner_publishes_beside_a_killed_one(broadcaster: BroadcasterProcess, peer: BarePeer, model: str) -> None:
    with Learner(broadcaster.ready, model, os.urandom(16), SIZE, "some chunks", archived=False):
        pass
    with clients.connect(broadcaster.url) as client:
        assert client.publisher(model).publish(payload_of(SIZE)).number == 1
    assert peer.numbers(model) == [1]


def test_an_actor_killed_in_the_middle_of_a_transfer_disturbs_nobody(
    broadcaster: BroadcasterProcess, peer: BarePeer, model: str
) -> None:
    payload, upload_id = payload_of(SIZE), os.urandom(16)
    with Actor(broadcaster.url, model, "chunks") as doomed, Actor(broadcaster.url, model, "chunks") as other:
        wait_until(lambda: peer.stats()["subscriptions"] == 2, "both follow")
        pushed = peer.stats()["chunks_pushed"]
        peer.say("begin", upload_id, model_id=model, size=SIZE)
        assert peer.heard().kind == "credit"
        for index in range(2):
            peer.chunk(upload_id, payload, index)
        wait_until(lambda: peer.stats()["chunks_pushed"] == pushed + 2, "two chunks are on their way")
        doomed.kill()
        for index in range(2, 5):
            peer.chunk(upload_id, payload, index)
        peer.say("commit", upload_id, digest=digest(payload))
        assert peer.outcome().kind == "done"
        assert other.until(1)["number"] == 1
        wait_until(lambda: peer.stats()["subscriptions"] == 1, "the killed one is forgotten")


@pytest.mark.parametrize("delivery", ["chunks", "shared"])
def test_a_stopped_actor_gets_the_newest_when_it_goes_on(broadcaster: BroadcasterProcess, model: str, delivery: str) -> None:
    with Actor(broadcaster.url, model, delivery) as actor, clients.connect(broadcaster.url) as client:
        publisher = client.publisher(model)
        publisher.publish(payload_of(SIZE))
        actor.until(1)
        actor.pause()
        for _ in range(20):
            newest = publisher.publish(payload_of(SIZE))
        actor.resume()
        assert newest.number == 21
        assert actor.until(21)["found"] == digest(payload_of(SIZE))
        publisher.publish(b"one more")
        actor.until(22)


def test_an_actor_that_misses_chunks_repairs_itself(broadcaster: BroadcasterProcess, model: str) -> None:
    """While it is stopped, more chunks go out than are kept for one subscriber on either side, so that some are dropped."""
    payload = payload_of(24 << 20)
    with Actor(broadcaster.url, model, "chunks") as actor, clients.connect(broadcaster.url) as client:
        publisher = client.publisher(model)
        publisher.publish(b"small")
        actor.until(1)
        actor.pause()
        for _ in range(26):
            newest = publisher.publish(payload)
        actor.resume()
        said = actor.until(newest.number)
        assert said["found"] == digest(payload)
        assert said["gaps"] + said["repaired"] > 0, "this test is about what was missed"
        publisher.publish(b"small again")
        actor.until(newest.number + 1)


@pytest.mark.parametrize("delivery", ["chunks", "shared"])
def test_a_late_joiner_gets_the_newest_at_once(broadcaster: BroadcasterProcess, model: str, delivery: str) -> None:
    with clients.connect(broadcaster.url) as client:
        for _ in range(3):
            client.publisher(model).publish(payload_of(SIZE))
        with Actor(broadcaster.url, model, delivery) as late:
            assert late.next()["number"] == 3
