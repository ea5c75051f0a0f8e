"""Finding versions by what is known of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from broadcaster.protocol.condition import Condition
from broadcaster.protocol.errors import Fact
from broadcaster.protocol.messages.rules import (
    Reply,
    Request,
    Rule,
    a_value,
    rule,
    some_versions,
    text,
    uint,
    write_values,
)
from broadcaster.protocol.version import VersionInfo


def fact(value: Any) -> Fact:
    if type(value) in (str, int, float, bool):
        found: Fact = value
        return found
    raise ValueError("must be a plain value")


CONDITION_RULES = (Rule("field", text), Rule("op", text), Rule("value", fact))


def some_conditions(value: Any) -> tuple[Condition, ...]:
    if type(value) not in (list, tuple):
        raise ValueError("must be a list of conditions")
    return tuple(a_value(Condition, CONDITION_RULES, item) for item in value)


def write_conditions(conditions: tuple[Condition, ...]) -> list[Mapping[str, Fact]]:
    """What `some_conditions` reads."""
    return [{name: value for name in ("field", "op", "value") if (value := getattr(one, name)) is not None} for one in conditions]


@dataclass(frozen=True, slots=True, kw_only=True)
class Search(Request):
    """The versions of a model, or of all in the namespace, for which all of `where` holds, in the `order` of a field."""

    KIND: ClassVar[bytes] = b"search"
    model_id: str | None = rule(text, default=None)
    where: tuple[Condition, ...] = rule(some_conditions, write_conditions, default=())
    order: str | None = rule(text, default=None)
    after: str | None = rule(text, default=None)
    limit: int | None = rule(uint, default=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found(Reply):
    """One page; `next` is the `after` of the following one, absent on the last."""

    KIND: ClassVar[bytes] = b"found"
    versions: tuple[VersionInfo, ...] = rule(some_versions, write_values)
    next: str | None = rule(text, default=None)
