"""A slot directory that a group may use: learners and actors of other users, as containers beside the broadcaster have them."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broadcaster_process import ROOT, BroadcasterProcess
from tests.integration.commands import command, refused

GROUP, STRANGER = 54321, 12345

PROGRAM = """
import os, sys, numpy as np
from clients import codec, connect
codec.LayoutCache()  # What is not loaded by now cannot be: the interpreter may lie where only root can read.
import clients.codec.numpy, clients.codec.tensors, zmq.sugar
os.setgroups([]), os.setgid(int(sys.argv[2])), os.setuid(int(sys.argv[3]))
with connect(sys.argv[1], timeout=float(sys.argv[4])) as client:
    subscriber = client.subscriber("shared")
    publisher = client.publisher("shared")
    for value in (1, 2, 3):
        number = publisher.publish({"w": np.full(1 << 18, value, np.float32)}).number
        snapshot = subscriber.wait(newer_than=number - 1, timeout=20)
        assert snapshot.tensors["w"][-1] == value
    print(subscriber.stats().delivery, client.registry.stats()["grants"])
"""

as_root = pytest.mark.skipif(os.getuid() != 0, reason="only root can be other users")


@pytest.fixture(scope="module")
def broadcaster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BroadcasterProcess]:
    with BroadcasterProcess(tmp_path_factory.mktemp("broadcaster"), options=["--slot-group", str(GROUP)]) as process:
        yield process


def act_as(group: int, url: str, *, patience: float = 10.0) -> subprocess.CompletedProcess[str]:
    """The program, run by a user who is nobody else and member of `group` alone."""
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, url, str(group), str(STRANGER), str(patience)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
        env={"PYTHONPATH": str(ROOT)},
    )


@as_root
def test_a_member_publishes_and_follows_through_shared_memory(broadcaster: BroadcasterProcess) -> None:
    done = act_as(GROUP, broadcaster.ipc_url)
    assert done.returncode == 0, done.stderr
    delivery, grants = done.stdout.split()
    assert delivery == "shared" and float(grants) >= 2


@as_root
def test_who_is_no_member_does_not_get_in(broadcaster: BroadcasterProcess) -> None:
    done = act_as(GROUP + 1, broadcaster.ipc_url, patience=1.0)
    assert done.returncode != 0 and "NoBroadcaster" in done.stderr, done.stdout


@as_root
def test_members_can_make_nothing_there_and_lock_nothing(broadcaster: BroadcasterProcess) -> None:
    found = broadcaster.slot_dir.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_gid) == (0o2750, GROUP)
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in broadcaster.slot_dir.iterdir()}
    assert modes["data.sock"] == 0o660 and modes["token"] == 0o640 and modes["lock"] == 0o600


@as_root
def test_a_restarted_broadcaster_shares_again(broadcaster: BroadcasterProcess) -> None:
    broadcaster.restart(kill=True)
    assert act_as(GROUP, broadcaster.ipc_url).returncode == 0


def test_without_a_group_nobody_else_gets_in(tmp_path: Path) -> None:
    with BroadcasterProcess(tmp_path) as process:
        assert stat.S_IMODE((process.slot_dir / "data.sock").stat().st_mode) == 0o600
        assert stat.S_IMODE(process.slot_dir.stat().st_mode) == 0o700


def test_a_group_that_is_not_there_is_told_at_once() -> None:
    assert "no-such-group" in refused(command("serve", "--slot-group", "no-such-group"), 2)
