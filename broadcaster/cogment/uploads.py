"""CreateVersion: the chunks of a client's stream go straight to where the actors read them."""

from __future__ import annotations

import asyncio
import base64
import binascii
import contextlib
import hashlib
import time
from collections.abc import AsyncIterator

import grpc

from broadcaster.cogment.access import Call
from broadcaster.cogment.hashes import encoded
from broadcaster.cogment.house import House
from broadcaster.cogment.limits import PUBLISH, STALL
from broadcaster.cogment.link import answer
from broadcaster.cogment.schema import Message
from broadcaster.cogment.status import Refusal, malformed
from broadcaster.protocol.errors import DigestMismatch, PayloadTooLarge
from broadcaster.protocol.limits import MAX_PAYLOAD
from broadcaster.protocol.messages import SHA256

_AT_ONCE = 64 << 10
"""Bytes: so few are hashed where they come, for a thread costs more."""
_LATEST = (1 << 63) - 1
"""Nanoseconds: the last time that can be told."""


async def create(house: House, call: Call) -> Message:
    """A version of the data that follows the header, once it is as durable as asked."""
    info = _header(await _next(call))
    call.require(info.model_id)
    timeout = call.timeout()
    await answer(house.link.calls(timeout).model(info.model_id), timeout)  # Nothing is received for a model that is not there.
    if info.data_size > MAX_PAYLOAD:
        raise PayloadTooLarge(model_id=info.model_id, size=info.data_size, limit=MAX_PAYLOAD, what="the largest payload")
    if info.creation_timestamp > _LATEST:
        raise malformed(f"creation_timestamp: {info.creation_timestamp} is no time in nanoseconds since 1970")
    async with house.uploads:
        return await _receive(house, call, info)


async def _receive(house: House, call: Call, info: Message) -> Message:
    inflow = house.link.inflow(info.model_id, info.data_size, archived=info.archived, user_data=dict(info.user_data))
    try:
        async with _in_time("making room for an upload", call):
            grant = await asyncio.wrap_future(inflow.opened)
            await asyncio.get_running_loop().run_in_executor(house.threads, inflow.prepare)
        sha256 = _Sum(house)
        while (message := await _next(call)) is not None:
            if message.WhichOneof("msg") != "body":
                raise malformed("after the header come chunks of data, and nothing else")
            inflow.write(message.body.data_chunk)
            await sha256.add(message.body.data_chunk)
        digest = await sha256.digest()
        _compare(info, digest)
        timeout = call.timeout(PUBLISH)
        await answer(house.link.calls().model(info.model_id), timeout)  # It may have been deleted meanwhile.
        if grant is not None:
            house.hashes.remember_slot(grant.slot, grant.generation, encoded(digest))
        done = inflow.commit(creation_timestamp=info.creation_timestamp or time.time_ns(), timeout=timeout)
        version = await answer(done, timeout)
    finally:
        inflow.discard()
    house.hashes.remember(version, encoded(digest))
    return house.made("CreateVersionReply", version_info=house.described(version, encoded(digest)))


class _Sum:
    """The SHA-256 of what comes: one chunk is hashed on a thread while the next one is received."""

    def __init__(self, house: House) -> None:
        self._threads = house.threads
        self._sha256 = hashlib.sha256()
        self._pending: asyncio.Future[None] | None = None

    async def add(self, chunk: bytes) -> None:
        await self._settle()
        if len(chunk) <= _AT_ONCE:
            self._sha256.update(chunk)
        else:
            self._pending = asyncio.get_running_loop().run_in_executor(self._threads, self._sha256.update, chunk)

    async def digest(self) -> bytes:
        await self._settle()
        return self._sha256.digest()

    async def _settle(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            await pending


async def _next(call: Call) -> Message | None:
    """The next message; None at the end. Raises Refusal for one that is none, and when nothing comes for too long."""
    async with _in_time("waiting for the next chunk", call):
        message = await call.context.read()
    if message is grpc.aio.EOF:
        return None
    if message is None:
        raise malformed("this is no CreateVersionRequestChunk")
    return message


@contextlib.asynccontextmanager
async def _in_time(what: str, call: Call) -> AsyncIterator[None]:
    """Raises Refusal when it takes longer than a client may be silent."""
    try:
        async with asyncio.timeout(call.timeout(STALL)):
            yield
    except TimeoutError:
        raise Refusal(grpc.StatusCode.DEADLINE_EXCEEDED, f"{what} took longer than {STALL:g} s") from None


def _header(message: Message | None) -> Message:
    """What the first message says of the version. Raises Refusal."""
    if message is None:
        raise malformed("the stream is empty: a header comes first")
    if message.WhichOneof("msg") != "header":
        raise malformed("a header comes first")
    if not message.header.HasField("version_info"):
        raise malformed("version_info is missing in the header")
    return message.header.version_info


def _compare(info: Message, digest: bytes) -> None:
    """Raises DigestMismatch when the header declared another hash, or what is none."""
    declared = info.data_hash
    if not declared:
        return
    try:
        same = base64.b64decode(declared, validate=True) == digest
    except (binascii.Error, ValueError):
        same = False
    if not same:
        raise DigestMismatch(model_id=info.model_id, digest_kind=SHA256, found=encoded(digest), declared=declared[:100])
