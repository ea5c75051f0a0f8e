"""Version numbers are handed out once, whatever crashes: only from blocks that are durable."""

from __future__ import annotations

from random import Random

import pytest

from broadcaster.numbers import FIRST_BLOCK, GROWTH, LASTS, NO_MODEL, Numbers

KEY = ("lab", "policy")


def reserve(numbers: Numbers, now: float) -> int | None:
    """What a broadcaster does when it may need numbers, on a disk that works."""
    ceiling = numbers.wants(KEY, now)
    if ceiling is not None:
        numbers.reserved(KEY, ceiling, now)
    return ceiling


def test_a_model_begins_at_one_after_its_first_block_is_durable() -> None:
    numbers = Numbers({})
    assert numbers.take(KEY) is None and numbers.last(KEY) == 0
    assert numbers.wants(KEY, 0.0) == FIRST_BLOCK
    assert numbers.take(KEY) is None, "a block that is not durable has no numbers"
    assert numbers.wants(KEY, 0.0) is None, "one reservation at a time"
    numbers.reserved(KEY, FIRST_BLOCK, 0.0)
    assert [numbers.take(KEY) for _ in range(3)] == [1, 2, 3]
    assert numbers.last(KEY) == 3 and numbers.used() == {KEY: 3}


def test_numbers_go_on_behind_everything_that_was_ever_reserved() -> None:
    numbers = Numbers({KEY: 5000})
    assert numbers.take(KEY) is None and numbers.last(KEY) == 5000
    assert reserve(numbers, 0.0) == 5000 + FIRST_BLOCK
    assert numbers.take(KEY) == 5001


def test_a_block_is_refilled_when_half_of_it_is_used() -> None:
    numbers = Numbers({})
    reserve(numbers, 0.0)
    for _ in range(FIRST_BLOCK // 2 - 1):
        numbers.take(KEY)
    assert numbers.wants(KEY, 1e6) is None
    numbers.take(KEY)
    assert numbers.wants(KEY, 1e6) == FIRST_BLOCK // 2 + FIRST_BLOCK


def test_a_block_grows_until_it_lasts_ten_minutes() -> None:
    numbers, now, pace = Numbers({}), 0.0, 20
    reserved, filled = [], []
    while now < 4 * 3600:
        if (ceiling := reserve(numbers, now)) is not None:
            reserved.append(ceiling - numbers.last(KEY))
            filled.append(now)
        for _ in range(pace):
            assert numbers.take(KEY) is not None
        now += 1.0
    assert reserved[0] == FIRST_BLOCK and reserved == sorted(reserved)
    assert filled[-1] - filled[-2] >= LASTS, "half a block lasts that long"
    assert reserved[-1] <= 4 * LASTS * pace, "and not much longer"


@pytest.mark.parametrize("pace", [1, 20, 300, 2000])
def test_after_a_few_refills_a_dead_disk_is_outlasted_for_ten_minutes(pace: int) -> None:
    numbers, now = Numbers({}), 0.0
    while now < 300.0 or (numbers.last(KEY) < FIRST_BLOCK and now < 1e5):
        reserve(numbers, now)
        for _ in range(max(1, pace // 20)):
            assert numbers.take(KEY) is not None
        now += 0.05 if pace >= 20 else 1.0 / pace
    left = numbers._lines[KEY].ceiling - numbers.last(KEY)
    assert left >= LASTS * pace or left >= FIRST_BLOCK // 2 > LASTS * pace * 0.8


def test_a_slow_model_keeps_its_small_blocks() -> None:
    numbers = Numbers({})
    for hour in range(50):
        reserve(numbers, hour * 3600.0)
        for _ in range(FIRST_BLOCK // 2):
            numbers.take(KEY)
    assert numbers.wants(KEY, 51 * 3600.0) == numbers.last(KEY) + FIRST_BLOCK


def test_a_disk_that_fails_makes_no_block_grow() -> None:
    numbers = Numbers({})
    reserve(numbers, 0.0)
    for _ in range(FIRST_BLOCK // 2):
        numbers.take(KEY)
    wanted = set()
    for attempt in range(200):
        ceiling = numbers.wants(KEY, 1.0 + attempt)
        assert ceiling is not None
        wanted.add(ceiling)
        numbers.failed(KEY)
    assert wanted == {FIRST_BLOCK // 2 + GROWTH * FIRST_BLOCK}
    assert numbers.take(KEY) == FIRST_BLOCK // 2 + 1, "the live path goes on with what is durable"


def test_a_late_smaller_reservation_takes_nothing_back() -> None:
    numbers = Numbers({})
    reserve(numbers, 0.0)
    numbers.reserved(KEY, 10, 1.0)
    assert [numbers.take(KEY) for _ in range(11)][-1] == 11


@pytest.mark.parametrize("seed", range(50))
def test_no_number_is_handed_out_twice_over_crashes(seed: int) -> None:
    print(f"seed {seed}")
    random = Random(seed)
    keys = [("lab", "a"), ("lab", "b"), ("other", "a")]
    durable: dict[tuple[str, str], int] = {}
    numbers, waiting, now = Numbers({}), {}, 0.0
    handed: dict[tuple[str, str], list[int]] = {key: [] for key in keys}
    for _ in range(600):
        now += random.random() * 30
        key = random.choice(keys)
        match random.randrange(12):
            case 0:  # A crash: what was asked for may be durable or not, and nobody knows what was used.
                for lost, ceiling in waiting.items():
                    if random.random() < 0.5:
                        durable[lost] = max(durable.get(lost, 0), ceiling)
                numbers, waiting = Numbers(dict(durable)), {}
            case 1:  # A clean stop gives back what was not used.
                for lost, ceiling in waiting.items():
                    durable[lost] = max(durable.get(lost, 0), ceiling)
                durable |= numbers.used()
                numbers, waiting = Numbers(dict(durable)), {}
            case 2 | 3 | 4 if waiting:  # The disk answers.
                key, ceiling = waiting.popitem()
                if random.random() < 0.8:
                    durable[key] = max(durable.get(key, 0), ceiling)
                    numbers.reserved(key, ceiling, now)
                else:
                    numbers.failed(key)
            case 5 | 6:
                if (wanted := numbers.wants(key, now)) is not None:
                    waiting[key] = wanted
            case _:
                for _ in range(random.choice([1, 1, 300])):
                    if (number := numbers.take(key)) is not None:
                        assert number <= durable[key], "only what is durable is handed out"
                        handed[key].append(number)
    for numbers_of_one in handed.values():
        assert numbers_of_one == sorted(set(numbers_of_one)), "each once, ascending"
    assert sum(map(len, handed.values())) > 50


def test_a_model_that_no_floor_is_known_of_begins_above_the_floor_of_all() -> None:
    numbers = Numbers({NO_MODEL: 5000, ("default", "policy"): 20})
    for model, first in (("policy", 21), ("value", 5001)):
        key = ("default", model)
        assert numbers.take(key) is None
        ceiling = numbers.wants(key, 0.0)
        assert ceiling is not None and ceiling > first
        numbers.reserved(key, ceiling, 0.0)
        assert numbers.take(key) == first
    assert numbers.used() == {("default", "policy"): 21, ("default", "value"): 5001}
