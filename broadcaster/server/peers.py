"""Who waits for an answer: a routing id on a channel and the request it made. How answers leave the broadcaster."""

from __future__ import annotations

from dataclasses import replace

import zmq

from broadcaster.broker import Timing
from broadcaster.protocol.errors import BroadcasterError
from broadcaster.protocol.frames import ChunkHeader, encode
from broadcaster.protocol.messages import Message, Reply
from broadcaster.server.answers import Answers
from broadcaster.server.transfer import send
from broadcaster.slots import Tracker


class Peer:
    """One peer and one request. `expires` is on the loop's clock; `envelope` is what goes before a message on this channel.

    `timing` is set for a request that asks where it is on its way.
    """

    __slots__ = ("expires", "timing", "_socket", "_envelope", "_request_id", "_upload_id", "_answers")

    def __init__(
        self,
        socket: zmq.Socket[bytes],
        envelope: list[bytes],
        answers: Answers,
        request_id: bytes,
        *,
        upload_id: bytes | None = None,
        expires: float = float("inf"),
    ) -> None:
        self.expires = expires
        self.timing: Timing | None = None
        self._socket = socket
        self._envelope = envelope
        self._answers = answers
        self._request_id = request_id
        self._upload_id = upload_id

    def reply(self, message: Message, payload: memoryview | None = None) -> None:
        if self.timing is not None and isinstance(message, Reply) and message.hops is None:
            message = replace(message, hops=self.timing.hops())
        frames: list[bytes | memoryview] = [*self._envelope, *encode(message)]
        if payload is not None:
            frames.append(payload)
        try:
            send(self._socket, frames)
        except zmq.ZMQError:
            self._answers.stats.count("replies_dropped")  # Gone, or not reading: it asks again if it still wants to know.

    def refuse(self, error: BroadcasterError) -> None:
        self._answers.stats.count("requests_refused")
        self.reply(self._answers.error(error, self._request_id, self._upload_id))

    def chunk(self, header: ChunkHeader, data: memoryview, *, track: bool) -> Tracker | None:
        """Sends from where the bytes are. With `track`, the tracker tells when they are not needed any more."""
        frames: list[bytes | memoryview] = [*self._envelope, b"", header.pack(), data]
        try:
            return send(self._socket, frames, track=track)
        except zmq.ZMQError:
            self._answers.stats.count("replies_dropped")
            return None
