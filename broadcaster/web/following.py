"""`GET /v1/events`: what happens, as it happens."""

from __future__ import annotations

import re

from starlette.responses import Response

from broadcaster.protocol.errors import Busy, InvalidRequest
from broadcaster.protocol.messages import Event
from broadcaster.protocol.names import check_name
from broadcaster.web.asked import Asked
from broadcaster.web.events import Place
from broadcaster.web.problems import Problem
from broadcaster.web.streams import Stream

_PLACE = re.compile(r"(\d{1,18})\.(\d{1,18})", re.ASCII)


async def events(asked: Asked) -> Response:
    """The stream. `Last-Event-ID`, which browsers send by themselves, wins over `after`."""
    namespace, model, grant = asked.namespace, asked.text("model"), asked.grant
    if model is not None:
        asked.require(namespace, check_name("model", model))
    after = _place(asked.request.headers.get("last-event-id") or asked.text("after"))

    def wanted(event: Event) -> bool:
        return (model is None or event.model_id == model) and grant.allows(event.namespace, event.model_id)

    hub = asked.house.hub
    try:
        hub.require_room()
    except Busy as busy:
        raise Problem(429, str(busy), {"Retry-After": str(busy.retry_after)}) from None
    body = hub.listen(namespace, after, wanted, lambda: asked.house.tokens.holds(grant))
    headers = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Stream(body, 200, headers)


def _place(said: str | None) -> Place | None:
    """Raises InvalidRequest."""
    if said is None:
        return None
    found = _PLACE.fullmatch(said)
    if found is None:
        raise InvalidRequest(field="after", reason=f"{said[:60]!r} is no event id: EPOCH.OFFSET is")
    return int(found[1]), int(found[2])
