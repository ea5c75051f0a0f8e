"""Files and directories as payloads: a file as it is, a directory as a tar that depends only on names, bytes and x bits."""

from __future__ import annotations

import os
import stat
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple, NoReturn

import numpy as np

from broadcaster.protocol.errors import InvalidPayload
from broadcaster.protocol.version import DIRECTORY, OPAQUE
from clients.codec.pieces import PIECE, Bytes, Progress, as_target, copy_bytes

_END = bytes(2 * tarfile.BLOCKSIZE)  # two empty blocks end a tar


class FilePlan:
    """One file, read while it is sent. It must keep the size that it has now."""

    content_type: Final = OPAQUE
    fixed: Final = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = _status(path, os.stat).st_size
        self.metadata: Mapping[str, str] = {"name": path.name}

    def copy_into(self, buffer: memoryview, filled: Callable[[int], None]) -> None:
        target = as_target(buffer, self.size)
        progress = Progress(filled)
        _copy_file(self.path, target, progress, follow=True)
        progress.finish()


class _Entry(NamedTuple):
    file: Path | None  # None for a directory
    header: bytes
    size: int  # bytes of the file


class DirectoryPlan:
    """A directory as a tar: entries sorted by name, times and owners zero, modes 755 and 644, sizes as they are now.

    Raises InvalidPayload for symbolic links, special files and names that are not UTF-8.
    """

    content_type: Final = DIRECTORY
    fixed: Final = None

    def __init__(self, path: Path) -> None:
        self._entries = [_entry(path, name) for name in sorted(_walk(path, ""), key=lambda name: name.rstrip("/"))]
        self.size = sum(len(entry.header) + _padded(entry.size) for entry in self._entries) + len(_END)
        self.metadata: Mapping[str, str] = {"name": path.name, "entries": str(len(self._entries))}

    def copy_into(self, buffer: memoryview, filled: Callable[[int], None]) -> None:
        target = as_target(buffer, self.size)
        progress = Progress(filled)
        for entry in self._entries:
            target = _put(entry.header, target, progress)
            if entry.file is not None:
                _copy_file(entry.file, target[: entry.size], progress, follow=False)
            target = _put(bytes(_padded(entry.size) - entry.size), target[entry.size :], progress)
        _put(_END, target, progress)
        progress.finish()


def plan_path(path: Path) -> FilePlan | DirectoryPlan:
    """The plan for a file or a directory. Raises InvalidPayload when it is neither."""
    return DirectoryPlan(path) if stat.S_ISDIR(_status(path, os.stat).st_mode) else FilePlan(path)


def _walk(root: Path, inside: str) -> Iterator[str]:
    """Names of everything in `root`, relative to it, directories with a slash at the end."""
    try:
        with os.scandir(root / inside) as found:
            names = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in found]
    except OSError as error:
        _refuse(root / inside, error.strerror or str(error))
    for name, is_dir in names:
        yield f"{inside}{name}/" if is_dir else f"{inside}{name}"
        if is_dir:
            yield from _walk(root, f"{inside}{name}/")


def _entry(root: Path, name: str) -> _Entry:
    path = root / name
    status = _status(path, os.lstat)
    info = tarfile.TarInfo(name.rstrip("/"))
    if name.endswith("/"):
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    else:
        info.size, info.mode = status.st_size, 0o755 if status.st_mode & stat.S_IXUSR else 0o644
    if any("\ud800" <= character <= "\udfff" for character in name):  # as the file system spells bytes that are no UTF-8
        _refuse(path, "its name is not UTF-8")
    return _Entry(None if info.isdir() else path, info.tobuf(tarfile.PAX_FORMAT, "utf-8"), info.size)


def _status(path: Path, look: Callable[[Path], os.stat_result]) -> os.stat_result:
    try:
        status = look(path)
    except OSError as error:
        _refuse(path, error.strerror or str(error))
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "a special file"
        _refuse(path, f"{kind} is neither a file nor a directory")
    return status


def _put(data: bytes, target: Bytes, progress: Progress) -> Bytes:
    if data:
        copy_bytes(target[: len(data)], np.frombuffer(data, np.uint8), progress)
    return target[len(data) :]


def _copy_file(path: Path, target: Bytes, progress: Progress, *, follow: bool) -> None:
    try:
        # O_NONBLOCK: should it have become a pipe meanwhile, opening it would wait for a writer.
        more = os.O_NONBLOCK if follow else os.O_NONBLOCK | os.O_NOFOLLOW
        file = open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | more))
    except OSError as error:
        _refuse(path, error.strerror or str(error))
    with file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            _refuse(path, "it is no longer a file")
        for start in range(0, len(target), PIECE):
            piece = target[start : start + PIECE]
            _read_exactly(file, piece.data, path)
            progress.add(len(piece))
        if file.read(1):
            _refuse(path, "it grew while it was read")


def _read_exactly(file: BinaryIO, piece: memoryview, path: Path) -> None:
    while piece:
        count = file.readinto(piece)  # type: ignore[attr-defined]
        if not count:
            _refuse(path, "it shrank while it was read")
        piece = piece[count:]


def _padded(size: int) -> int:
    return -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


def _refuse(path: Path, reason: str) -> NoReturn:
    raise InvalidPayload(where=repr(str(path))[1:-1], reason=reason)


__all__ = ["DirectoryPlan", "FilePlan", "plan_path"]
