"""VersionUpdate: the newest version at once, and each time that there is a newer one the newest of them."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc

from broadcaster.cogment.access import Call
from broadcaster.cogment.house import House
from broadcaster.cogment.limits import HASH_PATIENCE
from broadcaster.cogment.link import answer
from broadcaster.cogment.pacing import Turn
from broadcaster.cogment.schema import Message
from broadcaster.cogment.status import Refusal, malformed
from broadcaster.protocol.errors import BroadcasterError, UnknownModel
from broadcaster.protocol.version import VersionInfo
from clients._driver.newest_feed import Heard
from clients._newest import NewestVersion


async def follow(house: House, call: Call, request: Message) -> None:
    """Sends what is known of each newest version, until the client has enough or the model is deleted."""
    call.require(request.model_id)
    timeout = call.timeout()
    try:
        model = await answer(house.link.calls(timeout).model(request.model_id), timeout)
    except UnknownModel as unknown:
        raise malformed(str(unknown)) from None
    newest = house.link.newest(model)
    try:
        with house.pacing.turn(call.reader(request.model_id)) as turn:
            await _tell(house, call, newest, turn)
    finally:
        newest.close()


async def _tell(house: House, call: Call, newest: NewestVersion, turn: Turn) -> None:
    last = 0
    while True:
        version, where = await _newer(house, call, newest, last)
        last = version.number
        house.places.note(version, where)
        if not await _hold(house, version):
            continue
        sha256 = await house.hashes.soon(version, where, HASH_PATIENCE)
        turn.told()
        await call.context.write(house.made("VersionUpdateReply", version_info=house.described(version, sha256)))
        await _over(house, turn)


async def _over(house: House, turn: Turn) -> None:
    """Until it is the next one's turn, or the server stops."""
    waits = [asyncio.ensure_future(turn.over()), asyncio.ensure_future(house.stopping.wait())]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _hold(house: House, version: VersionInfo) -> bool:
    """Keeps it for a moment, for its data will be asked for. False: it has left memory already, so that a newer one is there to
    be told instead."""
    try:
        return await house.places.hold(version)
    except BroadcasterError:
        return True  # A core that is being started again ends no updates; whoever asks for the data is told what is wrong.


async def _newer(house: House, call: Call, newest: NewestVersion, than: int) -> Heard:
    """The newest version, once it is newer. Raises UnknownModel when the model is deleted, Refusal when the server stops or the
    token was taken back."""
    coming = asyncio.wrap_future(newest.newer(than))
    stopping = asyncio.ensure_future(house.stopping.wait())
    both: list[asyncio.Future[Any]] = [coming, stopping]
    try:
        while not coming.done():
            await asyncio.wait(both, timeout=call.looks_every, return_when=asyncio.FIRST_COMPLETED)
            if stopping.done():
                raise Refusal(grpc.StatusCode.UNAVAILABLE, "the server stops")
            call.require_still()
        return coming.result()
    finally:
        stopping.cancel()
        if not coming.done():
            coming.cancel()
