"""A slot directory with slots in it, as a broadcaster makes them, for tests that have none."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import xxhash

from broadcaster.protocol.slot import EMPTY, HEADER, SlotHeader
from broadcaster.protocol.version import VersionInfo

TOKEN = "token of a test"


def version_of(number: int, payload: bytes, *, model_id: str = "policy") -> VersionInfo:
    return VersionInfo(
        namespace="default",
        model_id=model_id,
        number=number,
        size=len(payload),
        digest=xxhash.xxh3_128_hexdigest(payload),
        creation_timestamp=0,
    )


class SlotFiles:
    """Writes slots of `capacity` bytes. `held` are the descriptors of those that are being written to."""

    def __init__(self, path: Path, capacity: int = 1 << 20, *, epoch: int = 5) -> None:
        self.path = path
        self.capacity = capacity
        self.epoch = epoch
        path.mkdir(mode=0o700, exist_ok=True)
        (path / "token").write_text(TOKEN)

    def name(self, serial: int) -> str:
        return f"slot-{serial}-0123abcd"

    def put(self, serial: int, generation: int, version: VersionInfo, payload: bytes) -> str:
        """Makes or reuses a slot for a version; returns its name. Raises BlockingIOError while somebody has a lease."""
        path = self.path / self.name(serial)
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o660)
        try:
            os.posix_fallocate(fd, 0, HEADER + self.capacity)
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.pwrite(fd, EMPTY, 0)
            os.pwrite(fd, payload, HEADER)
            name = f"{version.namespace}/{version.model_id}"
            digest = bytes.fromhex(version.digest)
            header = SlotHeader(self.epoch, version.number, version.size, digest, generation, name)
            os.pwrite(fd, header.pack(), 0)
        finally:
            os.close(fd)
        return path.name

    def leased(self, serial: int) -> bool:
        """Whether somebody holds a lease: then it is given to no writer."""
        fd = os.open(self.path / self.name(serial), os.O_RDWR)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False
