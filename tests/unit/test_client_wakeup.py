"""Waking the I/O thread, also when whoever wakes it is interrupted."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator

import pytest

from clients._driver.wakeup import Wakeup


@pytest.fixture
def wakeup() -> Iterator[Wakeup]:
    made = Wakeup()
    made.asleep = True
    yield made


def awake(wakeup: Wakeup) -> bool:
    return bool(select.select([wakeup.fd], [], [], 0)[0])


def test_a_thread_that_sleeps_is_woken_once(wakeup: Wakeup) -> None:
    wakeup.signal()
    assert awake(wakeup)
    wakeup.clear()
    wakeup.signal()
    assert not awake(wakeup), "it is awake already"


def test_an_interrupted_call_leaves_the_waking_to_the_next_one(wakeup: Wakeup, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(fd: int, data: bytes) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "write", interrupted)
        wakeup.signal()
    wakeup.signal()
    assert awake(wakeup)
