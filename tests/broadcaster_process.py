"""A real broadcaster for tests: its own processes, free ports, directories that go with it.

with BroadcasterProcess(tmp_path) as broadcaster:
    client = connect(broadcaster.url)
    broadcaster.restart()           # the same ports, the same archive
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.warm_start import WarmProcess

ROOT = Path(__file__).parent.parent
COMMAND = [sys.executable, "-m", "broadcaster"]
START = 30.0
"""Seconds that a broadcaster may take until it serves."""
STOP = 15.0
"""Seconds that it may take to end after SIGTERM."""


class BroadcasterProcess:
    """Starts `python -m broadcaster serve`, and ends it with everything it started.

    `directory` takes the archive, the ready file and what the process says; the slot directory lies in shared memory where there
    is one. `options` are added to the command line, `environment` to the environment; `http` starts the web process,
    too. What it wrote to stderr is printed when it ends, which pytest shows for a failed test only.
    """

    def __init__(
        self,
        directory: Path,
        *,
        options: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        archive_dir: Path | None = None,
        http: bool = False,
    ) -> None:
        self.directory = directory
        self.archive_dir = archive_dir or directory / "archive"
        self.ready_file = directory / "ready.json"
        self.log_file = directory / "broadcaster.log"
        # Short, because the paths of its ipc sockets may have 107 bytes only.
        self.slot_dir = Path(tempfile.mkdtemp(prefix="mb-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        self.options = list(options)
        self.environment = dict(environment or {})
        self.ready: dict[str, Any] = {}
        """What the ready file said: addresses by channel (`grpc`: HOST:PORT, with the option `--grpc-port 0`), and `pids`."""
        self._process: subprocess.Popen[bytes] | WarmProcess | None = None
        self._born: dict[int, int | None] = {}
        """When each process of the ready file began: a number may be given to another when it has ended."""
        self._ports = {"upload": 0, "push": 0, "data": 0}
        self._http = "0" if http else "off"

    # --- where it is -----------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """The one address that a client needs."""
        return str(self.ready["data"])

    @property
    def ipc_url(self) -> str:
        return f"ipc://{self.slot_dir}/data.sock"

    @property
    def pids(self) -> list[int]:
        """Every process of the broadcaster, the supervisor among them."""
        return [int(pid) for pid in self.ready.get("pids", [])]

    @property
    def pid(self) -> int:
        """The process that was started: the supervisor."""
        assert self._process is not None, "not started"
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def log(self) -> str:
        """What it wrote to stdout and stderr so far, over all its lives."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    # --- its life --------------------------------------------------------------------------------------------------

    def start(self, *, timeout: float = START) -> None:
        """Returns when it serves. Raises AssertionError with its log when it ends, or takes longer than `timeout` seconds."""
        assert not self.running, "already started"
        self.directory.mkdir(parents=True, exist_ok=True)
        self.ready_file.unlink(missing_ok=True)
        self._process = self._started(self.command(), os.environ | self.environment)
        deadline = time.monotonic() + timeout
        while not self.ready_file.exists():
            code = self._process.poll()
            assert code is None, f"the broadcaster ended with {code}:\n{self.log()}"
            if time.monotonic() > deadline:
                self.kill()
                raise AssertionError(f"the broadcaster does not serve after {timeout} s:\n{self.log()}")
            time.sleep(0.01)
        self.ready = json.loads(self.ready_file.read_text())
        self._ports = {channel: int(self.ready[channel].rpartition(":")[2]) for channel in self._ports}
        self._born = {pid: start_of(pid) for pid in self.pids}

    def _started(self, command: list[str], environment: dict[str, str]) -> subprocess.Popen[bytes] | WarmProcess:
        """Warm, unless something stands before the command or is told to the loader or the interpreter."""
        plain = all(name.startswith(("BROADCASTER_", "COGMENT_")) for name in self.environment)
        if plain and command[: len(COMMAND)] == COMMAND:
            return WarmProcess(command[len(COMMAND) :], self.log_file, ROOT, environment)
        with self.log_file.open("ab") as log:
            return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)

    def command(self) -> list[str]:
        """The command line that starts it, with the ports that it had before."""
        ports = [text for channel, port in self._ports.items() for text in (f"--{channel}-port", str(port))]
        directories = [
            "--archive-dir",
            str(self.archive_dir),
            "--slot-dir",
            str(self.slot_dir),
            "--ready-file",
            str(self.ready_file),
        ]
        web = ["--http-port", self.ready["http"].rpartition(":")[2] if "http" in self.ready else self._http]
        # Behind the options, which may have asked for a free one.
        grpc = ["--grpc-port", self.ready["grpc"].rpartition(":")[2]] if "grpc" in self.ready else []
        return [*COMMAND, "serve", *ports, *web, *directories, *self.options, *grpc]

    def stop(self, *, timeout: float = STOP) -> int:
        """Asks it to end, and returns its exit code. Raises AssertionError when it is still there after `timeout` seconds."""
        assert self._process is not None, "not started"
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"the broadcaster did not end {timeout} s after SIGTERM:\n{self.log()}") from None

    def kill(self) -> None:
        """Ends all of it at once, as a power cut would: nothing is told, nothing is flushed."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP)  # Else it starts the others again, or its death ends them cleanly.
        born = {pid: start_of(pid) for pid in self._descendants() if pid != self._process.pid}
        for pid in born:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        self._wait_for_end(born)

    def restart(self, *, kill: bool = False) -> None:
        """Ends it (with kill -9 if asked) and starts it again on the same ports, with the same directories."""
        if kill:
            self.kill()
        elif self.running:
            self.stop()
        self.start()

    def close(self) -> None:
        """Ends it if it runs, prints what it said, removes its slot directory."""
        try:
            if self.running:
                self.stop()
        finally:
            self.kill()
            shutil.rmtree(self.slot_dir, ignore_errors=True)
            if said := self.log():
                print(f"--- broadcaster in {self.directory} ---\n{said[-20_000:]}", file=sys.stderr)

    def __enter__(self) -> BroadcasterProcess:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _descendants(self) -> list[int]:
        """The pids of the ready file, and of children started since then (a restarted one has another pid)."""
        found = {pid for pid, born in self._born.items() if born is not None and start_of(pid) == born}
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{self.pid}/task").iterdir():
                found |= {int(pid) for pid in (task / "children").read_text().split()}
        return sorted(pid for pid in found if pid == self.pid or runs_broadcaster(pid))

    @staticmethod
    def _wait_for_end(born: Mapping[int, int | None]) -> None:
        deadline = time.monotonic() + STOP
        while any(start_of(pid) == begin and runs_broadcaster(pid) for pid, begin in born.items() if begin is not None):
            assert time.monotonic() < deadline, f"still there after SIGKILL: {list(born)}"
            time.sleep(0.005)


def start_of(pid: int) -> int | None:
    """When the process with this number began, in ticks since the machine did; None where there is none."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, IndexError):
        return None


def runs_broadcaster(pid: int) -> bool:
    """Whether `pid` is still a living process of ours, and not another that got its number."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        if status == "Z":  # Its first thread ended. The others hold its files until they are out of the disk's hands.
            return len(os.listdir(f"/proc/{pid}/task")) > 1
        return b"broadcaster" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
