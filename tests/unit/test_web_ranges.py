"""Which bytes a `Range` asks for, and which tags an `If-None-Match` names."""

from __future__ import annotations

import random

import pytest

from broadcaster.web.byterange import Unsatisfiable, matches, range_of

ASKED = {
    "bytes=0-0": (0, 1),
    "bytes=0-99": (0, 100),
    "bytes=10-19": (10, 20),
    "bytes=99-": (99, 100),
    "bytes=0-": (0, 100),
    "bytes=50-5000": (50, 100),
    "bytes=-1": (99, 100),
    "bytes=-100": (0, 100),
    "bytes=-5000": (0, 100),
    "Bytes = 3 - 4": (3, 5),
}
IGNORED = ["", "bytes", "bytes=", "bytes=-", "bytes=5-4", "bytes=a-b", "bytes=1-2,5-6", "items=0-5", "bytes=+1-2", "bytes=1.5-2"]
OUTSIDE = ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=99999999999999999999-"]


@pytest.mark.parametrize("header", ASKED)
def test_one_range_is_found(header: str) -> None:
    assert range_of(header, 100) == ASKED[header]


@pytest.mark.parametrize("header", [None, *IGNORED, "bytes=" + "9" * 5000 + "-", "bytes=٣-٤"])
def test_what_is_no_range_asks_for_all(header: str | None) -> None:
    assert range_of(header, 100) is None


@pytest.mark.parametrize("header", OUTSIDE)
def test_a_range_outside_is_told_apart(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        range_of(header, 100)


@pytest.mark.parametrize("header", ["bytes=0-", "bytes=0-0", "bytes=-5"])
def test_an_empty_payload_has_no_range(header: str) -> None:
    with pytest.raises(Unsatisfiable):
        range_of(header, 0)


def test_whatever_is_asked_lies_inside() -> None:
    chosen = random.Random(7)
    for _ in range(20_000):
        header = "bytes=" + "".join(chosen.choice("0123456789-, =") for _ in range(chosen.randrange(12)))
        size = chosen.randrange(200)
        try:
            found = range_of(header, size)
        except Unsatisfiable:
            continue
        assert found is None or 0 <= found[0] < found[1] <= size, header


def test_a_tag_is_named_by_itself_by_its_weak_form_and_by_a_star() -> None:
    assert matches('"a"', '"a"') and matches('W/"a"', '"a"') and matches('"b", "a"', '"a"') and matches("*", '"a"')
    assert not matches(None, '"a"') and not matches('"b"', '"a"') and not matches("a", '"a"')
