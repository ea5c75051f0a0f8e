"""`broadcaster serve`: how it starts, what it refuses, how it ends."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broadcaster_process import ROOT, BroadcasterProcess
from tests.integration.commands import BASE, FREE, command, environment, on_terminal, refused

STOP = 2.0
"""Seconds in which a broadcaster that has nothing to write to disk ends."""


@pytest.fixture(scope="module")
def broadcaster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BroadcasterProcess]:
    with BroadcasterProcess(tmp_path_factory.mktemp("broadcaster")) as started:
        yield started


# --- serve: how it starts ------------------------------------------------------------------------------------------


def test_serve_says_where_it_listens_as_json_when_nobody_reads_along(broadcaster: BroadcasterProcess) -> None:
    events = [json.loads(line) for line in broadcaster.log().splitlines()]
    (started,) = (event for event in events if event["message"] == f"connect with: BROADCASTER_URL={broadcaster.url}")
    assert started["level"] == "info" and started["archive"] == str(broadcaster.archive_dir)
    assert {name: started[name] for name in ("upload", "push", "data")} == {
        name: broadcaster.ready[name] for name in ("upload", "push", "data")
    }
    assert not any("alembic" in event["logger"] for event in events)


def test_serve_tells_all_mistakes_of_its_flags_in_one_line() -> None:
    said = refused(command("serve", "--upload-port", "x", "--host", "", "--keep", "0", "--memory-budget", "5q"), 2)
    assert all(f"{name}: " in said for name in ("upload-port", "host", "keep", "memory-budget"))


def test_a_port_in_use_is_named(broadcaster: BroadcasterProcess, tmp_path: Path) -> None:
    port = broadcaster.url.rpartition(":")[2]
    done = command("serve", "--upload-port", 0, "--push-port", 0, "--data-port", port, "--archive-dir", tmp_path / "a")
    said = refused(done, 2)
    assert "data-port" in said and port in said and "in use" in said


def test_an_archive_in_use_is_refused_and_its_owner_named(broadcaster: BroadcasterProcess) -> None:
    said = refused(command("serve", *FREE, "--archive-dir", broadcaster.archive_dir), 2)
    assert "in use by another broadcaster" in said and any(f"(pid {pid})" in said for pid in broadcaster.pids)


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for flag in ("--archive-dir", "--slot-dir"):
        assert str(tmp_path / "file") in refused(command("serve", *FREE, flag, tmp_path / "file" / "in", cwd=tmp_path), 2)


def test_a_ready_file_in_a_place_that_is_not_there_is_refused(tmp_path: Path) -> None:
    done = command("serve", *FREE, "--archive-dir", tmp_path / "a", "--ready-file", tmp_path / "no" / "ready.json")
    assert "ready-file" in refused(done, 2)


def test_an_open_door_is_warned_of(tmp_path: Path) -> None:
    with BroadcasterProcess(tmp_path, options=["--host", "0.0.0.0", "--insecure", "--advertise", "learner.example"]) as process:
        warnings = [event for event in map(json.loads, process.log().splitlines()) if event["level"] == "warning"]
        assert any("INSECURE" in event["message"] and event["host"] == "0.0.0.0" for event in warnings)
        assert f"BROADCASTER_URL=tcp://learner.example:{process.url.rpartition(':')[2]}" in process.log()


def test_a_start_that_fails_leaves_the_ready_file_of_the_living_one(broadcaster: BroadcasterProcess) -> None:
    before = broadcaster.ready_file.read_text()
    refused(command("serve", *FREE, "--archive-dir", broadcaster.archive_dir, "--ready-file", broadcaster.ready_file), 2)
    assert broadcaster.ready_file.read_text() == before


def test_a_ready_file_of_the_dead_is_gone_before_anything_else(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    ready = tmp_path / "ready.json"
    ready.write_text(json.dumps({"data": "tcp://localhost:1", "pids": [dead.pid]}))
    (tmp_path / "file").touch()
    refused(command("serve", *FREE, "--archive-dir", tmp_path / "file", "--ready-file", ready), 2)
    assert not ready.exists()


# --- serve: how it ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_it_cleanly_and_soon(number: signal.Signals, tmp_path: Path) -> None:
    with BroadcasterProcess(tmp_path) as process:
        assert command("publish", ROOT / "LICENSE", "--archived", url=process.url).returncode == 0
        started = time.monotonic()
        os.kill(process.pid, number)
        assert process._process is not None and process._process.wait(STOP) == 0
        assert time.monotonic() - started < STOP
        assert not process.ready_file.exists()
        assert f'"signal": "{number.name}"' in process.log()


def test_a_signal_while_it_starts_ends_it_too(tmp_path: Path) -> None:
    for delay in range(4):
        process = subprocess.Popen([*BASE, "serve", *FREE, "--archive-dir", str(tmp_path / "a")], env=environment(), cwd=ROOT)
        wait_for_handlers(process)
        select.select([], [], [], delay * 0.1)  # Into the middle of it: the moment is what varies, nothing is waited for.
        process.terminate()
        assert process.wait(STOP + 3) == 0, delay


def test_a_start_that_hangs_is_ended_by_the_first_signal(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "slow.toml")  # Nobody writes to it: reading the settings takes for ever.
    process = subprocess.Popen([*BASE, "serve", "--config", str(tmp_path / "slow.toml")], env=environment(), cwd=tmp_path)
    try:
        wait_for_handlers(process)
        process.terminate()
        assert process.wait(STOP) == 0
    finally:
        process.kill()
        process.wait()


def wait_for_handlers(process: subprocess.Popen[bytes]) -> None:
    """Returns when the process has a handler for SIGTERM."""
    deadline = time.monotonic() + 20
    while True:
        caught = re.search(r"SigCgt:\s*([0-9a-f]+)", Path(f"/proc/{process.pid}/status").read_text())
        if caught is not None and int(caught[1], 16) >> (signal.SIGTERM - 1) & 1:
            return
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.002)


def test_the_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    with BroadcasterProcess(tmp_path) as process:
        os.kill(process.pid, signal.SIGSTOP)  # So that both are there before it can answer the first.
        os.kill(process.pid, signal.SIGTERM)
        os.kill(process.pid, signal.SIGINT)
        os.kill(process.pid, signal.SIGCONT)
        assert process._process is not None and process._process.wait(STOP) in (128 + signal.SIGINT, 128 + signal.SIGTERM)


def test_it_serves_on_with_closed_or_broken_output(tmp_path: Path) -> None:
    for index, redirect in enumerate(["<&- >&- 2>&-", "2>&1 | true"]):
        ready = tmp_path / f"{index}.json"
        line = f'"$@" serve {" ".join(FREE)} --archive-dir {tmp_path}/{index} --ready-file {ready} --log-level debug {redirect}'
        shell = subprocess.Popen(["sh", "-c", line, "sh", *BASE], env=environment(), cwd=ROOT)
        deadline = time.monotonic() + 20
        while not ready.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        told = json.loads(ready.read_text())
        if "2>&-" in redirect:  # Else a file or a socket of the broadcaster's has the number of stderr.
            assert {os.readlink(f"/proc/{told['pids'][0]}/fd/{number}") for number in range(3)} == {os.devnull}
        done = command("publish", ROOT / "LICENSE", "--archived", url=told["data"])
        assert done.returncode == 0, done.stderr
        os.kill(told["pids"][0], signal.SIGTERM)
        shell.wait(STOP + 3)
        assert not ready.exists(), "it did not end cleanly"
        verified = command("verify", tmp_path / str(index), "--json")
        assert json.loads(verified.stdout)["versions"] == 1


def test_on_a_terminal_serve_greets_and_says_how_to_connect(tmp_path: Path) -> None:
    code, said = on_terminal(
        ["serve", *FREE, "--archive-dir", str(tmp_path / "a")], "", until="connect with: BROADCASTER_URL=tcp://"
    )
    assert code == 0, said
    assert re.search(r"^broadcaster \d.*\n  upload   tcp://127\.0\.0\.1:\d+\r?\n", said, re.M), said
    assert "{" not in said and str(tmp_path / "a") in said
