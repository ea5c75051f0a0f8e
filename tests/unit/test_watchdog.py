"""A loop that makes no turn any more ends its process; one that was stopped, or is merely slow, does not."""

from __future__ import annotations

import subprocess
import sys

from broadcaster.server.watchdog import CODE, LOOK, STUCK, STUCK_ENDING, Watchdog
from tests.broadcaster_process import ROOT

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


def ended(script: str) -> subprocess.CompletedProcess[str]:
    """How a process ended in which a watchdog looks often, and `looks` were made so far."""
    before = """
import itertools, logging, threading, time
from broadcaster.server import watchdog
logging.basicConfig()
watchdog.LOOK, watchdog.STUCK = 0.01, 0.2
looks = itertools.count()
"""
    return subprocess.run([sys.executable, "-c", before + script], capture_output=True, text=True, timeout=30)


def test_the_process_of_a_stuck_loop_ends_and_says_where_it_was() -> None:
    found = ended("with watchdog.Watchdog(lambda: 0, lambda: False): threading.Event().wait()")
    assert found.returncode == CODE
    assert "makes no turn any more" in found.stderr and "<string>" in found.stderr


def test_a_process_whose_loop_makes_turns_goes_on() -> None:
    found = ended("""
with watchdog.Watchdog(lambda: next(looks), lambda: False):
    while next(looks) < 200:
        time.sleep(watchdog.LOOK)
""")
    assert (found.returncode, found.stderr) == (0, "")


def test_the_operators_are_told_the_same() -> None:
    said = (ROOT / "docs" / "operations.md").read_text()
    assert f"for {STUCK:.0f} s ends by itself with exit code {CODE}" in said
