"""The power goes: everything that was not flushed is dropped at once, by the file system's own shutdown call."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broadcaster.store import Archive
from tests.fault.archives import ACTIONS, NOW, State, at_point, check, forked, live, states

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

SHUTDOWN = 0x8004587D
NO_FLUSH = struct.pack("I", 2)
OPTIONS = {"ext4": "loop,noauto_da_alloc,commit=600"}


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        raise OSError(f"{command}: {done.stderr.decode().strip()}")


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[None]:
    run("mount", "-o", OPTIONS["ext4"], str(image), str(at))
    try:
        yield
    finally:
        run("umount", str(at))


def cut_power(mount: Path) -> None:
    fd = os.open(mount, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, SHUTDOWN, NO_FLUSH)
    finally:
        os.close(fd)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> list[State]:
    return states(tmp_path_factory.mktemp("whole") / "archive")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of an ext4 with an empty archive on it."""
    if os.geteuid() != 0:
        pytest.skip("cutting the power needs root, to mount an image")
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("cutting the power needs mkfs.ext4")
    folder = tmp_path_factory.mktemp("disk")
    image, mount = folder / "image", folder / "mount"
    mount.mkdir()
    with open(image, "wb") as file:
        file.truncate(48 << 20)
    try:
        run("mkfs.ext4", "-q", str(image))
        with mounted(image, mount):
            Archive.open(mount / "archive", now_ms=NOW, spare=0).close()
    except OSError as error:
        pytest.skip(f"cutting the power needs loop mounts: {error}")
    return image


def live_and_cut(disk: Path, folder: Path, arm: Callable[[Callable[[], None]], None], expected: list[State]) -> bool:
    """A life with the power cut where `arm` says; False when it was over before."""
    image, mount = folder / "image", folder / "mount"
    mount.mkdir(exist_ok=True)
    subprocess.run(["cp", "--sparse=always", str(disk), str(image)], check=True)

    with mounted(image, mount):

        def job(say: Callable[[bytes], None]) -> None:
            def stop() -> None:
                say(b"s")
                signal.pause()

            arm(stop)
            live(mount / "archive", lambda: say(b"a"))

        with forked(job) as child:
            while (said := child.listen()) and said != b"s":
                pass
            cut_power(mount)
        cut = said == b"s"
    with mounted(image, mount):
        check(mount / "archive", child.acked, expected)
    return cut


@pytest.mark.parametrize("done", range(1, len(ACTIONS) + 1), ids=[name for name, _ in ACTIONS])
def test_what_was_acknowledged_survives_a_power_cut_right_after(
    done: int, disk: Path, tmp_path: Path, expected: list[State]
) -> None:
    image, mount = tmp_path / "image", tmp_path / "mount"
    mount.mkdir()
    subprocess.run(["cp", "--sparse=always", str(disk), str(image)], check=True)
    with mounted(image, mount):

        def job(say: Callable[[bytes], None]) -> None:
            acked = 0

            def ack() -> None:
                nonlocal acked
                acked += 1
                say(b"a")
                if acked == done:
                    signal.pause()

            live(mount / "archive", ack)

        with forked(job) as child:
            while child.acked < done:
                assert child.listen()
            cut_power(mount)
    with mounted(image, mount):
        shutil.copytree(mount / "archive", tmp_path / "without-index")
        check(mount / "archive", done, expected[: done + 1])
    for name in ("index.sqlite3", "index.sqlite3-wal"):
        (tmp_path / "without-index" / name).unlink(missing_ok=True)
    check(tmp_path / "without-index", done, expected[: done + 1])  # nothing is in the index alone


@pytest.mark.fault_long
@pytest.mark.deadline(300)
def test_a_power_cut_at_any_durable_step_loses_nothing_acknowledged(disk: Path, tmp_path: Path, expected: list[State]) -> None:
    point = 1
    while live_and_cut(disk, tmp_path, lambda stop, point=point: at_point(point, stop), expected):  # type: ignore[misc]
        point += 1
    assert point > 100
