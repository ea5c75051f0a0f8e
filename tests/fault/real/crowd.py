"""A crowd in one process: bare sockets, each with a connection of its own, each answered.

python -m tests.fault.real.crowd COUNT ADDRESSES [KEYFILE]

Prints {"connected": COUNT} when all were answered once, and, for each
line that comes on its standard input, {"answered": ...} once all were answered again; ends with its input
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

import msgpack
import zmq

from broadcaster.protocol.keyfile import Key, parse_key

PATIENCE = 120.0
AT_ONCE = 200
"""Connections that are opened before they are all answered: a crowd, and no flood."""


class Crowd:
    """`count` sockets: three quarters ask on the data channel, the others follow a model."""

    def __init__(self, addresses: dict[str, str], count: int, key: Key | None) -> None:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._context.set(zmq.MAX_SOCKETS, count + 100)
        self._addresses, self._key = addresses, key
        self._asking: list[zmq.Socket[bytes]] = []
        self._following: list[zmq.Socket[bytes]] = []
        while len(self._asking) + len(self._following) < count:
            begun = len(self._asking)
            for n in range(min(AT_ONCE, count - begun - len(self._following))):
                if n % 4:
                    self._asking.append(self._open(zmq.DEALER, "data"))
                else:
                    follower = self._open(zmq.SUB, "push")
                    follower.subscribe(b"default/policy\0e")
                    self._following.append(follower)
            self.ask(self._asking[begun:])

    def _open(self, kind: int, channel: str) -> zmq.Socket[bytes]:
        one = self._context.socket(kind)
        one.linger = 0
        if self._key is not None:
            one.curve_publickey, one.curve_secretkey = self._key.public.encode(), self._key.secret.encode()
            one.curve_serverkey = self._key.server.encode()
        one.connect(self._addresses[channel])
        return one

    def ask(self, asking: list[zmq.Socket[bytes]] | None = None) -> int:
        """Everybody (or these) asks once, and waits for its answer. How many were answered."""
        asking = self._asking if asking is None else asking
        for one in asking:
            one.send_multipart([b"", b"ping", msgpack.packb({"request_id": os.urandom(16)})])
        until = time.monotonic() + PATIENCE
        return sum(
            bool(one.poll(max(0, int((until - time.monotonic()) * 1000)))) and one.recv_multipart()[1] == b"pong"
            for one in asking
        )

    def heard(self) -> int:
        """How many followers were told of a version since they were asked last."""
        until, told = time.monotonic() + PATIENCE, 0
        for one in self._following:
            while one.poll(max(0, int((until - time.monotonic()) * 1000))):
                if one.recv_multipart()[1] == b"event":
                    told += 1
                    break
        return told


def main() -> None:
    count, addresses, *files = sys.argv[1:]
    key = parse_key(Path(files[0]).read_text(), files[0]) if files else None
    crowd = Crowd(json.loads(addresses), int(count), key)
    print(json.dumps({"connected": int(count)}), flush=True)
    for _ in sys.stdin:
        print(json.dumps({"answered": crowd.ask(), "heard": crowd.heard()}), flush=True)


if __name__ == "__main__":
    main()
