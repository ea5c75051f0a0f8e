"""One socket of a client: opened by the recipe, written to and read from without ever waiting."""

from __future__ import annotations

from collections.abc import Callable

import zmq

from broadcaster.protocol.errors import InvalidRequest, RemoteProtocolError
from broadcaster.protocol.frames import Buffer, ChunkHeader, decode_header, encode, is_chunk_header
from broadcaster.protocol.messages import Message
from broadcaster.protocol.sockets import CLIENT

Place = Callable[[ChunkHeader], memoryview | None]

READABLE = int(zmq.POLLIN)
NOW = int(zmq.NOBLOCK)
NOW_AND_MORE = int(zmq.NOBLOCK) | int(zmq.SNDMORE)
"""Plain numbers: an operation on pyzmq's enums costs as much as a small send."""

KINDS = {"upload": zmq.DEALER, "push": zmq.SUB, "data": zmq.DEALER}


class Channel:
    """A connected socket. What cannot be sent at once is dropped: every conversation repeats itself."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], name: str, address: str) -> None:
        self.name = name
        self.address = address
        self.dropped = 0
        """Messages that found no room in the queue."""
        self.socket = context.socket(KINDS[name])
        self._envelope = [b""] if name == "data" else []
        try:
            for option, value in CLIENT[name].items():
                self.socket.setsockopt(getattr(zmq, option), value)
            self.socket.connect(address)
        except zmq.ZMQError as error:
            self.socket.close()
            raise InvalidRequest(field="url", reason=f"cannot connect to {address}: {error}") from None

    def close(self) -> None:
        self.socket.close(linger=0)

    # --- sending ---------------------------------------------------------------------------------------------------

    def send(self, message: Message, payload: Buffer | zmq.Frame | None = None) -> None:
        frames: list[Buffer | zmq.Frame] = [*self._envelope, *encode(message)]
        if payload is not None:
            frames.append(payload)
        self._send(frames)

    def send_chunk(self, header: ChunkHeader, data: Buffer | zmq.Frame) -> None:
        """The bytes go from where they lie, and must stay as they are until the broadcaster has said that it has them."""
        self._send([*self._envelope, b"", header.pack(), data])

    def _send(self, frames: list[Buffer | zmq.Frame]) -> None:
        last = len(frames) - 1
        try:
            for index, frame in enumerate(frames):
                # A queue that took the first frame takes all: only that one can be refused.
                self.socket.send(frame, NOW_AND_MORE if index < last else NOW, copy=index < last)
        except zmq.Again:
            self.dropped += 1

    # --- receiving -------------------------------------------------------------------------------------------------

    def first(self) -> bytes | None:
        """The first frame of the next message, or None when there is none."""
        if not int(self.socket.getsockopt(zmq.EVENTS)) & READABLE:  # Asking is a tenth of what the exception costs.
            return None
        try:
            return self.socket.recv(NOW)
        except zmq.Again:
            return None

    def frame(self) -> bytes:
        """The next frame of the message. Raises RemoteProtocolError when there is none."""
        if not self.socket.getsockopt(zmq.RCVMORE):
            raise RemoteProtocolError(reason="a frame is missing")
        return self.socket.recv(NOW)

    def rest(self) -> list[bytes]:
        """The frames of the message that were not taken."""
        found = []
        while self.socket.getsockopt(zmq.RCVMORE):
            found.append(self.socket.recv(NOW))
        return found

    def drop(self) -> None:
        """Lets go what is left of the message."""
        while self.socket.getsockopt(zmq.RCVMORE):
            self.socket.recv_into(bytearray(), flags=NOW)

    def chunk(self, place: Place, other: list[bytes] | None = None) -> ChunkHeader | None:
        """Receives a chunk's header, and its bytes to where `place` says; None when they are not wanted, or not of the length
        said.

        A frame that is no header goes to `other`. Raises RemoteProtocolError for one that is wrong, or for any where there is no
        `other`.
        """
        frame = self.frame()
        if other is not None and not is_chunk_header(frame):
            other.append(frame)
            return None
        header = decode_header(frame)
        room = place(header)
        if room is None or not self.socket.getsockopt(zmq.RCVMORE):
            return None
        if len(room) == 0:
            return header if not self.frame() else None
        return header if self.socket.recv_into(room, flags=NOW) == header.length else None
