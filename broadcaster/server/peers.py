"""Who waits for an answer: a routing id on a channel and the request it made. How answers leave the broadcaster."""

from __future__ import annotations

import zmq

from broadcaster.protocol.errors import BroadcasterError, Fact
from broadcaster.protocol.frames import ChunkHeader, encode
from broadcaster.protocol.messages import Error, Message
from broadcaster.server.transfer import send
from broadcaster.slots import Tracker
from broadcaster.stats import Stats

_LONGEST_FACT = 1000


def error_message(error: BroadcasterError, request_id: bytes, upload_id: bytes | None = None) -> Error:
    """The error as a message: code, sentence, facts; never a traceback."""
    facts: dict[str, Fact] = {}
    for name, value in error.facts.items():
        plain = value if value is None or isinstance(value, (int, float, bool)) else str(value)[:_LONGEST_FACT]
        facts[name] = plain if not isinstance(plain, int) or abs(plain) < 1 << 63 else str(plain)
    return Error(request_id=request_id, upload_id=upload_id, code=error.code, message=str(error)[:_LONGEST_FACT], facts=facts)


class Peer:
    """One peer and one request. `expires` is on the loop's clock; `envelope` is what goes before a message on this channel."""

    __slots__ = ("expires", "_socket", "_envelope", "_request_id", "_upload_id", "_stats")

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        envelope: list[bytes],
        stats: Stats,
        request_id: bytes,
        *,
        upload_id: bytes | None = None,
        expires: float = float("inf"),
    ) -> None:
        self.expires = expires
        self._socket = socket
        self._envelope = envelope
        self._stats = stats
        self._request_id = request_id
        self._upload_id = upload_id

    def reply(self, message: Message, payload: memoryview | None = None) -> None:
        frames: list[bytes | memoryview] = [*self._envelope, *encode(message)]
        if payload is not None:
            frames.append(payload)
        try:
            send(self._socket, frames)
        except zmq.ZMQError:
            self._stats.count("replies_dropped")  # Gone, or not reading: it asks again if it still wants to know.

    def refuse(self, error: BroadcasterError) -> None:
        self._stats.count("requests_refused")
        self.reply(error_message(error, self._request_id, self._upload_id))

    def chunk(self, header: ChunkHeader, data: memoryview, *, track: bool) -> Tracker | None:
        """Sends from where the bytes are. With `track`, the tracker tells when they are not needed any more."""
        frames: list[bytes | memoryview] = [*self._envelope, b"", header.pack(), data]
        try:
            return send(self._socket, frames, track=track)
        except zmq.ZMQError:
            self._stats.count("replies_dropped")
            return None
