"""The file of keys: who there is, by public key, and what each may do. Nothing in it is secret.

[[key]]
name = "learner-1"
public = "..."
role = "learner"            # actor, relay, learner or admin
models = "policy-*"         # a pattern, or one with its namespace: "lab/policy-*"; absent: all
namespace = "default"       # a pattern, where models names none; absent: default
expires = 2030-01-01T00:00:00Z   # may be absent
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from broadcaster.protocol.errors import BroadcasterError, ConfigError
from broadcaster.protocol.keyfile import is_key
from broadcaster.protocol.names import check_name
from broadcaster.protocol.patterns import split_pattern
from broadcaster.security.roles import ROLES, Grant

_FIELDS = {"name", "public", "role", "namespace", "models", "expires"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One public key: whose it is, and what it may do."""

    name: str
    grants: tuple[Grant, ...]


@dataclass(frozen=True, slots=True)
class Book:
    """All keys that are valid now. Two keys of one name are one user, whose key is being changed."""

    keys: Mapping[str, Entry] = field(default_factory=dict)
    """By public key."""


def read_book(text: str, where: str, now: datetime) -> Book:
    """What a file says; what has expired by `now` is left out. Raises ConfigError that names the entry."""
    try:
        given = tomllib.loads(text)
    except tomllib.TOMLDecodeError as wrong:
        raise ConfigError(key="keys", reason=f"{where}: {wrong}") from None
    unknown = given.keys() - {"key"}
    entries = given.get("key", [])
    if unknown or not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ConfigError(key="keys", reason=f"{where}: it may only hold entries that begin with [[key]]")
    keys: dict[str, Entry] = {}
    for number, entry in enumerate(entries, 1):
        try:
            _add(entry, keys, now)
        except (ValueError, BroadcasterError) as wrong:
            raise ConfigError(key="keys", reason=f"{where}: entry {number}: {wrong}") from None
    return Book(keys)


def _add(entry: dict[str, Any], keys: dict[str, Entry], now: datetime) -> None:
    if unknown := entry.keys() - _FIELDS:
        raise ValueError(f"there is no field {sorted(unknown)[0]!r}")
    name, public = check_name("key", entry.get("name")), entry.get("public")
    if not isinstance(public, str) or not is_key(public):
        raise ValueError("public is not a key")
    if entry.get("role") not in ROLES:
        raise ValueError(f"role must be one of {', '.join(ROLES)}")
    grant = Grant(entry["role"], *split_pattern(entry.get("models", "*"), entry.get("namespace")))
    known = keys.get(public, Entry(name, ()))
    if known.name != name:
        raise ValueError(f"{known.name} and {name} have the same public key")
    if not _is_over(entry.get("expires"), now):
        keys[public] = Entry(name, (*known.grants, grant))


def _is_over(expires: object, now: datetime) -> bool:
    if expires is None:
        return False
    if not isinstance(expires, datetime):
        raise ValueError("expires must be a date and a time")
    return now >= (expires if expires.tzinfo else expires.replace(tzinfo=UTC))
