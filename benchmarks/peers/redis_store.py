"""Redis: SET of the payload, PUBLISH of its number, GET by each actor that hears the number. One server without persistence.

python -m benchmarks.peers.redis_store server
python -m benchmarks.peers.redis_store publisher PORT
python -m benchmarks.peers.redis_store subscriber PORT
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import time
from importlib.util import find_spec

from benchmarks.arm import Arm
from benchmarks.peers.payload import rounds, stamped
from benchmarks.processes import Group, end_with_parent, say

NAME = "Redis, SET + PUBLISH + GET"
READER = "receives new bytes from the server, verifies nothing"
KEY, CHANNEL = "weights", "versions"
START = 10.0


def missing() -> str:
    """What has to be installed, with the command that does it."""
    if find_spec("redis") is None:
        return "the package redis is not installed: pip install 'redis[hiredis]'"
    return "" if shutil.which("redis-server") else "redis-server is not installed: apt-get install redis-server"


def load() -> None:
    """Imports what each process of a herd needs, before there are many."""
    import redis  # noqa: F401


def start(group: Group, actors: int) -> Arm:
    serving = group.start("benchmarks.peers.redis_store", "server")
    port = serving.up()["port"]
    sender = group.start("benchmarks.peers.redis_store", "publisher", port)
    sender.up()
    following = group.herd(actors, "benchmarks.peers.redis_store", "subscriber", port)
    return Arm(sender, [serving.pid], following)


def server() -> None:
    """Becomes redis-server on a free port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    say(up=True, port=port)
    options = {"port": port, "bind": "127.0.0.1", "save": "", "appendonly": "no", "logfile": os.devnull}
    os.execvp("redis-server", ["redis-server", *(part for name, value in options.items() for part in (f"--{name}", str(value)))])


def _connect(port: int):  # type: ignore[no-untyped-def]
    import redis

    connection, deadline = redis.Redis(port=port), time.monotonic() + START
    while True:
        try:
            connection.ping()
            return connection
        except redis.ConnectionError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def publisher(port: int) -> None:
    connection = _connect(port)
    say(up=True)
    for payload, number in rounds():
        began = time.monotonic_ns()
        connection.set(KEY, memoryview(payload))
        connection.publish(CHANNEL, number)
        say(start=began, copied=time.monotonic_ns() - began)


def subscriber(port: int) -> None:
    connection = _connect(port)
    versions = connection.pubsub(ignore_subscribe_messages=False)
    versions.subscribe(CHANNEL)
    for message in versions.listen():
        if message["type"] == "subscribe":
            say(up=True)
            continue
        payload = connection.get(KEY)
        say(at=time.monotonic_ns(), stamp=stamped(payload))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("server", "publisher", "subscriber"))
    parser.add_argument("port", nargs="?", type=int, default=0)
    arguments = parser.parse_args()
    end_with_parent()
    if arguments.role == "server":
        server()
    else:
        {"publisher": publisher, "subscriber": subscriber}[arguments.role](arguments.port)


if __name__ == "__main__":
    main()
