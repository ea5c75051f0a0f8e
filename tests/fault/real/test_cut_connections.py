"""Connections are cut at random byte counts: uploads, reads and subscriptions go on, and every publish makes one version."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator

import pytest

import clients
from tests.bare_peer import BarePeer, digest
from tests.broadcaster_process import BroadcasterProcess
from tests.fault.real.forwarder import Forwarder

MIB = 1 << 20
MODEL = "policy"
CUTS = {"chunks": 3 * MIB, "slots": None}
"""About how many bytes a connection lives. Those that only say where payloads lie carry too few: they are cut now and then."""
NO_SLOTS = "/nonexistent"


@pytest.fixture
def broadcaster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BroadcasterProcess]:
    with BroadcasterProcess(tmp_path_factory.mktemp("cut") / "broadcaster", options=["--keep-large", "100"]) as process:
        yield process


def lives_through_cuts(broadcaster: BroadcasterProcess, seed: int, publications: int, way: str) -> int:
    """Publishes, follows and reads through a line that is cut again and again. Returns how often it was."""
    rng, slots = random.Random(seed), NO_SLOTS if way == "chunks" else None
    with (
        Forwarder(broadcaster.ready, seed=seed, cuts=CUTS[way]) as forwarder,
        clients.connect(forwarder.url, timeout=30, slot_dir=slots) as client,
    ):
        subscriber, publisher = client.subscriber(MODEL), client.publisher(MODEL)
        published: dict[int, str] = {}
        by_hand = 0
        for index in range(publications if way == "chunks" else 2 * publications):
            if way == "slots" and index % 2:
                by_hand += 1
                threading.Timer(rng.random() * 0.02, forwarder.cut).start()
            payload = rng.randbytes([4 * MIB, 100, 3 * MIB, 60_000][index % 4])
            version = publisher.publish(payload, archived=rng.random() < 0.3, timeout=50)
            assert version.number == len(published) + 1 and version.digest == digest(payload)
            published[version.number] = version.digest
            snapshot = subscriber.wait(timeout=50, newer_than=version.number - 1)
            assert digest(bytes(snapshot.payload)) == published[snapshot.version.number]
        with BarePeer(broadcaster.ready) as peer:
            for number in rng.sample(sorted(published), 2):
                read = client.registry.get(MODEL, number).read(timeout=50)
                assert digest(bytes(read)) == published[number]
            assert peer.numbers(MODEL) == sorted(published), "one version for each publish"
            if way == "chunks":  # Else there may be a slot for the next one.
                assert peer.stats()["memory_uploads"] == 0
        return forwarder.count + by_hand


@pytest.mark.parametrize("way", CUTS)
def test_everything_lives_through_cut_connections(broadcaster: BroadcasterProcess, way: str) -> None:
    assert lives_through_cuts(broadcaster, 1, 3, way) > 0


@pytest.mark.fault_long
@pytest.mark.deadline(300)
@pytest.mark.parametrize("way", CUTS)
@pytest.mark.parametrize("seed", range(10, 20))
def test_everything_lives_through_many_cut_connections(broadcaster: BroadcasterProcess, seed: int, way: str) -> None:
    assert lives_through_cuts(broadcaster, seed, 12, way) > 0
