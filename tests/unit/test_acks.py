"""The table of subscribers: how far each is, since when it lags, and who is forgotten."""

from __future__ import annotations

import random

import pytest

from broadcaster import acks
from broadcaster.acks import Acked, AckTable

KEY, OTHER = ("lab", "policy"), ("lab", "other")
A, B, C = (bytes([letter]) * 16 for letter in b"abc")


def hear(table: AckTable, subscriber: bytes = A, at: int = 0, now: float = 0.0, **given: object) -> Acked:
    """A subscriber says that it has received and applied `at`, of which `newest` is the newest."""
    fields = {"name": None, "received": at, "applied": at, "newest": at, "last": 1000} | given
    key = fields.pop("key", KEY)
    table.heard(key, subscriber, now=now, **fields)  # type: ignore[arg-type]
    found = next(one for one in table.page(key, None, 1000) if one.subscriber == subscriber)  # type: ignore[arg-type]
    return found


def test_what_a_subscriber_said_last_is_known() -> None:
    table = AckTable()
    hear(table, name="node-7:1", at=3, now=1.0)
    acked = hear(table, received=7, applied=5, now=2.0)
    assert (acked.name, acked.received, acked.applied, acked.joined, acked.heard) == ("node-7:1", 7, 5, 1.0, 2.0)
    assert table.count == 1 and table.follows(KEY) and not table.follows(OTHER)


def test_acks_are_cumulative_whatever_order_they_come_in() -> None:
    table = AckTable()
    hear(table, received=7, applied=5)
    acked = hear(table, received=6, applied=4)
    assert (acked.received, acked.applied) == (7, 5)


def test_nobody_is_beyond_the_last_number_that_was_given_out() -> None:
    acked = hear(AckTable(), received=1 << 62, applied=(1 << 63) - 1, last=9)
    assert (acked.received, acked.applied) == (9, 9)


def test_what_was_applied_was_received() -> None:
    acked = hear(AckTable(), received=3, applied=8, last=9)
    assert (acked.received, acked.applied) == (8, 8)


def test_a_long_name_is_cut_off() -> None:
    assert hear(AckTable(), name="x" * 1000).name == "x" * 128


def test_a_late_joiner_lags_from_the_version_that_was_newest_when_it_came() -> None:
    table = AckTable()
    assert hear(table, at=0, newest=40).at == 39
    assert hear(table, at=0, newest=50).at == 39, "what it lags from stays"
    assert hear(table, received=45, applied=41).at == 41


# --- since when ----------------------------------------------------------------------------------------------------


def test_a_lag_begins_with_the_publication_of_the_oldest_version_that_was_not_applied() -> None:
    table = AckTable()
    acked = hear(table, at=1, now=0.0)
    for number in range(2, 6):
        table.published(KEY, number, float(number))
    assert table.since(KEY, acked) == 2.0
    assert table.since(KEY, hear(table, at=3, newest=5, now=6.0)) == 4.0


def test_a_lag_begins_with_the_subscriber_where_the_version_is_older_than_that() -> None:
    table = AckTable()
    hear(table, A, at=1, now=0.0)
    table.published(KEY, 2, 2.0)
    assert table.since(KEY, hear(table, B, at=0, newest=2, now=50.0)) == 50.0
    assert table.since(OTHER, hear(table, C, at=1, newest=4, now=60.0, key=OTHER)) == 60.0, "nothing was published since it came"


def test_publications_close_to_each_other_count_as_one_and_the_time_is_right_to_within_that() -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    rng, table = random.Random(seed), AckTable()
    hear(table, at=0, now=0.0)
    now, times = 0.0, {}
    for number in range(1, 300):
        now += rng.choice([0.001, 0.01, 0.05, 0.2])
        times[number] = now
        table.published(KEY, number, now)
    for number in range(299):
        table.heard(KEY, number.to_bytes(16), None, received=299, applied=number, newest=299, last=299, now=0.0)
        acked = table.page(KEY, (number - 1).to_bytes(16) if number else None, 1)[0]
        assert times[acked.at + 1] - acks.GRAIN <= table.since(KEY, acked) <= times[acked.at + 1]


def test_a_lag_longer_than_the_times_that_are_remembered_is_not_cut_short() -> None:
    table = AckTable()
    acked = hear(table, at=1, now=0.0)
    for number in range(2, 2000):
        table.published(KEY, number, float(number))
        if number % 100 == 0:
            hear(table, at=1, newest=number, now=float(number))
    assert table.since(KEY, acked) == 2.0
    stopped = Acked(B, 1, 0.0, 0.0)
    assert table.since(KEY, stopped) == 2000 - acks.TIMES, "the longest that is remembered, for one that never said so"


def test_nothing_is_kept_of_a_model_that_nobody_follows() -> None:
    table = AckTable()
    table.published(KEY, 1, 0.0)
    hear(table, at=1)
    table.gone(KEY, A)
    assert not table._lines and not table._heard


# --- who is forgotten ----------------------------------------------------------------------------------------------


def test_the_silent_are_forgotten_after_thirty_seconds() -> None:
    table = AckTable()
    hear(table, A, now=0.0)
    hear(table, B, now=10.0)
    hear(table, C, now=11.0, key=OTHER)
    hear(table, A, now=20.0)
    assert table.forget_silent(39.9) == [] and table.count == 3
    assert table.forget_silent(40.0) == [KEY]
    assert [one.subscriber for one in table.page(KEY, None, 9)] == [A]
    assert table.forget_silent(1000.0) == [OTHER, KEY] and table.count == 0


def test_who_says_goodbye_is_forgotten_at_once_and_twice_is_no_mistake() -> None:
    table = AckTable()
    hear(table, A)
    hear(table, B)
    table.gone(KEY, A)
    table.gone(KEY, A)
    table.gone(OTHER, A)
    assert [one.subscriber for one in table.page(KEY, None, 9)] == [B]


def test_of_too_many_subscribers_of_a_model_the_one_silent_for_longest_goes() -> None:
    table = AckTable(most=2)
    for now, one in enumerate((A, B, A, C)):
        hear(table, one, now=float(now))
    assert [one.subscriber for one in table.page(KEY, None, 9)] == [A, C]


def test_of_too_many_subscribers_of_all_models_the_one_silent_for_longest_goes() -> None:
    table = AckTable(most_of_all=2)
    hear(table, A, now=0.0, key=OTHER)
    hear(table, B, now=1.0)
    hear(table, C, now=2.0)
    assert table.count == 2 and not table.follows(OTHER)


# --- what is asked -------------------------------------------------------------------------------------------------


def test_pages_go_through_all_subscribers_in_order_of_their_ids() -> None:
    table = AckTable()
    ids = [number.to_bytes(16) for number in range(25)]
    for one in random.Random(3).sample(ids, 25):
        hear(table, one)
    found: list[bytes] = []
    while page := table.page(KEY, found[-1] if found else None, 10):
        found += [one.subscriber for one in page]
    assert found == ids
    assert table.page(OTHER, None, 10) == []


def test_the_worst_lag_of_each_model_is_known() -> None:
    table = AckTable()
    hear(table, A, at=3, newest=3, now=1.0)
    hear(table, B, at=2, newest=3, now=2.0)
    hear(table, C, at=9, newest=9, now=3.0, key=OTHER)
    for number in (4, 5):
        table.published(KEY, number, float(number))
    newest = {KEY: 5, OTHER: 9}
    assert list(table.behind(newest.__getitem__)) == [acks.Behind(KEY, 5, 2, 2, 2.0)]
    assert list(table.behind(lambda key: 0)) == []


@pytest.mark.parametrize(("number", "received", "applied"), [(0, 3, 3), (3, 3, 2), (4, 2, 1), (5, 2, 1), (6, 1, 0), (9, 0, 0)])
def test_counts_are_of_who_has_got_that_far(number: int, received: int, applied: int) -> None:
    table = AckTable()
    hear(table, A, received=3, applied=0)
    hear(table, B, received=5, applied=5)
    hear(table, C, received=6, applied=3)
    counts = table.counts(KEY)
    assert (counts.received(number), counts.applied(number)) == (received, applied)
    assert table.counts(OTHER).received(0) == 0


def test_when_the_last_version_was_published_is_known_of_a_model_that_is_followed() -> None:
    table = AckTable()
    table.published(("lab", "policy"), 1, 5.0)
    assert table.published_at(("lab", "policy"), 1) is None
    table.heard(("lab", "policy"), b"a" * 16, None, received=1, applied=1, newest=1, last=1, now=5.5)
    table.published(("lab", "policy"), 2, 6.0)
    table.published(("lab", "policy"), 3, 6.01)
    assert table.published_at(("lab", "policy"), 3) == 6.01 and table.published_at(("lab", "policy"), 2) is None


def test_all_subscribers_together_are_asked_for_so_many_acks_a_second() -> None:
    table = AckTable()
    for count in range(1, 6001):
        table.heard(KEY, count.to_bytes(16, "big"), None, received=1, applied=1, newest=1, last=1, now=0.0)
        pace = table.pace_ms
        if count <= acks.RATE / 10:
            assert pace is None, "as usual"
        else:
            assert pace == min(10_000, count * 1000 // acks.RATE)
