"""Any valid message, made from the rules of its fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any

from hypothesis import strategies as st

from broadcaster.protocol.condition import Condition
from broadcaster.protocol.hops import ErrorDetail, Hop
from broadcaster.protocol.messages import KINDS, Event, Message, Rule, acks, data, push, rules, search
from broadcaster.protocol.subscriber import SubscriberInfo
from broadcaster.protocol.version import ModelInfo, VersionInfo

UINT = st.integers(0, (1 << 63) - 1)
TEXT = st.text(max_size=8)
NUMBER = st.floats(allow_nan=False)
FACT = TEXT | st.none() | st.booleans() | NUMBER | st.integers(-(1 << 63), (1 << 64) - 1)


def _map_of(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(TEXT, values, max_size=3)


def _list_of(values: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, max_size=3).map(tuple)


def _made(kind: type, checks: dict[str, Callable[[Any], Any]]) -> st.SearchStrategy[Any]:
    """`kind` with every field that it must have, and any of the others."""
    given = {field.name: VALUES[checks[field.name]] for field in fields(kind)}
    needed = {name: value for name, value in given.items() if is_needed(kind, name)}
    return st.fixed_dictionaries(needed, optional={k: v for k, v in given.items() if k not in needed}).map(
        lambda found: kind(**found)
    )


def is_needed(kind: type, name: str) -> bool:
    """Whether the class has no default for this field."""
    field: Field[Any] = next(one for one in fields(kind) if one.name == name)
    return field.default is MISSING and field.default_factory is MISSING


def checks_of(given: tuple[Rule, ...]) -> dict[str, Callable[[Any], Any]]:
    return {rule.name: rule.check for rule in given}


VALUES: dict[Callable[[Any], Any], st.SearchStrategy[Any]] = {
    rules.uint: UINT,
    rules.text: TEXT,
    rules.flag: st.booleans(),
    rules.identity: st.binary(min_size=16, max_size=16),
    rules.reference: TEXT | st.integers(-(1 << 63) + 1, (1 << 63) - 1),
    rules.number: NUMBER,
    rules.text_map: _map_of(TEXT),
    rules.text_or_nil_map: _map_of(TEXT | st.none()),
    rules.number_map: _map_of(NUMBER),
    rules.uint_map: _map_of(UINT),
    rules.uint_list: _list_of(UINT),
    rules.fact_map: _map_of(FACT),
}
VALUES[rules.a_version] = _made(VersionInfo, checks_of(rules._VERSION_RULES))
VALUES[rules.a_model] = _made(ModelInfo, checks_of(rules._MODEL_RULES))
VALUES[rules.some_hops] = _list_of(st.builds(Hop, node=TEXT, role=TEXT, received=UINT, sent=UINT, queued=UINT))
VALUES[rules.some_details] = _list_of(
    st.builds(
        ErrorDetail,
        node=TEXT,
        role=TEXT,
        error_class=TEXT,
        message=TEXT,
        retryable=st.booleans(),
        traceback=st.none() | TEXT,
    )
)
VALUES[rules.some_versions] = _list_of(VALUES[rules.a_version])
VALUES[rules.some_models] = _list_of(VALUES[rules.a_model])
VALUES[acks.some_subscribers] = _list_of(_made(SubscriberInfo, checks_of(acks.SUBSCRIBER_RULES)))
VALUES[search.fact] = TEXT | st.booleans() | NUMBER | st.integers(-(1 << 63), (1 << 64) - 1)
VALUES[search.some_conditions] = _list_of(_made(Condition, checks_of(search.CONDITION_RULES)))
VALUES[push.some_events] = _list_of(st.deferred(lambda: messages(Event)))
assert data.some_events is push.some_events


def messages(kind: type[Message]) -> st.SearchStrategy[Any]:
    """Any valid message of this kind."""
    return _made(kind, checks_of(kind.RULES))


ANY_MESSAGE = st.sampled_from(sorted(KINDS)).flatmap(lambda kind: messages(KINDS[kind]))
