"""The archive is killed at its durable steps: what was acknowledged is there bit for bit, the rest whole or not at all."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broadcaster.store import Archive
from tests.fault.archives import ACTIONS, NOW, Child, State, at_point, check, forked, live, states
from tests.fault.tracing import CALLS, needs_strace, points, tracing

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


@contextmanager
def ready_to_live(directory: Path) -> Iterator[tuple[Child, Callable[[], None]]]:
    """A child that lives once the function is called."""
    start, go = os.pipe()

    def job(say: Callable[[bytes], None]) -> None:
        os.read(start, 1)
        live(directory, lambda: say(b"a"))

    try:
        with forked(job) as child:
            yield child, lambda: os.write(go, b"g") and None
    finally:
        os.close(start)
        os.close(go)


@needs_strace
@pytest.mark.parametrize(
    "stride", [37, pytest.param(1, marks=[pytest.mark.fault_long, pytest.mark.deadline(900)])], ids=["some", "all"]
)
def test_a_kill_at_a_system_call_loses_nothing_acknowledged(
    stride: int, folder: Path, expected: list[State], empty: Path
) -> None:
    # The named points do not stand inside SQLite: this sweep does.
    shutil.copytree(empty, folder / "whole")
    with ready_to_live(folder / "whole") as (child, go):
        with tracing(child.pid, CALLS, log=folder / "calls") as tracer:
            go()
            child.finish()
    (calls,) = map(points, tracer.seen().values())
    assert len(calls) > 300
    for point in calls[3::stride]:
        directory = folder / f"{point.name}-{point.when}"
        shutil.copytree(empty, directory)
        with ready_to_live(directory) as (child, go), tracing(child.pid, point.name, inject=point.kill):
            go()
            child.finish()
        assert child.killed or point is calls[-1]
        check(directory, child.acked, expected)
        shutil.rmtree(directory)
