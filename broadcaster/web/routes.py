"""All routes in one table: who may ask, what is answered. `app` serves it, `openapi` tells it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from broadcaster.web import catalogue, dashboard, downloads, following, pages, probes
from broadcaster.web.asked import Asked
from broadcaster.web.openapi import describe

Handler = Callable[[Asked], Awaitable[Any]]

ANYBODY = None
"""No token is needed."""
READ, TELL = "actor", "learner"
"""Every role may read; who the subscribers are, by name and host, is for learners and admins."""


@dataclass(frozen=True, slots=True)
class Route:
    """`handler` returns a Response, or what becomes JSON. `answers` names the schema (of `openapi`) or the content type of what
    comes with each status. `everything`: only for tokens that cover all models, for it tells of all."""

    path: str
    handler: Handler
    role: str | None
    answers: dict[int, str]
    parameters: tuple[str, ...] = ()
    everything: bool = False
    head: bool = True

    @property
    def name(self) -> str:
        return self.handler.__name__


async def openapi(asked: Asked) -> dict[str, Any]:
    """This description of all routes, as OpenAPI 3.1."""
    return describe(ROUTES)


BYTES = "application/octet-stream"
_PAGE = ("after", "limit", "namespace")
_REFUSED = {401: "Problem", 403: "Problem", 503: "Problem", 504: "Problem"}
_ONE = _REFUSED | {400: "Problem", 404: "Problem"}

ROUTES: tuple[Route, ...] = (
    Route("/livez", probes.livez, ANYBODY, {200: "text/plain"}),
    Route("/readyz", probes.readyz, ANYBODY, {200: "Health", 503: "Health"}),
    Route("/health", probes.readyz, READ, {200: "Health", 401: "Problem", 503: "Health"}),
    Route("/metrics", probes.metrics, READ, {200: "text/plain", 401: "Problem", 403: "Problem"}, everything=True),
    Route("/openapi.json", openapi, READ, {200: "OpenAPI", 401: "Problem"}),
    Route("/v1/models", catalogue.models, READ, {200: "Models", 400: "Problem"} | _REFUSED, _PAGE),
    Route("/v1/models/{model}", catalogue.model, READ, {200: "Model"} | _ONE, ("namespace",)),
    Route("/v1/models/{model}/versions", catalogue.versions, READ, {200: "Versions"} | _ONE, (*_PAGE, "order")),
    Route("/v1/models/{model}/versions/{ref}", catalogue.version, READ, {200: "Version", 410: "Problem"} | _ONE, ("namespace",)),
    Route(
        "/v1/models/{model}/versions/{ref}/data",
        downloads.data,
        READ,
        {
            200: "application/octet-stream",
            206: "application/octet-stream",
            304: "",
            410: "Problem",
            416: "Problem",
            429: "Problem",
        }
        | _ONE,
        ("namespace",),
    ),
    Route("/v1/models/{model}/subscribers", catalogue.subscribers, TELL, {200: "Subscribers"} | _ONE, _PAGE),
    Route("/v1/stats", catalogue.stats, READ, {200: "Stats"} | _REFUSED, everything=True),
    Route("/v1/address", dashboard.address, READ, {200: "Address"} | _REFUSED),
    Route("/v1/disk", dashboard.disk, READ, {200: "Disk"} | _REFUSED),
    Route(
        "/v1/events",
        following.events,
        READ,
        {200: "text/event-stream", 400: "Problem", 429: "Problem"} | _REFUSED,
        ("namespace", "after", "model"),
        head=False,
    ),
    Route("/", pages.index, ANYBODY, {200: "text/html", 303: "", 401: "Problem"}, ("token",)),
    Route("/models/{model}", pages.index, ANYBODY, {200: "text/html", 401: "Problem"}, ("namespace",)),
    Route("/static/{name}", pages.static, ANYBODY, {200: "text/plain", 304: "", 404: "Problem"}),
)
"""Every route. All of them are GET, and HEAD but for the one that never ends. What `ANYBODY` may have are the probes and the
pages themselves, which hold nothing: all that they show is asked for."""
