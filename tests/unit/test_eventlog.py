"""The event log: offsets without gaps, the previous one of each model, replay of what is kept."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broadcaster.eventlog import EventLog
from broadcaster.protocol.errors import EventsGone
from broadcaster.protocol.messages import Event

A, B, C = ("lab", "a"), ("lab", "b"), ("other", "a")


def filled(*keys: tuple[str, str], kept: int = 100) -> EventLog:
    log = EventLog(7, kept=kept)
    for key in keys:
        log.append(key, "updated")
    return log


def test_offsets_have_no_gaps_and_name_the_previous_one_of_the_model() -> None:
    log = EventLog(7)
    made = [log.append(key, "updated") for key in (A, B, A, C, B, A)]
    assert [event.offset for event in made] == [1, 2, 3, 4, 5, 6]
    assert [event.previous for event in made] == [0, 0, 1, 0, 2, 3]
    assert {event.epoch for event in made} == {7}
    assert (log.offset, log.model_offset(A), log.model_offset(B), log.model_offset(("no", "body"))) == (6, 6, 5, 0)


def test_an_event_carries_its_facts() -> None:
    event = EventLog(7).append(A, "aliased", alias="champion", number=3)
    assert event == Event(
        epoch=7, offset=1, previous=0, namespace="lab", model_id="a", event="aliased", alias="champion", number=3
    )


def test_replay_is_in_order_and_only_of_what_was_asked_for() -> None:
    log = filled(A, B, A, C, B, A)
    offsets = lambda found: ([event.offset for event in found[0]], found[1])  # noqa: E731
    assert offsets(log.replay(7, 0, "lab", None, 100)) == ([1, 2, 3, 5, 6], None)
    assert offsets(log.replay(7, 0, "lab", "a", 100)) == ([1, 3, 6], None)
    assert offsets(log.replay(7, 3, "lab", "a", 100)) == ([6], None)
    assert offsets(log.replay(7, 6, "lab", "a", 100)) == ([], None)
    assert offsets(log.replay(7, 0, "nobody", None, 100)) == ([], None)
    assert offsets(log.replay(7, 0, "lab", "a", 2)) == ([1, 3], 3)
    assert offsets(log.replay(7, 0, "lab", "a", 3)) == ([1, 3, 6], None)


def test_an_empty_log_has_nothing_to_replay() -> None:
    assert EventLog(7).replay(7, 0, "lab", None, 10) == ([], None)


@pytest.mark.parametrize(("epoch", "after"), [(6, 0), (8, 3), (7, 6), (7, 1)])
def test_what_is_not_kept_is_gone(epoch: int, after: int) -> None:
    log = filled(A, A, A, A, A, kept=3)
    with pytest.raises(EventsGone) as gone:
        log.replay(epoch, after, "lab", None, 10)
    assert gone.value.facts == {"offset": after, "epoch": epoch, "oldest": 3, "newest": 5, "current": 7}


def test_the_oldest_kept_event_can_still_be_replayed() -> None:
    log = filled(A, A, A, A, A, kept=3)
    found, _ = log.replay(7, 2, "lab", None, 10)
    assert [event.offset for event in found] == [3, 4, 5]


@given(
    st.lists(st.sampled_from([A, B, C]), max_size=40), st.integers(1, 12), st.integers(1, 5), st.sampled_from(["a", "b", None])
)
@settings(max_examples=150)
def test_pages_together_are_the_log(keys: list[tuple[str, str]], kept: int, limit: int, model: str | None) -> None:
    log = EventLog(7, kept=kept)
    made = [log.append(key, "updated") for key in keys]
    after: int | None = max(0, len(keys) - kept)
    wanted = [event for event in made[after:] if event.namespace == "lab" and model in (None, event.model_id)]
    found: list[Event] = []
    while after is not None:
        page, after = log.replay(7, after, "lab", model, limit)
        assert len(page) <= limit
        found += page
    assert found == wanted
