"""A loop that makes no turn any more ends its process; one that was stopped, or is merely slow, does not."""

from __future__ import annotations

import subprocess
import sys

import pytest

from broadcaster.server import watchdog as module
from broadcaster.server.watchdog import CODE, LOOK, STUCK, STUCK_ENDING, Watchdog

LOOKS = int(STUCK / LOOK)


class Loop:
    turns = 0
    ending = False


def looks(loop: Loop, count: int) -> list[bool]:
    dog = Watchdog(lambda: loop.turns, lambda: loop.ending)
    assert not dog.stuck()  # The first one sees where it is.
    return [dog.stuck() for _ in range(count)]


def test_a_loop_without_a_turn_is_stuck_after_so_many_looks_and_not_before() -> None:
    assert looks(Loop(), LOOKS) == [False] * (LOOKS - 1) + [True]


def test_when_all_is_to_end_there_is_less_patience() -> None:
    loop = Loop()
    loop.ending = True
    count = int(STUCK_ENDING / LOOK)
    assert looks(loop, count) == [False] * (count - 1) + [True]


def test_one_turn_now_and_then_is_enough() -> None:
    loop = Loop()
    dog = Watchdog(lambda: loop.turns, lambda: loop.ending)
    for look in range(10 * LOOKS):
        loop.turns += look % (LOOKS - 1) == 0
        assert not dog.stuck()


@pytest.mark.parametrize("turns", [True, False])
def test_the_process_of_a_stuck_loop_ends_and_says_where_it_was(turns: bool) -> None:
    script = f"""
import itertools, logging, time
from broadcaster.server import watchdog
logging.basicConfig()
watchdog.LOOK, watchdog.STUCK = 0.01, 0.2
count = itertools.count()
with watchdog.Watchdog(lambda: next(count) if {turns} else 0, lambda: False):
    time.sleep(0.5 if {turns} else 30)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    if turns:
        assert (ended.returncode, ended.stderr) == (0, "")
    else:
        assert ended.returncode == CODE
        assert "makes no turn any more" in ended.stderr and "<string>" in ended.stderr
    assert module.LOOK == LOOK
