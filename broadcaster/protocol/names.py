"""Names of namespaces, models, aliases and keys, and the topics made of them. One pattern, checked at every door."""

from __future__ import annotations

import re

from broadcaster.protocol.errors import InvalidName

PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
_NAME = re.compile(PATTERN)

DEFAULT_NAMESPACE = "default"

LATEST = "latest"
"""Instead of a number or an alias: the newest version. No alias is called so."""

EVENTS = b"e"
"""Delivery kind: announcements (with small payloads inside), events and beacons."""
CHUNKS = b"c"
"""Delivery kind: the bytes of versions while they arrive."""


def check_name(what: str, name: object) -> str:
    """`name`, if it is a valid one; else InvalidName. Names never become paths, and this pattern could not leave one."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        raise InvalidName(what=what, name=repr(name)[:200], pattern=PATTERN)
    return name


def topic(namespace: str, model_id: str, kind: bytes) -> bytes:
    """The PUB topic of one model and delivery kind. SUB matches by prefix: the NUL keeps `pol` from receiving `policy`."""
    return f"{namespace}/{model_id}\0".encode("ascii") + kind


def parse_topic(raw: bytes) -> tuple[str, str, bytes] | None:
    """(namespace, model_id, kind) of an exact topic, or None for anything else (a prefix, a stranger's bytes)."""
    if len(raw) > 300 or raw[-2:] not in (b"\0" + EVENTS, b"\0" + CHUNKS):
        return None
    try:
        namespace, slash, model_id = raw[:-2].decode("ascii").partition("/")
    except UnicodeDecodeError:
        return None
    if not slash or _NAME.fullmatch(namespace) is None or _NAME.fullmatch(model_id) is None:
        return None
    return namespace, model_id, raw[-1:]
