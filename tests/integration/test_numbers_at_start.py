"""Version numbers right after a start, while the first blocks are still on their way to the disk."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from broadcaster.catalog import Retention
from broadcaster.server.core import Core, CoreOptions
from broadcaster.store.archive import Archive
from tests.bare_peer import BarePeer


def core(tmp_path: Path) -> Core:
    return Core(
        CoreOptions(
            host="127.0.0.1",
            upload_port=0,
            push_port=0,
            data_port=0,
            advertise=None,
            archive_dir=tmp_path / "archive",
            slot_dir=tmp_path / "slots",
            max_payload=1 << 30,
            retention=Retention(),
            ready_file=None,
        )
    )


def serving(made: Core, work: Callable[[BarePeer], Any]) -> Any:
    """What `work` returns while the core serves."""
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        with BarePeer(made.endpoints) as peer:
            return work(peer)
    finally:
        made.loop.stop()
        thread.join()
        made.close()


def test_a_version_that_comes_before_the_first_block_of_numbers_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert serving(core(tmp_path), lambda peer: peer.publish("policy", b"one", archived=True)).kind == "done"
    held, reserve = threading.Event(), Archive.reserve_numbers

    def late(self: Archive, ceilings: Iterable[tuple[str, str, int]]) -> None:
        assert held.wait(20)
        reserve(self, ceilings)

    monkeypatch.setattr(Archive, "reserve_numbers", late)

    def publish(peer: BarePeer) -> Any:
        timer = threading.Timer(0.2, held.set)  # After the upload has come; if it comes later the test is merely easier.
        timer.start()
        return peer.publish("policy", b"two")

    done = serving(core(tmp_path), publish)
    assert done.kind == "done" and done.fields["version"]["number"] == 2
