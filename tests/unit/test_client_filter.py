"""The little language of searches: what it means, and that a mistake is told with its place and what was expected there."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadcaster.protocol.condition import OPS, Condition
from broadcaster.protocol.errors import InvalidRequest
from clients._filter import conditions_of


def meant(text: str) -> list[tuple[str, str, Any]]:
    return [(one.field, one.op, one.value) for one in conditions_of(text)]


@pytest.mark.parametrize(
    ("text", "conditions"),
    [
        ("", []),
        ("  \n ", []),
        (
            "metrics.return >= 200 and tags.stage = 'candidate'",
            [("metrics.return", ">=", 200), ("tags.stage", "=", "candidate")],
        ),
        ("number<5", [("number", "<", 5)]),
        ("number == 5 AND size != 0", [("number", "=", 5), ("size", "!=", 0)]),
        ("metrics.loss<=-1.5e-3", [("metrics.loss", "<=", -1.5e-3)]),
        ("metrics.loss < .5", [("metrics.loss", "<", 0.5)]),
        ("metrics.loss < inf", [("metrics.loss", "<", math.inf)]),
        ("metrics.loss > -inf", [("metrics.loss", ">", -math.inf)]),
        ("creation_timestamp > 1700000000123456789", [("creation_timestamp", ">", 1_700_000_000_123_456_789)]),
        ("archived = true and pinned != false", [("archived", "=", True), ("pinned", "!=", False)]),
        ("alias exists and tags.x missing", [("alias", "exists", True), ("tags.x", "exists", False)]),
        ("metrics.eval/return-mean.best = 1", [("metrics.eval/return-mean.best", "=", 1)]),
        ("metrics.'mean return' > 1", [("metrics.mean return", ">", 1)]),
        ('user_data."it\'s ""so""" = \'it\'\'s\'', [('user_data.it\'s "so"', "=", "it's")]),
        ("tags.and = 'and' and tags.exists exists", [("tags.and", "=", "and"), ("tags.exists", "exists", True)]),
        ("tags.é = 'ü'", [("tags.é", "=", "ü")]),
    ],
)
def test_a_filter_means_its_conditions(text: str, conditions: list[tuple[str, str, Any]]) -> None:
    found = meant(text)
    assert found == conditions and [type(one[2]) for one in found] == [type(one[2]) for one in conditions]


@pytest.mark.parametrize(
    ("text", "position", "expected", "found"),
    [
        ("metrics.return >> 200", 17, "a number, a 'text' in quotes, true or false", "'>'"),
        ("metrics.return", 15, "=, !=, >, >=, <, <=, exists or missing", "the end"),
        ("metrics.return >=", 18, "a number", "the end"),
        ("metrics.return >= high", 19, "a number", "'high'"),
        ("tags.stage = 'candidate", 14, "a number", '"\'candidate"'),
        ("number > 5 or number < 3", 12, "'and' or the end", "'or'"),
        ("number > 5 and", 15, "a field", "the end"),
        ("and number > 5", 5, "=, !=", "'number'"),
        ("5 < number", 1, "a field", "'5'"),
        ("metrics. = 5", 10, "a name, in quotes", "'='"),
        ("  ; drop", 3, "a field", "'; drop'"),
        ("number > 5x", 10, "a number", "'5x'"),
        ("number > 1.2.3", 10, "a number", "'1.2.3'"),
        ("number > 5)", 11, "'and' or the end", "')'"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_what_was_expected(text: str, position: int, expected: str, found: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        conditions_of(text)
    assert refused.value.facts["position"] == position and str(refused.value.facts["expected"]).startswith(expected)
    assert f"at position {position}, found {found}" in str(refused.value) and refused.value.facts["field"] == "where"


def test_conditions_may_be_given_as_they_are() -> None:
    one = Condition(field="metrics.odd 'name", op=">", value=1)
    assert conditions_of([one, ("tags.stage", "=", "x"), ("alias", "exists", None)])[0] is one
    assert conditions_of(None) == ()
    for wrong in (("number", "~", 1), ("number", "="), ("number", "=", []), (1, "=", 1), "ab"):
        with pytest.raises(InvalidRequest, match="where"):
            conditions_of([wrong])  # type: ignore[list-item]


names = st.from_regex(r"[a-z][a-z0-9_/-]{0,8}", fullmatch=True)
values = st.one_of(st.text(max_size=8), st.integers(-(10**18), 10**18), st.floats(allow_nan=False), st.booleans())


@given(st.lists(st.tuples(names, st.text(min_size=1, max_size=8), st.sampled_from(OPS[:-1]), values), max_size=4))
def test_whatever_is_written_in_the_language_is_read_back(given_: list[tuple[str, str, str, Any]]) -> None:
    def written(value: Any) -> str:
        if isinstance(value, bool):
            return str(value).lower()
        return "'" + value.replace("'", "''") + "'" if isinstance(value, str) else repr(value)

    text = " and ".join(f"{table}.{written(name)} {op} {written(value)}" for table, name, op, value in given_)
    assert meant(text) == [(f"{table}.{name}", op, value) for table, name, op, value in given_]


@given(st.text(alphabet="metrics.return >=<!'\"5e-and", max_size=40))
def test_no_text_makes_the_reader_fall_over(text: str) -> None:
    try:
        conditions_of(text)
    except InvalidRequest as refused:
        assert 1 <= int(str(refused.facts["position"])) <= len(text) + 1
