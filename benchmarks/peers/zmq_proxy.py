"""Plain ZeroMQ: PUB to libzmq's own proxy to SUBs, in messages of 1 MiB. Nothing is checked, kept or repaired.

    python -m benchmarks.peers.zmq_proxy proxy
    python -m benchmarks.peers.zmq_proxy publisher ADDRESS
    python -m benchmarks.peers.zmq_proxy subscriber ADDRESS
    python -m benchmarks.peers.zmq_proxy counter ADDRESS

The publisher sends the same memory again and again without a copy, with the round's number at both ends; subscribers receive into
two kept buffers in turn. The queues have no limit, so nothing is dropped.
"""

from __future__ import annotations

import argparse
import struct
import time

import zmq

from benchmarks.arm import Arm
from benchmarks.peers.payload import kept, made, stamp, stamped
from benchmarks.processes import Group, end_with_parent, probe, say, told

NAME = "pyzmq, 1 MiB messages, zmq.proxy"
READER = "receives into one of two kept buffers, verifies nothing"
CHUNK = 1 << 20
_SIZE = struct.Struct("<cQ")
"""A message of 9 bytes, which no payload has: the size of those that come. One of a single byte asks who listens."""


def missing() -> str:
    """What has to be installed; it is a part of this library."""
    return ""


def start(group: Group, actors: int, role: str = "subscriber") -> Arm:
    """Up, and every subscriber has heard its publisher."""
    proxying = group.start("benchmarks.peers.zmq_proxy", "proxy")
    addresses = proxying.up()
    sender = group.start("benchmarks.peers.zmq_proxy", "publisher", addresses["upload"])
    sender.up()
    following = group.herd(actors, "benchmarks.peers.zmq_proxy", role, addresses["push"])
    probe(sender, following, number=0)
    return Arm(sender, [proxying.pid], following, announces=True)


def _socket(kind: int) -> zmq.Socket[bytes]:
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(kind)
    socket.setsockopt(zmq.SNDHWM, 0)
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.LINGER, 0)
    return socket


def proxy() -> None:
    """XSUB and XPUB joined in C; says their addresses."""
    back, front = _socket(zmq.XSUB), _socket(zmq.XPUB)
    ports = [socket.bind_to_random_port("tcp://127.0.0.1") for socket in (back, front)]
    say(up=True, upload=f"tcp://127.0.0.1:{ports[0]}", push=f"tcp://127.0.0.1:{ports[1]}")
    zmq.proxy(back, front)


def publisher(address: str) -> None:
    """Told a size, it makes the payload and tells the subscribers; told a number, it sends the payload with that number at both
    ends (0: one byte, to find out who listens); told `flood`, it sends so many payloads of one message."""
    socket = _socket(zmq.PUB)
    socket.connect(address)
    payload, pieces = made(0), []
    say(up=True)
    for wish in told():
        if "size" in wish:
            payload = made(wish["size"])
            pieces = [memoryview(payload)[at : at + CHUNK] for at in range(0, len(payload), CHUNK)]
            socket.send(_SIZE.pack(b"S", len(payload)))
            say(size=len(payload))
        elif not wish["number"]:
            socket.send(b"?")
            say(probed=True)
        else:
            stamp(payload, wish["number"])
            began = time.monotonic_ns()
            for _ in range(wish.get("flood", 1)):
                for piece in pieces:
                    socket.send(piece, copy=False)
            say(start=began, copied=time.monotonic_ns() - began)


def subscriber(address: str) -> None:
    """Says when it heard the first probe; then when each payload was whole, and the number at both ends."""
    socket = _socket(zmq.SUB)
    socket.subscribe(b"")
    socket.connect(address)
    buffers = [kept(_SIZE.size), kept(_SIZE.size)]
    say(up=True)
    heard, turn, at = False, 0, 0
    while True:
        buffer = buffers[turn]
        came = socket.recv_into(buffer[at : at + CHUNK])
        if came == 1:
            if not heard:
                say(heard=True)
            heard = True
            continue
        if came == _SIZE.size:
            buffers = [kept(_SIZE.unpack_from(buffer)[1]) for _ in range(2)]
            say(size=len(buffers[0]))
            continue
        at += came
        if at == len(buffer):
            say(at=time.monotonic_ns(), stamp=stamped(buffer))
            turn, at = 1 - turn, 0


def counter(address: str) -> None:
    """Counts messages: told a size, it begins anew; says when `FLOOD` of them have come."""
    socket = _socket(zmq.SUB)
    socket.subscribe(b"")
    socket.connect(address)
    say(up=True)
    heard, count, buffer = False, 0, kept(CHUNK)
    while True:
        came = socket.recv_into(buffer)
        if came == 1:
            if not heard:
                say(heard=True)
            heard = True
        elif came == _SIZE.size:
            say(size=_SIZE.unpack_from(buffer)[1])
        else:
            count += 1
            if count == FLOOD:
                say(at=time.monotonic_ns(), received=count)
                count = 0


FLOOD = 50_000
"""Messages that a counter waits for."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("proxy", "publisher", "subscriber", "counter"))
    parser.add_argument("address", nargs="?", default="")
    arguments = parser.parse_args()
    end_with_parent()
    if arguments.role == "proxy":
        proxy()
    else:
        {"publisher": publisher, "subscriber": subscriber, "counter": counter}[arguments.role](arguments.address)


if __name__ == "__main__":
    main()
