"""Errors: one code each, sentences whose facts are all given, the same on both ends of the wire."""

from __future__ import annotations

import ast
import copy
import re
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest

from broadcaster.protocol import errors
from broadcaster.protocol.errors import CODES, BroadcasterError, Fact, from_wire

ROOT = Path(__file__).parent.parent
FIELD = re.compile(r"\{(\w+)")
KINDS = {kind.__name__: kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BroadcasterError)}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())


def facts_of(kind: type[BroadcasterError]) -> dict[str, Fact]:
    """A value for every fact of the sentence, of each type in turn."""
    values: list[Fact] = ["policy", 3, 2.5, True, None]
    return {name: values[at % len(values)] for at, name in enumerate(dict.fromkeys(FIELD.findall(kind.sentence)))}


@EVERY_KIND
def test_every_error_has_a_code_of_its_own(kind: type[BroadcasterError]) -> None:
    assert "code" in vars(kind), f"{kind.__name__} inherits its parent's code"
    assert [other.__name__ for other in KINDS.values() if other.code == kind.code] == [kind.__name__]
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", kind.code)
    assert CODES[kind.code] is kind


@EVERY_KIND
def test_a_sentence_holds_all_its_facts(kind: type[BroadcasterError]) -> None:
    facts = facts_of(kind)
    error = kind(**facts)
    assert "{" not in str(error) and "?" not in str(error)
    for name, value in facts.items():
        assert str(value) in str(error)
        assert getattr(error, name) == value


@EVERY_KIND
def test_an_error_crosses_the_wire_unchanged(kind: type[BroadcasterError]) -> None:
    sent = kind(**facts_of(kind), beside="a fact that the sentence does not name")
    code, message, facts = msgpack.unpackb(msgpack.packb([sent.code, str(sent), sent.facts]))
    received = from_wire(code, message, facts)
    assert (type(received), str(received), received.facts) == (kind, str(sent), sent.facts)


@EVERY_KIND
def test_an_error_can_be_copied(kind: type[BroadcasterError]) -> None:
    error = kind(**facts_of(kind))
    for copied in (copy.copy(error), copy.deepcopy(error)):
        assert (type(copied), str(copied), copied.facts) == (kind, str(error), error.facts)


def test_an_unknown_code_keeps_the_peers_sentence() -> None:
    error = from_wire("made-tomorrow", "policy: not today", {"model_id": "policy"})
    assert type(error) is errors.RequestError
    assert str(error) == "made-tomorrow: policy: not today"


# --- every place that makes an error -------------------------------------------------------------------------------


def local_names(tree: ast.Module, *, inside: bool) -> dict[str, str]:
    """Name in this file -> class of errors.py. `inside` is errors.py itself, which imports nothing."""
    names = {name: name for name in KINDS} if inside else {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[-1] in ("errors", "clients"):
            names |= {alias.asname or alias.name: alias.name for alias in node.names if alias.name in KINDS}
    return names


def class_named(node: ast.expr, names: dict[str, str]) -> str | None:
    match node:
        case ast.Name(id=name):
            return names.get(name)
        case ast.Attribute(value=ast.Name(id="errors"), attr=name) if name in KINDS:
            return name
    return None


def faults(file: str, source: str) -> Iterator[str]:
    """What is wrong with the errors made in this file, a sentence each."""
    tree = ast.parse(source, file)
    inside = file == "broadcaster/protocol/errors.py"
    names = local_names(tree, inside=inside)
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=func, args=args, keywords=keywords) if kind := class_named(func, names):
                given = {keyword.arg for keyword in keywords}
                missing = set(FIELD.findall(KINDS[kind].sentence)) - given
                if args:
                    yield f"{file}:{node.lineno}: {kind} takes its facts by name"
                elif missing and None not in given:  # **facts: known only when it runs
                    yield f"{file}:{node.lineno}: {kind} is made without {', '.join(sorted(missing))}"
            case ast.Raise(exc=ast.Name() | ast.Attribute() as raised) if kind := class_named(raised, names):
                if FIELD.search(KINDS[kind].sentence):
                    yield f"{file}:{node.lineno}: {kind} is raised without facts"
            case ast.ClassDef(bases=bases) if not inside and any(class_named(base, names) for base in bases):
                yield f"{file}:{node.lineno}: {node.name} belongs in errors.py, or no peer can raise it"


def test_every_error_is_made_with_the_facts_of_its_sentence() -> None:
    files = [*ROOT.glob("broadcaster/**/*.py"), *ROOT.glob("clients/**/*.py")]
    found = [fault for path in files for fault in faults(path.relative_to(ROOT).as_posix(), path.read_text())]
    assert found == []


IMPORT = "from broadcaster.protocol.errors import Busy, Closed as Shut, ForkError\nfrom broadcaster.protocol import errors\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("raise Busy(what='core')", "Busy is made without retry_after"),
        ("problem = Shut()", "Closed is made without what"),
        ("raise Shut", "Closed is raised without facts"),
        ("raise errors.Closed('the client')", "Closed takes its facts by name"),
        ("class Busier(Busy): pass", "Busier belongs in errors.py"),
    ],
)
def test_an_error_made_wrongly_is_found(line: str, said: str) -> None:
    found = list(faults("clients/planted.py", IMPORT + line))
    assert len(found) == 1 and said in found[0]


@pytest.mark.parametrize("line", ["Busy(what='core', retry_after=1, more=2)", "Shut(**facts)", "raise problem", "Refused()"])
def test_an_error_made_rightly_is_left_alone(line: str) -> None:
    assert list(faults("clients/planted.py", IMPORT + line)) == []
