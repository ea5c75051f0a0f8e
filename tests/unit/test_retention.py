"""What a policy lets go, against the rules said one by one; and when ages are not believed."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadcaster.protocol.errors import InvalidRequest
from broadcaster.protocol.retention import RetentionPolicy
from broadcaster.protocol.version import VersionInfo
from broadcaster.retention import JUMP, ClockGuard, decide

SECOND = 1_000_000_000
NOW = 1_700_000_000 * SECOND


def info(number: int, *, age: float = 0.0, value: float | None = None, pinned: bool = False) -> VersionInfo:
    return VersionInfo(
        namespace="lab",
        model_id="policy",
        number=number,
        size=10 * number,
        digest="d",
        creation_timestamp=NOW - int(age * SECOND),
        archived=True,
        metrics={} if value is None else {"return": value},
        pinned=pinned,
    )


def going(infos: list[VersionInfo], policy: RetentionPolicy | None, aliases: dict[str, int] | None = None) -> list[int]:
    return [one.number for one in decide(infos, aliases or {}, policy, NOW).going]


# --- the rules, one by one -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", [None, RetentionPolicy()])
def test_without_a_rule_all_stay(policy: RetentionPolicy | None) -> None:
    assert going([info(number, age=1e9) for number in range(1, 20)], policy) == []


def test_the_last_ones_stay_by_count_whatever_numbers_are_missing() -> None:
    infos = [info(number) for number in (2, 3, 7, 20, 21, 40)]
    assert going(infos, RetentionPolicy(last=3)) == [2, 3, 7]


def test_every_so_manieth_number_stays() -> None:
    infos = [info(number) for number in range(1, 13)]
    assert going(infos, RetentionPolicy(every=5)) == [1, 2, 3, 4, 6, 7, 8, 9, 11]


@pytest.mark.parametrize(("mode", "gone"), [("max", [1, 2, 3, 4]), ("min", [1, 3, 4, 5])])
def test_the_best_stay_ties_go_to_the_newest_and_nan_never_wins(mode: str, gone: list[int]) -> None:
    infos = [info(1, value=1.0), info(2, value=1.0), info(3, value=math.nan), info(4), info(5, value=9.0), info(6, value=9.0)]
    extra = info(7)  # The newest stays for being that.
    count = 2 if mode == "max" else 1
    assert going([*infos, extra], RetentionPolicy(best="return", mode=mode, count=count)) == (
        gone if mode == "max" else [1, 3, 4, 5, 6]
    )


def test_the_young_stay() -> None:
    infos = [info(1, age=100), info(2, age=60), info(3, age=59.9), info(4, age=-5), info(5, age=1000)]
    assert going(infos, RetentionPolicy(age=60)) == [1, 2]


def test_the_newest_the_aliased_and_the_pinned_stay_whatever_the_rules_are() -> None:
    infos = [info(1, age=1e6), info(2, age=1e6, pinned=True), info(3, age=1e6), info(4, age=1e6)]
    decision = decide(infos, {"champion": 1, "elsewhere": 77}, RetentionPolicy(age=1), NOW)
    assert [one.number for one in decision.going] == [3]
    assert decision.staying == {1: "alias champion names it", 2: "it is pinned", 4: "it is the newest"}


# --- any rule keeps ------------------------------------------------------------------------------------------------

POLICIES = st.builds(
    RetentionPolicy,
    last=st.none() | st.integers(1, 8),
    every=st.none() | st.integers(1, 8),
    best=st.none() | st.just("return"),
    mode=st.sampled_from(["max", "min"]),
    count=st.integers(1, 4),
    age=st.none() | st.floats(0.1, 200),
)
VALUES = st.none() | st.sampled_from([math.nan, math.inf, -math.inf, 0.0, 1.0, 2.0])
INFOS = st.dictionaries(
    st.integers(1, 60), st.tuples(st.floats(-100, 300), VALUES, st.sampled_from([False, False, False, True])), max_size=20
).map(lambda found: [info(n, age=age, value=value, pinned=pinned) for n, (age, value, pinned) in sorted(found.items())])
ALIASES = st.dictionaries(st.sampled_from(["a", "b"]), st.integers(1, 60))


@given(INFOS, ALIASES, POLICIES)
def test_a_version_goes_exactly_when_no_rule_keeps_it(
    infos: list[VersionInfo], aliases: dict[str, int], policy: RetentionPolicy
) -> None:
    decision = decide(infos, aliases, policy, NOW)
    kept = set()
    for place, one in enumerate(infos):
        ranks = [(rank, other.number) for other in infos if (rank := _rank(other, policy.mode)) is not None]
        mine = _rank(one, policy.mode)
        better = 0 if mine is None else sum(rank > (mine, one.number) for rank in ranks)
        rules = [
            policy.is_empty,
            place == len(infos) - 1,
            one.number in aliases.values(),
            one.pinned,
            policy.last is not None and place >= len(infos) - policy.last,
            policy.every is not None and one.number % policy.every == 0,
            policy.best is not None and mine is not None and better < policy.count,
            policy.age is not None and (NOW - one.creation_timestamp) / SECOND < policy.age,
        ]
        if any(rules):
            kept.add(one.number)
    assert set(decision.staying) == kept
    assert [one.number for one in decision.going] == [one.number for one in infos if one.number not in kept]


def _rank(one: VersionInfo, mode: str) -> float | None:
    value = one.metrics.get("return", math.nan)
    return None if math.isnan(value) else value if mode == "max" else -value


@given(INFOS, ALIASES, POLICIES, st.data())
def test_a_decision_that_was_cut_short_anywhere_goes_on_to_the_same_end(
    infos: list[VersionInfo], aliases: dict[str, int], policy: RetentionPolicy, data: st.DataObject
) -> None:
    first = decide(infos, aliases, policy, NOW)
    gone = data.draw(st.sets(st.sampled_from([one.number for one in first.going]))) if first.going else set()
    again = decide([one for one in infos if one.number not in gone], aliases, policy, NOW)
    assert [one.number for one in again.going] == [one.number for one in first.going if one.number not in gone]
    assert decide([one for one in infos if one.number in first.staying], aliases, policy, NOW).going == ()


@given(INFOS, ALIASES, POLICIES, POLICIES)
def test_one_more_rule_never_lets_more_go(
    infos: list[VersionInfo], aliases: dict[str, int], policy: RetentionPolicy, other: RetentionPolicy
) -> None:
    if not policy.is_empty and policy.last is None:
        more = replace(policy, last=other.last)
        assert set(going(infos, more, aliases)) <= set(going(infos, policy, aliases))


# --- the value -----------------------------------------------------------------------------------------------------


@given(POLICIES)
def test_a_policy_is_read_as_it_was_written(policy: RetentionPolicy) -> None:
    read = RetentionPolicy.read(policy.write()).check()
    assert read.write() == policy.write() and read.is_empty == policy.is_empty
    assert RetentionPolicy.read(policy.write() | {"from a later version": 1}) == read


@pytest.mark.parametrize(
    "given_", [{"last": "3"}, {"last": True}, {"every": 1.5}, {"best": 3}, {"age": "1h"}, {"age": math.nan}, {"age": True}]
)
def test_a_value_of_the_wrong_type_is_named(given_: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(given_))):
        RetentionPolicy.read(given_)


@pytest.mark.parametrize(
    "policy",
    [
        RetentionPolicy(last=0),
        RetentionPolicy(every=-1),
        RetentionPolicy(best="", count=1),
        RetentionPolicy(best="x" * 2000),
        RetentionPolicy(best="loss", mode="lowest"),
        RetentionPolicy(best="loss", count=0),
        RetentionPolicy(age=0),
        RetentionPolicy(age=1e11),
        RetentionPolicy(age=math.inf),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused(policy: RetentionPolicy) -> None:
    with pytest.raises(InvalidRequest, match="retention"):
        policy.check()


# --- clocks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sign", [1, -1])
def test_ages_are_not_believed_while_the_wall_clock_has_jumped(sign: int) -> None:
    guard = ClockGuard(NOW, 50.0)
    assert guard.believes(NOW + 7200 * SECOND, 50.0 + 7200), "two hours have gone by"
    jumped = NOW + sign * (int(JUMP) + 1) * SECOND
    assert not guard.believes(jumped, 50.0) and not guard.believes(jumped + 9999 * SECOND, 50.0 + 9999)
    assert abs(guard.moved(jumped, 50.0)) == JUMP + 1
    assert guard.believes(NOW + 100 * SECOND, 150.0), "both clocks agree again"
    guard.trust(jumped, 50.0)
    assert guard.believes(jumped + 5 * SECOND, 55.0) and not guard.believes(NOW, 50.0)


def test_small_jumps_do_not_add_up_unseen() -> None:
    guard = ClockGuard(NOW, 0.0)
    moved = [guard.believes(NOW + step * 1000 * SECOND, 0.0) for step in range(10)]
    assert moved == [True] * 4 + [False] * 6
