"""Subscriptions counted by connection and by key: what is too much is said, what ends is forgotten."""

from __future__ import annotations

import random

import pytest

from broadcaster.server import topics
from broadcaster.server.topics import Topics


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "TOPICS", 5)
    monkeypatch.setattr(topics, "TOPICS_OF_USER", 8)
    monkeypatch.setattr(topics, "ALL_TOPICS", 12)


def test_a_connection_has_a_limit() -> None:
    held = Topics()
    assert [held.add(1, 11, "", 1) for _ in range(6)] == [True] * 5 + [False]
    assert held.is_to_be_cut(1) and not held.is_to_be_cut(1)
    assert held.add(2, 22, "", 1), "another one has its own"
    held.remove(1)
    held.remove(1)
    assert held.add(1, 11, "", 1)


def test_a_key_has_a_limit_over_all_its_connections() -> None:
    held = Topics()
    assert all(held.add(1, 11, "alice", 1) for _ in range(4)) and all(held.add(2, 22, "alice", 1) for _ in range(4))
    assert not held.add(3, 33, "alice", 1) and held.add(4, 44, "bob", 1)
    held.gone(3)
    held.gone(2)
    assert held.add(3, 33, "alice", 1)


def test_all_together_have_a_limit() -> None:
    held = Topics()
    assert held.add(1, 11, "", 12) and not held.add(2, 22, "", 13)


def test_what_is_no_topic_has_a_limit_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(topics, "STRANGE", 2)
    held = Topics()
    assert [held.add(1, 11, "", 1, valid=False) for _ in range(3)] == [True, True, False]
    assert held.is_to_be_cut(1) and held.is_cut(1) and not held.is_cut(2)


def test_a_descriptor_that_is_used_again_is_another_connection() -> None:
    held = Topics()
    for _ in range(5):
        held.add(1, 11, "alice", 1)
    assert held.add(1, 12, "alice", 1)
    assert held.gone(1, now=12) == 0 and held.holds(1), "the word of the end of the one before came late"
    assert held.gone(1, now=None) == 1 and not held.holds(1)


@pytest.mark.parametrize("seed", range(20))
def test_what_has_ended_is_forgotten_whatever_came_before(seed: int) -> None:
    rng, held = random.Random(seed), Topics()
    for _ in range(200):
        descriptor = rng.randrange(4)
        match rng.randrange(4):
            case 0 | 1:
                held.add(descriptor, rng.randrange(3), rng.choice(["", "alice", "bob"]), 1)
            case 2:
                held.remove(descriptor)
            case 3:
                held.gone(descriptor, rng.choice([None, 0, 1]))
    for descriptor in range(4):
        held.gone(descriptor)
    assert not held._held and not held._users
