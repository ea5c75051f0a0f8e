"""gRPC: the learner streams chunks of 2 MiB to a server, which hands each on to the stream of every actor.

python -m benchmarks.peers.grpc_stream server ACTORS
python -m benchmarks.peers.grpc_stream publisher ADDRESS
python -m benchmarks.peers.grpc_stream subscriber ADDRESS

Handlers without generated code: messages are bytes. A message of 8 bytes says the size of the payload that follows.
"""

from __future__ import annotations

import argparse
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from queue import SimpleQueue
from typing import Any

from benchmarks.arm import Arm
from benchmarks.peers.payload import kept, rounds, stamped
from benchmarks.processes import Group, end_with_parent, say

NAME = "gRPC, streams of 2 MiB chunks"
READER = "receives messages, copies them into one kept buffer, verifies nothing"
CHUNK = 2 << 20
_SIZE = struct.Struct("<Q")
_HELLO = b"hello"
"""Tells a subscriber that it is one."""


def missing() -> str:
    """What has to be installed, with the command that does it."""
    return "" if find_spec("grpc") else "the package grpcio is not installed: pip install grpcio"


def load() -> None:
    """Imports what each process of a herd needs, before there are many."""
    import grpc  # noqa: F401


def start(group: Group, actors: int) -> Arm:
    serving = group.start("benchmarks.peers.grpc_stream", "server", actors)
    address = serving.up()["address"]
    sender = group.start("benchmarks.peers.grpc_stream", "publisher", address)
    sender.up()
    following = group.herd(actors, "benchmarks.peers.grpc_stream", "subscriber", address)
    return Arm(sender, [serving.pid], following)


def server(actors: int) -> None:
    import grpc

    queues: list[SimpleQueue[bytes]] = []

    def follow(request: bytes, context: Any) -> Iterator[bytes]:
        queue: SimpleQueue[bytes] = SimpleQueue()
        queues.append(queue)
        yield _HELLO
        while True:
            yield queue.get()

    def publish(chunks: Iterator[bytes], context: Any) -> bytes:
        for chunk in chunks:
            for queue in queues:
                queue.put(chunk)
        return b""

    handlers = {
        "Follow": grpc.unary_stream_rpc_method_handler(follow),
        "Publish": grpc.stream_unary_rpc_method_handler(publish),
    }
    serving = grpc.server(ThreadPoolExecutor(actors + 4))
    serving.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("Weights", handlers),))
    port = serving.add_insecure_port("127.0.0.1:0")
    serving.start()
    say(up=True, address=f"127.0.0.1:{port}")
    serving.wait_for_termination()


def publisher(address: str) -> None:
    import grpc

    publish = grpc.insecure_channel(address).stream_unary("/Weights/Publish")
    say(up=True)
    for payload, _ in rounds():
        began = time.monotonic_ns()
        publish(_chunks(payload))
        say(start=began, copied=time.monotonic_ns() - began)


def _chunks(payload: Any) -> Iterator[bytes]:
    yield _SIZE.pack(len(payload))
    for at in range(0, len(payload), CHUNK):
        yield payload[at : at + CHUNK].tobytes()


def subscriber(address: str) -> None:
    import grpc

    buffer, at = kept(1), 0
    for message in grpc.insecure_channel(address).unary_stream("/Weights/Follow")(b""):
        if message == _HELLO:
            say(up=True)
        elif len(message) == _SIZE.size:
            (size,) = _SIZE.unpack(message)
            buffer, at = buffer if len(buffer) == size else kept(size), 0
        else:
            buffer[at : at + len(message)] = message
            at += len(message)
            if at == len(buffer):
                say(at=time.monotonic_ns(), stamp=stamped(buffer))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("server", "publisher", "subscriber"))
    parser.add_argument("subject")
    arguments = parser.parse_args()
    end_with_parent()
    if arguments.role == "server":
        server(int(arguments.subject))
    else:
        {"publisher": publisher, "subscriber": subscriber}[arguments.role](arguments.subject)


if __name__ == "__main__":
    main()
