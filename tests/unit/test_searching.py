"""Searches over a catalog: a slice at a time, one after the other, while versions come and go."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from broadcaster.broker import Searching, results, searching
from broadcaster.broker.waiting import Waiting
from broadcaster.catalog import Catalog, Retention
from broadcaster.protocol.condition import Condition
from broadcaster.protocol.errors import BroadcasterError, Busy, InvalidRequest, RequestTimeout, UnknownModel, UnknownVersion
from broadcaster.protocol.messages import Best, Found, Message, Search, Version
from broadcaster.protocol.version import VersionInfo
from broadcaster.stats import Stats

ID = bytes(16)
KEY = ("default", "policy")


class Asker:
    """Whoever waits for an answer, and what it got."""

    def __init__(self, expires: float = 50.0) -> None:
        self.expires = expires
        self.timing = None
        self.got: list[Any] = []

    def reply(self, message: Message, payload: memoryview | None = None) -> None:
        self.got.append(message)

    def refuse(self, error: BroadcasterError) -> None:
        self.got.append(error)


class Desk:
    """A catalog that is searched; `turns` are what the loop would run, `now` its clock."""

    def __init__(self) -> None:
        self.catalog, self.stats, self.now = Catalog(Retention()), Stats(), 1.0
        self.turns: deque[Callable[[], None]] = deque()
        front = SimpleNamespace(post=self.turns.append)
        rooms = SimpleNamespace(catalog=self.catalog, stats=self.stats)
        self.searching = Searching(rooms, front, Waiting(front, self.stats, lambda: self.now))  # type: ignore[arg-type]

    def add(self, number: int, model_id: str = "policy", **facts: Any) -> None:
        key = ("default", model_id)
        if not self.catalog.has(key):
            self.catalog.create(key, 0)
        facts = {"size": 10, "digest": "00", "creation_timestamp": number} | facts
        self.catalog.load(VersionInfo(namespace="default", model_id=model_id, number=number, **facts), bytes(16))

    def run(self) -> int:
        """All turns; how many there were."""
        count = 0
        while self.turns:
            self.turns.popleft()()
            count += 1
        return count

    def search(self, model_id: str | None = "policy", where: tuple[Condition, ...] = (), **more: Any) -> Found:
        asker = Asker()
        self.searching.search(Search(request_id=ID, model_id=model_id, where=where, **more), asker)  # type: ignore[arg-type]
        self.run()
        (found,) = asker.got
        assert isinstance(found, Found)
        return found

    def best(self, metric: str, mode: str, *where: Condition) -> Any:
        asker = Asker()
        request = Best(request_id=ID, model_id="policy", metric=metric, mode=mode, where=where or None)
        self.searching.best(request, asker)  # type: ignore[arg-type]
        self.run()
        (found,) = asker.got
        return found.version.number if isinstance(found, Version) else found

    def pages(self, model_id: str | None = "policy", **more: Any) -> list[list[int]]:
        pages, after = [], None
        while True:
            found = self.search(model_id, after=after, **more)
            pages.append([info.number for info in found.versions])
            after = found.next
            if after is None:
                return pages


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.mark.parametrize("order", [None, "-number", "number", "-size", "metrics.m"])
def test_pages_go_through_all_versions_to_a_real_end(desk: Desk, order: str | None) -> None:
    for number in range(1, 1001):
        desk.add(number, size=number)
    numbers = list(range(1, 1001)) if order == "number" else list(range(1000, 0, -1))
    for limit, lengths in ((300, [300, 300, 300, 100]), (250, [250] * 4)):
        pages = desk.pages(order=order, limit=limit)
        assert [len(page) for page in pages] == lengths and sum(pages, []) == numbers
    assert sum(desk.pages(order=order), []) == numbers


def test_a_search_that_finds_nothing_ends_at_once(desk: Desk) -> None:
    desk.add(1)
    desk.catalog.create(("default", "empty"), 0)
    assert desk.pages(where=(Condition(field="metrics.m", op=">", value=0),)) == [[]]
    assert desk.pages("empty") == [[]]
    assert Desk().pages(None) == [[]]


def test_all_models_of_the_namespace_are_searched_and_no_other(desk: Desk) -> None:
    for at, model in enumerate(("a", "b", "c"), 1):
        for number in (1, 2):
            desk.add(number, model, creation_timestamp=10 * number + at)
    desk.catalog.create(("lab", "a"), 0)
    desk.catalog.load(VersionInfo(namespace="lab", model_id="a", number=9, size=1, digest="", creation_timestamp=99), bytes(16))
    found = desk.search(None)
    assert [(info.model_id, info.number) for info in found.versions] == [(m, n) for n in (2, 1) for m in ("c", "b", "a")]
    found = desk.search(None, order="number", limit=2)
    assert [(info.model_id, info.number) for info in found.versions] == [("a", 1), ("b", 1)] and found.next is not None


def test_a_page_also_ends_before_it_is_too_large_for_a_message(desk: Desk) -> None:
    for number in range(1, 21):
        desk.add(number, user_data={"text": "x" * 15_000})
    pages = desk.pages()
    assert sum(pages, []) == list(range(20, 0, -1)) and {len(page) for page in pages} == {3, 2}


def test_aliases_are_those_of_now(desk: Desk) -> None:
    for number in (1, 2, 3):
        desk.add(number)
    desk.catalog.set_alias(KEY, "champion", 2, None)
    where = (Condition(field="alias", op="=", value="champion"),)
    assert desk.pages(where=where) == [[2]]
    desk.catalog.set_alias(KEY, "champion", 3, None)
    assert desk.pages(where=where) == [[3]]
    assert desk.pages(where=(Condition(field="alias", op="exists", value=False),)) == [[2, 1]]


def test_a_long_search_lets_everybody_else_have_a_turn_between_its_slices(desk: Desk) -> None:
    for number in range(1, 10 * searching.SLICE + 1):
        desk.add(number)
    asker = Asker()
    desk.searching.search(Search(request_id=ID, model_id="policy", order="-size"), asker)  # type: ignore[arg-type]
    assert not asker.got and len(desk.turns) == 1
    assert desk.run() == 10 and asker.got[0].versions[0].number == 10 * searching.SLICE
    # In the order of numbers only the page is looked at.
    desk.searching.search(Search(request_id=ID, model_id="policy", limit=searching.SLICE // 2), asker)  # type: ignore[arg-type]
    assert len(asker.got) == 2 and not desk.turns


def test_versions_and_models_that_leave_while_a_search_runs_are_not_found(desk: Desk) -> None:
    for number in range(1, 2 * searching.SLICE + 1):
        desk.add(number)
    desk.add(1, "zebra")
    asker = Asker()
    desk.searching.search(Search(request_id=ID, order="size"), asker)  # type: ignore[arg-type]
    desk.catalog.delete_version(KEY, desk.catalog.find(KEY, 5))
    desk.catalog.delete(("default", "zebra"), 9)
    desk.run()
    found, after = asker.got[0], asker.got[0].next
    assert {info.model_id for info in found.versions} == {"policy"} and after is not None
    rest = [info.number for info in desk.search(None, order="size", after=after).versions]
    numbers = [info.number for info in found.versions] + rest
    assert sorted(numbers) == [number for number in range(1, 2 * searching.SLICE + 1) if number != 5]


def test_a_model_that_is_deleted_while_it_is_searched_has_no_versions_any_more(desk: Desk) -> None:
    for number in range(1, 2 * searching.SLICE + 1):
        desk.add(number)
    asker, late = Asker(), Asker()
    for one in (asker, late):
        desk.searching.search(Search(request_id=ID, model_id="policy", order="size"), one)  # type: ignore[arg-type]
    desk.catalog.delete(KEY, 1 << 40)
    desk.run()
    assert len(asker.got[0].versions) <= searching.SLICE
    assert isinstance(late.got[0], UnknownModel)
    with pytest.raises(UnknownModel):
        desk.searching.search(Search(request_id=ID, model_id="policy"), asker)  # type: ignore[arg-type]


@pytest.mark.parametrize(("order", "model"), [("-metrics.m", "policy"), ("user_data.w", "policy"), (None, None)])
def test_all_pages_together_look_at_few_versions_more_than_there_are(desk: Desk, order: str | None, model: str | None) -> None:
    count, limit = 3000, 100
    for number in range(1, count + 1):
        desk.add(number, metrics={"m": number * 7919 % count}, user_data={"w": f"{number % 10:02}"})
    pages = desk.pages(model, order=order, limit=limit)
    assert [len(page) for page in pages] == [limit] * (count // limit) and set(sum(pages, [])) == set(range(1, count + 1))
    looked = desk.stats.values()["versions_searched"]
    assert looked <= 2 * count + count + 2 * len(pages), f"{looked} looked at for {len(pages)} pages"


def test_more_than_is_kept_of_a_search_is_found_all_the_same(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(searching, "KEPT", 25)
    for number in range(1, 201):
        desk.add(number, size=number * 37 % 200)
    pages = desk.pages(order="-size", limit=10)
    assert [number * 37 % 200 for number in sum(pages, [])] == list(range(199, -1, -1)) and len(pages) == 20


def test_later_pages_tell_what_versions_are_then(desk: Desk) -> None:
    for number in range(1, 41):
        desk.add(number, size=number, metrics={"m": float(number)})
    where = (Condition(field="metrics.m", op=">", value=0),)
    first = desk.search(order="size", limit=10, where=where)
    second = desk.search(order="size", limit=10, where=where, after=first.next)
    assert [info.number for info in second.versions] == list(range(11, 21))
    desk.catalog.delete_version(KEY, desk.catalog.find(KEY, 21))
    desk.catalog.replace(desk.catalog.find(KEY, 22), metrics={"m": -1.0})  # It meets the condition no more,
    desk.catalog.replace(desk.catalog.find(KEY, 23), tags={"new": "yes"})  # this one does,
    desk.catalog.replace(desk.catalog.find(KEY, 24), size=5)  # and this one has another place.
    desk.add(41, size=1000, metrics={"m": 1.0})
    third = desk.search(order="size", limit=10, where=where, after=second.next)
    assert [info.number for info in third.versions] == [23, *range(25, 34)] and third.versions[0].tags == {"new": "yes"}
    again = desk.search(order="size", limit=10, where=where, after=first.next)
    assert again.versions == second.versions, "an earlier page may be asked for again"


def test_what_was_found_is_forgotten_after_a_while_and_when_others_search(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "LASTS", 10.0)
    for number in range(1, 101):
        desk.add(number, size=number)

    def looked(order: str) -> float:
        before = desk.stats.values()["versions_searched"]
        first = desk.search(order=order, limit=10)
        second = desk.search(order=order, limit=10, after=first.next)
        desk.search(order=order, limit=10, after=second.next)
        return desk.stats.values()["versions_searched"] - before

    assert looked("size") == 211 and looked("size") == 122, "the first page is looked for, the others are known"
    desk.now += results.LASTS
    assert looked("size") == 211
    for metric in range(results.RESULTS):
        assert looked(f"metrics.{metric}") == 211
    assert looked("size") == 211


def test_searches_are_answered_in_their_turn_and_too_many_are_refused(desk: Desk) -> None:
    for number in range(1, searching.SLICE + 2):
        desk.add(number)
    askers = [Asker(expires=0.5 if at == 1 else 50.0) for at in range(searching.WAITING + 1)]
    request = Search(request_id=ID, model_id="policy", order="size", limit=1)
    for asker in askers:
        desk.searching.search(request, asker)  # type: ignore[arg-type]
    with pytest.raises(Busy):
        desk.searching.search(request, Asker())  # type: ignore[arg-type]
    desk.run()
    assert isinstance(askers[1].got[0], RequestTimeout)
    assert all(isinstance(asker.got[0], Found) and len(asker.got) == 1 for asker in askers if asker is not askers[1])
    assert desk.stats.values()["searches"] == searching.WAITING and desk.stats.values()["requests_expired"] == 1
    desk.search(order="size")


def test_a_wrong_search_is_refused_at_once(desk: Desk) -> None:
    desk.add(1)
    for wrong in ({"limit": 0}, {"order": "nothing"}, {"after": "x"}, {"where": (Condition(field="x", op="=", value=1),)}):
        with pytest.raises(InvalidRequest, match=next(iter(wrong))):
            desk.searching.search(Search(request_id=ID, model_id="policy", **wrong), Asker())  # type: ignore[arg-type]
    assert not desk.turns and desk.search().versions


# --- best ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "number"), [("max", 5), ("min", 2)])
def test_the_best_version_is_the_newest_of_the_best_and_nan_never_wins(desk: Desk, mode: str, number: int) -> None:
    for at, value in {1: 0.5, 2: 0.5, 3: math.nan, 4: 7.0, 5: 7.0, 6: None}.items():
        desk.add(at, metrics={} if value is None else {"loss": value})
    assert desk.best("loss", mode) == number
    assert desk.best("loss", mode, Condition(field="number", op="!=", value=number)) == number - 1


def test_infinity_may_win(desk: Desk) -> None:
    for at, value in ((1, math.inf), (2, -math.inf)):
        desk.add(at, metrics={"loss": value})
    assert (desk.best("loss", "max"), desk.best("loss", "min")) == (1, 2)


def test_without_a_value_nothing_is_best(desk: Desk) -> None:
    desk.add(1, metrics={"loss": math.nan, "gain": 1.0})
    for metric, where in (("loss", ()), ("other", ()), ("gain", (Condition(field="number", op=">", value=1),))):
        found = desk.best(metric, "max", *where)
        assert isinstance(found, UnknownVersion) and f"with metric {metric}" in str(found)
    with pytest.raises(InvalidRequest, match="must be max or min"):
        desk.best("loss", "median" * 20)
