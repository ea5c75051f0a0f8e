"""Processes that run the command without loading its libraries first: forked from one that has loaded them, once for a test run.

Loading takes most of a second of processor time, and a run starts hundreds of broadcasters. What has to be seen from the first
instruction on (its environment for the loader, strace, another interpreter) is started with `subprocess`.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

LOADED = [
    "alembic.command",
    "broadcaster.cli.serve",
    "broadcaster.entry",
    "broadcaster.server.core",
    "broadcaster.supervisor",
    "broadcaster.web.serve",
]
ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""Of the process that forks: no thread may run in it."""
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(LOADED)


class WarmProcess:
    """`broadcaster ARGUMENTS...` as a process of its own, with this environment and nothing else in it; what it says is added to
    the file `log`. Has what `subprocess.Popen` has, as far as tests want it."""

    def __init__(self, arguments: list[str], log: Path, directory: Path, environment: Mapping[str, str]) -> None:
        self._process = _context.Process(target=_run, args=(arguments, str(log), str(directory), dict(environment)))
        with mock.patch.dict(os.environ, ONE_THREAD):
            self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        if code is None:
            raise subprocess.TimeoutExpired("broadcaster", timeout or 0.0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(arguments: list[str], log: str, directory: str, environment: dict[str, str]) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    for standard in (1, 2):
        os.dup2(descriptor, standard)
    os.close(descriptor)
    os.chdir(directory)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["broadcaster", *arguments]
    from broadcaster.entry import main

    main()
