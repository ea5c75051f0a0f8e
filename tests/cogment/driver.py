"""A program that uses the published Cogment Python SDK, told what to do in JSON lines. It runs in the SDK's own environment
(`make cogment-sdk`) and imports nothing of this project.

    python driver.py HOST:PORT [KEY CERTIFICATE]

A line is a question, `{"id": 1, "do": "publish_model", ...}`; its answer has the same id, and a `value` or an `error`. Questions
do not wait for each other. Bytes travel as `{"bytes": base64}`, what the SDK gives as the names of its attributes.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import cogment
import cogment.api.model_registry_pb2 as interface
from cogment.model_registry import Model
from google.protobuf import descriptor_pb2


def upper(data: bytes) -> str:
    """What a program makes of its weights."""
    return data.decode().upper()


def descriptor(file: Any) -> bytes:
    made = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(made)
    return made.SerializeToString()


class Driver:
    """What is no method here is one of the newer registry's, called as it is."""

    def __init__(self, newer: Any, older: Any) -> None:
        self._newer = newer
        self._older = older
        self._updates: dict[str, AsyncIterator[Any]] = {}
        self._trackers: dict[str, Any] = {}

    async def call(self, do: str, arguments: dict[str, Any]) -> Any:
        own = getattr(self, do, None)
        if own is not None:
            return await own(**arguments)
        return await getattr(self._newer, do)(**arguments)

    async def files(self) -> Any:
        """The descriptors of the interface that the SDK was made from, and of what it imports."""
        return [descriptor(file) for file in (interface.DESCRIPTOR, *interface.DESCRIPTOR.dependencies)]

    async def next_update(self, model_name: str, stream: str) -> Any:
        """The next one of a stream of updates, which the first question about it opens; None: it ended."""
        if stream not in self._updates:
            self._updates[stream] = self._newer.iteration_updates(model_name)
        try:
            return await anext(self._updates[stream])
        except StopAsyncIteration:
            return None

    async def close_updates(self, stream: str) -> None:
        await self._updates.pop(stream).aclose()

    async def track(self, name: str, initial_wait: int = 0, decoded: bool = False) -> Any:
        self._trackers[name] = await self._newer.track_latest_model(name, upper if decoded else None, initial_wait)
        return self._trackers[name].name

    async def tracked(self, name: str, newer_than: int | None = None, wait: bool = True) -> Any:
        """Model, iteration and the clock when both were there, once there is one (above `newer_than`)."""
        tracker = self._trackers[name]
        if newer_than is not None:
            await tracker.wait_for_newer(newer_than)
        if not wait:
            return tracker.is_available()
        model, info = await tracker.get()
        return {"model": model, "info": info, "at": time.monotonic_ns()}

    # --- the older interface ---------------------------------------------------------------------------------------

    async def store_initial_version(self, **model: Any) -> Any:
        return await self._older.store_initial_version(Model(**model))

    async def store_version(self, archived: bool = False, **model: Any) -> Any:
        return await self._older.store_version(Model(**model), archived=archived)

    async def retrieve_model_info(self, model_id: str) -> Any:
        return await self._older.retrieve_model_info(model_id)

    async def retrieve_version(self, model_id: str, version_number: int = -1, decoded: bool = False) -> Any:
        return await self._older.retrieve_version(model_id, version_number, upper if decoded else None)

    async def cached(self) -> Any:
        """What the older client keeps: models by name, and values by hash."""
        return {"models": sorted(self._older._info_cache), "values": dict(self._older._data_cache)}


def plain(value: Any) -> Any:
    """Something that JSON has words for."""
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, dict) or hasattr(value, "items"):  # a protobuf map is no dict
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, Model):
        return plain({name: getattr(value, name) for name in (*vars(value), "deserialized_model") if not name.startswith("_")})
    return plain(vars(value)) if hasattr(value, "__dict__") else value


def given(arguments: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a question, with bytes for bytes."""
    return {
        name: base64.b64decode(value["bytes"]) if isinstance(value, dict) and set(value) == {"bytes"} else value
        for name, value in arguments.items()
    }


async def answer(driver: Driver, question: dict[str, Any]) -> None:
    number, do = question.pop("id"), question.pop("do")
    try:
        said = {"value": plain(await driver.call(do, given(question)))}
    except Exception as error:
        code = getattr(error, "code", None)
        said = {"error": type(error).__name__, "message": str(error), "code": code().name if callable(code) else ""}
    print(json.dumps({"id": number, **said}), flush=True)


async def main(address: str, *tls: str) -> None:
    loop = asyncio.get_running_loop()
    context = cogment.Context(user_id="driver", cog_settings=None)
    endpoint = cogment.Endpoint(f"grpc://{address}")
    if tls:
        key, certificate = tls
        endpoint.set_from_files(key, certificate, certificate)  # Without a key of its own the SDK does not speak TLS.
    driver = Driver(await context.get_model_registry_v2(endpoint), await context.get_model_registry(endpoint))
    print(json.dumps({"id": 0, "value": cogment.__version__}), flush=True)
    under_way = set()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        task = asyncio.create_task(answer(driver, json.loads(line)))
        under_way.add(task)
        task.add_done_callback(under_way.discard)


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    asyncio.run(main(*sys.argv[1:]))
