"""Beacons: at once for a newcomer, every second with news, every five without, for nobody never."""

from __future__ import annotations

from random import Random

import pytest

from broadcaster.beacons import CROWD, Beacons
from broadcaster.protocol.limits import BEACON, BEACON_IDLE

A, B = ("lab", "a"), ("lab", "b")


def times(beacons: Beacons, key: tuple[str, str], until: float) -> list[tuple[float, float]]:
    """When `key`'s beacons go out, each with the interval that it tells."""
    found = []
    while beacons.deadline is not None and beacons.deadline <= until:
        now = beacons.deadline
        found += [(now, interval) for one, interval in beacons.due(now) if one == key]
    return found


def test_nobody_gets_no_beacon() -> None:
    beacons = Beacons()
    beacons.news(A, 0.0)
    beacons.unsubscribed(A)
    assert beacons.deadline is None and beacons.due(100.0) == []


def test_a_newcomer_gets_one_at_once_and_then_every_five_seconds() -> None:
    beacons = Beacons()
    beacons.subscribed(A, 10.0)
    assert beacons.deadline == 10.0
    assert beacons.due(9.99) == []
    assert times(beacons, A, 25.0) == [(10.0, BEACON_IDLE), (15.0, BEACON_IDLE), (20.0, BEACON_IDLE), (25.0, BEACON_IDLE)]


def test_news_make_it_a_second() -> None:
    beacons = Beacons()
    beacons.subscribed(A, 10.0)
    beacons.due(10.0)
    beacons.news(A, 11.0)
    assert beacons.deadline == 11.0 + BEACON
    assert times(beacons, A, 23.0) == [(12.0, 1.0), (13.0, 1.0), (14.0, 1.0), (15.0, 1.0), (16.0, 5.0), (21.0, 5.0)]


def test_more_news_do_not_put_a_beacon_off() -> None:
    beacons = Beacons()
    beacons.subscribed(A, 10.0)
    beacons.due(10.0)
    for tenth in range(1, 40):
        beacons.news(A, 10.0 + tenth / 10)
    assert [at for at, _ in times(beacons, A, 13.2)] == pytest.approx([11.1, 12.1, 13.1])


def test_a_crowd_shares_a_beacon_every_50_ms() -> None:
    beacons, sent = Beacons(), []
    for newcomer in range(1000):
        now = 10.0 + newcomer / 1000
        beacons.subscribed(A, now)
        sent += [now for _ in beacons.due(now)]
    assert sent[0] == 10.0 and len(sent) <= 1 + 1.0 / CROWD
    beacons.subscribed(A, 11.0)
    assert beacons.due(11.0 + CROWD) != []


def test_when_the_last_one_leaves_the_beacons_end() -> None:
    beacons = Beacons()
    beacons.subscribed(A, 10.0)
    beacons.subscribed(B, 10.0)
    beacons.due(10.0)
    beacons.unsubscribed(A)
    beacons.unsubscribed(A)
    beacons.news(A, 11.0)
    assert times(beacons, A, 30.0) == [] and beacons.due(35.0) == [(B, BEACON_IDLE)]
    beacons.subscribed(A, 40.0)
    assert (A, BEACON_IDLE) in beacons.due(40.0)


@pytest.mark.parametrize("seed", range(30))
def test_no_subscribed_model_is_silent_for_longer_than_it_said(seed: int) -> None:
    print(f"seed {seed}")
    random = Random(seed)
    beacons, now = Beacons(), 100.0
    promised: dict[tuple[str, str], float] = {}
    for _ in range(400):
        key = random.choice([A, B])
        match random.randrange(6):
            case 0:
                beacons.subscribed(key, now)
                promised.setdefault(key, now + CROWD)
            case 1:
                beacons.unsubscribed(key)
                promised.pop(key, None)
            case 2:
                beacons.news(key, now)
        step = now + random.choice([0.01, 0.4, 3.0])
        while beacons.deadline is not None and beacons.deadline <= step:
            now = beacons.deadline
            for one, interval in beacons.due(now):
                assert one in promised, "a beacon for nobody"
                assert now <= promised[one] + 1e-9, "later than was said"
                promised[one] = now + interval
        now = step
        assert all(at >= now for at in promised.values())
