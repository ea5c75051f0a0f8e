"""More versions than memory holds: the budget is kept, the newest stay, and what left is named."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from tests.bare_peer import BarePeer, digest, wait_until
from tests.broadcaster_process import BroadcasterProcess

MIB = 1 << 20
BUDGET = 32 * MIB


def start(tmp_path: Path, *options: object) -> BroadcasterProcess:
    return BroadcasterProcess(tmp_path / "broadcaster", options=["--memory-budget", str(BUDGET), *map(str, options)])


@pytest.fixture
def broadcaster(tmp_path: Path) -> Iterator[BroadcasterProcess]:
    with start(tmp_path) as process:
        yield process


@pytest.fixture
def peer(broadcaster: BroadcasterProcess) -> Iterator[BarePeer]:
    with BarePeer(broadcaster.ready) as connected:
        yield connected


@pytest.mark.parametrize("seed", [1, 2])
def test_the_newest_of_every_model_stays_and_the_budget_is_never_exceeded(peer: BarePeer, seed: int) -> None:
    rng = random.Random(seed)
    models = [f"m{index}" for index in range(6)]
    published: dict[tuple[str, int], tuple[str, bool]] = {}
    newest: dict[str, int] = {}
    for _ in range(60):
        model, archived = rng.choice(models), rng.random() < 0.2
        payload = rng.randbytes(rng.choice([100, 60_000, 70_000, MIB, 3 * MIB]))
        number = peer.publish(model, payload, archived=archived).fields["version"]["number"]
        assert number == newest.get(model, 0) + 1
        published[model, number], newest[model] = (digest(payload), archived), number
        stats = peer.stats()
        assert stats["memory_versions"] + stats["memory_uploads"] <= stats["memory_budget"] == BUDGET
        if stats["slot_bytes"] > BUDGET:  # By one that was being made ahead when a payload needed its room.
            wait_until(lambda: peer.stats()["slot_bytes"] <= BUDGET, "it is let go at once")
        for name, highest in newest.items():
            assert peer.ask("get-version", model_id=name, ref=-1).fields["version"]["number"] == highest
    evicted = 0
    for (model, number), (expected, archived) in published.items():
        said = peer.ask("get-version", model_id=model, ref=number)
        if said.kind == "version":
            assert digest(peer.read(model, number)) == expected
        else:
            evicted += 1
            assert not archived and number < newest[model]
            assert said.code == peer.ask("read", model_id=model, number=number, offset=0, length=1).code == "version-evicted"
            assert f"version {number} was evicted" in said.message
    assert evicted == peer.stats()["evicted"] > 0, "this test is about evictions"


def test_models_that_fill_the_budget_with_their_newest_refuse_the_next_one_and_lose_nothing(peer: BarePeer) -> None:
    payloads = {f"m{index}": random.Random(index).randbytes(6 * MIB) for index in range(5)}
    for model, payload in payloads.items():
        assert peer.publish(model, payload).kind == "done"
    said = peer.publish("one-more", bytes(6 * MIB))
    assert said.code == "budget-exceeded" and said.fields["facts"]["newest"] == peer.stats()["memory_versions"]
    said = peer.publish("m0", bytes(6 * MIB))
    assert said.code == "budget-exceeded", "the newest stays until the next one is whole"
    for model, payload in payloads.items():
        assert peer.read(model, 1) == payload
    assert peer.ask("delete-version", model_id="m1", number=1).kind == "deleted"
    assert peer.publish("m0", bytes(6 * MIB)).kind == "done"


def test_an_archive_that_is_too_busy_for_an_upload_keeps_no_file_of_it(broadcaster: BroadcasterProcess, peer: BarePeer) -> None:
    """The upload waits for its commit while more small versions are to be archived than jobs may wait."""
    payload, upload_id, flood = random.Random(3).randbytes(2 * MIB), os.urandom(16), 2500
    peer.say("begin", upload_id, model_id="large", size=len(payload), archived=True)
    assert peer.heard().kind == "credit"
    for index in range(2):
        peer.chunk(upload_id, payload, index)
    for index in range(flood):
        peer.say("publish", os.urandom(16), b"", model_id=f"m{index % 4}", size=0, digest=digest(b""), archived=True)
    peer.say("commit", upload_id, digest=digest(payload))
    while (said := peer.outcome()).fields["upload_id"] != upload_id:
        assert said.code in ("", "busy")
    assert said.code == "busy" and said.fields["facts"]["number"] == 1, "this test is about a full queue"
    assert peer.read("large", 1) == payload, "it was announced, and stays, and can be archived by asking again"
    largest = max(entry.stat().st_size for entry in [*(broadcaster.archive_dir / "staging").iterdir(), Path(__file__)])
    assert largest < len(payload), "its staged file is gone"
    broadcaster.kill()  # Not waiting for what the flood still has to write.


@pytest.mark.fault_long
def test_the_eviction_of_very_many_versions_is_told_in_as_many_events_as_it_takes(tmp_path: Path) -> None:
    count = 30_000
    with start(tmp_path, "--memory-budget", 64 * MIB, "--keep", 1_000_000) as broadcaster, BarePeer(broadcaster.ready) as peer:
        follower = peer.subscription(broadcaster.ready["push"], b"default/m\0e")
        wait_until(lambda: peer.stats()["subscriptions"] == 1, "the subscription is there")
        ahead, seen = 500, []
        for index in range(count + ahead):
            if index < count:
                peer.say("publish", os.urandom(16), b"", model_id="m", size=0, digest=digest(b""))
            if index >= ahead:
                assert peer.outcome().kind == "done"
            seen += drained(follower)
        assert peer.publish("large", bytes(62 * MIB)).kind == "done"
        last = peer.ask("follow", model_id="m").fields["model_offset"]
        wait_until(lambda: seen.extend(drained(follower)) or seen[-1]["offset"] == last, "every event")
        gone = sorted(number for event in seen for number in event.get("evicted", []))
        kept = peer.ask("list-versions", model_id="m", limit=1).fields["versions"][0]["number"]
        assert gone == list(range(1, kept)) and len(gone) > 23_000


def drained(socket: zmq.Socket[bytes]) -> list[dict[str, Any]]:
    """What came on a topic of events, beacons left out."""
    found = []
    while socket.poll(0):
        _, kind, fields, *_ = socket.recv_multipart()
        if kind == b"event":
            found.append(msgpack.unpackb(fields))
    return found
