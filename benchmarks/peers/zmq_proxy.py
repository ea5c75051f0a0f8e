"""Plain ZeroMQ: PUB to libzmq's own proxy to SUBs, in messages of 1 MiB. Nothing is checked, kept or repaired.

    python -m benchmarks.peers.zmq_proxy proxy
    python -m benchmarks.peers.zmq_proxy publisher ADDRESS SIZE
    python -m benchmarks.peers.zmq_proxy subscriber ADDRESS SIZE

The publisher sends the same memory again and again without a copy, with the round's number at both ends; subscribers receive into
two kept buffers in turn. The queues have no limit, so nothing is dropped.
"""

from __future__ import annotations

import argparse
import struct
import time

import numpy as np
import zmq

from benchmarks.processes import end_with_parent, say, told

CHUNK = 1 << 20
_STAMP = struct.Struct("<Q")


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


def publisher(address: str, size: int) -> None:
    """Told a number, it sends the payload with that number at both ends; told 0, one byte to find out who listens."""
    socket = _socket(zmq.PUB)
    socket.connect(address)
    payload = bytearray(np.random.default_rng(0).bytes(size))
    pieces = [memoryview(payload)[at : at + CHUNK] for at in range(0, size, CHUNK)]
    say(up=True)
    for wish in told():
        number = wish["number"]
        if not number:
            socket.send(b"?")
            say(probed=True)
            continue
        payload[: _STAMP.size] = payload[-_STAMP.size :] = _STAMP.pack(number)
        start = time.monotonic_ns()
        for piece in pieces:
            socket.send(piece, copy=False)
        say(start=start, copied=time.monotonic_ns() - start)


def subscriber(address: str, size: int) -> None:
    """Says when it heard the first probe; then when each payload was whole, and the number at both ends."""
    socket = _socket(zmq.SUB)
    socket.subscribe(b"")
    socket.connect(address)
    buffers = [bytearray(b"\1" * size) for _ in range(2)]
    say(up=True)
    heard, turn, at = False, 0, 0
    while True:
        buffer = buffers[turn]
        came = socket.recv_into(memoryview(buffer)[at : at + CHUNK])
        if came == 1:
            if not heard:
                say(heard=True)
            heard = True
            continue
        at += came
        if at == size:
            whole = time.monotonic_ns()
            first, last = (_STAMP.unpack_from(buffer, place)[0] for place in (0, size - _STAMP.size))
            if first != last:
                raise ValueError(f"torn: {first} at the start, {last} at the end")
            say(at=whole, stamp=first)
            turn, at = 1 - turn, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("proxy", "publisher", "subscriber"))
    parser.add_argument("address", nargs="?", default="")
    parser.add_argument("size", nargs="?", type=int, default=0)
    arguments = parser.parse_args()
    end_with_parent()
    if arguments.role == "proxy":
        proxy()
    elif arguments.role == "publisher":
        publisher(arguments.address, arguments.size)
    else:
        subscriber(arguments.address, arguments.size)


if __name__ == "__main__":
    main()
