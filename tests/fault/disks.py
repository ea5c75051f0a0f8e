"""Disks for tests: file systems in an image, whose power can be cut, and small ones in memory, which fill up."""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

_SHUTDOWN = 0x8004587D
_NO_FLUSH = struct.pack("I", 2)


@dataclass(frozen=True)
class FileSystem:
    """How one kind is made in an image and mounted so that nothing is flushed which nobody asked for."""

    name: str
    make: tuple[str, ...]
    options: str
    size: int
    has_shutdown: bool
    """Whether it can drop all that was not flushed at once; else the image is copied while it is mounted."""


FILE_SYSTEMS = {
    one.name: one
    for one in (
        FileSystem("ext4", ("mkfs.ext4", "-q"), "loop,noauto_da_alloc,commit=600", 48 << 20, True),
        FileSystem("xfs", ("mkfs.xfs", "-q"), "loop", 320 << 20, True),
        FileSystem("btrfs", ("mkfs.btrfs", "-q", "-m", "single"), "loop,commit=600", 160 << 20, False),
    )
}


class Disk:
    """An image with a file system, mounted at `mount` inside `with disk.mounted()`."""

    def __init__(self, folder: Path, system: FileSystem) -> None:
        self.system = system
        self.image = folder / "image"
        self.mount = folder / "mount"
        self.mount.mkdir(exist_ok=True)

    @classmethod
    def make(cls, folder: Path, name: str) -> Disk:
        """An empty one; skips the test, and says at which command, when this machine cannot have it."""
        disk = cls(folder, FILE_SYSTEMS[name])
        if os.geteuid() != 0:
            pytest.skip("cutting the power needs root, to mount an image")
        with open(disk.image, "wb") as file:
            file.truncate(disk.system.size)
        try:
            run(*disk.system.make, str(disk.image))
            with disk.mounted():
                pass
        except OSError as error:
            pytest.skip(f"no {name} in an image here: {error}")
        return disk

    def copy(self, folder: Path) -> Disk:
        """One like it, not mounted."""
        other = Disk(folder, self.system)
        _copy(self.image, other.image)
        return other

    @contextmanager
    def mounted(self, *options: str) -> Iterator[Path]:
        """The mount point. Whoever has files open in it must have ended at the end of the block."""
        run("mount", "-t", self.system.name, "-o", ",".join((self.system.options, *options)), str(self.image), str(self.mount))
        try:
            yield self.mount
        finally:
            _unmount(self.mount)

    def cut_power(self) -> None:
        """Drop all that was not flushed, for good. Where that needs a copy of the image, whoever writes must be dead before."""
        if self.system.has_shutdown:
            fd = os.open(self.mount, os.O_RDONLY)
            try:
                fcntl.ioctl(fd, _SHUTDOWN, _NO_FLUSH)
            finally:
                os.close(fd)
        else:
            _copy(self.image, self.image.with_suffix(".cut"))

    def break_down(self) -> None:
        """As if the file system (an ext4, mounted with errors=remount-ro) had met damage: it takes no more writes."""
        mounts = dict(reversed(line.split()[:2]) for line in Path("/proc/mounts").read_text().splitlines())
        trigger = Path("/sys/fs/ext4") / Path(mounts[str(self.mount)]).name / "trigger_fs_error"
        if not trigger.exists():
            pytest.skip(f"an ext4 in use can only be made read-only by {trigger}, which is missing")
        trigger.write_text("a test")

    def repair(self) -> None:
        """What an operator does after that, with nothing mounted."""
        done = subprocess.run(["e2fsck", "-p", str(self.image)], capture_output=True)
        assert done.returncode in (0, 1), done.stdout.decode()

    def power_on(self) -> None:
        """What the cut left is the disk. To be called when it is not mounted any more."""
        if (cut := self.image.with_suffix(".cut")).exists():
            cut.replace(self.image)


@contextmanager
def small_disk(mount: Path, options: str) -> Iterator[Path]:
    """A tmpfs with these options; skips the test where it cannot be mounted."""
    if os.geteuid() != 0:
        pytest.skip("a small disk needs root, to mount it")
    mount.mkdir(parents=True, exist_ok=True)
    try:
        run("mount", "-t", "tmpfs", "-o", options, "none", str(mount))
    except OSError as error:
        pytest.skip(f"a small disk needs the right to mount: {error}")
    try:
        yield mount
    finally:
        _unmount(mount)


def remount(mount: Path, options: str) -> None:
    run("mount", "-o", f"remount,{options}", str(mount))


def run(*command: str) -> None:
    """Raises OSError with the command and what it said."""
    if shutil.which(command[0]) is None:
        raise OSError(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True)
    if done.returncode:
        raise OSError(f"`{' '.join(command)}`: {done.stderr.decode(errors='replace').strip()}")


def _unmount(mount: Path) -> None:
    """Whoever was killed may take a moment to let go of it; nothing stays mounted, whatever happens."""
    until = time.monotonic() + 10
    while True:
        try:
            return run("umount", str(mount))
        except OSError:
            if time.monotonic() > until:
                run("umount", "--lazy", str(mount))
                raise
            time.sleep(0.02)


def _copy(image: Path, to: Path) -> None:
    run("cp", "--sparse=always", str(image), str(to))
