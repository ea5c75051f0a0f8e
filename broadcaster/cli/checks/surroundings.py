"""The surroundings of a broadcaster, as plain values. Sizes in bytes, times in seconds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Port = Literal["free", "broadcaster", "taken", "forbidden"]
"""A port that is free, that our broadcaster listens on already, that somebody else does, or that we may not listen on."""


@dataclass(frozen=True, slots=True)
class Place:
    """A directory, or the one that it would be made in. `trouble`: why no file can be made there (empty: it can)."""

    path: Path
    exists: bool = True
    trouble: str = ""
    file_system: str | None = None
    size: int = 0
    """Of the file system."""
    free: int = 0
    flush: float | None = None
    """How long a small file takes to be written and flushed; the median of a few."""
    index: str = ""
    """Why SQLite cannot keep a durable index there (empty: it can)."""
    foreign: bool = False
    """Whether it is another user's."""


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A file of keys or tokens, or the directory of such files. Who may read what is not `secret` is all the same."""

    path: Path
    mode: int
    ours: bool
    directory: bool = False
    secret: bool = True


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Everything that the checks know."""

    version: str
    python: tuple[int, int, int]
    packages: Mapping[str, str | None]
    """The version of each library that the broadcaster uses; None: not installed."""
    libzmq: str
    curve: bool
    sqlite: str
    archive: Place
    slots: Place
    budget: int
    """What payloads may take."""
    descriptors: tuple[int, int]
    """Soft and hard limit; -1: none."""
    memory: int
    """Of the machine; 0: not known."""
    memory_limit: int | None
    """Of this container or group of processes; None: there is none."""
    ports: Mapping[str, tuple[str, int, Port]]
    """Host, number and state by name."""
    keys: tuple[KeyFile, ...] = ()
    open_to: tuple[str, ...] = field(default=())
    """Addresses that are to be served without a key or a token, although that is not for this machine alone or there are some."""
    connections: int = 0
    """That are to be served at a time."""
    unknown_name: str = ""
    """The name that clients are told to connect to, if it means nothing here."""
