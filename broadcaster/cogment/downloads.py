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
from broadcaster.cogment.limits import STALL
from broadcaster.cogment.reading import pieces
from broadcaster.cogment.schema import Message
from broadcaster.cogment.status import Refusal
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
    version = await find(calls, request.model_id, request.version_number, timeout)
    async with house.downloads:
        async with contextlib.aclosing(chunks(calls, version, house.chunk_size)) as parts:
            async for chunk in parts:
                await _write(call, chunk)


async def chunks(calls: Calls, version: VersionInfo, size: int) -> AsyncGenerator[Chunk, None]:
    """The payload in chunks of `size` bytes. The last one comes only when the digest over all of them is right."""
    digest, chunk, have = xxhash.xxh3_128(), Chunk(), 0
    async with contextlib.aclosing(pieces(calls, version)) as parts:
        async for piece in parts:
            digest.update(piece)
            left = memoryview(piece)
            while left:
                if have == size:  # Another one follows.
                    yield chunk
                    chunk, have = Chunk(), 0
                part = left[: size - have]
                chunk.append(part)
                have, left = have + len(part), left[len(part) :]
    if digest.hexdigest() != version.digest:
        raise Refusal(
            grpc.StatusCode.DATA_LOSS, f"{version.model_id}: the bytes of version {version.number} are not those published"
        )
    yield chunk


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
