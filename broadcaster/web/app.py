"""The application: the table of routes, behind the door."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as StarletteRoute
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from broadcaster.protocol.errors import AccessDenied
from broadcaster.web.access import Door, Hosts, Sessions
from broadcaster.web.asked import Asked, House
from broadcaster.web.events import Hub
from broadcaster.web.health import Disk, OwnLoop
from broadcaster.web.lags import Lags
from broadcaster.web.link import Link
from broadcaster.web.options import WebOptions
from broadcaster.web.problems import Problem
from broadcaster.web.rates import Rates
from broadcaster.web.routes import ROUTES, Route
from broadcaster.web.tokens import TokenFile


def make_app(options: WebOptions) -> ASGIApp:
    """The application; it connects to the core when it is started."""
    link = Link(options.core)
    tokens = TokenFile(options.tokens)
    house = House(
        link=link,
        hub=Hub(link),
        rates=Rates(link),
        lags=Lags(link),
        disk=Disk(options.archive_dir),
        loop=OwnLoop(),
        tokens=tokens,
        sessions=Sessions(tokens),
    )
    routes = [StarletteRoute(route.path, _endpoint(house, route), methods=["GET"]) for route in ROUTES]
    router = Router(routes, redirect_slashes=False, default=_nothing, lifespan=_lifespan(house))
    return Door(router, tokens, house.sessions, Hosts(options.hosts))


def _lifespan(house: House) -> Callable[[Any], contextlib.AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[None]:
        await house.link.open()
        house.loop.begin()
        try:
            yield
        finally:
            house.loop.end()
            await house.hub.close()
            await house.rates.close()
            await house.link.close()

    return lifespan


def _endpoint(house: House, route: Route) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        if route.role is not None:
            _require(request, route)
        if request.method == "HEAD" and not route.head:
            raise Problem(405, "this never ends: there is no HEAD of it", {"Allow": "GET"})
        found = await route.handler(Asked(house, request))
        if isinstance(found, Response):
            return found
        return JSONResponse(found, headers={"Cache-Control": "no-store"})

    return endpoint


def _require(request: Request, route: Route) -> None:
    """Raises Problem, AccessDenied."""
    grant = request.state.grant
    if grant is None:
        raise Problem(401, "a token is needed: Authorization: Bearer TOKEN", {"WWW-Authenticate": 'Bearer realm="broadcaster"'})
    if not grant.has(route.role):
        raise AccessDenied(what=route.path, reason=f"it needs a token of role {route.role}")
    if route.everything and not grant.covers_all:
        raise AccessDenied(what=route.path, reason="it tells of all models, and the token does not cover all")


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Raises Problem: no route has this path."""
    raise Problem(404, "there is nothing here: /openapi.json names what there is")
