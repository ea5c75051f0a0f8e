"""docs/promises.md: every promise names tests, and they are there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
_PAGE = (TESTS.parent / "docs" / "promises.md").read_text()
_PROMISED, _TESTED = _PAGE.split("\n## What is promised\n")[1].split("\n## Tested\n")


def rows(section: str) -> dict[int, str]:
    """The rows of a table by their number, each once."""
    found = re.findall(r"^\| (\d+) \| (.*) \|$", section, re.MULTILINE)
    assert len({number for number, _ in found}) == len(found), "a number stands twice"
    return {int(number): text for number, text in found}


def test_every_promise_names_its_mechanism_and_tests_that_are_there() -> None:
    promised, tested = rows(_PROMISED), rows(_TESTED)
    assert promised.keys() == tested.keys() == set(range(1, len(promised) + 1))
    assert all(len(text.split(" | ")) == 2 for text in promised.values())
    for number, text in tested.items():
        named = re.findall(r"`([\w/]+\.py)::(\w+)`", text)
        assert named, f"promise {number} names no test"
        for file, name in named:
            tree = ast.parse((TESTS / file).read_text())
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, (number, file, name)


def test_what_is_not_promised_stands_first() -> None:
    assert _PAGE.index("## What is not promised") < _PAGE.index("## What is promised")
