"""Routes for whoever runs a broadcaster: is it alive, is it ready, how much of what."""

from __future__ import annotations

import asyncio

from prometheus_client.exposition import choose_encoder
from starlette.responses import JSONResponse, PlainTextResponse, Response

from broadcaster.web.asked import Asked
from broadcaster.web.health import Check, of_core
from broadcaster.web.metrics import registry_of


async def livez(asked: Asked) -> Response:
    """This process answers. Nothing else is looked at."""
    return PlainTextResponse("ok\n", headers={"Cache-Control": "no-store"})


async def readyz(asked: Asked) -> Response:
    """All checks, by name; 503 when one of them fails."""
    house = asked.house
    look, disk = await asyncio.gather(house.link.look(), house.disk.check())
    found: list[Check] = [*of_core(look), disk, house.loop.check()]
    ready = all(check.ok for check in found)
    told = {"ready": ready, "checks": [check.told() for check in found]}
    return JSONResponse(told, status_code=200 if ready else 503, headers={"Cache-Control": "no-store"})


async def metrics(asked: Asked) -> Response:
    """Everything that is counted, as Prometheus or OpenMetrics reads it."""
    house = asked.house
    look, lags = await asyncio.gather(house.link.look(), house.lags.look())
    encode, content_type = choose_encoder(asked.request.headers.get("accept", ""))
    own = {"listeners": house.hub.listeners, "downloads": house.downloads, "web_loop_late_seconds": house.loop.late}
    return Response(encode(registry_of(look, lags, own)), headers={"Content-Type": content_type})
