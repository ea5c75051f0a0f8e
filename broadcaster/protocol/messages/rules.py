"""The rules of fields, and what all messages share. A rule checks what arrives and writes what departs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, cast

from broadcaster.protocol.errors import Fact, RemoteProtocolError
from broadcaster.protocol.hops import MOST_DETAILS, MOST_HOPS, ErrorDetail, Hop
from broadcaster.protocol.limits import PROTOCOL
from broadcaster.protocol.names import DEFAULT_NAMESPACE
from broadcaster.protocol.version import ModelInfo, VersionInfo

XXH3 = "xxh3-128"
SHA256 = "sha256"
DIGEST_KINDS = (XXH3, SHA256)

_MAX_UINT = (1 << 63) - 1


class Rule(NamedTuple):
    """How one field is checked on arrival and written on departure."""

    name: str
    check: Callable[[Any], Any]
    """Turns what msgpack gave into the field's value, or raises ValueError saying what would be right."""
    write: Callable[[Any], Any] | None = None


def uint(value: Any) -> int:
    if type(value) is int and 0 <= value <= _MAX_UINT:
        return value
    raise ValueError("must be an integer from 0 to 2^63 - 1")


def integer(value: Any) -> int:
    if type(value) is int and -_MAX_UINT <= value <= _MAX_UINT:
        return value
    raise ValueError("must be an integer of 64 bits")


def text(value: Any) -> str:
    if type(value) is str:
        return value
    raise ValueError("must be text")


def flag(value: Any) -> bool:
    if type(value) is bool:
        return value
    raise ValueError("must be true or false")


def identity(value: Any) -> bytes:
    if type(value) is bytes and len(value) == 16:
        return value
    raise ValueError("must be 16 bytes")


def reference(value: Any) -> int | str:
    return text(value) if type(value) is str else integer(value)


def number(value: Any) -> float:
    if type(value) in (int, float):
        return float(value)
    raise ValueError("must be a number")


def text_map(value: Any) -> dict[str, str]:
    if type(value) is dict and all(type(k) is str and type(v) is str for k, v in value.items()):
        return value
    raise ValueError("must map text to text")


def text_or_nil_map(value: Any) -> dict[str, str | None]:
    if type(value) is dict and all(type(k) is str and (v is None or type(v) is str) for k, v in value.items()):
        return value
    raise ValueError("must map text to text or nil")


def number_map(value: Any) -> dict[str, float]:
    if type(value) is dict:
        return {text(k): number(v) for k, v in value.items()}
    raise ValueError("must map text to numbers")


def uint_map(value: Any) -> dict[str, int]:
    if type(value) is dict:
        return {text(k): uint(v) for k, v in value.items()}
    raise ValueError("must map text to integers")


def uint_list(value: Any) -> tuple[int, ...]:
    if type(value) in (list, tuple):
        return tuple(uint(item) for item in value)
    raise ValueError("must be a list of integers")


def fact_map(value: Any) -> dict[str, Fact]:
    if type(value) is dict and all(
        type(k) is str and (v is None or type(v) in (str, int, float, bool)) for k, v in value.items()
    ):
        return value
    raise ValueError("must map text to plain values")


def a_version(value: Any) -> VersionInfo:
    return cast(VersionInfo, a_value(VersionInfo, _VERSION_RULES, value))


def a_model(value: Any) -> ModelInfo:
    return cast(ModelInfo, a_value(ModelInfo, _MODEL_RULES, value))


def a_value(kind: Callable[..., Any], rules: tuple[Rule, ...], value: Any) -> Any:
    """What `kind` makes of the fields of a map. Raises ValueError naming the field and the rule."""
    if type(value) is not dict:
        raise ValueError("must be a map")
    found = {}
    for rule in rules:
        if (given := value.get(rule.name)) is not None:
            try:
                found[rule.name] = rule.check(given)
            except ValueError as wrong:
                raise ValueError(f"{rule.name} {wrong}") from None
    try:
        return kind(**found)
    except TypeError as missing:
        raise ValueError(str(missing).partition("() ")[2]) from None


def some_versions(value: Any) -> tuple[VersionInfo, ...]:
    if type(value) not in (list, tuple):
        raise ValueError("must be a list of versions")
    return tuple(a_version(item) for item in value)


def some_models(value: Any) -> tuple[ModelInfo, ...]:
    if type(value) not in (list, tuple):
        raise ValueError("must be a list of models")
    return tuple(a_model(item) for item in value)


def write_values(values: tuple[VersionInfo | ModelInfo, ...]) -> list[dict[str, Any]]:
    return [write_value(value) for value in values]


def write_value(value: VersionInfo | ModelInfo) -> dict[str, Any]:
    """The map of a version or a model: what is empty or None is left out."""
    written = {k: v for k in value.__dataclass_fields__ if (v := getattr(value, k)) is not None and v != {}}
    # Fields that came later: bytes of what says nothing in them are those of before.
    if not value.description:
        del written["description"]
    if written.get("pinned") is False:
        del written["pinned"]
    return written


_VERSION_RULES = (
    Rule("namespace", text),
    Rule("model_id", text),
    Rule("number", uint),
    Rule("size", uint),
    Rule("digest", text),
    Rule("creation_timestamp", uint),
    Rule("archived", flag),
    Rule("sha256", text),
    Rule("content_type", text),
    Rule("user_data", text_map),
    Rule("metrics", number_map),
    Rule("tags", text_map),
    Rule("description", text),
    Rule("pinned", flag),
)
_MODEL_RULES = (
    Rule("namespace", text),
    Rule("model_id", text),
    Rule("user_data", text_map),
    Rule("tags", text_map),
    Rule("aliases", uint_map),
    Rule("newest", uint),
    Rule("versions", uint),
    Rule("creation_timestamp", uint),
    Rule("description", text),
    Rule("retention", fact_map),
)


_HOP_RULES = (
    Rule("node", text),
    Rule("role", text),
    Rule("received", uint),
    Rule("sent", uint),
    Rule("queued", uint),
)
_DETAIL_RULES = (
    Rule("node", text),
    Rule("role", text),
    Rule("class", text),
    Rule("message", text),
    Rule("retryable", flag),
    Rule("traceback", text),
)


def some_hops(value: Any) -> tuple[Hop, ...]:
    if type(value) not in (list, tuple) or len(value) > MOST_HOPS:
        raise ValueError(f"must be a list of at most {MOST_HOPS} hops")
    return tuple(a_value(Hop, _HOP_RULES, item) for item in value)


def write_hops(hops: tuple[Hop, ...]) -> list[dict[str, Any]]:
    return [{rule.name: getattr(hop, rule.name) for rule in _HOP_RULES} for hop in hops]


def some_details(value: Any) -> tuple[ErrorDetail, ...]:
    if type(value) not in (list, tuple) or len(value) > MOST_DETAILS:
        raise ValueError(f"must be a list of at most {MOST_DETAILS} details")
    return tuple(a_value(_detail, _DETAIL_RULES, item) for item in value)


def _detail(**found: Any) -> ErrorDetail:
    """`class` is no name for a field in Python."""
    if "class" in found:
        found["error_class"] = found.pop("class")
    return ErrorDetail(**found)


def write_details(details: tuple[ErrorDetail, ...]) -> list[dict[str, Any]]:
    written = []
    for detail in details:
        one = {rule.name: getattr(detail, "error_class" if rule.name == "class" else rule.name) for rule in _DETAIL_RULES}
        written.append({name: value for name, value in one.items() if value is not None})
    return written


def rule(check: Callable[[Any], Any], write: Callable[[Any], Any] | None = None, **options: Any) -> Any:
    return field(metadata={"check": check, "write": write}, **options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A control message. `KIND` is its first frame, its fields are the map in its second."""

    KIND: ClassVar[bytes] = b""
    RULES: ClassVar[tuple[Rule, ...]] = ()

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Any:
        """The message that `given` describes. Raises RemoteProtocolError naming the message, the field and the rule."""
        values: dict[str, Any] = {}
        for name, check, _ in cls.RULES:
            value = given.get(name)
            if value is not None:
                try:
                    values[name] = check(value)
                except ValueError as wrong:
                    raise RemoteProtocolError(reason=f"{cls.KIND.decode()}: {name} {wrong}") from None
        try:
            return cls(**values)
        except TypeError as missing:
            raise RemoteProtocolError(reason=f"{cls.KIND.decode()}: {str(missing).partition('() ')[2]}") from None

    def write(self) -> dict[str, Any]:
        """The map that `read` understands."""
        written: dict[str, Any] = {}
        for name, _, write in self.RULES:
            value = getattr(self, name)
            if value is not None:
                written[name] = write(value) if write else value
        return written


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Message):
    """What every request carries: who answers can check the version first, echo the id, and drop work whose time is over."""

    protocol: int = rule(uint, default=PROTOCOL)
    request_id: bytes = rule(identity)
    budget_ms: int | None = rule(uint, default=None)
    namespace: str = rule(text, default=DEFAULT_NAMESPACE)
    timing: bool | None = rule(flag, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply(Message):
    """What every reply carries: the id of the request that it answers, and where that was, if it asked for it."""

    request_id: bytes = rule(identity)
    hops: tuple[Hop, ...] | None = rule(some_hops, write_hops, default=None)
