"""What a user passes, checked before anything is sent."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from typing import Any

from broadcaster.protocol.errors import InvalidRequest
from broadcaster.protocol.frames import encoded_size
from broadcaster.protocol.limits import ANNOTATIONS, DESCRIPTION, NAME

_WHOLE = re.compile(r"-?[0-9]{1,18}")


def check_user_data(user_data: Mapping[str, str] | None, *, field: str = "user_data") -> dict[str, str]:
    """A plain dict of text. Raises InvalidRequest naming the key that is none."""
    found = dict(user_data or {})
    for key, value in found.items():
        if type(key) is not str or not isinstance(value, str):
            raise InvalidRequest(field=field, reason=f"{key!r} must map text to text, not to {type(value).__name__}")
    return {key: str(value) for key, value in found.items()}


def check_metrics(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    """A plain dict of floats, made of whatever is one number (of Python, numpy, torch, jax). Raises InvalidRequest naming what
    is not."""
    return {_text(name): _number(name, value) for name, value in (metrics or {}).items()}


def check_tags(tags: Mapping[str, str | None]) -> dict[str, str | None]:
    """A plain dict of text or None. Raises InvalidRequest naming the key that is neither."""
    found = dict(tags)
    for key, value in found.items():
        if type(key) is not str or not (value is None or isinstance(value, str)):
            raise InvalidRequest(field="tags", reason=f"{key!r} must map text to text or None, not to {type(value).__name__}")
    return found


def check_annotations(**given: Mapping[str, Any]) -> None:
    """Raises InvalidRequest when they take more room than a version or model has for them, or cannot be written."""
    try:
        size = encoded_size(given)
    except ValueError as error:  # Half of a surrogate pair, for instance.
        raise InvalidRequest(field=" and ".join(given), reason=str(error)) from None
    if size > ANNOTATIONS:
        raise InvalidRequest(field=" and ".join(given), reason=f"{size} bytes are over the limit of {ANNOTATIONS} bytes")


def check_description(description: str) -> str:
    """Text that is not too long. Raises InvalidRequest."""
    if not isinstance(description, str):
        raise InvalidRequest(field="description", reason=f"must be text, not {type(description).__name__}")
    try:
        size = len(description.encode())
    except ValueError as error:  # Half of a surrogate pair, for instance.
        raise InvalidRequest(field="description", reason=str(error)) from None
    if size > DESCRIPTION:
        raise InvalidRequest(field="description", reason=f"{size} bytes are over the limit of {DESCRIPTION} bytes")
    return str(description)


def check_ref(ref: int | str) -> int | str:
    """A version number (-1 is the newest, -n the n-th newest; also as text, for no alias is one) or an alias. Raises
    InvalidRequest for anything else."""
    if isinstance(ref, str):
        return int(ref) if _WHOLE.fullmatch(ref) else ref
    if isinstance(ref, bool) or not hasattr(ref, "__index__") or not -(1 << 63) < int(ref) < 1 << 63:
        raise InvalidRequest(field="ref", reason=f"{ref!r} is neither a version number nor an alias")
    return int(ref)


def check_count(field: str, count: int) -> int:
    """A whole number from 0 on. Raises InvalidRequest for anything else."""
    if isinstance(count, bool) or not hasattr(count, "__index__") or not 0 <= int(count) < 1 << 63:
        raise InvalidRequest(field=field, reason=f"{count!r:.200} is not a whole number from 0 on")
    return int(count)


def check_client_name(name: str | None) -> str:
    """What a client is called: `name`, or `host:pid` of this process. Raises InvalidRequest unless it is text of 1 to 128
    characters."""
    if name is None:
        return f"{socket.gethostname()[: NAME - 20]}:{os.getpid()}"
    if not isinstance(name, str) or not 0 < len(name) <= NAME:
        raise InvalidRequest(field="name", reason=f"{name!r:.200} is not text of 1 to {NAME} characters")
    check_annotations(name={"name": name})
    return name


def check_timeout(timeout: float | None) -> float:
    """Seconds. Raises InvalidRequest unless it is a number above 0."""
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not 0 < timeout < 1e9:
        raise InvalidRequest(field="timeout", reason=f"{timeout!r} is not a number of seconds above 0")
    return float(timeout)


def _text(name: object) -> str:
    if type(name) is not str:
        raise InvalidRequest(field="metrics", reason=f"the name {name!r} must be text, not {type(name).__name__}")
    return name


def _number(name: str, value: Any) -> float:
    try:
        if not isinstance(value, bool) and hasattr(value, "__float__"):
            return float(value)
        reason = f"must be a number, not {type(value).__name__}"
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:
        reason = f"is no single number: {error}"
    raise InvalidRequest(field="metrics", reason=f"{name!r} {reason}") from None
