"""A client that reads a version is told of the next one when it has that."""

from __future__ import annotations

import asyncio

from broadcaster.cogment.pacing import Pacing

ME, ANOTHER = ("ipv4:1", "policy"), ("ipv4:1", "value")
LONG = 30.0


async def test_who_reads_nothing_is_not_waited_for() -> None:
    pacing = Pacing()
    with pacing.reading(ANOTHER):
        await asyncio.wait_for(pacing.idle(ME, LONG), 1)
    await asyncio.wait_for(pacing.idle(ANOTHER, LONG), 1)


async def test_who_reads_is_waited_for_until_the_last_of_it() -> None:
    pacing = Pacing()
    with pacing.reading(ME):
        with pacing.reading(ME):
            waiting = asyncio.create_task(pacing.idle(ME, LONG))
            await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not waiting.done()
    await asyncio.wait_for(waiting, 1)


async def test_who_reads_for_ever_is_waited_for_in_patience_only() -> None:
    pacing = Pacing()
    with pacing.reading(ME):
        await asyncio.wait_for(pacing.idle(ME, 0.01), 5)


async def test_a_read_that_fails_is_over() -> None:
    pacing = Pacing()
    try:
        with pacing.reading(ME):
            raise ConnectionError("the client left")
    except ConnectionError:
        await asyncio.wait_for(pacing.idle(ME, LONG), 1)
