"""Whose turn it is to leave memory, against a sorted list; and that who has left otherwise takes no memory for long."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broadcaster.catalog import Catalog, Retention
from broadcaster.catalog import eviction as module
from broadcaster.catalog.eviction import EvictionQueue
from broadcaster.protocol.version import VersionInfo

KEY, IDLE = ("lab", "policy"), ("lab", "idle")


@given(st.lists(st.tuples(st.sampled_from(["push", "discard", "pop"]), st.integers(0, 30)), max_size=200))
def test_the_smallest_place_that_counts_comes_first(steps: list[tuple[str, int]]) -> None:
    slack, module.SLACK = module.SLACK, 3
    try:
        queue, there = EvictionQueue(), set[int]()
        for what, place in steps:
            if what == "push":
                queue.push(place, KEY, place)
                there.add(place)
            elif what == "discard":
                queue.discard(place)
                there.discard(place)
            elif there:
                while (popped := queue.pop()[0]) not in there:
                    pass
                assert popped == min(there)
                there.discard(popped)
            assert len(queue) >= len(there) and set(there) <= {entry[0] for entry in queue._heap}
    finally:
        module.SLACK = slack


def info(key: tuple[str, str], number: int) -> VersionInfo:
    return VersionInfo(namespace=key[0], model_id=key[1], number=number, size=1, digest="", creation_timestamp=0)


def test_versions_that_left_take_no_memory_behind_those_of_an_idle_model() -> None:
    catalog = Catalog(Retention(keep=10))
    for key in (IDLE, KEY):
        catalog.create(key, 1)
    for number in range(1, 11):
        catalog.add(info(IDLE, number), bytes(16), 1, 0.0)
    for number in range(1, 20_000):
        catalog.add(info(KEY, number), bytes(16), 1, 1.0)
    assert len(catalog._evictable) <= 2 * 20 + module.SLACK
    gone = catalog.expired(1e9)
    assert sorted((kept.info.model_id, kept.info.number) for kept in gone) == [
        *(("idle", number) for number in range(1, 10)),
        *(("policy", number) for number in range(19_990, 19_999)),
    ]
    assert not catalog._evictable
