"""Responses that go on for long: events, and payloads of any size out of a few pieces of memory."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future

import xxhash
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from broadcaster.protocol.errors import DigestMismatch
from broadcaster.protocol.messages import XXH3
from broadcaster.protocol.version import VersionInfo
from broadcaster.web.limits import AHEAD, PIECE, WRITE
from broadcaster.web.link import answer
from clients._calls import Calls

Body = AsyncIterator[bytes | memoryview | str]


class Stream(Response):
    """Sends what comes until it ends or the client is gone. Where the body breaks off with an error, so does the connection: the
    client sees that not all came."""

    def __init__(self, body: Body, status_code: int, headers: dict[str, str], *, empty: bool = False) -> None:
        self.status_code = status_code
        self.background = None
        self.body = b""
        self.raw_headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
        self._body = body
        self._empty = empty

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone, sending = asyncio.create_task(_until_gone(receive)), asyncio.create_task(self._send(send))
        try:
            await asyncio.wait([gone, sending], return_when=asyncio.FIRST_COMPLETED)
            if sending.done() and not sending.cancelled():
                sending.result()
        finally:
            for task in (gone, sending):
                task.cancel()
            await asyncio.wait([gone, sending])
            if sending.done() and not sending.cancelled():
                sending.exception()
            await self._body.aclose()  # type: ignore[attr-defined]

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        if not self._empty:
            async for part in self._body:
                data = part.encode() if isinstance(part, str) else part
                await send({"type": "http.response.body", "body": data, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _until_gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def payload(calls: Calls, version: VersionInfo, first: int, end: int) -> Body:
    """The bytes from `first` up to `end`, a few pieces ahead of who takes them. All of a payload is compared with its digest
    before its last piece is given away: raises DigestMismatch, and whatever reading raises."""
    asked: deque[Future[bytes]] = deque()
    at, digest, whole = first, xxhash.xxh3_128(), (first, end) == (0, version.size)
    try:
        while at < end or asked:
            while at < end and len(asked) <= AHEAD:
                behind = min(end, (at // PIECE + 1) * PIECE)
                asked.append(calls.piece(version, at, behind - at))
                at = behind
            piece = await answer(asked.popleft())
            data = memoryview(piece)
            if whole:
                digest.update(data)
                if at == end and not asked and digest.hexdigest() != version.digest:
                    raise DigestMismatch(
                        model_id=version.model_id, digest_kind=XXH3, found=digest.hexdigest(), declared=version.digest
                    )
            for start in range(0, len(data), WRITE):
                yield data[start : start + WRITE]
    finally:
        for future in asked:
            future.add_done_callback(lambda done: done.exception())
