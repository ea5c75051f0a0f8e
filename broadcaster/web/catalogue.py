"""Models, versions and subscribers as JSON."""

from __future__ import annotations

from typing import Any

from broadcaster.protocol.errors import InvalidRequest
from broadcaster.web.asked import Asked
from broadcaster.web.link import answer
from broadcaster.web.shapes import of_model, of_subscriber, of_version

Told = dict[str, Any]


async def models(asked: Asked) -> Told:
    """A page of models in order of name; those that the token does not cover are left out."""
    calls, after, grant = asked.house.link.calls(asked.namespace), asked.text("after"), asked.grant
    while True:
        page, after = await answer(calls.models(after, asked.limit))
        covered = [model for model in page if grant.allows(model.namespace, model.model_id)]
        if covered or after is None:
            break
    if after is not None and not grant.covers_all:
        after = covered[-1].model_id  # The name of the last one that was looked at is not for this token.
    return {"models": [of_model(model) for model in covered], "next": after}


async def model(asked: Asked) -> Told:
    """One model."""
    return of_model(await answer(asked.house.link.calls(asked.namespace).model(asked.model)))


async def versions(asked: Asked) -> Told:
    """A page of a model's versions that can be fetched: the oldest first, or with `order=desc` the newest."""
    name, order, after = asked.model, asked.text("order") or "asc", asked.text("after")
    calls = asked.house.link.calls(asked.namespace)
    if order not in ("asc", "desc"):
        raise InvalidRequest(field="order", reason=f"{order[:40]!r} is neither asc nor desc")
    if order == "asc":
        page, following = await answer(calls.versions(name, asked.whole("after"), asked.limit))
    else:
        # A page may be shorter than its limit; what a search has found so far is not counted against it.
        page, following = await answer(calls.search(name, None, "-number", asked.limit)(after, 0))
    aliases = (await answer(calls.model(name))).aliases
    told = [of_version(version, aliases) for version in page]
    return {"versions": told, "next": None if following is None else str(following)}


async def version(asked: Asked) -> Told:
    """One version."""
    calls, name = asked.house.link.calls(asked.namespace), asked.model
    found = await answer(calls.get(name, asked.ref))
    return of_version(found, (await answer(calls.model(name))).aliases)


async def subscribers(asked: Asked) -> Told:
    """A page of who follows a model, and how far each is."""
    after = asked.text("after")
    try:
        behind = None if after is None else bytes.fromhex(after)
    except ValueError:
        behind = b""
    if behind is not None and len(behind) != 16:
        raise InvalidRequest(field="after", reason="is no subscriber: 32 hexadecimal digits are")
    page, following = await answer(asked.house.link.calls(asked.namespace).subscribers(asked.model, behind, asked.limit))
    return {"subscribers": [of_subscriber(one) for one in page], "next": None if following is None else following.hex()}


async def stats(asked: Asked) -> Told:
    """The core's counters and gauges, and how fast they grow."""
    return await asked.house.rates.tell()
