"""docs/protocol.md is the contract: its grammar, header, limits, states and codes are those of the code, and none is missing."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from dataclasses import MISSING, fields
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from broadcaster.protocol import errors, limits, names
from broadcaster.protocol.condition import MAX_CONDITIONS, OPS, Condition
from broadcaster.protocol.errors import CODES, RETRYABLE, BroadcasterError
from broadcaster.protocol.frames import HEADER, HEADER_VERSION, MAGIC
from broadcaster.protocol.hops import ErrorDetail, Hop
from broadcaster.protocol.machines.alias import AliasState
from broadcaster.protocol.machines.fetch import FetcherState
from broadcaster.protocol.machines.follow import FollowerState
from broadcaster.protocol.machines.grant import SlotUploaderState
from broadcaster.protocol.machines.newest import NewestState
from broadcaster.protocol.machines.upload import AssemblerState, UploaderState
from broadcaster.protocol.messages import DIGEST_KINDS, KINDS, Message, Reply, Request, acks, push, rules, search
from broadcaster.protocol.subscriber import SubscriberInfo
from broadcaster.protocol.version import ModelInfo, VersionInfo

ROOT = Path(__file__).parent.parent.parent
DOC = (ROOT / "docs" / "protocol.md").read_text()

TYPES: dict[Callable[[Any], Any], str] = {
    rules.uint: "uint",
    rules.text: "text",
    rules.flag: "bool",
    rules.identity: "id",
    rules.reference: "int / text",
    rules.text_map: "{text: text}",
    rules.text_or_nil_map: "{text: text / nil}",
    rules.number_map: "{text: number}",
    rules.uint_map: "{text: uint}",
    rules.fact_map: "{text: fact}",
    rules.uint_list: "[uint]",
    rules.a_version: "version-info",
    rules.a_model: "model-info",
    rules.some_versions: "[version-info]",
    rules.some_models: "[model-info]",
    search.fact: "fact",
    search.some_conditions: "[condition]",
    push.some_events: "[event]",
    acks.some_subscribers: "[subscriber-info]",
    rules.some_hops: "[hop]",
    rules.some_details: "[detail]",
}
"""How the grammar names what a rule accepts."""


def grammar() -> dict[str, list[str]]:
    """The productions of the document: name -> its parts, as written."""
    found: dict[str, list[str]] = {}
    for block in re.findall(r"```\n(.*?)```", DOC, re.DOTALL):
        for line in block.splitlines():
            if (match := re.fullmatch(r"([a-z-]+) += (.+)", line)) is not None:
                assert match[1] not in found, f"{match[1]} has two rules"
                found[match[1]] = match[2].split(", ")
    return found


GRAMMAR = grammar()


def written(kind: type, given: tuple[rules.Rule, ...], *, without: type | None = None) -> list[str]:
    """The fields of a class as the grammar writes them, less those of its base."""
    inherited = {field.name for field in fields(without)} if without is not None else set()
    optional = {one.name for one in fields(kind) if one.default is not MISSING or one.default_factory is not MISSING}
    return [
        f"{'?' if rule.name in optional else ''}{rule.name}: {TYPES[rule.check]}" for rule in given if rule.name not in inherited
    ]


def production(kind: type[Message]) -> list[str]:
    base = next((one for one in (Request, Reply) if issubclass(kind, one)), None)
    return [*([base.__name__.lower()] if base is not None else []), *written(kind, kind.RULES, without=base)]


def table(heading: str) -> Iterator[list[str]]:
    """The rows of the first table behind a heading."""
    section = DOC.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line.startswith("|")]
    return iter(rows[2:])


# --- grammar -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(KINDS), ids=bytes.decode)
def test_every_message_has_its_rule(kind: bytes) -> None:
    assert GRAMMAR.get(kind.decode()) == production(KINDS[kind])


VALUES = {"request", "reply", "version-info", "model-info", "condition", "subscriber-info", "hop", "detail"}
"""What is no message of its own, and has a rule."""


def test_every_rule_has_its_message() -> None:
    assert set(GRAMMAR) == {kind.decode() for kind in KINDS} | VALUES


def test_what_all_requests_and_replies_carry_is_written_down() -> None:
    for name, kind in (("request", Request), ("reply", Reply)):
        given = tuple(rules.Rule(field.name, field.metadata["check"]) for field in fields(kind))
        assert GRAMMAR[name] == written(kind, given)


def test_versions_and_models_are_written_down() -> None:
    assert GRAMMAR["version-info"] == written(VersionInfo, rules._VERSION_RULES)
    assert GRAMMAR["model-info"] == written(ModelInfo, rules._MODEL_RULES)
    assert GRAMMAR["condition"] == written(Condition, search.CONDITION_RULES)
    for kind, given in ((VersionInfo, rules._VERSION_RULES), (ModelInfo, rules._MODEL_RULES)):
        assert [field.name for field in fields(kind)] == [rule.name for rule in given]


def test_subscribers_are_written_down() -> None:
    assert GRAMMAR["subscriber-info"] == written(SubscriberInfo, acks.SUBSCRIBER_RULES)
    assert [field.name for field in fields(SubscriberInfo)] == [rule.name for rule in acks.SUBSCRIBER_RULES]


def test_hops_and_details_are_written_down() -> None:
    for name, kind, given in (("hop", Hop, rules._HOP_RULES), ("detail", ErrorDetail, rules._DETAIL_RULES)):
        names = [rule.name.replace("class", "error_class") for rule in given]
        assert [field.name for field in fields(kind)] == names
        assert [part.replace("class:", "error_class:") for part in GRAMMAR[name]] == written(
            kind, tuple(rule._replace(name=other) for rule, other in zip(given, names, strict=True))
        )


def test_every_type_of_the_grammar_is_explained() -> None:
    explained = {cell[0].strip("`") for cell in table("3. Words and values")}
    used = {word for kind in TYPES.values() for word in re.findall(r"[a-z-]+", kind)}
    assert used - explained - set(GRAMMAR) <= {"nil"}


# --- header --------------------------------------------------------------------------------------------------------


def test_the_chunk_header_is_as_drawn() -> None:
    drawn = re.search(r"```\n(0 +2 .*?)```", DOC, re.DOTALL)
    assert drawn is not None
    places, columns, values = drawn[1].splitlines()
    ends = [int(word) for word in places.split()]
    assert ends[-1] == HEADER.size == 64
    sizes = [later - earlier for earlier, later in zip(ends, ends[1:], strict=False)]
    codes = re.findall(r"\d*[sBIQ]", HEADER.format)
    assert sizes == [{"B": 1, "I": 4, "Q": 8}.get(code) or int(code[:-1]) for code in codes]
    expected = ["magic", "version", "flags", "attempt", "size", "offset", "length", "transfer", "digest"]
    assert [word.strip() for word in columns.strip("| ").split("|")] == expected
    assert values.split("|")[1].strip() == MAGIC.hex(" ").upper()
    assert int(values.split("|")[2], 16) == HEADER_VERSION
    assert not any(kind.startswith(MAGIC[:1]) for kind in KINDS)


# --- limits and words ----------------------------------------------------------------------------------------------


def size(count: int) -> str:
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count % factor == 0:
            return f"{count // factor} {unit}"
    return str(count)


LIMITS = {
    "one control map": size(limits.CONTROL),
    "one `read`": size(limits.READ),
    "one chunk": size(limits.CHUNK),
    "payload inside `publish`": size(limits.CHUNK),
    "payload inside an event or `state`": size(limits.INLINE),
    "user data, metrics, tags and description of one version or model": f"{size(limits.ANNOTATIONS)} of msgpack",
    "one description": size(limits.DESCRIPTION),
    "bytes between two `filled`": size(limits.FILLED),
    "chunks sent behind `begin` before its answer": str(limits.EAGER),
    "chunks under way of one upload": f"`until` - `received` ≤ {limits.WINDOW}",
    "aliases of one model": f"{limits.ALIASES}",
    "transient versions pinned at a time, over all models": f"{limits.PINS:,}, of half the memory budget",
    "entries of a page": f"{limits.PAGE:,}, and as many as fit into a control map",
    "payload": f"{size(limits.MAX_PAYLOAD)}, and what the memory budget allows",
    "name of a client": f"{limits.NAME} characters",
    "subscribers of a model that acks are kept of": f"{limits.SUBSCRIBERS:,}",
    "acks of one subscriber": f"{1 / limits.ACK_INTERVAL:g} a second",
    "acks without news": f"every {limits.ACK_IDLE:g} s",
    "silence after which a subscriber is forgotten": f"{limits.ACK_SILENT:g} s",
    "silence after which a client asks again": f"{limits.RETRY:g} s",
    "an upload without progress": f"{limits.IDLE_UPLOAD:g} s",
}


def test_the_limits_are_those_of_the_code() -> None:
    assert {row[0]: row[1] for row in table("10. Limits")} == LIMITS


def test_words_of_the_text_are_those_of_the_code() -> None:
    assert f"`{names.PATTERN}`" in DOC
    assert all(f"`{op}`" in DOC for op in OPS) and f"most {MAX_CONDITIONS})" in DOC
    assert f"`protocol` is {limits.PROTOCOL} " in DOC
    assert f"An upload without progress for {limits.IDLE_UPLOAD:g} s" in DOC
    assert f"Up to {limits.EAGER} chunks" in DOC
    assert all(f"`{kind}`" in DOC for kind in DIGEST_KINDS)
    assert f"`{names.EVENTS.decode()}` for events" in DOC and f"`{names.CHUNKS.decode()}` for chunks" in DOC


# --- states --------------------------------------------------------------------------------------------------------

MACHINES: dict[str, type[Enum]] = {
    "Uploader": UploaderState,
    "SlotUploader": SlotUploaderState,
    "Assembler": AssemblerState,
    "Fetcher": FetcherState,
    "Follower": FollowerState,
    "NewestFollower": NewestState,
    "AliasFollower": AliasState,
}


def test_the_states_are_those_of_the_machines() -> None:
    rows = {row[0]: set(re.findall(r"\b[A-Z]{4,}\b", row[2])) for row in table("8. States")}
    assert rows == {name: {state.name for state in states} for name, states in MACHINES.items()}


# --- errors --------------------------------------------------------------------------------------------------------

STAY = {
    "error": "a family",
    "protocol-error": "a family",
    "request-error": "a family, and what a client makes of a code that it does not know",
    "transport-error": "a family",
    "store-error": "a family",
    "local-protocol-error": "a bug of this process",
    "version-superseded": "said by a publisher to its own user",
    "missing-dependency": "said by a codec to its own user",
    "no-broadcaster": "there is nobody to say it",
    "closed": "whoever is closed, client or worker, says it in its own process: a broadcaster that stops answers nobody any more",
    "fork": "said by a client to its own user",
    "config": "at the start",
    "port-in-use": "at the start",
    "directory-unusable": "at the start",
}
"""Codes that never travel, and why."""
ROOMS = ("broker", "registry.py", "catalog", "eventlog.py", "numbers.py", "slots", "server", "store", "protocol")


def made_in(path: Path) -> set[type[BroadcasterError]]:
    """The errors that a file names as something to make."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            kind = getattr(errors, node.func.id, None)
            if isinstance(kind, type) and issubclass(kind, BroadcasterError):
                found.add(kind)
    return found


def test_every_code_that_travels_is_in_the_table_with_its_sentence() -> None:
    rows = {row[0].strip("`"): row[1] for row in table("9. Errors")}
    assert rows == {code: kind.sentence.replace("{reason}", "…") for code, kind in CODES.items() if code not in STAY}


def test_the_codes_after_which_one_may_try_again_are_listed() -> None:
    (listed,) = re.findall(r"^Retryable: (.+)\.$", DOC, re.MULTILINE)
    assert sorted(re.findall(r"`([a-z-]+)`", listed)) == sorted(RETRYABLE - set(STAY))


def test_no_room_of_the_broadcaster_makes_an_error_that_does_not_travel() -> None:
    unheard = {"config", "port-in-use", "directory-unusable", "local-protocol-error", "closed"}
    folder = ROOT / "broadcaster"
    for room in ROOMS:
        for path in sorted((folder / room).rglob("*.py")) if (folder / room).is_dir() else [folder / room]:
            stray = {kind.code for kind in made_in(path)} & set(STAY)
            assert stray <= unheard | ({"request-error"} if path.name == "errors.py" else set()), f"{path.name}: {stray}"
