"""The bytes of a version, piece by piece, a few ahead of who takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from concurrent.futures import Future

from broadcaster.cogment.limits import AHEAD, PIECE
from broadcaster.cogment.link import answer
from broadcaster.protocol.version import VersionInfo
from clients._calls import Calls


async def pieces(calls: Calls, version: VersionInfo) -> AsyncGenerator[bytes, None]:
    """All of a payload, in pieces of 1 MiB; none of an empty one. Raises whatever reading raises."""
    asked: deque[Future[bytes]] = deque()
    at = 0
    try:
        while at < version.size or asked:
            while at < version.size and len(asked) <= AHEAD:
                length = min(PIECE, version.size - at)
                asked.append(calls.piece(version, at, length))
                at += length
            yield await answer(asked.popleft(), calls.timeout)
    finally:
        for future in asked:
            future.add_done_callback(lambda done: done.exception())
