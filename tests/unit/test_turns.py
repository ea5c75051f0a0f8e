"""Changes of one model, one after the other."""

from __future__ import annotations

import pytest

from broadcaster.protocol.errors import Busy
from broadcaster.server import turns
from broadcaster.server.turns import Turns

ONE, OTHER = ("lab", "one"), ("lab", "other")


def test_a_change_waits_for_those_of_its_model_and_for_no_other() -> None:
    line, begun = Turns(), []
    for key, name in ((ONE, "a"), (ONE, "b"), (OTHER, "c"), (ONE, "d")):
        line.take(key, lambda name=name: begun.append(name))  # type: ignore[misc]
    assert (begun, line.waiting) == (["a", "c"], 2)
    line.over(ONE)
    assert (begun, line.waiting) == (["a", "c", "b"], 1)
    line.over(OTHER)
    line.over(ONE)
    line.over(ONE)
    assert (begun, line.waiting) == (["a", "c", "b", "d"], 0)
    line.take(ONE, lambda: begun.append("e"))
    assert begun[-1] == "e", "nobody is before it"


def test_however_many_are_answered_at_once_each_has_its_turn() -> None:
    line, begun = Turns(), []
    line.take(ONE, lambda: None)

    def at_once(number: int) -> None:
        begun.append(number)
        line.over(ONE)

    for number in range(turns.MOST):
        line.take(ONE, lambda number=number: at_once(number))  # type: ignore[misc]
    line.over(ONE)
    assert begun == list(range(turns.MOST)) and line.waiting == 0
    line.take(ONE, lambda: at_once(-1))
    assert begun[-1] == -1


def test_so_many_wait_and_not_more() -> None:
    line = Turns()
    for _ in range(turns.MOST + 1):
        line.take(ONE, lambda: None)
    with pytest.raises(Busy):
        line.take(OTHER, lambda: None)
    line.over(ONE)
    line.take(OTHER, lambda: None)
