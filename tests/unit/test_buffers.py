"""The memory of payloads: reused when nobody looks at it, left alone while anybody does."""

from __future__ import annotations

import gc
import mmap
import threading

import numpy as np
import pytest

from broadcaster.protocol.errors import RemoteProtocolError
from broadcaster.protocol.limits import MAX_PAYLOAD
from clients.buffers import HUGE, BufferPool, Kept, allocate, array_of, view_of_array

MIB = 1 << 20


def filled(pool: BufferPool, size: int, value: int) -> np.ndarray:
    buffer = pool.lend(size)
    buffer[:] = bytes([value]) * size
    return pool.root(buffer)


def address(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


def test_a_lent_buffer_has_exactly_the_size_asked_for() -> None:
    pool = BufferPool()
    for size in (0, 1, 4095, 4097, HUGE - 1, HUGE, HUGE + 1):
        assert len(pool.lend(size)) == size


def test_memory_comes_back_when_the_last_view_dies_and_not_before() -> None:
    pool = BufferPool()
    root = filled(pool, 5 * MIB, 7)
    where = address(root)
    view = root[MIB : 2 * MIB].view(np.float32).reshape(512, 512)[::2]
    window = view_of_array(root)[3:9]
    del root
    gc.collect()
    assert pool.idle == []
    del view
    gc.collect()
    assert pool.idle == [] and bytes(window) == bytes([7] * 6)
    del window
    gc.collect()
    assert len(pool.idle) == 1
    assert address(filled(pool, 5 * MIB, 8)) == where


def test_a_snapshot_that_is_kept_is_never_written_to() -> None:
    pool = BufferPool()
    kept = [filled(pool, 3 * MIB, value) for value in range(6)]
    assert len({address(array) for array in kept}) == 6
    assert [int(array.min()) for array in kept] == [int(array.max()) for array in kept] == list(range(6))


def test_roots_and_what_derives_from_them_cannot_be_written_to() -> None:
    root = filled(BufferPool(), MIB, 1)
    for array in (root, root[:10], root.view(np.float32), array_of(b"abc")):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1
    assert view_of_array(root).readonly


def test_a_subscriber_of_one_newest_version_uses_two_buffers() -> None:
    pool = BufferPool()
    places = set()
    newest = None
    for value in range(20):
        newest = filled(pool, 3 * MIB, value)
        places.add(address(newest))
    assert newest is not None and len(places) == 2


def test_the_smallest_buffer_that_fits_is_taken() -> None:
    kept = Kept()
    large, small = allocate(40 * MIB), allocate(4 * MIB)
    kept.put(large)
    kept.put(small)
    assert kept.take(3 * MIB) is small
    assert kept.take(3 * MIB) is large


def test_buffers_that_are_too_small_are_let_go_before_a_larger_one_is_made() -> None:
    kept = Kept()
    kept.put(allocate(MIB))
    kept.put(allocate(2 * MIB))
    assert len(kept.take(9 * MIB)) >= 9 * MIB
    assert kept.idle == []


def test_at_most_two_idle_buffers_are_kept() -> None:
    pool = BufferPool()
    for buffer in [pool.lend(MIB) for _ in range(7)]:
        pool.give(buffer)
    assert len(pool.idle) == 2


def test_what_was_needed_for_a_moment_is_let_go_after_a_while() -> None:
    pool = BufferPool()
    held = [filled(pool, 3 * MIB, value) for value in range(4)]
    newest = held[-1]
    held.clear()
    for value in range(12):
        newest = filled(pool, 3 * MIB, value)
    assert newest is not None and len(pool.idle) == 1, "one visible, one for the next"


def test_who_often_holds_an_old_version_makes_no_new_memory_each_time() -> None:
    pool, places = BufferPool(), set()
    newest = filled(pool, 3 * MIB, 0)
    for value in range(1, 30):
        held = newest if value % 3 else None  # An actor that is slower than the learner.
        newest = filled(pool, 3 * MIB, value)
        places.add(address(newest))
        following = filled(pool, 3 * MIB, value)
        places.add(address(following))
        del held
        newest = following
    assert len(places) == 3


def test_a_buffer_that_is_let_go_stays_mapped_under_its_views() -> None:
    kept = Kept(keep=1)
    first = allocate(MIB)
    view = memoryview(first)
    view[:4] = b"last"
    kept.put(first)
    kept.put(allocate(MIB))
    del first
    gc.collect()
    assert bytes(view[:4]) == b"last"


@pytest.mark.parametrize("size", [-1, MAX_PAYLOAD + 1, 1 << 62])
def test_a_size_that_no_payload_has_is_refused(size: int) -> None:
    with pytest.raises(RemoteProtocolError):
        allocate(size)


def test_memory_is_private_to_the_process() -> None:
    found = allocate(HUGE)
    assert isinstance(found, mmap.mmap)
    with open("/proc/self/maps") as file:
        where = address(np.frombuffer(found, np.uint8))
        line = next(line for line in file if int(line.split("-")[0], 16) <= where < int(line.split()[0].split("-")[1], 16))
    assert line.split()[1] == "rw-p"


def test_buffers_may_be_given_back_from_any_thread_while_others_are_lent() -> None:
    pool = BufferPool()
    wrong = []

    def work(value: int) -> None:
        for _ in range(300):
            array = filled(pool, 64 << 10, value)
            if int(array.min()) != value or int(array.max()) != value:
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(value,)) for value in range(1, 5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [] and len(pool.idle) <= 2
