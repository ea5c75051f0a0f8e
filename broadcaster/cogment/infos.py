"""RetrieveVersionInfos."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from broadcaster.cogment.access import Call
from broadcaster.cogment.house import House
from broadcaster.cogment.limits import HELD
from broadcaster.cogment.link import answer
from broadcaster.cogment.paging import next_number, page_of, parse_handle
from broadcaster.cogment.schema import Message
from broadcaster.protocol.errors import BroadcasterError, UnknownVersion
from broadcaster.protocol.limits import PAGE
from broadcaster.protocol.version import VersionInfo
from clients._calls import Calls

TRIES = 3
"""How often a version is looked up that leaves memory again and again before it can be held."""
ABREAST = 8
"""Versions of one reply that are hashed or looked up at a time."""


async def retrieve(house: House, call: Call, request: Message) -> Message:
    """The versions that were asked for, in that order; all that can be had, ascending, where none was."""
    call.require(request.model_id)
    start, count = parse_handle("version_handle", request.version_handle), request.versions_count
    timeout = call.timeout()
    calls = house.link.calls(timeout)
    if request.version_numbers:
        asked, following = page_of(list(request.version_numbers), "version", start, count)
        if not asked:
            await answer(calls.model(request.model_id), timeout)  # Whether there is such a model is told all the same.
        looked = _held if len(asked) <= HELD else _looked_up
        found = await _abreast([looked(house, calls, request.model_id, number, timeout) for number in asked])
        infos = await _abreast([_described(house, info, gone_is_told=True) for info in found])
    else:
        found = await _from(calls, request.model_id, start, count, timeout)
        following = next_number(start, found[-1].number if found else None)
        infos = await _abreast([_described(house, info, gone_is_told=False) for info in found])
    return house.made("RetrieveVersionInfosReply", version_infos=infos, next_version_handle=following)


async def find(calls: Calls, model_id: str, number: int, timeout: float) -> VersionInfo:
    """A version by its number, or by -n: the n-th newest that can be had. Raises UnknownModel, UnknownVersion."""
    try:
        return await answer(calls.get(model_id, number), timeout)
    except UnknownVersion as unknown:
        if number >= 0 or type(unknown) is not UnknownVersion:
            raise
        named = "n" if number == -1 else f"n-{-number - 1}"
        raise UnknownVersion(model_id=model_id, number=f"{named} ({number} of those that can be had)") from unknown


async def _looked_up(house: House, calls: Calls, model_id: str, number: int, timeout: float) -> VersionInfo:
    return await find(calls, model_id, number, timeout)


async def _held(house: House, calls: Calls, model_id: str, number: int, timeout: float) -> VersionInfo:
    """A version that is held for whoever asks for its data now. What -n stands for may have left memory in between: then it
    stands for another one."""
    for _ in range(TRIES):
        info = await find(calls, model_id, number, timeout)
        if await house.places.hold(info):
            break
    return info


async def _from(calls: Calls, model_id: str, start: int, count: int, timeout: float) -> list[VersionInfo]:
    """Those with a number from `start` on, at most `count` (0: all)."""
    after: int | None = max(0, start - 1)
    found: list[VersionInfo] = []
    while after is not None and not (count and len(found) >= count):
        limit = min(PAGE, count - len(found)) if count else PAGE
        page, after = await answer(calls.versions(model_id, after, limit), timeout)
        found += page
    return found


async def _described(house: House, info: VersionInfo, *, gone_is_told: bool) -> Message:
    """With its hash. A version that leaves meanwhile is an error, or is listed without one: who pages would take a page that is
    shorter than it should be for the last."""
    try:
        return house.described(info, await house.hashes.of(info))
    except UnknownVersion:
        if gone_is_told:
            raise
    except BroadcasterError as error:
        if gone_is_told or error.retryable:
            raise
    return house.described(info, "")


async def _abreast(work: Sequence) -> list:  # type: ignore[type-arg]
    """What comes of each, in order, a few at a time."""
    found = []
    for start in range(0, len(work), ABREAST):
        found += await asyncio.gather(*work[start : start + ABREAST])
    return found
