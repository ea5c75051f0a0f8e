"""How far behind a subscriber says it is, from what it heard."""

from __future__ import annotations

import pytest

from broadcaster.protocol.version import VersionInfo
from clients._driver.feed import Heard
from clients.subscriber import _behind


def heard(*told: tuple[int, int | None]) -> list[Heard]:
    """Versions that were heard of: number and epoch."""
    return [
        Heard(VersionInfo(namespace="n", model_id="m", number=number, size=1, digest="", creation_timestamp=1), 0.0, epoch)
        for number, epoch in told
    ]


@pytest.mark.parametrize(
    ("newer", "have", "last", "versions"),
    [
        (heard((1, 1)), 0, None, 1),
        (heard((7, 1)), 0, None, 1),
        (heard((7, 1), (8, 1), (9, 1)), 0, None, 3),
        (heard((8, 1), (9, 1)), 7, heard((7, 1))[0], 2),
        (heard((12, 1)), 7, heard((7, 1))[0], 5),
        (heard((12, 1)), 7, None, 5),
        (heard((12, 1)), 7, heard((3, None))[0], 5),
        (heard((1025, 2)), 7, heard((7, 1))[0], 1),
        (heard((8, 1), (1025, 2), (1027, 2), (4000, 3)), 7, heard((7, 1))[0], 5),
    ],
)
def test_versions_that_were_missed_count_and_numbers_that_were_skipped_do_not(
    newer: list[Heard], have: int, last: Heard | None, versions: int
) -> None:
    assert _behind(newer, have, last) == versions
