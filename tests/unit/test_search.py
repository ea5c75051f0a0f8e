"""Which versions a search wants, in which order, and that pages have neither holes nor repetitions while versions come and go."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadcaster.protocol.condition import MAX_CONDITIONS, Condition
from broadcaster.protocol.errors import InvalidRequest
from broadcaster.protocol.version import VersionInfo
from broadcaster.search import Hits, Query


def version(number: int = 1, **facts: Any) -> VersionInfo:
    facts = {"model_id": "policy", "size": 10, "digest": "00", "creation_timestamp": number} | facts
    return VersionInfo(namespace="default", number=number, **facts)


def holds(info: VersionInfo, field: str, op: str, value: Any = None, aliases: tuple[str, ...] = ()) -> bool:
    return Query([Condition(field=field, op=op, value=value)], "number").wants(info, aliases)


FULL = version(
    7,
    archived=True,
    pinned=True,
    description="good",
    sha256="ab",
    metrics={"return": 200.0, "loss": math.nan, "odd.name": 1.0},
    tags={"stage": "candidate", "rank": "10"},
    user_data={"step": "1000", "note": "1e", "nan": "nan"},
)


@pytest.mark.parametrize(
    ("field", "op", "value"),
    [
        ("metrics.return", "=", 200),
        ("metrics.return", ">=", 200.0),
        ("metrics.return", "!=", 199),
        ("metrics.odd.name", "<=", 1),
        ("metrics.loss", "exists", None),
        ("metrics.gain", "exists", False),
        ("tags.stage", "=", "candidate"),
        ("tags.stage", ">", "c"),
        ("tags.rank", ">", 9),
        ("tags.rank", "<", "9"),
        ("user_data.step", ">=", 1000),
        ("user_data.step", "exists", True),
        ("number", "=", 7),
        ("size", "<", 10.5),
        ("creation_timestamp", ">", 6),
        ("archived", "=", True),
        ("pinned", "!=", False),
        ("model_id", "=", "policy"),
        ("description", "exists", None),
        ("sha256", "=", "ab"),
        ("alias", "=", "champion"),
        ("alias", "!=", "other"),
        ("alias", "exists", True),
    ],
)
def test_a_condition_that_holds(field: str, op: str, value: Any) -> None:
    assert holds(FULL, field, op, value, ("champion", "latest"))


@pytest.mark.parametrize(
    ("field", "op", "value"),
    [
        ("metrics.return", "<", 200),
        *(("metrics.loss", op, 1) for op in ("=", "!=", "<", ">", "<=", ">=")),
        *(("metrics.gain", op, 1) for op in ("=", "!=", "<", ">", "<=", ">=")),
        ("tags.gone", "!=", "x"),
        ("tags.stage", ">", 5),
        ("user_data.note", "!=", 5),
        ("user_data.nan", "!=", 5),
        ("metrics.loss", "exists", False),
        ("archived", "=", False),
        ("content_type", "exists", False),
        ("alias", "=", "other"),
        ("alias", "!=", "champion"),
        ("alias", "exists", False),
    ],
)
def test_a_condition_that_does_not_hold(field: str, op: str, value: Any) -> None:
    assert not holds(FULL, field, op, value, ("champion", "latest"))


def test_all_conditions_hold_together() -> None:
    conditions = [Condition(field="metrics.return", op=">", value=100), Condition(field="tags.stage", op="=", value="candidate")]
    assert Query(conditions, "number").wants(FULL)
    assert not Query([*conditions, Condition(field="number", op="<", value=7)], "number").wants(FULL)
    assert Query([], "number").wants(FULL)


@pytest.mark.parametrize(
    ("field", "op", "value", "words"),
    [
        ("metric.return", "=", 1, "is no field"),
        ("metrics", "=", 1, "is no field"),
        ("upload_id", "=", "x", "is no field"),
        ("__class__", "exists", None, "is no field"),
        ("number", "~", 1, "compares nothing"),
        ("number", "=", None, "needs a value"),
        ("metrics.a", "<", math.nan, "needs a value"),
        ("metrics.a", "=", "x", "with numbers only"),
        ("size", "=", True, "with numbers only"),
        ("archived", "=", 1, "true or false"),
        ("pinned", ">", True, "true or false"),
        ("tags.a", "=", True, "text"),
        ("alias", ">", "x", "alias is text"),
        ("alias", "=", 5, "alias is text"),
        ("number", "exists", 1, "exists is true or false"),
    ],
)
def test_a_condition_that_means_nothing_is_refused(field: str, op: str, value: Any, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as refused:
        Query([Condition(field=field, op=op, value=value)], "number")
    assert refused.value.facts["field"] == "where"


def test_too_many_conditions_and_orders_that_are_none_are_refused() -> None:
    one = Condition(field="number", op=">", value=0)
    Query([one] * MAX_CONDITIONS, "number")
    with pytest.raises(InvalidRequest, match="33 conditions are over the limit of 32"):
        Query([one] * (MAX_CONDITIONS + 1), "number")
    for order in ("", "-", "--number", "alias", "-alias", "nothing", "number,size"):
        with pytest.raises(InvalidRequest) as refused:
            Query([], order)
        assert refused.value.facts["field"] == "order"


# --- order ---------------------------------------------------------------------------------------------------------


def in_order(order: str, versions: list[VersionInfo]) -> list[int]:
    query = Query([], order)
    hits = Hits(query, len(versions) + 1, None)
    for info in random.Random(5).sample(versions, len(versions)):
        hits.offer(info)
    return [info.number for info in hits.first()]


def test_what_is_missing_and_nan_come_last_both_ways_and_the_newest_of_equals_first() -> None:
    values = [1.0, math.nan, 3.0, None, 3.0, -math.inf, math.inf, 1.0, math.nan]
    versions = [version(at, metrics={} if value is None else {"m": value}) for at, value in enumerate(values, 1)]
    assert in_order("-metrics.m", versions) == [7, 5, 3, 8, 1, 6, 9, 4, 2]
    assert in_order("metrics.m", versions) == [6, 8, 1, 5, 3, 7, 9, 4, 2]


def test_text_that_is_a_number_is_ordered_as_one_and_before_other_text() -> None:
    texts = ["9", "1000", "b", "a", "-5", None, "1e1"]
    versions = [version(at, user_data={} if text is None else {"step": text}) for at, text in enumerate(texts, 1)]
    assert in_order("user_data.step", versions) == [5, 1, 7, 2, 4, 3, 6]
    assert in_order("-user_data.step", versions) == [3, 4, 2, 7, 1, 5, 6]


def test_versions_of_several_models_have_one_order() -> None:
    versions = [version(1, model_id="b"), version(1, model_id="a"), version(2, model_id="b")]
    query = Query([], "size")
    assert [(one.number, one.model_id) for one in sorted(versions, key=query.place)] == [(2, "b"), (1, "a"), (1, "b")]


METRIC = st.one_of(st.none(), st.sampled_from([0.0, 1.0, 2.0, math.nan, math.inf]), st.floats())
WORDS = st.one_of(st.none(), st.text(max_size=3), st.integers(-50, 50).map(str))


@given(
    st.lists(st.tuples(METRIC, WORDS), min_size=1, max_size=40),
    st.sampled_from(["number", "metrics.m", "user_data.w", "archived", "creation_timestamp", "size"]),
    st.booleans(),
    st.integers(1, 7),
    st.randoms(use_true_random=False),
)
def test_pages_have_no_holes_and_no_repetitions_while_versions_come_and_go(
    values: list[tuple[float | None, str | None]], field: str, down: bool, limit: int, chance: random.Random
) -> None:
    there = {
        number: version(
            number,
            metrics={} if metric is None else {"m": metric},
            user_data={} if word is None else {"w": word},
            archived=number % 2 == 0,
        )
        for number, (metric, word) in enumerate(values, 1)
    }
    stayed, query = set(there), Query([], f"-{field}" if down else field)
    seen: list[VersionInfo] = []
    cursor: str | None = None
    while True:
        hits = Hits(query, limit + 1, None if cursor is None else query.after(cursor))
        for info in there.values():
            hits.offer(info)
        page = hits.first()
        seen += page[:limit]
        assert len({info.number for info in seen}) == len(seen), "a version came twice"
        if len(page) <= limit:
            break
        cursor = query.cursor(page[limit - 1])
        if len(there) > 1:
            gone = chance.choice(sorted(there))
            del there[gone]
            stayed.discard(gone)
        if len(there) < 60:
            new = max(*there, max(stayed, default=0), 100) + 1
            there[new] = version(new, metrics={"m": chance.random()}, user_data={"w": chance.choice("abc")})
    numbers = [info.number for info in seen]
    assert stayed <= set(numbers)
    assert [query.place(info) for info in seen] == sorted(query.place(info) for info in seen)


@pytest.mark.parametrize("cursor", ["", "x", "AAAA", "ä", "=" * 5000, "kQ==", "lKZudW1iZXI="])
def test_a_cursor_that_no_page_ended_with_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Query([], "number").after(cursor)
    assert refused.value.facts["field"] == "after"


@given(st.text(max_size=60))
def test_no_cursor_makes_a_search_fall_over(cursor: str) -> None:
    try:
        Query([], "-metrics.m").after(cursor)
    except InvalidRequest:
        pass


def test_a_cursor_of_another_order_is_refused() -> None:
    cursor = Query([], "number").cursor(FULL)
    assert Query([], "number").after(cursor) == Query([], "number").place(FULL)
    with pytest.raises(InvalidRequest):
        Query([], "-number").after(cursor)


def test_a_cursor_stays_short_whatever_the_text() -> None:
    long = replace(FULL, description="✓" * 4000)
    query = Query([], "-description")
    assert len(query.cursor(long)) < 2_000 and query.after(query.cursor(long)) == query.place(long)
