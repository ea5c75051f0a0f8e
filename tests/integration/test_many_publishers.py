"""One client with hundreds of publishers: what they send at once neither waits for a retry nor is lost."""

from __future__ import annotations

from pathlib import Path

from clients import connect
from tests.bare_peer import BarePeer
from tests.broadcaster_process import BroadcasterProcess

PUBLISHERS = 300
ROUNDS = 3


def test_hundreds_of_publishers_of_one_client_are_served_without_a_retry(tmp_path: Path) -> None:
    with BroadcasterProcess(tmp_path / "broadcaster") as broadcaster, BarePeer(broadcaster.ready) as peer:
        with connect(broadcaster.url) as client:
            publishers = [client.publisher(f"model-{index}") for index in range(PUBLISHERS)]
            for publisher in publishers:
                publisher.publish(b"weights")  # The models are there, and their numbers reserved.
            for _ in range(ROUNDS):
                pending = [publisher.publish_nowait(b"weights") for publisher in publishers]
                for future in pending:
                    future.result(30)
            assert client._driver._channels["upload"].dropped == 0
        counted = peer.stats()
        assert counted["publishes"] == (1 + ROUNDS) * PUBLISHERS
        assert counted["uploads_resumed"] == 0
