"""RetrieveVersionData: a payload in chunks, read from the core while it is sent."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator

import grpc
import xxhash

from broadcaster.cogment.access import Call
from broadcaster.cogment.house import House
from broadcaster.cogment.infos import find
from broadcaster.cogment.limits import PIECE, STALL
from broadcaster.cogment.reading import pieces
from broadcaster.cogment.schema import Message
from broadcaster.cogment.status import Refusal
from broadcaster.protocol.errors import VersionEvicted
from broadcaster.protocol.version import VersionInfo
from clients._calls import Calls

_TAG = b"\x0a"
"""Of the only field of a reply, data_chunk, whose bytes follow their length."""

Chunk = list[memoryview]
"""The parts of one chunk, as they came."""


async def send(house: House, call: Call, request: Message) -> None:
    """Sends the data of a version: chunks of the configured size, the last one smaller; of an empty one, an empty chunk."""
    call.require(request.model_id)
    timeout = call.timeout()
    calls = house.link.calls(timeout)
    version = await _find(house, calls, request, timeout)
    with house.pacing.reading(call.reader(request.model_id)):
        async with house.downloads, contextlib.aclosing(_chunks(house, calls, version)) as parts:
            async for chunk in parts:
                await _write(call, chunk)


async def _chunks(house: House, calls: Calls, version: VersionInfo) -> AsyncGenerator[Chunk, None]:
    """The payload out of shared memory where it lies there, else out of the core's answers. The last chunk comes only when the
    digest over all of them is right: raises Refusal."""
    digest, last = xxhash.xxh3_128(), None
    async with contextlib.aclosing(_leased(house, calls, version)) as parts:
        async for chunk in parts:
            if last is not None:
                yield last
            last = chunk
            for part in chunk:
                digest.update(part)
    if digest.hexdigest() != version.digest:
        what = f"{version.model_id}: the bytes of version {version.number} are not those that were published"
        raise Refusal(grpc.StatusCode.DATA_LOSS, what)
    yield last or Chunk()


async def _leased(house: House, calls: Calls, version: VersionInfo) -> AsyncGenerator[Chunk, None]:
    size, places = house.chunk_size, house.places
    # A small one is read in one piece, unless it is here only that it can be had.
    leased = version.size > PIECE or places.held(version.model_id, version.number) is not None
    if leased and places.admit(version):
        try:
            view = await places.view(version)
            for start in range(0, version.size if view is not None else 0, size):
                assert view is not None
                yield [view[start : start + size]]
            if view is not None:
                return
        finally:
            places.dismiss(version)
    async with contextlib.aclosing(joined(pieces(calls, version), size)) as parts:
        async for chunk in parts:
            yield chunk


async def joined(parts: AsyncGenerator[bytes, None], size: int) -> AsyncGenerator[Chunk, None]:
    """What comes, in chunks of `size` bytes, of which the last one may be smaller; nothing of nothing."""
    chunk, have = Chunk(), 0
    async with contextlib.aclosing(parts):
        async for piece in parts:
            left = memoryview(piece)
            while left:
                part = left[: size - have]
                chunk.append(part)
                have, left = have + len(part), left[len(part) :]
                if have == size:
                    yield chunk
                    chunk, have = Chunk(), 0
    if chunk:
        yield chunk


async def _find(house: House, calls: Calls, request: Message, timeout: float) -> VersionInfo:
    """The version that is asked for; one that was told of just now, and left memory since, is held for that."""
    try:
        return await find(calls, request.model_id, request.version_number, timeout)
    except VersionEvicted:
        held = house.places.held(request.model_id, request.version_number)
        if held is None:
            raise
        return held


def written(chunk: Chunk) -> bytes:
    """The message with this chunk, in one copy: what protobuf would make in three."""
    length = sum(len(part) for part in chunk)
    return b"".join([_TAG, _varint(length), *chunk]) if length else b""


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


async def _write(call: Call, chunk: Chunk) -> None:
    """Raises Refusal when the client takes nothing for too long."""
    try:
        async with asyncio.timeout(STALL):
            await call.context.write(chunk)
    except TimeoutError:
        raise Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, f"nothing was taken for {STALL:g} s") from None
