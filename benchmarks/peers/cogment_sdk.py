"""The real Cogment Python SDK as learner and as actor, in an environment of its own: nothing but the standard library and the SDK
is imported here.

    ../.venv-cogment/bin/python -m benchmarks.peers.cogment_sdk publisher ADDRESS MODEL
    ... actor ADDRESS MODEL
    ... readers ADDRESS MODEL CLIENTS

A payload is what ours is to `stamped_ends`: the length of a header, the header, and the round's number at both ends of the rest.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import logging
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

PYTHON = Path(f"{sys.prefix}-cogment") / "bin" / "python"
"""Of the environment that `make cogment-sdk` makes, as seen from the one that this project is installed in."""
_LENGTH, _FLOAT = struct.Struct("<Q"), struct.Struct("<f")
_PR_SET_PDEATHSIG = 1
_INITIAL_WAIT = 60


def missing() -> str:
    """What has to be installed, with the command that does it."""
    return "" if PYTHON.exists() else "the Cogment SDK is not installed: make cogment-sdk"


def _say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


async def _told() -> AsyncIterator[dict[str, Any]]:
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        yield json.loads(line)


async def _registry(address: str) -> Any:
    import cogment

    context = cogment.Context(user_id="benchmark", cog_settings=None)
    return await context.get_model_registry_v2(cogment.Endpoint(f"grpc://{address}"))


async def publisher(address: str, model: str) -> None:
    """Publishes what it is told: when it began, and how long until the SDK came back with the iteration."""
    registry = await _registry(address)
    await registry.publish_model(model, None)
    _say(up=True)
    payloads: dict[int, bytearray] = {}
    async for wish in _told():
        size = wish["size"]
        if wish["do"] == "prepare":
            payloads[size] = bytearray(os.urandom(size))
            payloads[size][: _LENGTH.size] = _LENGTH.pack(0)
            _say(prepared=size)
            continue
        payload = payloads[size]
        for at in (_LENGTH.size, size - _FLOAT.size):
            _FLOAT.pack_into(payload, at, wish["number"])
        data = bytes(payload)
        start = time.monotonic_ns()
        info = await registry.publish_model(model, data)
        taken = time.monotonic_ns() - start
        _say(start=start, copied=taken, done=taken, version=info.iteration)


async def actor(address: str, model: str) -> None:
    """Has the newest model by the SDK's own tracker; says when each one's bytes were there."""
    tracker = await (await _registry(address)).track_latest_model(model, None, _INITIAL_WAIT)
    _say(up=True)
    newest = 0
    while True:
        await tracker.wait_for_newer(newest)
        payload, info = tracker.get_no_wait()
        at, newest = time.monotonic_ns(), info.iteration
        first, last = (_FLOAT.unpack_from(payload, where)[0] for where in (_data_at(payload), len(payload) - _FLOAT.size))
        if first != last:
            raise ValueError(f"torn: {first} at the start, {last} at the end")
        _say(at=at, stamp=int(first))


def _data_at(payload: bytes) -> int:
    return _LENGTH.size + int(_LENGTH.unpack_from(payload)[0])


def readers(address: str, model: str, clients: int) -> None:
    """So many clients, each with a connection of its own, read the newest version each time they are told to, and keep nothing of
    it."""
    import cogment.api.model_registry_pb2 as interface
    import cogment.api.model_registry_pb2_grpc as registry
    import grpc

    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(address, options) for _ in range(clients)]
    request = interface.RetrieveVersionDataRequest(model_id=model, version_number=-1)
    taken = [0] * clients

    def read(who: int) -> None:
        stub = registry.ModelRegistrySPStub(channels[who])
        taken[who] = sum(len(reply.data_chunk) for reply in stub.RetrieveVersionData(request))

    _say(up=True)
    for _ in sys.stdin:
        start = time.monotonic()
        threads = [threading.Thread(target=read, args=(who,)) for who in range(clients)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _say(seconds=time.monotonic() - start, least=min(taken))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("role", choices=("publisher", "actor", "readers"))
    parser.add_argument("address")
    parser.add_argument("model")
    parser.add_argument("clients", type=int, nargs="?", default=1)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.ERROR)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if arguments.role == "readers":
        readers(arguments.address, arguments.model, arguments.clients)
    else:
        asyncio.run({"publisher": publisher, "actor": actor}[arguments.role](arguments.address, arguments.model))


if __name__ == "__main__":
    main()
