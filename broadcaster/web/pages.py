"""The pages: files of this package, and nothing that a path can lead out of."""

from __future__ import annotations

import hashlib
import importlib.resources
from functools import cache

from starlette.responses import PlainTextResponse, RedirectResponse, Response

from broadcaster.web.access import COOKIE, SESSION
from broadcaster.web.asked import Asked
from broadcaster.web.byterange import matches
from broadcaster.web.problems import Problem

TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"} | {
    ".svg": "image/svg+xml"
}
"""Content types by suffix: what has another is not served."""


@cache
def _files() -> dict[str, tuple[bytes, str, str]]:
    """(content, content type, ETag) of everything in `static`, by name: read once."""
    folder = importlib.resources.files("broadcaster.web") / "static"
    found = {}
    for file in folder.iterdir() if folder.is_dir() else ():
        suffix = "." + file.name.rpartition(".")[2]
        if suffix in TYPES:
            content = file.read_bytes()
            found[file.name] = content, TYPES[suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return found


async def index(asked: Asked) -> Response:
    """The dashboard. With `?token=`, the browser gets a cookie instead, and is sent on without the token."""
    token = asked.text("token")
    if token is not None:
        return _exchange(asked, token)
    if asked.request.state.grant is None:
        raise Problem(401, "open this page once as /?token=TOKEN, with a token that `broadcaster token` made")
    if "index.html" not in _files():
        return PlainTextResponse("models: /v1/models\nmetrics: /metrics\nall routes: /openapi.json\n")
    return _file(asked, "index.html")


async def static(asked: Asked) -> Response:
    """A file of the pages."""
    return _file(asked, str(asked.request.path_params["name"]))


def _exchange(asked: Asked, token: str) -> Response:
    house, secure = asked.house, asked.request.url.scheme == "https"
    response = RedirectResponse("/", status_code=303, headers={"Cache-Control": "no-store"})
    if not house.tokens.needed:
        return response
    grant = house.tokens.grant_of(token)
    if grant is None:
        raise Problem(401, "this token is not one of ours")
    session = house.sessions.begin(grant)
    response.set_cookie(COOKIE, session, max_age=int(SESSION), path="/", secure=secure, httponly=True, samesite="strict")
    return response


def _file(asked: Asked, name: str) -> Response:
    found = _files().get(name)
    if found is None:
        raise Problem(404, "there is no such file")
    content, kind, tag = found
    headers = {"ETag": tag, "Cache-Control": "no-cache"}
    if matches(asked.request.headers.get("if-none-match"), tag):
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=kind, headers=headers)
