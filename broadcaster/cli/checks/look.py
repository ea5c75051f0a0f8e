"""Gathering the surroundings. Writes nothing that stays; what cannot be found out is told as not known."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import platform
import resource
import shutil
import socket
import sqlite3
import stat
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

import zmq

from broadcaster import __version__
from broadcaster.cli.checks.surroundings import KeyFile, Place, Port, Surroundings
from broadcaster.config import is_loopback
from broadcaster.server.core import slot_directory
from broadcaster.slots import file_system_of

if TYPE_CHECKING:
    from broadcaster.config import Settings

_PACKAGES = ("pyzmq", "msgpack", "xxhash", "numpy", "sqlalchemy", "alembic", "starlette", "uvicorn", "prometheus-client")
_FLUSHES = 5
_NO_LIMIT = 1 << 60
"""Bytes: what the first kind of control groups says where there is no limit."""


def look(settings: Settings) -> Surroundings:
    """Everything that the checks know, as a broadcaster with these settings would find it now."""
    slots, _ = slot_directory(settings.slot_dir, settings.data_port)
    return Surroundings(
        version=__version__,
        python=sys.version_info[:3],
        packages={name: _version(name) for name in _PACKAGES},
        libzmq=zmq.zmq_version(),
        curve=bool(zmq.has("curve")),
        sqlite=sqlite3.sqlite_version,
        archive=place(settings.archive_dir.absolute(), keeps=True),
        slots=place(slots, keeps=False),
        budget=settings.memory_budget,
        descriptors=resource.getrlimit(resource.RLIMIT_NOFILE),
        memory=_memory(),
        memory_limit=memory_limit(),
        ports=_ports(settings, running=in_use(slots)),
        keys=tuple(_keys(settings)),
        open_to=tuple(_open_to(settings)),
        connections=settings.max_connections,
        unknown_name=_unknown(settings.advertise),
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


# --- directories ---------------------------------------------------------------------------------------------------


def place(path: Path, *, keeps: bool) -> Place:
    """How the directory is, or the one that it would be made in. What `keeps` is flushed and has an index, so that is tried."""
    nearest = next(parent for parent in (path, *path.parents) if parent.exists())
    room = os.statvfs(nearest)
    flush, index, trouble = None, "", ""
    if not nearest.is_dir():
        trouble = f"{nearest} is no directory"
    else:
        try:
            aside = Path(tempfile.mkdtemp(prefix=".doctor-", dir=nearest))
        except OSError as wrong:
            trouble = f"no file can be made in {nearest}: {wrong.strerror}"
        else:
            try:
                flush, index = (flush_time(aside), _index(aside)) if keeps else (None, "")
            except OSError as wrong:
                trouble = f"a file cannot be written: {wrong.strerror}"
            finally:
                shutil.rmtree(aside, ignore_errors=True)
    return Place(
        path=path,
        exists=nearest == path,
        trouble=trouble,
        file_system=file_system_of(nearest),
        size=room.f_blocks * room.f_frsize,
        free=room.f_bavail * room.f_frsize,
        flush=flush,
        index=index,
        foreign=nearest == path and path.stat().st_uid != os.getuid(),
    )


def flush_time(directory: Path) -> float:
    """Seconds that 4 KiB take to be written and flushed: the median of a few."""
    took = []
    for n in range(_FLUSHES):
        begun = time.perf_counter()
        with (directory / str(n)).open("wb", buffering=0) as file:
            file.write(bytes(4096))
            os.fsync(file.fileno())
        took.append(time.perf_counter() - begun)
    return statistics.median(took)


def _index(directory: Path) -> str:
    """Why no durable index can be kept there; empty when it can."""
    from broadcaster.protocol.errors import BroadcasterError
    from broadcaster.store.sqlite import IndexDamaged, open_durable

    try:
        raw, _ = open_durable(directory / "index.sqlite3", ())
        with contextlib.closing(raw):
            raw.execute("CREATE TABLE tried (n INTEGER)")
    except (BroadcasterError, IndexDamaged, sqlite3.Error) as wrong:
        return str(wrong)
    return ""


def in_use(directory: Path) -> bool:
    """Whether a broadcaster uses this slot directory now."""
    try:
        lock = os.open(directory / "lock", os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(lock)
    return False


# --- the machine ---------------------------------------------------------------------------------------------------


def _memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def memory_limit(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int | None:
    """The least limit of the control groups that this process is in; None where there is none, or none can be seen."""
    try:
        groups = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        groups = []
    files = [root / "memory.max", root / "memory" / "memory.limit_in_bytes"]
    for _, kinds, path in (group for group in groups if len(group) == 3):
        base, name = (root, "memory.max") if not kinds else (root / "memory", "memory.limit_in_bytes")
        if not kinds or "memory" in kinds.split(","):
            inside = Path(path.lstrip("/"))
            files += [base / parent / name for parent in (inside, *inside.parents)]
    limits = []
    for file in files:
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(file.read_text()))
    return min((limit for limit in limits if limit < _NO_LIMIT), default=None)


# --- ports, keys ---------------------------------------------------------------------------------------------------


def _ports(settings: Settings, *, running: bool) -> dict[str, tuple[str, int, Port]]:
    wanted = {name: (settings.host, getattr(settings, f"{name}_port")) for name in ("upload", "push", "data")}
    wanted["http"] = (settings.http_host, settings.http_port)
    wanted["grpc"] = (settings.grpc_address, settings.grpc_on)
    found: dict[str, tuple[str, int, Port]] = {}
    for name, (host, number) in wanted.items():
        if number:  # 0 is whichever is free.
            state = port(host, number)
            found[name] = host, number, "broadcaster" if state == "taken" and running else state
    return found


def port(host: str, number: int) -> Port:
    """How the port is now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, number))
            trial.listen()
        except OSError as wrong:
            return "taken" if wrong.errno == errno.EADDRINUSE else "forbidden"
    return "free"


def _keys(settings: Settings) -> Iterator[KeyFile]:
    folder = settings.key_directory.absolute()
    files = {settings.token_file.absolute(), *((settings.http_key.absolute(),) if settings.http_key else ())}
    with contextlib.suppress(OSError):
        files |= set(folder.iterdir())
    for path in (folder, *sorted(files)):
        with contextlib.suppress(OSError):
            found = path.lstat()
            if not path.name.startswith("."):
                ours, directory = found.st_uid in (os.getuid(), 0), stat.S_ISDIR(found.st_mode)
                secret = not directory and path.suffix != ".toml"  # Those hold what is public, and hashes.
                yield KeyFile(path, stat.S_IMODE(found.st_mode), ours, directory, secret)


def _open_to(settings: Settings) -> Iterator[str]:
    keys = settings.key_directory / "keys.toml"
    if settings.insecure and (not is_loopback(settings.host) or keys.exists()):
        yield f"{settings.host} (uploads, pushes, data)"
    if settings.insecure and (not is_loopback(settings.http_host) or settings.token_file.exists()):
        yield f"{settings.http_host} (HTTP)"
    if settings.grpc_on is not None and not is_loopback(settings.grpc_address):
        if settings.grpc_open or settings.insecure:
            yield f"{settings.grpc_address} (gRPC)"


def _unknown(name: str | None) -> str:
    """The name, if it cannot be resolved."""
    try:
        socket.getaddrinfo(name, None) if name else None
    except OSError:
        return name or ""
    return ""


def machine() -> str:
    """What kind of machine this is, in a few words."""
    return f"{platform.system()} {platform.release()} {platform.machine()}"
