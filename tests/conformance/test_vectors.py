"""Bytes of every message that were frozen once: they decode to the same for ever, and are what is sent today."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from broadcaster.protocol.frames import decode, decode_header, encode
from broadcaster.protocol.messages import KINDS
from broadcaster.protocol.slot import HEADER, parse_slot_header
from tests.conformance import make_vectors

FOLDER = Path(__file__).parent / "vectors"
FILES = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
MESSAGES = [(file["kind"], name, vector) for file in FILES.values() if "kind" in file for name, vector in file["vectors"].items()]
EVERY_MESSAGE = pytest.mark.parametrize(("kind", "vector"), [pytest.param(k, v, id=f"{k} {n}") for k, n, v in MESSAGES])


def headers(file: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("vector", [pytest.param(v, id=n) for n, v in FILES[file]["vectors"].items()])


def value(plain: Any) -> Any:
    """What `make_vectors.plain` wrote."""
    match plain:
        case {"hex": str(digits)} if len(plain) == 1:
            return bytes.fromhex(digits)
        case dict():
            return {key: value(one) for key, one in plain.items()}
        case list():
            return [value(one) for one in plain]
    return plain


def as_lists(written: Any) -> Any:
    """Tuples are lists on the wire."""
    return json.loads(json.dumps(make_vectors.plain(written)))


@EVERY_MESSAGE
def test_frozen_bytes_decode_to_the_same_message(kind: str, vector: dict[str, Any]) -> None:
    message = decode([kind.encode(), bytes.fromhex(vector["map"])])
    assert as_lists(message.write()) == vector["fields"]
    assert message == KINDS[kind.encode()].read(value(vector["fields"]))


@pytest.mark.parametrize(("kind", "vector"), [pytest.param(k, v, id=f"{k} {n}") for k, n, v in MESSAGES if n != "bare"])
def test_the_same_message_is_sent_as_the_same_bytes(kind: str, vector: dict[str, Any]) -> None:
    message = KINDS[kind.encode()].read(value(vector["fields"]))
    assert encode(message) == [kind.encode(), bytes.fromhex(vector["map"])]


def test_every_kind_has_its_vectors() -> None:
    later = {f"{kind}+{by}" for by, kinds in make_vectors.LATER.items() for kind in kinds}
    assert {kind.decode() for kind in KINDS} | later | {"chunk-header", "slot-header"} == set(FILES)
    for kind in KINDS:
        vectors = FILES[kind.decode()]["vectors"]
        assert set(vectors) >= {"bare", "minimal", "full"}
        told = set(vectors["full"]["fields"])
        for by in [by for by, kinds in make_vectors.LATER.items() if kind.decode() in kinds]:
            told |= set(FILES[f"{kind.decode()}+{by}"]["vectors"][f"full with {by}"]["fields"])
        everywhere = {*make_vectors.EVERY_REQUEST, *make_vectors.EVERY_REPLY}
        assert told >= {rule.name for rule in KINDS[kind].RULES} - everywhere


@headers("chunk-header")
def test_frozen_chunk_headers_decode_to_the_same(vector: dict[str, Any]) -> None:
    header = decode_header(bytes.fromhex(vector["bytes"]))
    assert asdict(header) == value(vector["fields"])
    assert header.pack().hex() == vector["bytes"]


@headers("slot-header")
def test_frozen_slot_headers_decode_to_the_same(vector: dict[str, Any]) -> None:
    header = parse_slot_header(bytes.fromhex(vector["bytes"]).ljust(HEADER, b"\0"))
    assert header is not None and asdict(header) == value(vector["fields"])
    assert header.pack().hex() == vector["bytes"]


def test_vectors_that_are_there_are_never_written_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(make_vectors, "FOLDER", tmp_path)
    (tmp_path / "begin.json").write_text("old")
    make_vectors.main()
    assert (tmp_path / "begin.json").read_text() == "old"
    assert "kept begin.json" in capsys.readouterr().out
    assert {path.stem for path in tmp_path.iterdir()} == set(FILES)
