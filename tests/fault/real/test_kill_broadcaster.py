"""The broadcaster is killed with kill -9 at every step and started again: what was acknowledged is there, the rest comes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest

import clients
from tests.bare_peer import BarePeer, digest, staged, wait_until
from tests.broadcaster_process import BroadcasterProcess
from tests.fault.real.forwarder import DOWN, UP, Forwarder
from tests.fault.real.parties import Actor, payload_of

SIZE = (6 << 20) + 9
MODEL = "policy"
NO_SLOTS = "/nonexistent"
"""A learner that finds no slots here sends chunks."""


@pytest.fixture
def broadcaster(folder: Path) -> Iterator[BroadcasterProcess]:
    with BroadcasterProcess(folder / "broadcaster") as process:
        yield process


def killed_at(broadcaster: BroadcasterProcess, step: str, *, archived: bool) -> None:
    """A learner uploads, and at `step` the broadcaster is killed; it must end with one version, and with the right bytes."""
    payload = payload_of(SIZE)
    with Forwarder(broadcaster.ready) as forwarder, clients.connect(forwarder.url, slot_dir=NO_SLOTS) as client:
        publisher = client.publisher(MODEL)
        first = publisher.publish(b"first", archived=True)
        forwarder.hold("upload", UP, {"nothing": 0, "begun": 1000, "some chunks": 2 << 20}.get(step, SIZE))
        future = publisher.publish_nowait(payload, archived=archived)
        forwarder.wait_until_held("upload", UP)
        if step == "committed":
            forwarder.hold("upload", DOWN, 0)  # The answer to the commit.
            forwarder.release(("upload", UP))
            with BarePeer(broadcaster.ready) as peer:
                wait_until(lambda: len(peer.numbers(MODEL)) == 2, "the version")
        broadcaster.kill()
        assert not future.done()
        forwarder.cut()  # What was held back is lost.
        forwarder.release()
        broadcaster.start()
        finish(broadcaster, future, payload, first, archived=archived)


def finish(
    broadcaster: BroadcasterProcess,
    future: Future[clients.VersionInfo],
    payload: bytes,
    first: clients.VersionInfo,
    *,
    archived: bool,
) -> None:
    version = future.result(30)
    assert version.archived == archived and version.digest == digest(payload) and version.number > first.number
    with BarePeer(broadcaster.ready) as peer:
        assert peer.numbers(MODEL) == [first.number, version.number]
        assert peer.read(MODEL, version.number) == payload
        assert peer.read(MODEL, first.number) == b"first"
        wait_until(lambda: peer.stats()["memory_uploads"] == 0 and not staged(broadcaster.archive_dir), "nothing is left over")


@pytest.mark.parametrize("step, archived", [("begun", False), ("some chunks", True), ("all chunks", False), ("committed", True)])
def test_a_learner_finishes_its_upload_by_itself(broadcaster: BroadcasterProcess, step: str, archived: bool) -> None:
    killed_at(broadcaster, step, archived=archived)


@pytest.mark.fault_long
@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("step", ["nothing", "begun", "some chunks", "all chunks", "committed"])
def test_a_learner_finishes_its_upload_by_itself_at_every_step(
    broadcaster: BroadcasterProcess, step: str, archived: bool
) -> None:
    killed_at(broadcaster, step, archived=archived)


def test_acknowledged_archived_versions_survive_and_no_number_is_used_twice(broadcaster: BroadcasterProcess) -> None:
    rng = random.Random(5)
    kept: dict[int, str] = {}
    used: set[int] = set()
    for life in range(3):
        with BarePeer(broadcaster.ready) as peer:
            assert peer.numbers(MODEL) == sorted(kept), "transient versions went with the memory, archived ones did not"
            for number, expected in kept.items():
                assert digest(peer.read(MODEL, number)) == expected
            for index in range(6):
                payload, archived = rng.randbytes(rng.choice([10, 70_000, 3 << 20])), index % 2 == 0
                version = peer.publish(MODEL, payload, archived=archived).fields["version"]
                assert version["number"] not in used and version["number"] > max(used, default=0)
                used.add(version["number"])
                if archived:
                    kept[version["number"]] = digest(payload)
            peer.publish("other", bytes(10))
        broadcaster.restart(kill=life < 2)
    with BarePeer(broadcaster.ready) as peer:
        assert peer.numbers(MODEL) == sorted(kept)
        said = peer.ask("get-version", model_id=MODEL, ref=max(used))
        assert (said.kind == "version") == (max(used) in kept)
        assert peer.publish(MODEL, b"x").fields["version"]["number"] == max(used) + 1, "a clean end skips no numbers"
        assert peer.publish("other", b"x").fields["version"]["number"] > 1


def test_the_numbers_of_a_deleted_model_are_not_used_again(broadcaster: BroadcasterProcess) -> None:
    with BarePeer(broadcaster.ready) as peer:
        last = [peer.publish(MODEL, b"x", archived=True).fields["version"]["number"] for _ in range(3)][-1]
        assert peer.ask("delete-model", model_id=MODEL).kind == "deleted"
        assert peer.publish(MODEL, b"x").fields["version"]["number"] > last
        assert peer.ask("delete-model", model_id=MODEL).kind == "deleted"
    broadcaster.restart(kill=True)
    with BarePeer(broadcaster.ready) as peer:
        assert peer.ask("get-model", model_id=MODEL).code == "unknown-model"
        assert peer.publish(MODEL, b"x").fields["version"]["number"] > last + 1


def test_actors_are_at_the_newest_again_by_themselves(broadcaster: BroadcasterProcess) -> None:
    payload = payload_of(SIZE)
    with Actor(broadcaster.url, MODEL, "chunks") as one, Actor(broadcaster.url, MODEL, "shared") as two:
        with BarePeer(broadcaster.ready) as peer:
            number = peer.publish(MODEL, payload, archived=True).fields["version"]["number"]
        for actor in (one, two):
            actor.until(number)
        broadcaster.restart(kill=True)
        with BarePeer(broadcaster.ready) as peer:
            number = peer.publish(MODEL, b"small").fields["version"]["number"]
            for actor in (one, two):
                actor.until(number)
            number = peer.publish(MODEL, payload).fields["version"]["number"]
            for actor in (one, two):
                assert actor.until(number)["found"] == digest(payload)
            with Actor(broadcaster.url, MODEL) as late:
                assert late.next()["number"] == number


def test_an_actor_that_waits_is_served_by_the_next_life(broadcaster: BroadcasterProcess) -> None:
    """Nothing was published when the broadcaster was killed, and nothing when it came back."""
    with Actor(broadcaster.url, MODEL) as actor:
        broadcaster.restart(kill=True)
        with BarePeer(broadcaster.ready) as peer:
            wait_until(lambda: peer.stats()["subscriptions"] == 1, "it follows again")
            peer.publish(MODEL, b"the first")
        assert actor.next()["number"] == 1
