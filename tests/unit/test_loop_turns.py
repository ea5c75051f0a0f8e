"""How much of one socket the broadcaster's loop takes before the others have their turn."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import zmq

from broadcaster.server.loop import Loop

MESSAGES = 200


@pytest.fixture
def waiting() -> Iterator[zmq.Socket[bytes]]:
    """A socket at which messages wait."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    reader, writer = context.socket(zmq.PULL), context.socket(zmq.PUSH)
    reader.bind("inproc://messages")
    writer.connect("inproc://messages")
    for number in range(MESSAGES):
        writer.send(str(number).encode())
    yield reader
    writer.close(linger=0)
    reader.close(linger=0)
    context.term()


@pytest.mark.parametrize(("seconds", "most"), [(0.0, 64), (0.001, 20), (0.006, 4), (1.0, 1)])
def test_a_socket_has_so_many_messages_or_so_much_time(waiting: zmq.Socket[bytes], seconds: float, most: int) -> None:
    now = 100.0
    taken: list[bytes] = []
    channels: Any = SimpleNamespace(push=None)
    loop = Loop(channels, clock=lambda: now)

    def turn(frames: Any) -> None:
        nonlocal now
        now += seconds
        taken.append(frames[0].bytes)

    loop._drain(waiting, turn)
    assert most - 1 <= len(taken) <= most + 1  # Sums of such times are not exact.
    loop._drain(waiting, turn)
    assert taken == [str(number).encode() for number in range(len(taken))], "what is left comes next, in order"
    loop.close()
