"""Waiting for what the I/O thread ends: an interrupted waiter takes nothing along that the I/O thread needs."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from broadcaster.protocol.errors import RequestTimeout, UnknownModel
from clients._driver import futures


class Watched(threading.Condition):
    """Notes who takes it."""

    def __init__(self) -> None:
        super().__init__()
        self.takers: set[int] = set()

    def __enter__(self) -> Any:
        self.takers.add(threading.get_ident())
        return super().__enter__()


def test_a_waiting_thread_never_takes_the_lock_that_ends_the_future() -> None:
    future: futures.Pending[int] = futures.new()
    future._condition = watched = Watched()
    ender = threading.Timer(0.05, lambda: futures.fulfil(future, 7))
    ender.start()
    assert futures.ended(future, 0.001) is False
    assert futures.wait(future, "a number", 20) == 7
    ender.join()
    assert threading.get_ident() not in watched.takers
    assert future.result() == 7


def test_who_was_interrupted_while_waiting_leaves_others_to_look_for_themselves() -> None:
    future: futures.Pending[int] = futures.new()
    futures.fulfil(future, 7)
    future._ended.acquire()  # Interrupted before it was given back.
    assert futures.wait(future, "a number", 20) == 7


def test_what_went_wrong_is_raised_each_time() -> None:
    future = futures.failed(UnknownModel(model_id="policy", namespace="default"))
    for _ in range(2):
        with pytest.raises(UnknownModel):
            futures.wait(future, "a model", 1)


def test_a_future_that_nobody_ends_is_waited_for_no_longer_than_its_time_and_some_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(futures, "GRACE", 0.05)
    with pytest.raises(RequestTimeout):
        futures.wait(futures.new(), "an answer", 0.05)
