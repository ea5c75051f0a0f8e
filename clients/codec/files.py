"""A payload back on disk: as a file, or as the directory that was packed."""

from __future__ import annotations

import io
import os
import secrets
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

import numpy as np

from broadcaster.protocol.errors import AlreadyExists, InvalidPayload
from broadcaster.protocol.version import DIRECTORY
from clients.codec.pieces import Bytes


def write(root: Bytes | memoryview | bytes, content_type: str, path: Path, *, fsync: bool = False) -> Path:
    """Puts a payload at `path` in one step: nobody sees a part of it there, and after an error nothing is left.

    A packed directory is unpacked, anything else becomes a file, in place of one that is there. `fsync` makes a file durable
    first. Returns `path`. Raises AlreadyExists for a directory that is not empty, InvalidPayload for a tar that is damaged or
    holds anything but files and directories below `path`, OSError as the disk has it.
    """
    payload = np.frombuffer(root, np.uint8) if len(root) else np.empty(0, np.uint8)
    aside = path.parent / f".{path.name}.{secrets.token_hex(8)}.part"
    try:
        if content_type == DIRECTORY:
            _unpack(payload, path, aside)
        else:
            _write_file(payload, aside, fsync=fsync)
            os.replace(aside, path)
            if fsync:
                _sync_directory(path.parent)
    finally:
        _remove(aside)
    return path


def _write_file(payload: Bytes, aside: Path, *, fsync: bool) -> None:
    with open(aside, "xb", buffering=0) as file:
        rest = payload.data
        while rest:
            rest = rest[file.write(rest[: 1 << 30]) :]
        if fsync:
            os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unpack(payload: Bytes, path: Path, aside: Path) -> None:
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise AlreadyExists(model_id=str(path), what="a file or a directory that is not empty")
    aside.mkdir()
    try:
        with tarfile.open(fileobj=_Reader(payload), mode="r:") as tar:
            tar.extractall(aside, members=_members(tar), filter="data")
    except (tarfile.TarError, ValueError, NotADirectoryError, IsADirectoryError, FileExistsError) as error:
        if isinstance(error, InvalidPayload):
            raise
        _refuse("tar", str(error)[:200])
    os.rename(aside, path)  # onto nothing or an empty directory


def _members(tar: tarfile.TarFile) -> list[tarfile.TarInfo]:
    members = tar.getmembers()
    for member in members:
        where = f"tar member {member.name[:200]!r}"
        if member.issparse() or not (member.isreg() or member.isdir()):
            _refuse(where, "it is neither a plain file nor a directory")
        if member.name.startswith("/") or ".." in PurePosixPath(member.name).parts:
            _refuse(where, "it lies outside of the directory")
    if len({PurePosixPath(member.name) for member in members}) != len(members):
        _refuse("tar", "two members have the same name")
    return members


class _Reader(io.RawIOBase):
    """Reads a payload where it lies; `io.BytesIO` would copy it whole."""

    def __init__(self, payload: Bytes) -> None:
        self._payload = payload
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: len(self._payload)}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        piece = self._payload[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece.data
        self._at += len(piece)
        return len(piece)


def _remove(aside: Path) -> None:
    if aside.is_dir():
        shutil.rmtree(aside)
    else:
        aside.unlink(missing_ok=True)


def _refuse(where: str, reason: str) -> NoReturn:
    raise InvalidPayload(where=where, reason=reason)
