"""Which versions a search wants, and in which order. Pure: it is given versions, and knows no catalog.

What is missing, or NaN, meets no condition but `exists` and comes last in both directions; of equals the newest comes first.
"""

from __future__ import annotations

import base64
import binascii
import math
import operator
from bisect import insort
from collections.abc import Callable, Collection, Sequence
from typing import Any

import msgpack

from broadcaster.protocol.condition import EXISTS, MAX_CONDITIONS, OPS, Condition
from broadcaster.protocol.errors import Fact, InvalidRequest
from broadcaster.protocol.version import VersionInfo

Get = Callable[[VersionInfo], Any]
Test = Callable[[VersionInfo, Collection[str]], bool]
"""Whether a condition holds for a version with these aliases."""

NUMBERS, FLAGS = ("number", "size", "creation_timestamp"), ("archived", "pinned")
TEXTS = ("model_id", "digest", "sha256", "content_type", "description")
MAPS = ("metrics", "tags", "user_data")
ALIAS = "alias"
KNOWN = "number, size, creation_timestamp, archived, pinned, model_id, digest, sha256, content_type, description, alias, " + (
    "metrics.NAME, tags.NAME or user_data.NAME"
)
SORTED_TEXT = 256
"""Characters of a text that count when versions are put in order."""
_LONGEST_CURSOR = 4096
_first = operator.itemgetter(0)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


class Query:
    """A search: which versions it wants, and in which order. Raises InvalidRequest for what cannot be asked."""

    def __init__(self, where: Sequence[Condition], order: str) -> None:
        if len(where) > MAX_CONDITIONS:
            raise InvalidRequest(field="where", reason=f"{len(where)} conditions are over the limit of {MAX_CONDITIONS}")
        self.order = order
        self.descending = order.startswith("-")
        self.field = order.removeprefix("-")
        if self.field == ALIAS:
            raise InvalidRequest(field="order", reason="a version may have several aliases: there is no order by them")
        self._get = _getter(self.field, "order")
        self._tests = [_test(condition) for condition in where]

    def wants(self, info: VersionInfo, aliases: Collection[str] = ()) -> bool:
        """Whether all conditions hold for a version with these aliases."""
        return all(test(info, aliases) for test in self._tests)

    def place(self, info: VersionInfo) -> tuple[Any, ...]:
        """The version's place in the order: the least comes first. No two versions of a namespace have the same one."""
        return _place(_plain(self._get(info)), info.number, info.model_id, descending=self.descending)

    def cursor(self, info: VersionInfo) -> str:
        """The place of this version as text, which stays what it is whatever comes and goes."""
        packed = msgpack.packb([self.order, _plain(self._get(info)), info.number, info.model_id])
        return base64.urlsafe_b64encode(packed).decode()

    def after(self, cursor: str) -> tuple[Any, ...]:
        """The place that a cursor of this very order names. Raises InvalidRequest for another one."""
        try:
            match msgpack.unpackb(base64.b64decode(cursor[:_LONGEST_CURSOR].encode(), b"-_", validate=True)):
                case [self.order, value, int(number), str(model_id)] if value == _plain(value):
                    return _place(value, number, model_id, descending=self.descending)
        except (ValueError, TypeError, binascii.Error, msgpack.UnpackException):
            pass  # Text that no page ended with: said below.
        raise InvalidRequest(field="after", reason="is not the end of a page in this order")


class Hits:
    """The first few of all versions that were offered, in order; those up to the place `after` were on earlier pages."""

    def __init__(self, query: Query, most: int, after: tuple[Any, ...] | None) -> None:
        self._query = query
        self._most = most
        self._after = after
        self.found: list[tuple[tuple[Any, ...], VersionInfo]] = []
        """They and their places, in order."""

    def __len__(self) -> int:
        return len(self.found)

    def offer(self, info: VersionInfo) -> None:
        """This version is wanted: perhaps it is among the first."""
        place = self._query.place(info)
        if self._after is not None and place <= self._after:
            return
        full = len(self.found) >= self._most
        if full and place >= self.found[-1][0]:
            return
        insort(self.found, (place, info), key=_first)  # One step at a time: nobody waits for a sort.
        if full:
            self.found.pop()

    def first(self) -> list[VersionInfo]:
        """The first of them, in order."""
        return [info for _, info in self.found]


# --- fields --------------------------------------------------------------------------------------------------------


def _getter(field: str, where: str) -> Get:
    """What a field is in a version: None where there is none."""
    table, dot, name = field.partition(".")
    if dot and table in MAPS:
        found = operator.attrgetter(table)
        return lambda info: found(info).get(name)
    if field in NUMBERS or field in FLAGS:
        return operator.attrgetter(field)
    if field in TEXTS:
        get = operator.attrgetter(field)
        return lambda info: get(info) or None
    raise InvalidRequest(field=where, reason=f"{field[:100]!r} is no field: it must be {KNOWN}")


def _test(condition: Condition) -> Test:
    field, op, value = condition.field, condition.op, condition.value
    if op not in OPS:
        raise InvalidRequest(field="where", reason=f"{op[:20]!r} compares nothing: it must be one of {' '.join(OPS)}")
    if op == EXISTS:
        return _test_existence(field, value)
    if value is None or (type(value) is float and math.isnan(value)):
        raise InvalidRequest(field="where", reason=f"{field[:100]} {op} needs a value")
    if field == ALIAS:
        return _test_alias(op, value)
    get, compare = _getter(field, "where"), _COMPARE[op]
    table = field.partition(".")[0]
    if field in FLAGS:
        _require(type(value) is bool and op in ("=", "!="), f"{field} is true or false, and either = or != that")
    elif field in NUMBERS or table == "metrics":
        _require(type(value) in (int, float), f"{field[:100]} is a number, and compares with numbers only")
        # NaN is not equal to itself, and compares as false with all but !=.
        return lambda info, _: (found := get(info)) is not None and found == found and compare(found, value)
    elif type(value) in (int, float):
        return lambda info, _: (found := _as_number(get(info))) is not None and compare(found, value)
    else:
        _require(type(value) is str, f"{field[:100]} is text, and compares with text or numbers")
    return lambda info, _: (found := get(info)) is not None and compare(found, value)


def _test_existence(field: str, value: Fact) -> Test:
    _require(value is None or type(value) is bool, f"whether {field[:100]} exists is true or false")
    wanted = value is not False
    if field == ALIAS:
        return lambda _, aliases: bool(aliases) is wanted
    get = _getter(field, "where")
    return lambda info, _: (get(info) is not None) is wanted


def _test_alias(op: str, value: Fact) -> Test:
    _require(type(value) is str and op in ("=", "!="), "an alias is text, and either = or != that")
    wanted = op == "="
    return lambda _, aliases: (value in aliases) is wanted


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise InvalidRequest(field="where", reason=reason)


def _as_number(text: str | None) -> float | None:
    """The number that a text is, or None; what is not finite is none."""
    try:
        number = math.nan if text is None else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


# --- order ---------------------------------------------------------------------------------------------------------


class _Backwards:
    """A text that comes before those that it would come behind."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def __lt__(self, other: _Backwards) -> bool:
        return other.text < self.text

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Backwards) and other.text == self.text

    __hash__ = None  # type: ignore[assignment]


def _plain(value: Any) -> Any:
    """What a value counts for in the order: a number, the beginning of a text, or None for what is missing or NaN."""
    match value:
        case str():
            number = _as_number(value)
            return value[:SORTED_TEXT] if number is None else number
        case bool():
            return int(value)
        case int() | float() if value == value:
            return value
    return None


def _place(value: Any, number: int, model_id: str, *, descending: bool) -> tuple[Any, ...]:
    # Numbers before texts, the other way round when descending; what is missing last either way.
    if value is None:
        return 2, 0, -number, model_id
    if isinstance(value, str):
        return (0, _Backwards(value), -number, model_id) if descending else (1, value, -number, model_id)
    return (1, -value, -number, model_id) if descending else (0, value, -number, model_id)
