"""A file in shared memory: written beside, put in its place by `os.replace`; actors look each millisecond and map it.

python -m benchmarks.peers.file_replace writer
python -m benchmarks.peers.file_replace reader DIRECTORY
"""

from __future__ import annotations

import argparse
import mmap
import os
import shutil
import signal
import tempfile
import time
from pathlib import Path

from benchmarks.arm import Arm
from benchmarks.peers.payload import rounds, stamped
from benchmarks.processes import SHARED, Group, end_with_parent, exit_on_sigterm, say

NAME = "a file, os.replace, polled each ms"
READER = "maps the file, verifies nothing"
POLL = 0.001


def missing() -> str:
    """What has to be installed: nothing."""
    return ""


def start(group: Group, actors: int) -> Arm:
    writing = group.start("benchmarks.peers.file_replace", "writer")
    following = group.herd(actors, "benchmarks.peers.file_replace", "reader", writing.up()["directory"])
    arm = Arm(writing, [], following, pauses=True)
    arm.rest()
    return arm


def writer() -> None:
    home = Path(tempfile.mkdtemp(prefix="mb-file-", dir=SHARED if os.access(SHARED, os.W_OK) else None))
    try:
        say(up=True, directory=str(home))
        for payload, _ in rounds():
            began = time.monotonic_ns()
            with (home / "next").open("wb", buffering=0) as file:
                file.write(memoryview(payload))
            os.replace(home / "next", home / "weights")
            say(start=began, copied=time.monotonic_ns() - began)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def reader(directory: Path) -> None:
    path, seen = directory / "weights", (0, 0)
    say(up=True)
    while True:
        try:
            found = os.stat(path)
        except FileNotFoundError:
            time.sleep(POLL)
            continue
        if (found.st_ino, found.st_mtime_ns) == seen:
            time.sleep(POLL)
            continue
        with path.open("rb") as file:
            opened = os.fstat(file.fileno())
            seen = opened.st_ino, opened.st_mtime_ns
            payload = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        say(at=time.monotonic_ns(), stamp=stamped(payload))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("writer", "reader"))
    parser.add_argument("directory", nargs="?", type=Path)
    arguments = parser.parse_args()
    if arguments.role == "writer":
        end_with_parent(signal.SIGTERM)
        exit_on_sigterm()
        writer()
    else:
        end_with_parent()
        reader(arguments.directory)


if __name__ == "__main__":
    main()
