"""The environment variables of the Cogment Model Registry, and what they mean here.

Whoever moves over keeps the command that started the original. Both of its generations are understood: the one that counts bytes
and ages (up to 0.5) and the one that counts items (0.6 and newer).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

PREFIX = "COGMENT_MODEL_REGISTRY_"
PORT = 9000
"""The port that the original listens on unless told otherwise."""
ALL = 1 << 40
"""Large versions that a model keeps where the byte budget alone decides: as many as fit."""

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)", re.ASCII)
_DURATION = re.compile(rf"(?:{_PART.pattern})+", re.ASCII)
_TRUE, _FALSE = ("1", "t", "true", "yes", "on"), ("0", "f", "false", "no", "off")


@dataclass(frozen=True, slots=True)
class Found:
    """What the variables say: `given` are settings by name, `implied` hold unless somebody says otherwise anywhere, `mistakes`
    are sentences that name a variable."""

    given: Mapping[str, Any] = field(default_factory=dict)
    implied: Mapping[str, Any] = field(default_factory=dict)
    mistakes: tuple[str, ...] = ()


def read_variables(environment: Mapping[str, str]) -> Found:
    """The settings that the variables in `environment` stand for. An empty one counts as none; others of the prefix are not
    ours."""
    given: dict[str, Any] = {}
    mistakes = []
    named = {name: environment[PREFIX + name] for name in _MEANING if environment.get(PREFIX + name)}
    for name, text in named.items():
        try:
            given |= _MEANING[name](text)
        except ValueError as wrong:
            mistakes.append(f"{PREFIX}{name}: {wrong}, not {text[:100]!r}")
    implied = {"grpc_port": PORT, "grpc_open": True, "keep_large": ALL} if named else {}
    return Found(given, implied, tuple(mistakes))


def parse_duration(text: str) -> float:
    """Seconds of a duration as Go writes it: `1h`, `1h30m`, `1.5s`, `300ms`. Raises ValueError."""
    unsigned = text.removeprefix("+")
    if unsigned == "0":
        return 0.0
    if _DURATION.fullmatch(unsigned) is None:
        raise ValueError("must be a duration with units, such as 1h, 90m or 1h30m")
    return sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(unsigned))


def _whole(least: int, what: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if re.fullmatch(r"\+?\d{1,18}", text, re.ASCII) is None or int(text) < least:
            raise ValueError(f"must be {what}")
        return int(text)

    return parse


def _expiry(text: str) -> float:
    seconds = parse_duration(text)
    if seconds <= 0:
        raise ValueError("must be a duration above 0")
    return seconds


def _truth(text: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError("must be true or false")
    return text.lower() in _TRUE


_port = _whole(0, "a port from 0 to 65535")
_bytes = _whole(1, "a number of bytes above 0")
_items = _whole(1, "a number of items above 0")


def _checked_port(text: str) -> dict[str, Any]:
    if _port(text) > 65535:
        raise ValueError("must be a port from 0 to 65535")
    return {"grpc_port": _port(text)}


def _pruned(text: str) -> dict[str, Any]:
    _items(text)
    return {}  # What must leave memory leaves, and nothing beside it.


_MEANING: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "PORT": _checked_port,
    "ARCHIVE_DIR": lambda text: {"archive_dir": text},
    "VERSION_CACHE_MAX_SIZE": lambda text: {"memory_budget": _bytes(text)},
    "VERSION_CACHE_EXPIRATION": lambda text: {"expiry": _expiry(text)},
    "VERSION_CACHE_TO_PRUNE_COUNT": _pruned,
    "VERSION_CACHE_MAX_ITEMS": lambda text: {"keep": _items(text), "keep_large": _items(text)},
    "SENT_MODEL_VERSION_DATA_CHUNK_SIZE": lambda text: {"grpc_chunk_size": _bytes(text)},
    "GRPC_REFLECTION": lambda text: {"grpc_reflection": _truth(text)},
}
"""What each variable says, as settings."""
