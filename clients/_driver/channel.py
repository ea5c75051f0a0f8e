"""One socket of a client: opened by the recipe, written to and read from without ever waiting."""

from __future__ import annotations

import zmq

from broadcaster.protocol.errors import InvalidRequest
from broadcaster.protocol.frames import Buffer, ChunkHeader, encode
from broadcaster.protocol.keyfile import Key
from broadcaster.protocol.messages import Message
from broadcaster.protocol.sockets import CLIENT
from clients._driver.refusal import Handshakes

READABLE = int(zmq.POLLIN)
NOW = int(zmq.NOBLOCK)
NOW_AND_MORE = int(zmq.NOBLOCK) | int(zmq.SNDMORE)
"""Plain numbers: an operation on pyzmq's enums costs as much as a small send."""

KINDS = {"upload": zmq.DEALER, "lane": zmq.DEALER, "push": zmq.SUB, "data": zmq.DEALER}


class Channel:
    """A connected socket. What cannot be sent at once is dropped: every conversation repeats itself. Over TCP it shows the `key`
    that there is; the data channel tells what became of that."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], name: str, address: str, key: Key | None = None) -> None:
        self.name = name
        self.address = address
        self.dropped = 0
        """Messages that found no room in the queue."""
        self.socket = context.socket(KINDS[name])
        self._envelope = [b""] if name == "data" else []
        network = address.startswith("tcp:")
        self.handshakes = Handshakes(self.socket, key, address) if network and name == "data" else None
        try:
            for option, value in CLIENT[name].items():
                self.socket.setsockopt(getattr(zmq, option), value)
            if key is not None and network:
                self.socket.setsockopt_string(zmq.CURVE_PUBLICKEY, key.public)
                self.socket.setsockopt_string(zmq.CURVE_SECRETKEY, key.secret)
                self.socket.setsockopt_string(zmq.CURVE_SERVERKEY, key.server)
            self.socket.connect(address)
        except zmq.ZMQError as error:
            self.close()
            raise InvalidRequest(field="url", reason=f"cannot connect to {address}: {error}") from None

    def close(self, linger: float = 0.0) -> None:
        """What is queued has `linger` seconds to leave."""
        if self.handshakes is not None:
            self.handshakes.close()
        self.socket.close(linger=int(linger * 1000))

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

    def frame(self, *, ready: bool = False) -> zmq.Frame | None:
        """The first frame of the next message as it lies in libzmq's memory, or None when there is none. `ready`: a poll has just
        said that there is one, so that asking once more would be in vain."""
        if not ready and not int(self.socket.getsockopt(zmq.EVENTS)) & READABLE:  # Asking is a tenth of what the exception costs.
            return None
        try:
            return self.socket.recv(NOW, copy=False)
        except zmq.Again:
            return None

    def rest(self, frames: list[zmq.Frame]) -> list[zmq.Frame]:
        """The whole message that begins with these frames."""
        while frames[-1].more:
            frames.append(self.socket.recv(NOW, copy=False))
        return frames

    def framed(self, received: bytes, *, more: bool | None = None) -> zmq.Frame:
        """What was received last, as the frame that it was."""
        frame = zmq.Frame(received)
        frame.more = bool(self.socket.getsockopt(zmq.RCVMORE)) if more is None else more
        return frame
