"""The routes."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from broadcaster.web.health import checks
from broadcaster.web.link import Link
from broadcaster.web.metrics import registry_of


def make_app(link: Link) -> Starlette:
    """The application; it opens and closes `link`."""

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        await link.open()
        try:
            yield
        finally:
            await link.close()

    async def livez(request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(request: Request) -> Response:
        found = checks(*await link.look())
        ready = all(check.ok for check in found)
        told = {"ready": ready, "checks": [check.told() for check in found]}
        return JSONResponse(told, status_code=200 if ready else 503, headers={"Cache-Control": "no-store"})

    async def metrics(request: Request) -> Response:
        stats, _, _ = await link.look()
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(encode(registry_of(stats)), media_type=content_type)

    routes = [
        Route("/livez", livez),
        Route("/readyz", readyz),
        Route("/health", readyz),
        Route("/metrics", metrics),
    ]
    return Starlette(routes=routes, lifespan=lifespan)
