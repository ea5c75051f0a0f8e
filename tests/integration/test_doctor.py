"""`broadcaster doctor` in bad surroundings that are really there."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from broadcaster.cli.checks.look import in_use, memory_limit, place, port
from tests.broadcaster_process import ROOT, BroadcasterProcess
from tests.integration.commands import BASE, environment

CODES = {True: 0, False: 1}


def examined(folder: Path, *, descriptors: int | None = None, **settings: object) -> dict[str, dict[str, str]]:
    """What the doctor finds, by check, with these settings; the archive is in `folder`, the ports are free ones."""
    given: Mapping[str, object] = {"archive_dir": folder / "archive", "http_port": "off"} | {
        f"{name}_port": 0 for name in ("upload", "push", "data")
    }
    variables = {f"BROADCASTER_{name.upper()}": str(value) for name, value in (given | settings).items()}

    # A shell sets the limit: code of ours between fork and exec would run beside whatever threads this process has.
    limited = [] if descriptors is None else ["sh", "-c", f'ulimit -n {descriptors}; exec "$@"', "sh"]
    done = subprocess.run(
        [*limited, *BASE, "doctor", "--json"],
        cwd=ROOT,
        env=environment() | variables,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.stdout, (done.returncode, done.stderr)
    told: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == CODES[told["ok"]], done.stderr
    return {finding["check"]: finding for finding in told["checks"]}


def test_here_a_broadcaster_has_what_it_needs_and_nothing_is_left_behind(tmp_path: Path) -> None:
    found = examined(tmp_path)
    assert [finding for finding in found.values() if finding["level"] == "problem"] == []
    assert "wal" in found["sqlite"]["found"] and "ms" in found["flush"]["found"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="no shared memory here")
def test_an_archive_in_memory_and_slots_on_a_disk_are_warned_of(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    memory = Path("/dev/shm") / f"doctor-{os.getpid()}"
    memory.mkdir()
    request.addfinalizer(memory.rmdir)
    found = examined(tmp_path, archive_dir=memory, slot_dir=tmp_path / "slots")
    assert found["archive"]["level"] == "warning" and "lost" in found["archive"]["found"]
    disk = place(tmp_path, keeps=False).file_system
    assert found["slots"]["level"] == ("ok" if disk == "tmpfs" else "warning")


def test_an_archive_below_a_file_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = examined(tmp_path, archive_dir=tmp_path / "file" / "archive")
    assert found["archive"]["level"] == "problem" and "no directory" in found["archive"]["found"]


def test_a_port_that_somebody_else_has_is_a_problem(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        found = examined(tmp_path, data_port=other.getsockname()[1])
    assert found["ports"]["level"] == "problem" and "--data-port" in found["ports"]["remedy"]


def test_an_address_that_is_not_of_this_machine_is_a_problem() -> None:
    assert port("192.0.2.1", 5552) == "forbidden"


def test_loose_keys_are_a_problem(tmp_path: Path) -> None:
    keys = tmp_path / "archive" / "keys"
    keys.mkdir(parents=True, mode=0o700)
    (keys / "admin.token").write_text("")
    (keys / "admin.token").chmod(0o640)
    found = examined(tmp_path)
    assert found["keys"]["level"] == "problem" and "chmod 0600" in found["keys"]["remedy"]
    (keys / "admin.token").chmod(0o600)
    assert examined(tmp_path)["keys"]["level"] == "ok"


def test_few_descriptors_an_open_door_and_a_budget_beyond_the_memory_are_told(tmp_path: Path) -> None:
    found = examined(tmp_path, descriptors=512, host="0.0.0.0", insecure=1, memory_budget="100000GiB")
    assert found["descriptors"]["level"] == "warning"
    assert found["access"]["level"] == "warning" and "0.0.0.0" in found["access"]["found"]
    assert found["memory"]["level"] == "problem" and found["slot-memory"]["level"] == "warning"


def test_it_runs_beside_a_broadcaster(tmp_path: Path) -> None:
    with BroadcasterProcess(tmp_path / "broadcaster") as running:
        assert in_use(running.slot_dir)
        number = int(running.url.rpartition(":")[2])
        found = examined(tmp_path, archive_dir=running.archive_dir, slot_dir=running.slot_dir, data_port=number)
        assert found["ports"] == found["ports"] | {"level": "ok"} and "serves" in found["ports"]["found"]
        assert sorted(running.archive_dir.glob(".doctor-*")) == []
    assert not in_use(running.slot_dir)


@pytest.mark.parametrize(
    ("files", "groups", "limit"),
    [
        ({"memory.max": "max\n"}, "0::/\n", None),
        ({"memory.max": "1000\n"}, "0::/\n", 1000),
        ({"a/memory.max": "2000\n", "a/b/memory.max": "max\n"}, "0::/a/b\n", 2000),
        ({"memory/memory.limit_in_bytes": "9223372036854771712\n"}, "4:memory:/\n", None),
        ({"memory/x/memory.limit_in_bytes": "3000\n"}, "5:cpu:/\n4:memory:/x\n", 3000),
        ({}, "", None),
    ],
)
def test_the_memory_limit_is_that_of_the_smallest_group(
    files: dict[str, str], groups: str, limit: int | None, tmp_path: Path
) -> None:
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(text)
    (tmp_path / "own").write_text(groups)
    assert memory_limit(tmp_path / "cgroup", tmp_path / "own") == limit
