"""The archive is killed at its durable steps: what was acknowledged is there bit for bit, the rest whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broadcaster.store import Archive
from tests.fault.archives import ACTIONS, NOW, State, at_point, check, forked, live, states

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[State]:
    return states(tmp_path_factory.mktemp("whole") / "archive")


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("empty") / "archive"
    Archive.open(directory, now_ms=NOW).close()
    return directory


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: a kill does not ask what a disk has flushed, and a test does ask for speed."""
    shm = Path("/dev/shm")
    if not os.access(shm, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=shm) as found:
        yield Path(found)


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_life(empty: Path, directory: Path, point: int, expected: list[State]) -> bool:
    """A life killed at this point, and what it left checked; False when it was over before."""
    shutil.copytree(empty, directory)

    def job(say: Callable[[bytes], None]) -> None:
        at_point(point, kill_self)
        live(directory, lambda: say(b"a"))

    with forked(job) as child:
        child.finish()
    check(directory, child.acked, expected)
    shutil.rmtree(directory)
    assert child.killed or child.acked == len(ACTIONS)
    return child.killed


def test_a_kill_at_a_durable_step_loses_nothing_acknowledged(folder: Path, expected: list[State], empty: Path) -> None:
    # Every eleventh step: the long test below takes them all.
    points = range(1, 1000, 11)
    last = next(point for point in points if not killed_life(empty, folder / str(point), point, expected))
    assert last > 150, "the sweep must have met the whole life"


@pytest.mark.fault_long
@pytest.mark.deadline(300)
def test_a_kill_at_any_durable_step_loses_nothing_acknowledged(folder: Path, expected: list[State], empty: Path) -> None:
    point = 1
    while killed_life(empty, folder / str(point), point, expected):
        point += 1
    assert point > 150


def test_a_kill_while_the_archive_is_made_leaves_one_that_opens(folder: Path) -> None:
    point = 1
    killed = True
    while killed:
        directory = folder / str(point)

        def job(_say: object, directory: Path = directory, point: int = point) -> None:
            at_point(point, kill_self)
            Archive.open(directory, now_ms=NOW).close()

        with forked(job) as child:
            child.finish()
        killed = child.killed
        with Archive.open(directory, now_ms=NOW) as archive:
            assert archive.load().versions == []
        point += 3
    assert point > 15


CALLS = "write,pwrite64,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,ftruncate"


def trace(pid: int, call: int) -> subprocess.Popen[bytes]:
    """strace on the process, which kills it at its system call number `call` of those that change the disk."""
    inject = f"inject={CALLS}:signal=SIGKILL:when={call}"
    command = ["strace", "-qq", "-o", os.devnull, "-p", str(pid), "-e", f"trace={CALLS}", "-e", inject]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE)
    until = time.monotonic() + 10
    while "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text():
        if tracer.poll() is not None:
            assert tracer.stderr is not None
            pytest.skip(f"strace cannot attach: {tracer.stderr.read()!r}")
        assert time.monotonic() < until
    return tracer


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.skipif(sys.platform != "linux", reason="strace is Linux's")
def test_a_kill_at_a_system_call_of_the_index_loses_nothing_acknowledged(
    folder: Path, expected: list[State], empty: Path
) -> None:
    # The named points do not stand inside SQLite: this sweep does. A stride keeps it short; the points are all alike.
    call, stride, killed, kills = 3, 29, True, 0
    while killed:
        directory = folder / str(call)
        shutil.copytree(empty, directory)
        start, go = os.pipe()

        def job(say: Callable[[bytes], None], directory: Path = directory, start: int = start) -> None:
            os.read(start, 1)
            live(directory, lambda: say(b"a"))

        with forked(job) as child:
            tracer = trace(child.pid, call)
            os.write(go, b"g")
            child.finish()
            assert tracer.wait(timeout=10) is not None
            assert tracer.stderr is not None
            tracer.stderr.close()
        os.close(start)
        os.close(go)
        killed = child.killed
        kills += killed
        check(directory, child.acked, expected)
        call += stride
    assert kills > 5
