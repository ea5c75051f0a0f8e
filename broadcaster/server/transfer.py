"""Sending and receiving whole messages without what pyzmq's own multipart calls add: an enum operation for every frame."""

from __future__ import annotations

from collections.abc import Sequence

import zmq

_READABLE = int(zmq.POLLIN)
_NOW = int(zmq.NOBLOCK)
_NOW_AND_MORE = int(zmq.NOBLOCK) | int(zmq.SNDMORE)

Sendable = bytes | memoryview | zmq.Frame


def send(socket: zmq.Socket[bytes], frames: Sequence[Sendable], *, track: bool = False) -> zmq.MessageTracker | None:
    """Queues a message without waiting; the last frame goes from where it is, the others are copied.

    Returns the last frame's tracker where `track` is set. Raises zmq.ZMQError when nothing of the message was queued.
    """
    for frame in frames[:-1]:
        socket.send(frame, _NOW_AND_MORE)
    return socket.send(frames[-1], _NOW, copy=False, track=track)


def receive(socket: zmq.Socket[bytes], *, ask: bool = True) -> list[zmq.Frame] | None:
    """The frames of the next message, or None when there is none. Asking first costs a tenth of the exception, but no other
    thread runs meanwhile, and libzmq may take long: it does then what it has to do for who came and went."""
    if ask and not int(socket.getsockopt(zmq.EVENTS)) & _READABLE:
        return None
    try:
        frame = socket.recv(_NOW, copy=False)
    except zmq.Again:
        return None
    frames = [frame]
    while frame.more:
        frame = socket.recv(_NOW, copy=False)
        frames.append(frame)
    return frames
