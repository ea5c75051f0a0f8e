"""A client that reads what it is told of is told of the newest when it has read that."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator

import pytest

from broadcaster.cogment import pacing
from broadcaster.cogment.pacing import Pacing

ME, ANOTHER = ("ipv4:1", "policy"), ("ipv4:1", "value")
LONG = 30.0


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Whoever reads is waited for, for longer than this test."""
    monkeypatch.setattr(pacing, "UPDATE_PATIENCE", LONG)
    yield


@pytest.mark.usefixtures("patient")
async def test_who_only_listens_is_told_of_the_next_one_soon() -> None:
    turns = Pacing()
    with turns.turn(ME) as turn, turns.turn(ANOTHER):
        for _ in range(3):
            turn.told()
            with turns.reading(ANOTHER):
                await asyncio.wait_for(turn.over(), 5)


@pytest.mark.usefixtures("patient")
async def test_who_reads_is_waited_for_until_the_last_of_it() -> None:
    turns = Pacing()
    with turns.turn(ME) as turn:
        turn.told()
        with turns.reading(ME):
            with turns.reading(ME):
                waiting = asyncio.create_task(turn.over())
                await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 5)


@pytest.mark.usefixtures("patient")
async def test_who_has_read_before_is_waited_for_to_begin() -> None:
    turns = Pacing()
    with turns.turn(ME) as turn:
        turn.told()
        with turns.reading(ME):
            pass
        await asyncio.wait_for(turn.over(), 5)
        turn.told()
        waiting = asyncio.create_task(turn.over())
        done, _ = await asyncio.wait([waiting], timeout=5 * pacing.UPDATE_PAUSE)
        assert not done
        with turns.reading(ME):
            await asyncio.sleep(0)
        await asyncio.wait_for(waiting, 5)


async def test_patience_ends_and_who_stopped_reading_is_a_listener_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacing, "UPDATE_PATIENCE", 0.1)
    turns = Pacing()
    with turns.turn(ME) as turn, turns.reading(ME):
        turn.told()
        turn.begin()
        began = time.monotonic()
        await turn.over()
        assert time.monotonic() - began >= 0.09
    with turns.turn(ME) as turn:
        for _ in range(3):
            turn.told()
            await asyncio.wait_for(turn.over(), 5)


async def test_what_ends_with_an_error_is_over_too() -> None:
    turns = Pacing()
    with turns.turn(ME) as turn:
        with pytest.raises(ConnectionError), turns.reading(ME):
            raise ConnectionError("the client left")
        await asyncio.wait_for(turn.over(), 5)
    assert turns._turns == {}
