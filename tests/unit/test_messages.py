"""The rules of fields: what each accepts, and the words with which it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from broadcaster.protocol import names
from broadcaster.protocol.errors import InvalidName, RemoteProtocolError
from broadcaster.protocol.messages import (
    KINDS,
    Begin,
    Events,
    Message,
    Models,
    Publish,
    Request,
    Versions,
    acks,
    push,
    rules,
    search,
    write_value,
)
from broadcaster.protocol.slot import HEADER, SlotHeader, parse_slot_header
from broadcaster.protocol.version import ModelInfo, VersionInfo

ID = bytes(16)
VERSION = {"namespace": "n", "model_id": "m", "number": 1, "size": 2, "digest": "d", "creation_timestamp": 3}
SUBSCRIBER = {"subscriber": ID, "received": 2, "applied": 1, "lag": 1, "lag_ms": 0, "seen_ms": 0}
EVENT = {"epoch": 1, "offset": 1, "previous": 0, "namespace": "n", "model_id": "m", "event": "updated"}

HOP = {"node": "a", "role": "broadcaster", "received": 1, "sent": 2, "queued": 0}
CONDITION = {"field": "metrics.return", "op": ">="}
DETAIL = {"node": "a", "role": "broadcaster", "class": "OSError", "message": "no", "retryable": False}

GOOD: list[tuple[Callable[[Any], Any], list[Any]]] = [
    (rules.uint, [0, 1, (1 << 63) - 1]),
    (rules.integer, [-(1 << 63) + 1, 0, (1 << 63) - 1]),
    (rules.text, ["", "x", "✓"]),
    (rules.flag, [True, False]),
    (rules.identity, [ID]),
    (rules.reference, ["champion", 7, -1]),
    (rules.number, [0, 1.5, -3]),
    (rules.text_map, [{}, {"a": "b"}]),
    (rules.text_or_nil_map, [{}, {"a": "b", "c": None}]),
    (rules.number_map, [{}, {"a": 1.5, "b": 2}]),
    (rules.uint_map, [{}, {"a": 1}]),
    (rules.uint_list, [[], [1, 2], (3,)]),
    (rules.fact_map, [{}, {"a": None, "b": 1, "c": 1.5, "d": "x", "e": True}]),
    (rules.a_version, [VERSION]),
    (rules.a_model, [{"namespace": "n", "model_id": "m"}]),
    (rules.some_versions, [[], [VERSION], (VERSION,)]),
    (rules.some_models, [[], [{"namespace": "n", "model_id": "m"}]]),
    (rules.some_hops, [[], [HOP], (HOP,), [HOP] * 16]),
    (rules.some_details, [[], [DETAIL], [DETAIL | {"traceback": "at 1"}], [DETAIL] * 16]),
    (push.some_events, [[], [EVENT], (EVENT,)]),
    (acks.some_subscribers, [[], [SUBSCRIBER], (SUBSCRIBER | {"name": "a"},)]),
    (search.fact, ["", 1, 1.5, True]),
    (search.some_conditions, [[], [CONDITION], (CONDITION | {"value": 1.5},)]),
]
BAD: list[tuple[Callable[[Any], Any], list[Any], str]] = [
    (rules.uint, [-1, 1 << 63, 1.0, "1", True, None, []], "must be an integer from 0 to 2^63 - 1"),
    (rules.integer, [-(1 << 63), 1 << 63, 1.0, True], "must be an integer of 64 bits"),
    (rules.text, [b"x", 1, [], {}], "must be text"),
    (rules.flag, [0, 1, "true", None], "must be true or false"),
    (rules.identity, [b"", bytes(15), bytes(17), "0123456789abcdef", bytearray(16)], "must be 16 bytes"),
    (rules.reference, [1.0, b"x", None, 1 << 63], "must be"),
    (rules.number, ["1", True, None, [], 1j], "must be a number"),
    (rules.text_map, [[], {"a": 1}, {1: "a"}, {"a": None}], "must map text to text"),
    (rules.text_or_nil_map, [[], {"a": 1}, {1: None}], "must map text to text or nil"),
    (rules.number_map, [[], {"a": "1"}, {1: 1}, {"a": True}], "must"),
    (rules.uint_map, [[], {"a": -1}, {1: 1}], "must"),
    (rules.uint_list, [1, {}, [-1], ["1"]], "must be"),
    (rules.fact_map, [[], {"a": []}, {1: 1}, {"a": {}}, {"a": b""}], "must map text to plain values"),
    (rules.a_version, [[], None, {}, VERSION | {"number": -1}, VERSION | {"tags": []}], ""),
    (rules.a_model, ["x", {}, {"namespace": "n"}, {"namespace": "n", "model_id": 1}], ""),
    (rules.some_versions, [{}, "x", [1], [{}], [VERSION | {"size": "x"}]], ""),
    (rules.some_models, [{}, 1, [1], [{}]], ""),
    (rules.some_hops, [{}, 1, [1], [{}], [HOP | {"sent": -1}], [HOP] * 17], ""),
    (rules.some_details, [{}, 1, [1], [{}], [{**DETAIL, "class": 1}], [DETAIL | {"retryable": 1}], [DETAIL] * 17], ""),
    (push.some_events, [{}, 1, [1], [None], [[]], [{}], [EVENT | {"epoch": -1}]], ""),
    (acks.some_subscribers, [{}, 1, [1], [{}], [SUBSCRIBER | {"lag": -1}], [SUBSCRIBER | {"name": 1}]], ""),
    (search.fact, [None, b"", [], {}], "must be a plain value"),
    (search.some_conditions, [{}, 1, [1], [{}], [CONDITION | {"op": 1}], [CONDITION | {"value": []}]], ""),
]


def cases(table: list[Any]) -> list[Any]:
    return [pytest.param(row[0], value, *row[2:], id=f"{row[0].__name__} {value!r:.40}") for row in table for value in row[1]]


@pytest.mark.parametrize(("check", "value"), cases(GOOD))
def test_a_rule_takes_what_is_right(check: Callable[[Any], Any], value: Any) -> None:
    found = check(value)
    if isinstance(value, (int, float, str, bytes, dict)) and check not in (rules.a_version, rules.a_model):
        assert found == value


@pytest.mark.parametrize(("check", "value", "words"), cases(BAD))
def test_a_rule_refuses_what_is_wrong_and_says_what_would_be_right(check: Callable[[Any], Any], value: Any, words: str) -> None:
    with pytest.raises(ValueError) as refused:
        check(value)
    assert words in str(refused.value)


def test_metrics_are_floats() -> None:
    assert all(type(value) is float for value in rules.number_map({"a": 1, "b": 2.0}).values())


def test_every_rule_is_in_the_tables() -> None:
    used = {rule.check for kind in KINDS.values() for rule in kind.RULES}
    used |= {rule.check for rule in (*rules._VERSION_RULES, *rules._MODEL_RULES, *search.CONDITION_RULES)}
    assert used <= {row[0] for row in GOOD} and used <= {row[0] for row in BAD}


@pytest.mark.parametrize(
    ("kind", "given", "words"),
    [
        (Begin, {"request_id": ID, "model_id": "m", "upload_id": ID, "size": -1}, "begin: size must be an integer from 0"),
        (Begin, {"request_id": ID}, "begin: missing 3 required"),
        (Publish, {"request_id": "x"}, "publish: request_id must be 16 bytes"),
        (Versions, {"request_id": ID, "versions": [{}]}, "versions: versions missing 6 required"),
        (Versions, {"request_id": ID, "versions": [VERSION | {"size": ""}]}, "versions: versions size must be"),
        (Models, {"request_id": ID, "models": [3]}, "models: models must be a map"),
        (Events, {"request_id": ID, "epoch": 1, "offset": 1, "events": [3]}, "events: events must be a list of maps"),
        (Events, {"request_id": ID, "epoch": 1, "offset": 1, "events": [EVENT | {"number": ""}]}, "event: number must be"),
    ],
)
def test_a_refusal_names_message_field_and_rule(kind: type[Message], given: dict[str, Any], words: str) -> None:
    with pytest.raises(RemoteProtocolError) as refused:
        kind.read(given)
    assert words in str(refused.value)


def test_nil_is_the_same_as_absent_and_what_is_not_known_is_ignored() -> None:
    given = {"request_id": ID, "model_id": "m", "upload_id": ID, "size": 3}
    assert Begin.read(given | {"user_data": None, "tomorrow": [1]}) == Begin.read(given)


def test_what_is_empty_is_left_out_of_a_version() -> None:
    version = VersionInfo(**VERSION)  # type: ignore[arg-type]
    assert write_value(version) == VERSION | {"archived": False, "content_type": "application/octet-stream"}
    assert write_value(ModelInfo(namespace="n", model_id="m")) == {
        "namespace": "n",
        "model_id": "m",
        "versions": 0,
        "creation_timestamp": 0,
    }


def test_every_kind_is_short_ascii_and_its_own() -> None:
    for kind, message in KINDS.items():
        assert message.KIND == kind and 0 < len(kind) <= 32
        assert kind.isascii() and b"\0" not in kind
        assert issubclass(message, Request) == ("protocol" in {rule.name for rule in message.RULES}) or kind == b"welcome"


# --- names and slot headers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "A-1_b.c", "0", "x" * 128])
def test_a_valid_name_is_taken(name: str) -> None:
    assert names.check_name("model", name) == name
    for kind in (names.EVENTS, names.CHUNKS):
        assert names.parse_topic(names.topic("lab", name, kind)) == ("lab", name, kind)


@pytest.mark.parametrize("name", ["", "-a", ".", "..", "a/b", "a b", "ä", "a\n", "a\0", "x" * 129, 1, None, b"a"])
def test_an_invalid_name_is_refused(name: object) -> None:
    with pytest.raises(InvalidName, match="is not valid"):
        names.check_name("model", name)


@pytest.mark.parametrize(
    "raw",
    [b"", b"e", b"\0e", b"lab/policy", b"lab/policy\0", b"lab/policy\0x", b"lab/policye", b"lab\0e", b"lab/\0e", b"/policy\0e"]
    + [b"lab/po/licy\0e", b"lab/pol\xc3\xa4\0e", b"lab/policy\0\0e", b"l" * 300 + b"\0e", b"lab/policy\0e "],
)
def test_what_is_no_whole_topic_is_none(raw: bytes) -> None:
    assert names.parse_topic(raw) is None


def test_one_models_topic_is_no_prefix_of_anothers() -> None:
    assert not names.topic("lab", "policy", b"e").startswith(names.topic("lab", "pol", b"e")[:-1])


def test_a_slots_header_comes_back_and_an_empty_one_is_none() -> None:
    header = SlotHeader(3, 7, 1000, b"D" * 16, 2, "lab/policy")
    raw = header.pack().ljust(HEADER, b"\0")
    assert parse_slot_header(raw) == header == parse_slot_header(memoryview(raw))
    for wrong in (bytes(HEADER), raw[:-1], b"X" + raw[1:], raw[:56] + b"\xff\xff" + raw[58:], raw[:58] + b"\xff" + raw[59:]):
        assert parse_slot_header(wrong) is None


def test_hops_and_details_are_written_as_they_are_read() -> None:
    assert rules.write_hops(rules.some_hops([HOP])) == [HOP]
    for detail in (DETAIL, DETAIL | {"traceback": "at 1"}):
        (read,) = rules.some_details([detail])
        assert read.error_class == "OSError" and rules.write_details((read,)) == [detail]
