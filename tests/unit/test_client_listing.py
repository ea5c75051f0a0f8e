"""Every version in order, out of the queue of one reader: nothing lost, nothing twice, holes named."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import pytest

from broadcaster.protocol.errors import (
    BroadcasterError,
    Closed,
    RequestTimeout,
    UnknownModel,
    UnknownVersion,
    VersionDeleted,
    VersionEvicted,
)
from broadcaster.protocol.machines.follow import Lease
from broadcaster.protocol.version import VersionInfo
from clients._driver import futures
from clients._driver import listing as module
from clients._driver.listing import Listing
from clients.buffers import array_of
from clients.snapshot import Snapshot


def version(number: int) -> VersionInfo:
    return VersionInfo(namespace="default", model_id="policy", number=number, size=3, digest="", creation_timestamp=0)


class Shelf:
    """What can be fetched: a dict of numbers, and errors for some."""

    model_id = "policy"

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)
        self.newest: int | None = None
        self.errors: dict[int, BroadcasterError] = {}
        self.in_slots: set[int] = set()
        self.tried: list[int] = []
        self.fetched: list[int] = []
        self.asked: list[tuple[int, Callable[[Sequence[VersionInfo]], None]]] = []

    def at_hand(self, number: int) -> Snapshot | None:
        return self.snapshot_of(version(number), b"abc") if number == self.newest else None

    def snapshot_of(self, info: VersionInfo, payload: bytes) -> Snapshot:
        return Snapshot(info, array_of(payload))

    def lease(self, wanted: Lease) -> Snapshot | None:
        self.tried.append(wanted.version.number)
        return self.snapshot_of(wanted.version, b"abc") if wanted.version.number in self.in_slots else None

    def fetch(self, info: VersionInfo) -> Future[Snapshot]:
        self.fetched.append(info.number)
        if info.number in self.errors:
            return futures.failed(self.errors.pop(info.number))
        found: Future[Snapshot] = futures.new()
        found.set_result(self.snapshot_of(info, b"abc"))
        return found

    def list_after(self, number: int, then: Callable[[Sequence[VersionInfo]], None]) -> None:
        self.asked.append((number, then))


def take(listing: Listing) -> Future[int]:
    future: Future[Snapshot] = futures.new()
    if listing.take(future):
        listing.serve()
    return future  # type: ignore[return-value]


def number(future: Future[int]) -> int:
    return future.result(0).version.number  # type: ignore[attr-defined]


def test_versions_come_in_order_each_once() -> None:
    listing = Listing(Shelf())
    for one in (3, 4, 4, 3, 5):
        listing.add(version(one), None)
    assert [number(take(listing)) for _ in range(3)] == [3, 4, 5]
    assert not take(listing).done()


def test_who_waits_gets_the_next_one_when_it_comes() -> None:
    listing = Listing(Shelf())
    waiting = take(listing)
    listing.add(version(1), b"abc")
    assert not waiting.done()
    listing.serve()
    assert number(waiting) == 1


def test_what_is_at_hand_is_not_fetched() -> None:
    shelf = Shelf()
    shelf.newest = 2
    listing = Listing(shelf)
    listing.add(version(1), b"xyz")
    listing.add(version(2), None)
    listing.add(version(3), None)
    assert [number(take(listing)) for _ in range(3)] == [1, 2, 3]
    assert shelf.fetched == [3]


def test_small_payloads_beyond_the_budget_are_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "INLINE_BUDGET", 5)
    shelf = Shelf()
    listing = Listing(shelf)
    for one in (1, 2, 3):
        listing.add(version(one), b"xyz")
    assert [number(take(listing)) for _ in range(3)] == [1, 2, 3]
    assert shelf.fetched == [2, 3]
    listing.add(version(4), b"xyz")
    assert number(take(listing)) == 4 and shelf.fetched == [2, 3]


def test_an_evicted_version_is_named_and_the_next_one_follows() -> None:
    shelf = Shelf()
    shelf.errors[1] = VersionEvicted(model_id="policy", number=1)
    shelf.errors[2] = UnknownVersion(model_id="policy", number=2)
    listing = Listing(shelf)
    for one in (1, 2, 3):
        listing.add(version(one), None)
    for gone in (1, 2):
        with pytest.raises(VersionEvicted) as told:
            take(listing).result(0)
        assert told.value.number == gone
    assert number(take(listing)) == 3


def test_a_deleted_version_is_told_as_deleted_and_the_next_one_follows() -> None:
    shelf = Shelf()
    shelf.errors[1] = VersionDeleted(model_id="policy", number=1)
    shelf.errors[2] = UnknownModel(model_id="policy", namespace="default")  # It went with its model.
    listing = Listing(shelf)
    for one in (1, 2, 3):
        listing.add(version(one), None)
    for gone in (1, 2):
        with pytest.raises(VersionDeleted) as told:
            take(listing).result(0)
        assert told.value.number == gone
    assert number(take(listing)) == 3


def test_a_version_that_could_not_be_read_in_time_is_next_again() -> None:
    shelf = Shelf()
    shelf.errors[1] = RequestTimeout(what="reading", timeout=1)
    listing = Listing(shelf)
    listing.add(version(1), None)
    with pytest.raises(RequestTimeout):
        take(listing).result(0)
    assert number(take(listing)) == 1


def test_a_hole_is_named_once_and_filled_with_what_is_still_there() -> None:
    shelf = Shelf()
    listing = Listing(shelf)
    listing.add(version(3), b"abc")
    assert number(take(listing)) == 3
    listing.hole()
    listing.hole()
    listing.add(version(9), b"abc")  # Published while the question was under way.
    waiting = take(listing)
    ((after, then),) = shelf.asked
    assert after == 3
    then([version(6), version(8), version(9)])
    with pytest.raises(VersionEvicted) as told:
        waiting.result(0)
    assert (told.value.number, told.value.until) == (4, 5)
    assert number(take(listing)) == 6
    with pytest.raises(VersionEvicted) as told:
        take(listing).result(0)
    assert (told.value.number, told.value.until) == (7, 7)
    assert [number(take(listing)) for _ in range(2)] == [8, 9]


@pytest.mark.parametrize("waits", [True, False])
def test_what_is_missing_behind_a_hole_is_told_when_the_next_version_comes(waits: bool) -> None:
    """The last ones before a crash were in memory only: nothing that is still there says that they were published."""
    shelf = Shelf()
    listing = Listing(shelf)
    listing.add(version(3), b"abc")
    assert number(take(listing)) == 3
    listing.hole()
    if waits:
        listing.add(version(1025), b"abc")
        shelf.asked[0][1]([version(4)])
    else:
        shelf.asked[0][1]([version(4)])
        listing.add(version(1025), b"abc")
    assert number(take(listing)) == 4
    with pytest.raises(VersionEvicted) as told:
        take(listing).result(0)
    assert (told.value.number, told.value.until) == (5, 1024)
    assert number(take(listing)) == 1025
    listing.add(version(1027), b"abc")  # Numbers may be left out: here nothing was missed.
    assert number(take(listing)) == 1027


def test_a_hole_in_which_nothing_is_missing_is_not_told() -> None:
    shelf = Shelf()
    listing = Listing(shelf)
    listing.add(version(3), b"abc")
    listing.hole()
    shelf.asked[0][1]([version(4)])
    assert [number(take(listing)) for _ in range(2)] == [3, 4]


def lease(number: int) -> Lease:
    return Lease(version(number), 1, f"slot-{number}-00000000", number)


def test_a_lease_is_taken_when_the_version_is_asked_for_and_what_is_gone_is_fetched() -> None:
    shelf = Shelf()
    shelf.in_slots = {1, 2, 3}
    listing = Listing(shelf)
    for one in (1, 2, 3):
        listing.add(version(one), None, lease(one))
    assert shelf.tried == []
    assert number(take(listing)) == 1 and shelf.tried == [1] and shelf.fetched == []
    shelf.in_slots = {3}  # The slot of 2 was given to another version meanwhile.
    assert [number(take(listing)) for _ in range(2)] == [2, 3]
    assert shelf.tried == [1, 2, 3] and shelf.fetched == [2]


def test_a_lease_that_failed_is_not_tried_again() -> None:
    shelf = Shelf()
    shelf.errors[1] = RequestTimeout(what="reading", timeout=1)
    listing = Listing(shelf)
    listing.add(version(1), None, lease(1))
    with pytest.raises(RequestTimeout):
        take(listing).result(0)
    assert number(take(listing)) == 1 and shelf.tried == [1]


def test_what_is_at_hand_or_came_inside_its_event_needs_no_lease() -> None:
    shelf = Shelf()
    shelf.newest = 1
    listing = Listing(shelf)
    listing.add(version(1), None, lease(1))
    listing.add(version(2), b"abc", lease(2))
    assert [number(take(listing)) for _ in range(2)] == [1, 2] and shelf.tried == []


def test_what_came_inside_its_event_and_what_is_awaited_need_no_other_thread() -> None:
    shelf = Shelf()
    listing = Listing(shelf)
    listing.add(version(1), b"abc")
    first: futures.Promise[Snapshot] = futures.Promise()
    assert not listing.take(first) and first.outcome().version.number == 1
    waiting: futures.Promise[Snapshot] = futures.Promise()
    assert not listing.take(waiting) and not waiting.done()
    listing.add(version(2), None)
    listing.serve()
    assert waiting.outcome().version.number == 2 and shelf.fetched == [2]
    listing.add(version(3), None, lease(3))
    assert listing.take(futures.Promise()), "only the I/O thread may take a lease"


def test_after_the_end_nobody_waits() -> None:
    listing = Listing(Shelf())
    listing.add(version(1), b"abc")
    waiting = [take(listing) for _ in range(2)][1]
    listing.fail(Closed(what="the subscriber"))
    for future in (waiting, take(listing)):
        with pytest.raises(Closed):
            future.result(0)


class Slow(deque[Any]):
    """Tells whoever wants to know each time that somebody looks whether there is anything in it."""

    looked: Callable[[], None]

    def __len__(self) -> int:
        count = super().__len__()
        self.looked()
        return count


def test_what_comes_while_a_reader_finds_nothing_is_not_left_lying() -> None:
    listing = Listing(Shelf())
    entries = Slow()
    entries.looked = lambda: None
    listing._entries = entries

    def come() -> None:
        listing.add(version(1), b"abc")
        listing.serve()

    io = threading.Thread(target=come)

    def once() -> None:
        entries.looked = lambda: None
        io.start()
        io.join(0.2)  # It would be through by then, if it could.

    entries.looked = once
    promise: futures.Promise[Snapshot] = futures.Promise()
    assert not listing.take(promise)
    io.join()
    assert promise.over and promise.outcome().version.number == 1
