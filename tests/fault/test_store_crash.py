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
from broadcaster.store.layout import INDEX
from broadcaster.store.metadata import SCHEMAS, Metadata, downgrade
from tests.fault.archives import ACTIONS, NOW, Child, State, at_point, check, forked, keep, live, payload, states
from tests.fault.tracing import CALLS, needs_strace, points, tracing

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]


@pytest.fixture(scope="module")
def expected(shared_folder: Path) -> list[State]:
    return states(shared_folder / "whole")


@pytest.fixture(scope="module")
def empty(shared_folder: Path) -> Path:
    directory = shared_folder / "empty"
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


Job = Callable[[Callable[[bytes], None]], object]


@contextmanager
def waiting(job: Job) -> Iterator[tuple[Child, Callable[[], None]]]:
    """A child that does its job once the function is called."""
    start, go = os.pipe()

    def wait(say: Callable[[bytes], None]) -> None:
        os.read(start, 1)
        job(say)

    try:
        with forked(wait) as child:
            yield child, lambda: os.write(go, b"g") and None
    finally:
        os.close(start)
        os.close(go)


def killed_at_calls(folder: Path, empty: Path, job: Callable[[Path], Job], stride: int) -> Iterator[tuple[Path, Child]]:
    """Copies of `empty` in which the job was killed at one of its system calls, and the children that did it."""
    shutil.copytree(empty, folder / "whole")
    with waiting(job(folder / "whole")) as (child, go), tracing(child.pid, CALLS, log=folder / "calls") as tracer:
        go()
        child.finish()
    (calls,) = map(points, tracer.seen().values())
    for point in calls[3::stride]:
        directory = folder / f"{point.name}-{point.when}"
        shutil.copytree(empty, directory)
        with waiting(job(directory)) as (child, go), tracing(child.pid, point.name, inject=point.kill):
            go()
            child.finish()
        assert child.killed or point is calls[-1], point
        yield directory, child
        shutil.rmtree(directory)


@needs_strace
@pytest.mark.parametrize(
    "stride", [37, pytest.param(1, marks=[pytest.mark.fault_long, pytest.mark.deadline(900)])], ids=["some", "all"]
)
def test_a_kill_at_a_system_call_loses_nothing_acknowledged(
    stride: int, folder: Path, expected: list[State], empty: Path
) -> None:
    # The named points do not stand inside SQLite: this sweep does.
    def life(directory: Path) -> Job:
        return lambda say: live(directory, lambda: say(b"a"))

    kills = 0
    for directory, child in killed_at_calls(folder, empty, life, stride):
        check(directory, child.acked, expected)
        kills += 1
    print(f"{kills} kills")
    assert kills > 300 // stride


@needs_strace
@pytest.mark.parametrize(
    "stride", [17, pytest.param(1, marks=[pytest.mark.fault_long, pytest.mark.deadline(300)])], ids=["some", "all"]
)
@pytest.mark.parametrize("way", ["up", "down"])
def test_a_kill_at_a_system_call_of_a_migration_leaves_an_index_that_opens(stride: int, way: str, folder: Path) -> None:
    whole = folder / "archive"
    with Archive.open(whole, now_ms=NOW, spare=0) as archive:
        for number in (1, 2, 3):
            keep(archive, "policy", number, payload(10, number))
        archive.delete_version("default", "policy", 2)
        before = archive.load()
    if way == "up":
        downgrade(whole / INDEX, SCHEMAS[-2])

    def migrate(directory: Path) -> Job:
        if way == "down":
            return lambda _: downgrade(directory / INDEX, SCHEMAS[-2])
        return lambda _: Metadata(directory / INDEX).close()

    kills = 0
    (folder / "copies").mkdir()
    for directory, _ in killed_at_calls(folder / "copies", whole, migrate, stride):
        with Archive.open(directory, now_ms=NOW) as archive:
            after = archive.load()
        assert (after.models, after.versions, after.floors) == (before.models, before.versions, before.floors)
        assert not after.notes
        kills += 1
    print(f"{way}: {kills} kills")
    assert kills > 10 // stride
