"""strace on a living thread or process: it counts system calls, and at a counted one it kills, fails or delays.

with tracing(pid, "fsync", inject="signal=SIGKILL:when=7"): ...
with tracing(pid, "pwrite64", inject="error=EIO:when=2+", follow=True): ...

Calls are counted for each thread, and for each name of a call, by itself.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

CALLS = "write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,ftruncate,fallocate,mkdir,mkdirat,rmdir"
"""Everything that changes what a disk holds, or tells somebody that it did."""

WAIT = 20.0

needs_strace = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("strace") is None, reason="strace is not installed (Linux: apt-get install strace)"
)


class Point(NamedTuple):
    """The call `name` of a thread, for the time number `when`."""

    name: str
    when: int

    @property
    def kill(self) -> str:
        """What to inject, for a kill before the call is made."""
        return f"signal=SIGKILL:when={self.when}"


def points(lines: list[str]) -> list[Point]:
    """One for each call that `Tracer.seen` tells of."""
    names = [line.partition("(")[0] for line in lines]
    return [Point(name, names[: at + 1].count(name)) for at, name in enumerate(names)]


class Tracer:
    """A running strace."""

    def __init__(self, pid: int, log: Path | None) -> None:
        self._pid = pid
        self._log = log

    def seen(self) -> dict[int, list[str]]:
        """The lines of the log by thread, in order. To be asked after the block, and only when a log was kept."""
        assert self._log is not None
        found: dict[int, list[str]] = {}
        for line in self._log.read_text(errors="replace").splitlines():
            if match := re.match(r"(?:(\d+)\s+)?(\w+\(.*)", line):  # and not the end of a call that another thread's stood in
                found.setdefault(int(match[1] or self._pid), []).append(match[2])
        return found


@contextmanager
def tracing(
    pid: int,
    calls: str,
    *,
    inject: str | None = None,
    path: Path | None = None,
    log: Path | None = None,
    follow: bool = False,
) -> Iterator[Tracer]:
    """`inject` happens at the `calls` of this thread (with `follow` of all threads of its process) on `path`, or on any.

    Detached at the end of the block; the test is skipped where strace may not attach.
    """
    command = ["strace", "-qq", "-y", "-o", str(log or os.devnull), "-p", str(pid), "-e", f"trace={calls}"]
    command += [*(["-f"] if follow else []), *(["-P", str(path)] if path else [])]
    command += ["-e", f"inject={calls}:{inject}"] if inject else []
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
    assert process.stderr is not None
    try:
        _wait_until_attached(pid, process, follow=follow)
        yield Tracer(pid, log)
    finally:
        process.terminate()
        process.wait(WAIT)
        process.stderr.close()


def threads(pid: int) -> list[int]:
    """The threads of a process, in the order in which they were started."""
    return sorted(int(path.name) for path in Path(f"/proc/{pid}/task").iterdir())


def _wait_until_attached(pid: int, process: subprocess.Popen[bytes], *, follow: bool) -> None:
    until = time.monotonic() + WAIT
    while not all(map(_is_traced, threads(pid) if follow else [pid])):
        if process.poll() is not None:
            assert process.stderr is not None
            pytest.skip(f"strace cannot attach: {process.stderr.read().decode(errors='replace').strip()}")
        assert time.monotonic() < until, "strace did not attach in time"
        time.sleep(0.002)


def _is_traced(thread: int) -> bool:
    status = Path(f"/proc/{thread}/status").read_text()
    return "TracerPid:\t0\n" not in status
