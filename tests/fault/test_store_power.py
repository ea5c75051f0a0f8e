"""The power goes: everything that was not flushed is gone at once, and nothing that was acknowledged is among it."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from broadcaster.store import Archive
from tests.fault.archives import ACTIONS, NOW, Child, State, at_point, check, check_without, forked, live, states
from tests.fault.disks import FILE_SYSTEMS, Disk

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

MOMENTS = 25


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[State]:
    return states(tmp_path_factory.mktemp("whole") / "archive")


@pytest.fixture(scope="module")
def disks(shared_folder: Path) -> Callable[[str], Disk]:
    """A disk of this file system with an empty archive on it."""
    made: dict[str, Disk] = {}

    def disk(name: str) -> Disk:
        if name not in made:
            (place := shared_folder / name).mkdir()
            found = Disk.make(place, name)
            with found.mounted() as mount:
                Archive.open(mount / "archive", now_ms=NOW, spare=0).close()
            made[name] = found
        return made[name]

    return disk


def cut(disk: Disk, child: Child) -> None:
    """The power of the disk on which the child lives."""
    if disk.system.has_shutdown:
        disk.cut_power()
        child.kill()
    else:
        child.kill()
        disk.cut_power()


def acted(disk: Disk, done: int) -> None:
    """A life on this disk that is cut right after so many acknowledged actions."""

    def job(say: Callable[[bytes], None]) -> None:
        acked = 0

        def ack() -> None:
            nonlocal acked
            acked += 1
            say(b"a")
            if acked == done:
                signal.pause()

        live(disk.mount / "archive", ack)

    with disk.mounted():
        with forked(job) as child:
            while child.acked < done:
                assert child.listen()
            cut(disk, child)
    disk.power_on()


@pytest.mark.parametrize("name", ["ext4", *(pytest.param(name, marks=pytest.mark.fault_long) for name in ("xfs", "btrfs"))])
@pytest.mark.parametrize("done", range(1, len(ACTIONS) + 1), ids=[name for name, _ in ACTIONS])
def test_what_was_acknowledged_survives_a_power_cut_right_after(
    name: str, done: int, disks: Callable[[str], Disk], folder: Path, expected: list[State]
) -> None:
    disk = disks(name).copy(folder)
    acted(disk, done)
    with disk.mounted() as mount:
        # Everything is durable in two places, so that each may be lost alone.
        for lost in (("index.sqlite3", "index.sqlite3-wal"), ("floors.log",)):
            check_without(lost, mount / "archive", folder / lost[0], done, expected[: done + 1])
        check(mount / "archive", done, expected[: done + 1])


@pytest.mark.parametrize("name", FILE_SYSTEMS)
@pytest.mark.parametrize(
    "moments", [3, pytest.param(MOMENTS, marks=[pytest.mark.fault_long, pytest.mark.deadline(300)])], ids=["some", "all"]
)
def test_a_power_cut_at_a_random_moment_loses_nothing_acknowledged(
    name: str, moments: int, disks: Callable[[str], Disk], folder: Path, expected: list[State]
) -> None:
    empty = disks(name)
    lasts = min(lifetime(empty.copy(folder)) for _ in range(2))  # One of them may have met a busy moment.
    cuts = 0
    for seed in range(moments):
        disk, delay = empty.copy(folder), random.Random(seed).uniform(0, lasts)
        with disk.mounted() as mount, forked(lambda say, mount=mount: live(mount / "archive", lambda: say(b"a"))) as child:
            time.sleep(delay)  # the random moment itself, and no waiting for a condition
            cut(disk, child)
        disk.power_on()
        print(f"{name}: seed {seed}, cut after {delay * 1000:.1f} of {lasts * 1000:.0f} ms, {child.acked} actions acknowledged")
        with disk.mounted() as mount:
            check(mount / "archive", child.acked, expected)
        cuts += child.acked < len(ACTIONS)
    assert cuts >= moments // 2, "most of the cuts must have met a life"


def lifetime(disk: Disk) -> float:
    """Seconds of a life on this disk that nothing cuts short, from its fork on."""
    with disk.mounted() as mount:
        began = time.monotonic()
        with forked(lambda say: live(mount / "archive", lambda: say(b"a"))) as child:
            child.finish()
        assert child.acked == len(ACTIONS)
        return time.monotonic() - began


@pytest.mark.fault_long
@pytest.mark.deadline(600)
@pytest.mark.parametrize("name", FILE_SYSTEMS)
def test_a_power_cut_at_any_durable_step_loses_nothing_acknowledged(
    name: str, disks: Callable[[str], Disk], folder: Path, expected: list[State]
) -> None:
    point = 1
    while cut_at(disks(name).copy(folder), point, expected):
        point += 1
    assert point > 100


def cut_at(disk: Disk, point: int, expected: list[State]) -> bool:
    """A life with the power cut at this point; False when it was over before."""

    def job(say: Callable[[bytes], None]) -> None:
        def stop() -> None:
            say(b"s")
            signal.pause()

        at_point(point, stop)
        live(disk.mount / "archive", lambda: say(b"a"))

    with disk.mounted(), forked(job) as child:
        while (said := child.listen()) and said != b"s":
            pass
        cut(disk, child)
    disk.power_on()
    with disk.mounted() as mount:
        check(mount / "archive", child.acked, expected)
    return said == b"s"
