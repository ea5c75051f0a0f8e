"""A broadcaster started again on other ports: its welcome comes together with something on a socket that it takes away."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import zmq

import clients
from broadcaster.protocol.frames import decode, encode
from broadcaster.protocol.messages import Error, Hello, Publish, Welcome

WAIT = 10_000
"""Milliseconds for what must come."""


class Peer:
    """A ROUTER that a test answers by hand."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]]) -> None:
        self.socket = context.socket(zmq.ROUTER)
        self.port = self.socket.bind_to_random_port("tcp://127.0.0.1")

    def hears(self) -> list[bytes]:
        assert self.socket.poll(WAIT), "nothing came"
        return self.socket.recv_multipart()


@pytest.fixture
def peers() -> Iterator[tuple[Peer, Peer, Peer]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    peers = (Peer(context), Peer(context), Peer(context))
    yield peers
    for peer in peers:
        peer.socket.close(linger=0)
    context.term()


def test_what_still_came_on_the_old_socket_is_dropped_with_it(peers: tuple[Peer, Peer, Peer]) -> None:
    data, before, after = peers

    def welcome(upload: Peer, epoch: int) -> None:
        while True:
            peer, envelope, *frames = data.hears()
            asked = decode(frames)
            if isinstance(asked, Hello):
                break
        told = Welcome(
            request_id=asked.request_id,
            protocol=1,
            epoch=epoch,
            offset=0,
            server_version="9",
            endpoints={"upload": upload.port, "push": 1},
        )
        data.socket.send_multipart([peer, envelope, *encode(told)])

    first = threading.Thread(target=welcome, args=[before, 1])
    first.start()
    with clients.connect(f"tcp://127.0.0.1:{data.port}") as client:
        first.join()
        client.publisher("policy").publish_nowait(b"weights")
        learner, *_ = before.hears()
        driver = client._driver
        again = time.monotonic() + 3600
        driver.post(lambda now: driver._greet(again))
        busy = threading.Event()

        def until_both_came(now: float) -> None:
            busy.set()
            for name in ("data", "upload"):
                assert driver._channels[name].socket.poll(WAIT)

        driver.post(until_both_came)
        assert busy.wait(WAIT / 1000)
        before.socket.send_multipart([learner, *encode(Error(request_id=bytes(16), code="busy", message="", facts={}))])
        welcome(after, 2)
        _, *frames = after.hears()
        assert isinstance(decode(frames), Publish) and driver.ended is None
