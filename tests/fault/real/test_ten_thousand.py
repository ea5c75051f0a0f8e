"""Ten thousand connections from two processes: all are served, and what each costs is told."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import clients
from broadcaster.security import Grant, KeyDirectory
from tests.bare_peer import wait_until
from tests.broadcaster_process import ROOT, BroadcasterProcess
from tests.hostile import private

pytestmark = [pytest.mark.fault_long, pytest.mark.deadline(600)]

CONNECTIONS, PROCESSES = 10_000, 2
MOST = {"no keys": 40 << 10, "keys": 80 << 10}
"""Bytes of the broadcaster's memory for one connection."""


class Half:
    """One of the two processes."""

    def __init__(self, process: BroadcasterProcess, count: int, key: Path | None) -> None:
        addresses = json.dumps({channel: process.ready[channel] for channel in ("data", "push")})
        command = [sys.executable, "-m", "tests.fault.real.crowd", str(count), addresses, *([str(key)] if key else [])]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def told(self) -> dict[str, int]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the crowd has ended"
        found: dict[str, int] = json.loads(line)
        return found

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.mark.parametrize("access", MOST)
def test_ten_thousand_connections_from_two_processes_are_served(tmp_path: Path, access: str) -> None:
    key = KeyDirectory(tmp_path / "archive" / "keys").make("crowd", Grant("admin", "*", "*")) if access == "keys" else None
    with BroadcasterProcess(tmp_path) as process, clients.connect(process.ipc_url) as client:
        publisher = client.publisher("policy")
        publisher.publish(b"first")
        before, begun, halves = private(process), time.monotonic(), []
        try:
            for _ in range(PROCESSES):
                halves.append(Half(process, CONNECTIONS // PROCESSES, key))
            assert [half.told()["connected"] for half in halves] == [CONNECTIONS // PROCESSES] * PROCESSES
            wait_until(lambda: client.registry.stats()["connections"] >= CONNECTIONS, "all are there", seconds=30)
            took, cost = time.monotonic() - begun, (private(process) - before) / CONNECTIONS
            assert client.registry.stats()["connections_refused"] == 0
            publisher.publish(b"second")
            begun = time.monotonic()
            for half in halves:
                half.go_on()
            each = CONNECTIONS // PROCESSES
            assert [half.told() for half in halves] == [{"answered": each * 3 // 4, "heard": each // 4}] * PROCESSES
            print(
                f"{access}: {CONNECTIONS} connections in {took:.1f} s, {cost / 1024:.1f} KiB of the broadcaster's memory each; "
                f"all asked at once and were answered in {time.monotonic() - begun:.1f} s"
            )
            assert cost <= MOST[access]
        finally:
            for half in halves:
                half.close()
        wait_until(lambda: client.registry.stats()["connections"] < 10, "all that have gone are forgotten", seconds=30)
        assert publisher.publish(b"third").number == 3
