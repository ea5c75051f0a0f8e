"""Very many uploads to one model at once, and answers that are lost: each upload makes one version, with a number of its own."""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import clients
from tests.bare_peer import BarePeer, digest
from tests.broadcaster_process import BroadcasterProcess
from tests.fault.real.forwarder import Forwarder

MIB = 1 << 20
MODEL = "policy"
NO_SLOTS = "/nonexistent"
PEERS = 8
"""Connections that the uploads come over."""


@pytest.fixture
def broadcaster(folder: Path) -> Iterator[BroadcasterProcess]:
    options = ["--memory-budget", "768MiB", "--keep-large", "1000"]
    with BroadcasterProcess(folder / "broadcaster", options=options) as process:
        yield process


@pytest.fixture(scope="module")
def shared(shared_folder: Path) -> Iterator[BroadcasterProcess]:
    with BroadcasterProcess(shared_folder / "broadcaster") as process:
        yield process


# --- many at once --------------------------------------------------------------------------------------------------


def interleaved(broadcaster: BroadcasterProcess, seed: int, count: int) -> None:
    """All are begun before one is committed; then their chunks and commits come in a random order."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    with contextlib.ExitStack() as stack:
        peers = [stack.enter_context(BarePeer(broadcaster.ready)) for _ in range(PEERS)]
        uploads = {rng.randbytes(16): rng.randbytes(rng.choice([10, 70_000, MIB, 2 * MIB + 9])) for _ in range(count)}
        peer_of = {upload_id: peers[index % PEERS] for index, upload_id in enumerate(uploads)}
        for index, (upload_id, payload) in enumerate(uploads.items()):
            peer_of[upload_id].say("begin", upload_id, model_id=MODEL, size=len(payload), archived=index % 4 == 0)
        for upload_id in uploads:
            assert peer_of[upload_id].heard("credit").kind == "credit"
        for upload_id, step in steps(rng, uploads):
            payload = uploads[upload_id]
            if step * MIB < len(payload):
                peer_of[upload_id].chunk(upload_id, payload, step)
            else:
                peer_of[upload_id].say("commit", upload_id, digest=digest(payload))
        numbers: dict[int, bytes] = {}
        for upload_id in uploads:
            said = peer_of[upload_id].outcome()
            assert said.kind == "done", said
            numbers[said.fields["version"]["number"]] = said.fields["upload_id"]
        assert sorted(numbers) == list(range(1, count + 1)), "each has its own number, and none is left out"
        assert peers[0].numbers(MODEL) == sorted(numbers)
        for number, upload_id in numbers.items():
            assert peers[0].read(MODEL, number) == uploads[upload_id]
        assert peers[0].stats()["memory_uploads"] == 0


def steps(rng: random.Random, uploads: dict[bytes, bytes]) -> list[tuple[bytes, int]]:
    """The chunks of each upload, and its commit behind them; those of different uploads mixed."""
    left = {upload_id: -(-len(payload) // MIB) + 1 for upload_id, payload in uploads.items()}
    order = [upload_id for upload_id, count in left.items() for _ in range(count)]
    rng.shuffle(order)
    done = dict.fromkeys(uploads, 0)
    found = []
    for upload_id in order:
        found.append((upload_id, done[upload_id]))
        done[upload_id] += 1
    return found


def test_forty_uploads_at_once_get_forty_numbers(broadcaster: BroadcasterProcess) -> None:
    interleaved(broadcaster, 40, 40)


@pytest.mark.fault_long
@pytest.mark.deadline(180)
@pytest.mark.parametrize("seed", range(200, 203))
def test_two_hundred_uploads_at_once_get_two_hundred_numbers(broadcaster: BroadcasterProcess, seed: int) -> None:
    interleaved(broadcaster, seed, 200)


def published_at_once(broadcaster: BroadcasterProcess, seed: int, count: int) -> None:
    """By publishers of our own client, half of them over slots, half in chunks."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    payloads = [rng.randbytes(rng.choice([10, 70_000, MIB])) for _ in range(count)]
    with contextlib.ExitStack() as stack:
        connections = [
            stack.enter_context(clients.connect(broadcaster.url, slot_dir=NO_SLOTS if index % 2 else None)) for index in range(4)
        ]
        publishers = [connections[index % 4].publisher(MODEL) for index in range(count)]
        futures = [
            publisher.publish_nowait(payload, archived=index % 5 == 0, timeout=50)
            for index, (publisher, payload) in enumerate(zip(publishers, payloads, strict=True))
        ]
        numbers = [future.result(50).number for future in futures]
        assert sorted(numbers) == list(range(1, count + 1))
        for number, payload in zip(numbers, payloads, strict=True):
            assert bytes(connections[0].registry.get(MODEL, number).read()) == payload


def test_forty_publishers_of_our_client_get_forty_numbers(broadcaster: BroadcasterProcess) -> None:
    published_at_once(broadcaster, 41, 40)


@pytest.mark.fault_long
@pytest.mark.deadline(180)
@pytest.mark.parametrize("seed", range(210, 213))
def test_two_hundred_publishers_of_our_client_get_two_hundred_numbers(broadcaster: BroadcasterProcess, seed: int) -> None:
    published_at_once(broadcaster, seed, 200)


# --- lost answers --------------------------------------------------------------------------------------------------


def without_an_answer(broadcaster: BroadcasterProcess, seed: int, count: int, slot_dir: str | None) -> None:
    """Each `done` is lost with its connection, once or twice; the publication ends all the same, as the version that is there."""
    print(f"seed {seed}")
    rng = random.Random(seed)
    with (
        Forwarder(broadcaster.ready) as line,
        clients.connect(line.url, slot_dir=slot_dir) as client,
        BarePeer(broadcaster.ready) as peer,
    ):
        publisher = client.publisher(MODEL)
        for index in range(count):
            payload, archived = rng.randbytes([2 * MIB, 10, 70_000][index % 3]), rng.random() < 0.5
            line.lose("done", rng.randint(1, 2))
            version = publisher.publish(payload, archived=archived, timeout=50)
            assert line.to_lose == 0, "this test is about lost answers"
            assert version.number == index + 1 and version.archived == archived
            assert peer.numbers(MODEL) == list(range(1, index + 2)), "one version, and no second one"
            assert peer.read(MODEL, version.number) == payload


@pytest.mark.parametrize("slot_dir", [None, NO_SLOTS], ids=["slots", "chunks"])
def test_a_publication_whose_answers_are_lost_makes_one_version(broadcaster: BroadcasterProcess, slot_dir: str | None) -> None:
    without_an_answer(broadcaster, 2, 2, slot_dir)


@pytest.mark.fault_long
@pytest.mark.deadline(300)
@pytest.mark.parametrize("seed", range(10, 13))
@pytest.mark.parametrize("slot_dir", [None, NO_SLOTS], ids=["slots", "chunks"])
def test_many_publications_whose_answers_are_lost_make_one_version_each(
    broadcaster: BroadcasterProcess, slot_dir: str | None, seed: int
) -> None:
    without_an_answer(broadcaster, seed, 30, slot_dir)


@pytest.mark.parametrize("size", [10, 70_000])
@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("what", ["version", "model"])
def test_an_upload_that_is_sent_again_does_not_bring_a_deleted_version_back(
    shared: BroadcasterProcess, what: str, archived: bool, size: int
) -> None:
    model, upload_id, payload = f"{what}-{archived}-{size}", os.urandom(16), os.urandom(size)
    with BarePeer(shared.ready) as peer:
        first = peer.publish(model, payload, upload_id=upload_id, archived=archived)
        delete = {"model_id": model} | ({"number": 1} if what == "version" else {})
        assert peer.ask(f"delete-{what}", **delete).kind == "deleted"
        again = peer.publish(model, payload, upload_id=upload_id, archived=archived)
        assert again.fields["code"] == "version-deleted" and again.fields["facts"]["number"] == first.fields["version"]["number"]
        assert peer.numbers(model) == []


def test_a_change_whose_answer_is_lost_is_made_once(shared: BroadcasterProcess) -> None:
    """Made a second time, each of these would be refused. Several are under way at once: who hears nothing waits for a second."""
    with Forwarder(shared.ready) as line, clients.connect(line.url) as client:
        registry, publisher = client.registry, client.publisher("changed")
        for _ in range(3):
            publisher.publish(b"weights")
        registry.set_alias("changed", "champion", 1)
        for kind in ("model", "version", "deleted"):
            line.lose(kind, 1)
        with ThreadPoolExecutor(3) as threads:
            moved = threads.submit(registry.set_alias, "changed", "champion", 2, expect=1)
            archived = threads.submit(registry.archive, "changed", 2)
            deleted = threads.submit(registry.delete, "changed", 3)
            assert moved.result().aliases == {"champion": 2} and archived.result().archived
            deleted.result()
        line.lose("model", 1)
        assert registry.create("made").versions == 0
        line.lose("deleted", 1)
        registry.delete_model("changed", force=True)
        assert line.to_lose == 0
