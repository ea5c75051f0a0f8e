"""`GET .../versions/{ref}/data`: a payload, or a part of it, out of the core's data channel."""

from __future__ import annotations

import base64
import re
from collections.abc import AsyncIterator

from starlette.responses import Response

from broadcaster.protocol.version import DIRECTORY, OPAQUE, TENSORS, VersionInfo
from broadcaster.web.asked import Asked, House
from broadcaster.web.byterange import Unsatisfiable, matches, range_of
from broadcaster.web.limits import DOWNLOADS
from broadcaster.web.link import answer
from broadcaster.web.problems import Problem
from broadcaster.web.streams import Body, Stream, payload

_TYPE = re.compile(r"[A-Za-z0-9.+_-]{1,60}/[A-Za-z0-9.+_-]{1,60}", re.ASCII)
_SUFFIX = {TENSORS: ".safetensors", DIRECTORY: ".tar"}


async def data(asked: Asked) -> Response:
    """The response, whose body is read from the core while it is sent."""
    house, request = asked.house, asked.request
    calls = house.link.calls(asked.namespace)
    version = await answer(calls.get(asked.model, asked.ref))
    headers = _headers(version, fixed=isinstance(asked.ref, int) and asked.ref > 0)
    asks = request.headers
    if any(matches(asks.get("if-none-match"), tag) for tag in _tags(version)):
        return Response(status_code=304, headers={name: headers[name] for name in ("ETag", "Cache-Control")})
    wants = asks.get("range") if asks.get("if-range", headers["ETag"]) in _tags(version) else None
    try:
        part = range_of(wants, version.size)
    except Unsatisfiable:
        raise Problem(
            416, f"the payload has {version.size} bytes", {"Content-Range": f"bytes */{version.size}", "Accept-Ranges": "bytes"}
        ) from None
    first, end = part or (0, version.size)
    headers["Content-Length"] = str(end - first)
    if part is not None:
        headers["Content-Range"] = f"bytes {first}-{end - 1}/{version.size}"
    if request.method != "HEAD" and house.downloads >= DOWNLOADS:
        raise Problem(429, f"{DOWNLOADS} downloads are under way: try again later", {"Retry-After": "5"})
    body = _counted(house, payload(calls, version, first, end))
    return Stream(body, 200 if part is None else 206, headers, empty=request.method == "HEAD")


def _headers(version: VersionInfo, *, fixed: bool) -> dict[str, str]:
    """Of a whole payload. `fixed`: what was asked for by its number never changes."""
    kind = version.content_type if _TYPE.fullmatch(version.content_type) else OPAQUE
    name = f"{version.model_id}-{version.number}{_SUFFIX.get(version.content_type, '.bin')}"
    headers = {
        "Content-Type": kind,
        "Content-Disposition": f'attachment; filename="{name}"',
        "Accept-Ranges": "bytes",
        "ETag": _tags(version)[0],
        "Cache-Control": "private, max-age=31536000, immutable" if fixed else "private, no-cache",
        "X-Version-Number": str(version.number),
    }
    if version.sha256 is not None:
        headers["Repr-Digest"] = f"sha-256=:{base64.b64encode(bytes.fromhex(version.sha256)).decode()}:"
    return headers


def _tags(version: VersionInfo) -> list[str]:
    """The ETag, and the one that the same bytes had before they were archived."""
    return [f'"{one}"' for one in (version.sha256, version.digest) if one is not None]


async def _counted(house: House, body: Body) -> AsyncIterator[bytes | memoryview | str]:
    house.downloads += 1
    try:
        async for part in body:
            yield part
    finally:
        house.downloads -= 1
        await body.aclose()  # type: ignore[attr-defined]
