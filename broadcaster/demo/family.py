"""The processes of the demo: started on a leash, watched, and ended together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from broadcaster.demo import leash

GRACE = 1.0
"""Seconds between the friendly signal and the other one."""


class ChildDied(RuntimeError):
    """A process of the demo ended before its work was done."""


class Family:
    """Children by name; each writes its output to `directory`/NAME.log. Leaving the `with` block ends them all."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Family:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def start(self, name: str, *arguments: str) -> None:
        """Starts `python ARGUMENTS` in a process group of its own, so that Ctrl-C in the terminal reaches this process alone."""
        # `-m` looks into the current directory first: -P keeps a stranger's `clients` there out, as it is kept out here.
        isolation = [] if {"", os.getcwd()} & set(sys.path) else ["-P"]
        leashed = [sys.executable, "-I", "-S", leash.__file__, str(os.getpid()), sys.executable, *isolation, *arguments]
        with self._log(name).open("wb") as log:
            self._children[name] = subprocess.Popen(
                leashed, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, process_group=0
            )

    def check(self, *, may_end: str | None = None) -> None:
        """ChildDied if a child has ended; `may_end` names one that may, with exit code 0."""
        for name, child in self._children.items():
            code = child.poll()
            if code is not None and not (name == may_end and code == 0):
                raise ChildDied(f"{name} ended {_how(code)}: {self._last_words(name)} (its log: {self._log(name)})")

    def end(self) -> None:
        """Ends all children within `GRACE` and a moment; returns when none is left."""
        for name in reversed(self._children):
            self._children[name].terminate()
        deadline = time.monotonic() + GRACE
        for child in self._children.values():
            try:
                child.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                child.wait()
        self._children.clear()

    def _log(self, name: str) -> Path:
        return self._directory / f"{name}.log"

    def _last_words(self, name: str) -> str:
        lines = [line.strip() for line in self._log(name).read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"


def _how(code: int) -> str:
    return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
