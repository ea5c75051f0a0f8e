"""CreateOrUpdateModel, DeleteModel, RetrieveModels."""

from __future__ import annotations

import asyncio

from broadcaster.cogment.access import Call
from broadcaster.cogment.house import House
from broadcaster.cogment.link import answer
from broadcaster.cogment.paging import page_of, parse_handle
from broadcaster.cogment.schema import Message
from broadcaster.cogment.status import malformed
from broadcaster.protocol.errors import AlreadyExists, Conflict, UnknownModel
from broadcaster.protocol.limits import PAGE
from broadcaster.protocol.version import ModelInfo

TRIES = 3
"""How often a model may come and go while it is made or updated."""


async def create_or_update(house: House, call: Call, request: Message) -> Message:
    """Makes a model, or replaces the user data of one that is there."""
    if not request.HasField("model_info"):
        raise malformed("model_info is missing")
    model_id, user_data = request.model_info.model_id, dict(request.model_info.user_data)
    call.require(model_id)
    timeout = call.timeout()
    calls = house.link.calls(timeout)
    for _ in range(TRIES):
        try:
            await answer(calls.create(model_id, user_data, None, "", exist_ok=False), timeout)
            break
        except AlreadyExists:
            pass
        try:
            await answer(calls.update(model_id, user_data, None), timeout)
            break
        except UnknownModel:  # Deleted in between.
            continue
    else:
        raise Conflict(model_id=model_id, expected="a model", found="one that others make and delete")
    return house.made("CreateOrUpdateModelReply")


async def delete(house: House, call: Call, request: Message) -> Message:
    """Deletes a model with all its versions, unless something of it is pinned or has an alias."""
    call.require(request.model_id)
    timeout = call.timeout()
    await answer(house.link.calls(timeout).delete_model(request.model_id, force=False), timeout)
    return house.made("DeleteModelReply")


async def retrieve(house: House, call: Call, request: Message) -> Message:
    """The models that were asked for, in that order; all in order of name where none was."""
    start, count = parse_handle("model_handle", request.model_handle), request.models_count
    if request.model_ids:
        asked, following = page_of(list(request.model_ids), "model", start, count)
        for model_id in asked:
            call.require(model_id)
        timeout = call.timeout()
        calls = house.link.calls(timeout)
        found = list(await asyncio.gather(*(answer(calls.model(model_id), timeout) for model_id in asked)))
    else:
        found = await _all(house, call, start, count)
        following = str(start + len(found))
    return house.made("RetrieveModelsReply", model_infos=[house.model(info) for info in found], next_model_handle=following)


async def _all(house: House, call: Call, start: int, count: int) -> list[ModelInfo]:
    """From the `start`-th on (0 is the first) of those that the caller is told of, at most `count` (0: all)."""
    timeout = call.timeout()
    calls, after, skipped = house.link.calls(timeout), None, 0
    found: list[ModelInfo] = []
    while True:
        page, after = await answer(calls.models(after, PAGE), timeout)
        covered = [info for info in page if call.covers(info.model_id)]
        skip = min(start - skipped, len(covered))
        skipped += skip
        found += covered[skip:]
        if after is None or (count and len(found) >= count):
            return found[:count] if count else found
