"""One TCP connection and nothing else: the payload with a hash, acknowledged; or a file from the page cache.

python -m benchmarks.peers.raw_tcp receive SIZE                 receives, hashes what arrives, compares, acknowledges
python -m benchmarks.peers.raw_tcp send ADDRESS SIZE            hashes and sends its memory, waits for the acknowledgement
python -m benchmarks.peers.raw_tcp serve FILE                   answers each byte that it gets with the whole file, by sendfile
python -m benchmarks.peers.raw_tcp fetch ADDRESS SIZE           asks, and receives into one kept buffer; checks nothing
"""

from __future__ import annotations

import argparse
import os
import socket
import threading
import time
from pathlib import Path

import numpy as np
import xxhash

from benchmarks.processes import end_with_parent, say, told

PIECE = 1 << 20
_DIGEST = 16
_ACK = b"\6"


def _listen() -> socket.socket:
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    say(up=True, address=f"127.0.0.1:{listening.getsockname()[1]}")
    return listening


def _connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    connection = socket.create_connection((host, int(port)))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def _receive(connection: socket.socket, view: memoryview) -> bool:
    """Fills the view; False when the other side is gone."""
    while len(view):
        came = connection.recv_into(view, len(view), socket.MSG_WAITALL)
        if not came:
            return False
        view = view[came:]
    return True


def receive(size: int) -> None:
    """Into warm memory, in pieces of 1 MiB that are hashed while they are warm."""
    connection, _ = _listen().accept()
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    buffer = memoryview(bytearray(b"\1" * size))
    declared = memoryview(bytearray(_DIGEST))
    while True:
        digest = xxhash.xxh3_128()
        for at in range(0, size, PIECE):
            if not _receive(connection, buffer[at : at + PIECE]):
                return
            digest.update(buffer[at : at + PIECE])
        if not _receive(connection, declared) or bytes(declared) != digest.digest():
            raise ValueError("another payload came than was sent")
        connection.sendall(_ACK)


def send(address: str, size: int) -> None:
    """Told `copy`, it first copies each piece into a warm buffer and sends that, as a publisher does that takes a snapshot."""
    connection = _connect(address)
    weights = memoryview(bytearray(np.random.default_rng(0).bytes(size)))
    kept = memoryview(bytearray(b"\1" * size))
    say(up=True)
    for wish in told():
        start = time.monotonic_ns()
        digest = xxhash.xxh3_128()
        for at in range(0, size, PIECE):
            piece = weights[at : at + PIECE]
            if wish["copy"]:
                kept[at : at + PIECE] = piece
                piece = kept[at : at + PIECE]
            digest.update(piece)
            connection.sendall(piece)
        connection.sendall(digest.digest())
        if connection.recv(1) != _ACK:
            raise ConnectionError("the receiver is gone")
        say(done=time.monotonic_ns() - start)


def serve(path: Path) -> None:
    """Each connection has a thread; sendfile needs no interpreter."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        while file.read(PIECE):
            continue  # Now it is in the page cache.
        listening = _listen()
        while True:
            connection, _ = listening.accept()
            threading.Thread(target=_answer, args=(connection, file.fileno(), size), daemon=True).start()


def _answer(connection: socket.socket, file: int, size: int) -> None:
    while connection.recv(1):
        at = 0
        while at < size:
            at += os.sendfile(connection.fileno(), file, at, size - at)


def fetch(address: str, size: int) -> None:
    connection = _connect(address)
    buffer = memoryview(bytearray(b"\1" * size))
    say(up=True)
    for _ in told():
        start = time.monotonic_ns()
        connection.sendall(b"?")
        for at in range(0, size, PIECE):
            if not _receive(connection, buffer[at : at + PIECE]):
                raise ConnectionError("the server is gone")
        say(start=start, end=time.monotonic_ns())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("role", choices=("receive", "send", "serve", "fetch"))
    parser.add_argument("subject")
    parser.add_argument("size", nargs="?", type=int, default=0)
    arguments = parser.parse_args()
    end_with_parent()
    if arguments.role == "receive":
        receive(int(arguments.subject))
    elif arguments.role == "send":
        send(arguments.subject, arguments.size)
    elif arguments.role == "serve":
        serve(Path(arguments.subject))
    else:
        fetch(arguments.subject, arguments.size)


if __name__ == "__main__":
    main()
