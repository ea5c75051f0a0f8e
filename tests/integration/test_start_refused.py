"""What a broadcaster cannot start on: exit code 2, and one line that names it. The one that runs already is not disturbed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.bare_peer import BarePeer
from tests.broadcaster_process import BroadcasterProcess
from tests.integration.commands import FREE, command, refused


def serve(tmp_path: Path, *options: object) -> str:
    """The line of a broadcaster with directories of its own, but for `options`, that must not start."""
    directories = ["--archive-dir", tmp_path / "archive", "--slot-dir", tmp_path / "slots"]
    return refused(command("serve", *FREE, *directories, *options), 2)


def test_a_second_broadcaster_takes_nothing_of_the_first(tmp_path: Path) -> None:
    with BroadcasterProcess(tmp_path / "first") as first, BarePeer(first.ready) as peer:
        peer.publish("policy", bytes(100_000), archived=True)
        peer.publish("policy", bytes(100_000))
        taken: dict[str, tuple[object, str]] = {
            "--archive-dir": (first.archive_dir, f"{first.archive_dir} cannot be used: it is in use by another broadcaster"),
            "--slot-dir": (first.slot_dir, f"{first.slot_dir} cannot be used: it is in use by another broadcaster"),
        }
        for channel in ("upload", "push", "data"):
            port = first.ready[channel].rpartition(":")[2]
            taken[f"--{channel}-port"] = (port, f"127.0.0.1:{port} is in use")
        for flag, (value, sentence) in taken.items():
            assert sentence in serve(tmp_path, flag, value)
        assert first.running and peer.read("policy", 2) == peer.read("policy", 1) == bytes(100_000)
        assert peer.publish("policy", bytes(100_000), archived=True).kind == "done"
    assert not (tmp_path / "slots").is_dir() or not list((tmp_path / "slots").glob("slot-*"))


@pytest.mark.parametrize("flag", ["--archive-dir", "--slot-dir"])
def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path, flag: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"")
    for place in (file, file / "below"):
        assert str(place) in serve(tmp_path, flag, place)
    sealed = tmp_path / "sealed"
    sealed.mkdir(mode=0o500)
    if os.getuid() != 0:  # Root writes everywhere.
        assert str(sealed) in serve(tmp_path, flag, sealed / "below")
