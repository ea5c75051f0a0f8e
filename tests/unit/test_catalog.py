"""The catalog against a naive model of it: whatever happens, the same versions are there, and the sums are right."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from broadcaster.catalog import Catalog, Kept, Retention
from broadcaster.protocol.errors import (
    AlreadyExists,
    BroadcasterError,
    BudgetExceeded,
    Conflict,
    PinsExceeded,
    Refused,
    UnknownModel,
    UnknownVersion,
    VersionDeleted,
    VersionEvicted,
)
from broadcaster.protocol.frames import encoded_size
from broadcaster.protocol.limits import ALIASES, ANNOTATIONS, CONTROL, INLINE
from broadcaster.protocol.messages import write_value
from broadcaster.protocol.version import VersionInfo

KEY, OTHER = ("lab", "policy"), ("lab", "value")
KEYS = [KEY, OTHER, ("zoo", "policy")]
SMALL, LARGE = INLINE, INLINE + 1


def info(number: int, *, key: tuple[str, str] = KEY, size: int = SMALL, **more: object) -> VersionInfo:
    return VersionInfo(
        namespace=key[0],
        model_id=key[1],
        number=number,
        size=size,
        digest="d",
        creation_timestamp=number,
        **more,  # type: ignore[arg-type]
    )


def catalog(**retention: float) -> Catalog:
    """A catalog with one empty model."""
    made = Catalog(Retention(**retention))  # type: ignore[arg-type]
    made.create(KEY, 1)
    return made


def add(made: Catalog, number: int, *, charge: int = 10, now: float = 0.0, **more: object) -> list[int]:
    """Publishes a version; the numbers that left memory for it."""
    _, over = made.add(info(number, **more), bytes([number % 256]) * 16, charge, now)  # type: ignore[arg-type]
    return [kept.info.number for kept in over]


def numbers(made: Catalog) -> list[int]:
    return [version.number for version in made.versions(KEY, 0)]


# --- models --------------------------------------------------------------------------------------------------------


def test_a_model_is_made_once() -> None:
    made = Catalog(Retention())
    model = made.create(KEY, 5, user_data={"a": "b"}, tags={"c": "d"})
    assert (model.namespace, model.model_id, model.creation_timestamp) == ("lab", "policy", 5)
    assert (model.user_data, model.tags, model.newest, model.versions) == ({"a": "b"}, {"c": "d"}, None, 0)
    assert made.has(KEY) and not made.has(OTHER) and made.model_count == 1
    with pytest.raises(AlreadyExists):
        made.create(KEY, 6)


def test_what_is_updated_is_replaced_and_the_rest_stays() -> None:
    made = Catalog(Retention())
    made.create(KEY, 5, user_data={"a": "b"}, tags={"c": "d"})
    assert made.update(KEY, user_data={"x": "y"}).tags == {"c": "d"}
    assert made.update(KEY, tags={}).user_data == {"x": "y"} and made.model(KEY).tags == {}


def test_models_are_listed_by_name_inside_their_namespace() -> None:
    made = Catalog(Retention())
    for key in (("lab", "b"), ("zoo", "z"), ("lab", "a"), ("lab", "c")):
        made.create(key, 1)
    assert [model.model_id for model in made.models("lab", None)] == ["a", "b", "c"]
    assert [model.model_id for model in made.models("lab", "a")] == ["b", "c"]
    assert [model.model_id for model in made.models("lab", "bb")] == ["c"]
    assert list(made.models("lab", "c")) == [] == list(made.models("nowhere", None))


@pytest.mark.parametrize(
    "ask", ["model", "update", "delete", "find", "versions", "numbers", "alias", "deletable", "load_aliases"]
)
def test_an_unknown_model_is_named(ask: str) -> None:
    made = Catalog(Retention())
    questions = {
        "model": lambda: made.model(KEY),
        "update": lambda: made.update(KEY),
        "delete": lambda: made.delete(KEY, 9),
        "find": lambda: made.find(KEY, -1),
        "versions": lambda: made.versions(KEY, 0),
        "numbers": lambda: made.numbers(KEY),
        "alias": lambda: made.set_alias(KEY, "champion", 1, None),
        "deletable": lambda: made.require_deletable(KEY, force=True),
        "load_aliases": lambda: made.load_aliases(KEY, {}),
    }
    with pytest.raises(UnknownModel, match="no model policy in namespace lab"):
        questions[ask]()
    assert made.newest(KEY) is None


# --- finding -------------------------------------------------------------------------------------------------------


def test_versions_are_found_by_number_from_the_end_and_by_alias() -> None:
    made = catalog(keep=3)
    for number in (2, 3, 5, 8):
        add(made, number)
    made.set_alias(KEY, "champion", 5, None)
    found = {ref: made.find(KEY, ref).info.number for ref in (3, 8, -1, -2, -3, "champion")}
    assert found == {3: 3, 8: 8, -1: 8, -2: 5, -3: 3, "champion": 5}
    assert numbers(made) == [3, 5, 8] and [v.number for v in made.versions(KEY, 3)] == [5, 8]
    assert made.model(KEY).newest == 8 and made.model(KEY).versions == 3


@pytest.mark.parametrize(
    ("ref", "error"), [(2, VersionEvicted), (9, UnknownVersion), (0, UnknownVersion), (-4, UnknownVersion), ("x", UnknownVersion)]
)
def test_what_is_not_there_is_told_apart_from_what_left(ref: int | str, error: type[BroadcasterError]) -> None:
    made = catalog(keep=3)
    for number in (2, 3, 5, 8):
        add(made, number)
    with pytest.raises(UnknownVersion) as refused:
        made.find(KEY, ref)
    assert type(refused.value) is error


def test_a_deleted_version_was_not_evicted() -> None:
    made = catalog()
    for number in (1, 2):
        add(made, number)
    kept = made.find(KEY, 1)
    made.delete_version(KEY, kept)
    assert not made.holds(kept) and made.holds(made.find(KEY, 2))
    with pytest.raises(UnknownVersion) as refused:
        made.find(KEY, 1)
    assert type(refused.value) is VersionDeleted


# --- aliases -------------------------------------------------------------------------------------------------------


def test_aliases_move_by_compare_and_set() -> None:
    made = catalog()
    for number in (1, 2):
        add(made, number)
    assert made.set_alias(KEY, "champion", 1, 0) == {"champion": 1}
    assert made.set_alias(KEY, "champion", 2, 1) == {"champion": 2}
    for expect in (0, 1):
        with pytest.raises(Conflict) as refused:
            made.set_alias(KEY, "champion", 1, expect)
        assert refused.value.facts["found"] == 2
    with pytest.raises(UnknownVersion):
        made.set_alias(KEY, "champion", 9, None)
    assert made.model(KEY).aliases == {"champion": 2}
    assert made.set_alias(KEY, "champion", None, 2) == {} == made.set_alias(KEY, "champion", None, None)


def test_what_an_alias_holds_is_deleted_only_by_force() -> None:
    made = catalog()
    for number in (1, 2):
        add(made, number)
    made.set_alias(KEY, "champion", 1, None)
    with pytest.raises(Refused, match="alias champion names version 1"):
        made.require_version_deletable(KEY, 1, force=False)
    with pytest.raises(Refused, match="alias champion points into it"):
        made.require_deletable(KEY, force=False)
    made.require_version_deletable(KEY, 2, force=False)
    made.require_deletable(KEY, force=True)
    made.delete_version(KEY, made.require_version_deletable(KEY, 1, force=True))
    assert made.model(KEY).aliases == {}
    made.require_deletable(KEY, force=False)


@pytest.mark.parametrize("first", ["aliases", "deletions"])
def test_aliases_of_deleted_versions_are_not_loaded(first: str) -> None:
    made = catalog()
    made.load(info(3, archived=True), bytes(16))
    if first == "deletions":
        made.load_deleted(KEY, ((2, 2),), 0)
    made.load_aliases(KEY, {"champion": 3, "old": 2})
    if first == "aliases":
        made.load_deleted(KEY, ((2, 2),), 0)
    assert made.model(KEY).aliases == {"champion": 3}


def test_an_alias_waits_for_the_transient_version_of_an_earlier_life() -> None:
    made = catalog()
    made.load_aliases(KEY, {"champion": 3})
    with pytest.raises(VersionEvicted):
        made.find(KEY, "champion")
    with pytest.raises(Conflict):
        made.set_alias(KEY, "champion", None, 0)
    add(made, 3)
    assert made.find(KEY, "champion").info.number == 3


def test_a_model_has_no_more_aliases_than_can_be_told_of() -> None:
    made = catalog()
    add(made, 1)
    for at in range(ALIASES):
        made.set_alias(KEY, f"{at:0128}", 1, 0)
    with pytest.raises(Refused, match=f"{ALIASES} aliases"):
        made.set_alias(KEY, "another", 1, None)
    made.set_alias(KEY, f"{0:0128}", 1, None)
    made.set_alias(KEY, f"{0:0128}", None, None)
    made.set_alias(KEY, "another", 1, None)
    made.update(KEY, user_data={"all": "x" * (ANNOTATIONS - 20)})
    assert encoded_size(write_value(made.model(KEY))) < CONTROL * 7 // 8


# --- leaving memory ------------------------------------------------------------------------------------------------


def test_a_model_keeps_its_newest_versions() -> None:
    made = catalog(keep=3)
    assert [add(made, number) for number in range(1, 6)] == [[], [], [], [1], [2]]


def test_large_versions_have_a_limit_of_their_own() -> None:
    made = catalog(keep=10, keep_large=2)
    sizes = [LARGE, SMALL, LARGE, LARGE, SMALL, LARGE]
    assert [add(made, at, size=size) for at, size in enumerate(sizes, 1)] == [[], [], [], [1], [], [3]]
    assert numbers(made) == [2, 4, 5, 6]


@pytest.mark.parametrize("keep", [0, 1])
def test_the_newest_version_never_leaves(keep: int) -> None:
    made = catalog(keep=keep, keep_large=keep, expiry=0.0)
    assert [add(made, at, size=LARGE, now=float(at)) for at in (1, 2, 3)] == [[], [1], [2]]
    assert made.expired(1e9) == [] and numbers(made) == [3]


def test_what_is_archived_leaves_memory_and_can_still_be_fetched() -> None:
    made = catalog(keep=1)
    kept, _ = made.add(info(1), bytes(16), 10, 0.0)
    assert made.replace(kept, archived=True, sha256="s") is kept
    assert add(made, 2) == [1]
    assert made.find(KEY, 1) is kept and not kept.resident and kept.info.sha256 == "s"
    assert add(made, 3) == [2] and numbers(made) == [1, 3]


def test_pinned_versions_stay_and_the_next_oldest_leaves() -> None:
    made = catalog(keep=2)
    for number in (1, 2):
        add(made, number)
    pinned = made.find(KEY, 1)
    made.pin(pinned)
    made.pin(pinned)
    assert add(made, 3) == [2] and made.pinned_bytes == 10
    made.unpin(pinned)
    assert made.pinned_bytes == 10
    made.unpin(pinned)
    assert made.pinned_bytes == 0 and add(made, 4) == [1]


def test_versions_expire_and_a_pinned_one_keeps_none_of_the_others() -> None:
    made = catalog(expiry=10.0)
    for number in (1, 2, 3, 4):
        add(made, number, now=float(number))
    made.pin(made.find(KEY, 1))
    assert made.expired(11.9) == []
    assert [kept.info.number for kept in made.expired(13.0)] == [2, 3]
    made.unpin(made.find(KEY, 1))
    assert [kept.info.number for kept in made.expired(13.0)] == [1]
    assert numbers(made) == [4]


def test_a_publication_lets_the_expired_versions_of_all_models_go() -> None:
    made = catalog(expiry=10.0)
    made.create(OTHER, 1)
    for number in (1, 2):
        add(made, number, now=0.0)
    assert add(made, 1, key=OTHER, now=5.0) == []
    assert add(made, 2, key=OTHER, now=12.0) == [1]


def test_room_is_made_oldest_first_over_all_models() -> None:
    made = catalog(budget=100)
    made.create(OTHER, 1)
    for at, (key, number) in enumerate([(KEY, 1), (OTHER, 1), (KEY, 2), (OTHER, 2), (KEY, 3)]):
        add(made, number, key=key, charge=20, now=float(at))
    assert made.reserve("policy", 0, 0) == []
    assert [(kept.info.model_id, kept.info.number) for kept in made.reserve("policy", 30, 0)] == [("policy", 1), ("value", 1)]
    assert (made.resident_bytes, made.newest_bytes) == (60, 40)


def test_a_payload_that_cannot_fit_evicts_nothing_and_names_the_sum() -> None:
    made = catalog(budget=100)
    for number in (1, 2, 3):
        add(made, number, charge=20)
    made.pin(made.find(KEY, 1))
    with pytest.raises(BudgetExceeded) as refused:
        made.reserve("policy", 31, 30)
    facts = {"model_id": "policy", "size": 31, "in_flight": 30, "newest": 20, "pinned": 20, "budget": 100}
    assert refused.value.facts == facts
    assert numbers(made) == [1, 2, 3]
    assert [kept.info.number for kept in made.reserve("policy", 30, 30)] == [2]
    assert numbers(made) == [1, 3]


def test_when_the_newest_is_deleted_the_one_before_it_stays() -> None:
    made = catalog(keep=2, budget=100)
    for number in (1, 2):
        add(made, number, charge=20)
    made.pin(made.find(KEY, 1))
    assert made.pinned_bytes == 20
    made.delete_version(KEY, made.find(KEY, 2))
    assert (made.newest_bytes, made.pinned_bytes, made.resident_bytes) == (20, 0, 20)
    made.unpin(made.find(KEY, 1))
    assert made.reserve("policy", 80, 0) == [] and made.expired(1e9) == []
    assert add(made, 3, charge=20) == []
    assert [kept.info.number for kept in made.reserve("policy", 80, 0)] == [1]


def test_a_deleted_model_takes_its_versions_and_comes_back_empty() -> None:
    made = catalog()
    for number in (1, 2):
        add(made, number)
    made.set_alias(KEY, "champion", 1, None)
    assert [kept.info.number for kept in made.delete(KEY, 2)] == [1, 2]
    assert not made.has(KEY) and list(made.models("lab", None)) == []
    assert (made.resident_bytes, made.newest_bytes, made.version_count, made.model_count) == (0, 0, 0, 0)
    made.create(KEY, 2)
    assert add(made, 3) == [] and numbers(made) == [3]


def test_versions_that_came_after_the_deletion_was_asked_for_stay() -> None:
    made = catalog()
    made.update(KEY, user_data={"a": "b"})
    for number in (1, 2, 3):
        add(made, number)
    made.set_alias(KEY, "champion", 1, None)
    assert [kept.info.number for kept in made.delete(KEY, 2)] == [1, 2]
    model = made.model(KEY)
    assert (model.user_data, model.aliases, model.newest, model.versions) == ({}, {}, 3, 1)
    with pytest.raises(UnknownVersion) as refused:
        made.find(KEY, 1)
    assert type(refused.value) is VersionDeleted


# --- deleted, and pinned by users ----------------------------------------------------------------------------------


def told(made: Catalog, number: int) -> type[BroadcasterError]:
    with pytest.raises(UnknownVersion) as refused:
        made.find(KEY, number)
    return type(refused.value)


def test_deleted_evicted_and_never_there_are_three_things() -> None:
    made = catalog(keep=2)
    for number in range(1, 6):
        add(made, number)
    made.delete_version(KEY, made.find(KEY, 4))
    assert [told(made, number) for number in (3, 4, 6)] == [VersionEvicted, VersionDeleted, UnknownVersion]


def test_a_model_that_is_made_again_knows_which_numbers_went_with_the_old_one() -> None:
    made = catalog(keep=2)
    for number in range(1, 6):
        add(made, number)
    made.delete(KEY, 7)
    made.create(KEY, 2)
    assert {told(made, number) for number in range(1, 8)} == {VersionDeleted} and told(made, 8) is UnknownVersion
    add(made, 8)
    assert numbers(made) == [8] and told(made, 9) is UnknownVersion


def test_what_a_start_knows_of_deletions_is_told() -> None:
    made = catalog()
    made.load(info(9, archived=True, pinned=True), bytes(16))
    made.load_deleted(KEY, ((5, 6), (11, 12)), 3)
    assert [told(made, number) for number in (3, 4, 6, 8, 12, 13)] == [
        VersionDeleted,
        VersionEvicted,
        VersionDeleted,
        VersionEvicted,
        VersionDeleted,
        UnknownVersion,
    ]
    made.load_deleted(OTHER, (), 4)
    made.create(OTHER, 1)
    with pytest.raises(VersionDeleted):
        made.find(OTHER, 4)
    with pytest.raises(Refused, match="version 9 is pinned"):
        made.require_version_deletable(KEY, 9, force=False)
    assert made.require_version_deletable(KEY, 9, force=True) is made.find(KEY, 9)
    made.load_deleted(KEY, (), 0)


def test_what_is_remembered_of_deletions_does_not_grow_with_them() -> None:
    made = catalog(keep=1)
    for number in range(1, 9001):
        add(made, number)
        if number % 3 == 0:
            made.delete_version(KEY, made.find(KEY, number))
    line = made._line(KEY)
    assert len(line.deleted) <= 1001 and told(made, 9000) is VersionDeleted


def test_a_pinned_transient_version_stays_in_memory_and_leaves_when_it_is_let_go() -> None:
    made = catalog(keep=2, keep_large=1, expiry=10, budget=100)
    add(made, 1, size=LARGE)
    made.set_pinned(made.find(KEY, 1), pinned=True)
    for number in range(2, 9):
        add(made, number, size=LARGE, now=100.0 * number)
    assert numbers(made) == [1, 8] and made.pinned_bytes == made.held_bytes == 10
    assert made.expired(1e6) == [] and made.reserve("policy", 80, 0) == []
    with pytest.raises(BudgetExceeded):
        made.reserve("policy", 81, 0)
    made.set_pinned(made.find(KEY, 1), pinned=False)
    assert made.held_bytes == made.held_count == made.pinned_bytes == 0
    assert [kept.info.number for kept in made.expired(1e6)] == [1]


def test_pins_of_transient_versions_have_a_limit_and_those_of_archived_ones_none(monkeypatch: pytest.MonkeyPatch) -> None:
    made = catalog(budget=100)
    for number in range(1, 8):
        add(made, number)
    for number in range(1, 6):
        made.set_pinned(made.find(KEY, number), pinned=True)
    with pytest.raises(PinsExceeded) as refused:
        made.set_pinned(made.find(KEY, 6), pinned=True)
    assert (refused.value.size, refused.value.pinned, refused.value.count, refused.value.budget) == (10, 50, 5, 50)
    made.replace(made.find(KEY, 6), archived=True)
    assert made.set_pinned(made.find(KEY, 6), pinned=True).pinned
    made.replace(made.find(KEY, 1), archived=True)
    assert made.find(KEY, 1).info.pinned and made.held_bytes == 40, "the disk holds it now"
    monkeypatch.setattr("broadcaster.catalog.catalog.PINS", 4)
    with pytest.raises(PinsExceeded):
        made.set_pinned(made.find(KEY, 7), pinned=True)


def test_what_is_being_deleted_gets_no_name_any_more() -> None:
    made = catalog()
    add(made, 1)
    made.find(KEY, 1).leaving = True
    with pytest.raises(VersionDeleted):
        made.set_alias(KEY, "champion", 1, None)
    with pytest.raises(VersionDeleted):
        made.find_staying(KEY, 1)


def test_what_got_a_hold_since_a_policy_was_asked_is_not_pruned() -> None:
    made = catalog()
    for number in range(1, 8):
        made.load(info(number, archived=True), bytes(16))
    made.set_alias(KEY, "champion", 1, None)
    made.set_pinned(made.find(KEY, 2), pinned=True)
    made.find(KEY, 3).leaving = True
    made.delete_version(KEY, made.find(KEY, 4))
    add(made, 8)
    assert [one.number for one in made.archived(KEY)] == [1, 2, 5, 6, 7]
    assert [kept.info.number for kept in made.prunable(KEY, range(1, 9))] == [5, 6]
    assert made.prunable(OTHER, [1]) == []
    made.update(KEY, retention={"last": 1})
    assert made.retained() == [KEY] and made.has_retention(KEY) and not made.has_retention(OTHER)


# --- everything at once --------------------------------------------------------------------------------------------


@dataclass
class Known:
    """What the naive model knows of one version."""

    kept: Kept
    size: int
    charge: int
    at: float
    place: int
    archived: bool = False
    resident: bool = True
    pins: int = 0
    loss: float = math.nan
    pinned: bool = False
    """By a user."""

    @property
    def held(self) -> bool:
        return self.pinned and self.resident and not self.archived

    @property
    def stays(self) -> bool:
        return self.pins > 0 or self.held


class CatalogMachine(RuleBasedStateMachine):
    """The same steps for the catalog and for a model of it that looks at every version every time."""

    @initialize(
        budget=st.integers(100, 400),
        keep=st.integers(0, 5),
        keep_large=st.integers(0, 3),
        expiry=st.sampled_from([5.0, 50.0, 1e9]),
    )
    def begin(self, budget: int, keep: int, keep_large: int, expiry: float) -> None:
        self.retention = Retention(budget, keep, keep_large, expiry)
        self.catalog = Catalog(self.retention)
        self.models: dict[tuple[str, str], dict[int, Known]] = {}
        self.last: dict[tuple[str, str], int] = {}
        self.aliases: dict[tuple[str, str], dict[str, int]] = {}
        self.now, self.places = 100.0, 0
        self.ghosts: list[Known] = []
        """Pinned versions that were deleted: their archive jobs are still under way."""

    # the naive model

    def newest(self, key: tuple[str, str]) -> int:
        return max(self.models[key], default=0)

    def superseded(self) -> list[tuple[tuple[str, str], int, Known]]:
        """Resident versions that are not their model's newest, oldest first."""
        found = [
            (key, number, one)
            for key, versions in self.models.items()
            for number, one in versions.items()
            if one.resident and number != self.newest(key)
        ]
        return sorted(found, key=lambda entry: entry[2].place)

    def leave(self, key: tuple[str, str], number: int) -> None:
        one = self.models[key][number]
        one.resident = False
        if not one.archived:
            del self.models[key][number]

    def expire(self) -> set[tuple[tuple[str, str], int]]:
        due = [(k, n) for k, n, one in self.superseded() if not one.stays and self.now - one.at >= self.retention.expiry]
        for entry in due:
            self.leave(*entry)
        return set(due)

    def trim(self, key: tuple[str, str]) -> set[tuple[tuple[str, str], int]]:
        """Beyond the counts of one model: the oldest that may go."""
        gone = set()
        for keep, large in ((self.retention.keep, False), (self.retention.keep_large, True)):
            here = [(n, one) for n, one in self.models[key].items() if one.resident and not one.held]
            held = sorted(n for n, one in here if one.size > INLINE or not large)
            excess = len(held) - keep
            for number in [n for n in held if not self.models[key][n].stays and n != self.newest(key)][: max(0, excess)]:
                self.leave(key, number)
                gone.add((key, number))
        return gone

    # steps

    @rule(key=st.sampled_from(KEYS))
    def create(self, key: tuple[str, str]) -> None:
        if key in self.models:
            with pytest.raises(AlreadyExists):
                self.catalog.create(key, 1)
        else:
            self.catalog.create(key, 1)
            self.models[key], self.aliases[key] = {}, {}

    @precondition(lambda self: self.models)
    @rule(data=st.data(), size=st.sampled_from([1, SMALL, LARGE]), charge=st.integers(1, 90), skip=st.integers(1, 3))
    def publish(self, data: st.DataObject, size: int, charge: int, skip: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.models)))
        loss = data.draw(st.sampled_from([math.nan, 0.0, 1.0, -1.0, math.inf]))
        resident = sum(one.charge for _, _, one in self.superseded()) + self.newest_bytes()
        fixed = self.newest_bytes() + self.pinned_bytes()
        if fixed + charge > self.retention.budget:
            with pytest.raises(BudgetExceeded):
                self.catalog.reserve(key[1], charge, 0)
            return
        expected = []
        for entry in [(k, n) for k, n, one in self.superseded() if not one.stays]:
            if resident + charge <= self.retention.budget:
                break
            resident -= self.models[entry[0]][entry[1]].charge
            self.leave(*entry)
            expected.append(entry)
        assert [place(kept) for kept in self.catalog.reserve(key[1], charge, 0)] == expected
        number = self.last[key] = self.last.get(key, 0) + skip
        self.places += 1
        metrics = {} if math.isnan(loss) else {"loss": loss}
        kept, over = self.catalog.add(info(number, key=key, size=size, metrics=metrics), bytes(16), charge, self.now)
        self.models[key][number] = Known(kept, size, charge, self.now, self.places, loss=loss)
        assert {place(one) for one in over} == self.trim(key) | self.expire()
        assert self.catalog.resident_bytes <= self.retention.budget

    @rule(seconds=st.sampled_from([0.0, 1.0, 7.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        assert {place(kept) for kept in self.catalog.expired(self.now)} == self.expire()

    @precondition(lambda self: any(self.models.values()))
    @rule(data=st.data())
    def pin(self, data: st.DataObject) -> None:
        one = self.one(data)
        if one.resident:
            one.pins += 1
            self.catalog.pin(one.kept)

    @precondition(lambda self: any(self.models.values()))
    @rule(data=st.data(), pinned=st.booleans())
    def pin_for_a_user(self, data: st.DataObject, pinned: bool) -> None:
        one = self.one(data)
        if pinned and not one.pinned and not one.archived and self.held_bytes() + one.charge > self.retention.budget // 2:
            with pytest.raises(PinsExceeded):
                self.catalog.set_pinned(one.kept, pinned=True)
            return
        one.pinned = pinned
        assert self.catalog.set_pinned(one.kept, pinned=pinned).pinned == pinned

    @precondition(lambda self: any(self.models.values()))
    @rule(data=st.data())
    def archive(self, data: st.DataObject) -> None:
        one = self.one(data)
        self.catalog.replace(one.kept, archived=True)
        one.archived = True

    @rule(data=st.data(), archived=st.booleans())
    def unpin(self, data: st.DataObject, archived: bool) -> None:
        """An archive job ends, well or not."""
        pinned = [one for versions in self.models.values() for one in versions.values() if one.pins] + self.ghosts
        if pinned:
            one = data.draw(st.sampled_from(pinned))
            one.pins -= 1
            self.catalog.unpin(one.kept)
            if one in self.ghosts and not one.pins:
                self.ghosts.remove(one)
            elif archived and one not in self.ghosts:
                self.catalog.replace(one.kept, archived=True)
                one.archived = True

    @precondition(lambda self: any(self.models.values()))
    @rule(data=st.data())
    def delete_version(self, data: st.DataObject) -> None:
        key = data.draw(st.sampled_from([key for key, versions in sorted(self.models.items()) if versions]))
        number = data.draw(st.sampled_from(sorted(self.models[key])))
        self.catalog.delete_version(key, self.catalog.require_version_deletable(key, number, force=True))
        self.gone(self.models[key].pop(number))
        self.aliases[key] = {alias: at for alias, at in self.aliases[key].items() if at != number}

    @precondition(lambda self: self.models)
    @rule(data=st.data(), behind=st.sampled_from([0, 0, 1]))
    def delete(self, data: st.DataObject, behind: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.models)))
        upto = self.newest(key) - behind
        gone = [number for number in sorted(self.models[key]) if number <= upto]
        assert [kept.info.number for kept in self.catalog.delete(key, upto)] == gone
        for number in gone:
            self.gone(self.models[key].pop(number))
        self.aliases[key] = {}
        if not self.models[key]:
            del self.models[key]

    @precondition(lambda self: any(self.models.values()))
    @rule(data=st.data(), alias=st.sampled_from("xy"), remove=st.booleans())
    def alias(self, data: st.DataObject, alias: str, remove: bool) -> None:
        key = data.draw(st.sampled_from([key for key, versions in sorted(self.models.items()) if versions]))
        if remove:
            self.aliases[key].pop(alias, None)
            assert self.catalog.set_alias(key, alias, None, None) == self.aliases[key]
        else:
            number = data.draw(st.sampled_from(sorted(self.models[key])))
            expect = self.aliases[key].get(alias, 0)
            self.aliases[key][alias] = number
            assert self.catalog.set_alias(key, alias, number, expect) == self.aliases[key]

    def one(self, data: st.DataObject) -> Known:
        return data.draw(st.sampled_from([one for key in sorted(self.models) for one in self.models[key].values()]))

    def gone(self, one: Known) -> None:
        if one.pins:
            self.ghosts.append(one)

    def newest_bytes(self) -> int:
        ends = (versions[max(versions)] for versions in self.models.values() if versions)
        return sum(one.charge for one in ends if one.resident)

    def pinned_bytes(self) -> int:
        return sum(one.charge for _, _, one in self.superseded() if one.stays)

    def held_bytes(self) -> int:
        return sum(one.charge for versions in self.models.values() for one in versions.values() if one.held)

    # what always holds

    @invariant()
    def the_sums_are_right(self) -> None:
        made = self.catalog
        assert made.newest_bytes == self.newest_bytes()
        assert made.pinned_bytes == self.pinned_bytes()
        assert made.held_bytes == self.held_bytes()
        assert made.held_count == sum(one.held for versions in self.models.values() for one in versions.values())
        assert made.resident_bytes == self.newest_bytes() + sum(one.charge for _, _, one in self.superseded())
        assert (made.model_count, made.version_count) == (len(self.models), sum(map(len, self.models.values())))

    @invariant()
    def the_same_versions_are_there(self) -> None:
        for key in KEYS:
            assert self.catalog.has(key) == (key in self.models)
            versions = self.models.get(key, {})
            if key in self.models:
                found = sorted(versions)
                assert [one.number for one in self.catalog.versions(key, 0)] == found
                model = self.catalog.model(key)
                assert (model.newest, model.versions, model.aliases) == (max(found, default=None), len(found), self.aliases[key])
                assert [self.catalog.find(key, -at).info.number for at in range(1, len(found) + 1)] == found[::-1]
                for number, one in versions.items():
                    kept = self.catalog.find(key, number)
                    assert kept is one.kept and self.catalog.holds(kept) and kept.resident == one.resident
                    assert (kept.held, kept.info.pinned) == (one.held, one.pinned)
                pinned = sorted(number for number, one in versions.items() if one.pinned)
                if pinned and not self.aliases[key]:
                    with pytest.raises(Refused, match=f"version {pinned[0]} "):
                        self.catalog.require_deletable(key, force=False)
            newest = self.catalog.newest(key)
            assert (newest.info.number if newest else 0) == max(versions, default=0)

    @invariant()
    def what_a_search_looks_at_is_what_there_is(self) -> None:
        for key, versions in self.models.items():
            assert self.catalog.numbers(key) == sorted(versions)
            assert all(self.catalog.known(key, number) is one.kept.info for number, one in versions.items())
            assert self.catalog.known(key, 1 << 40) is None
            named = {number: sorted(names) for number, names in self.catalog.aliases(key).items()}
            assert named == by_number(self.aliases[key])


def by_number(aliases: dict[str, int]) -> dict[int, list[str]]:
    return {number: sorted(name for name, at in aliases.items() if at == number) for number in set(aliases.values())}


def place(kept: Kept) -> tuple[tuple[str, str], int]:
    return (kept.info.namespace, kept.info.model_id), kept.info.number


CatalogMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50, deadline=None)
test_the_catalog_is_what_the_naive_model_says = CatalogMachine.TestCase


def test_a_version_of_an_earlier_life_may_come_back_only_as_the_newest_that_was_never_deleted() -> None:
    catalog = Catalog(Retention())
    catalog.create(KEY, 0)
    catalog.load_deleted(KEY, ((7, 7),), 0)
    for number, floor in [(7, 20), (6, 20), (21, 20), (8, 0)]:
        with pytest.raises(Conflict):
            catalog.require_renewable(KEY, number, floor)
    catalog.require_renewable(KEY, 8, 20)
    unknown = ("default", "gone")
    catalog.load_deleted(unknown, (), 9)
    with pytest.raises(Conflict):
        catalog.require_renewable(unknown, 9, 20)
    catalog.require_renewable(unknown, 10, 20)
