"""What the loop turns: conversations, each with its own machine, place in time, and end."""

from __future__ import annotations

import itertools
import os
from typing import Protocol

import zmq

from broadcaster.protocol.errors import BroadcasterError
from broadcaster.protocol.frames import Buffer, Chunk, ChunkHeader
from broadcaster.protocol.messages import Message


class Send(Protocol):
    """Sends on the channel of the conversation."""

    def __call__(self, message: Message | Chunk, payload: Buffer | zmq.Frame | None = None) -> None: ...


class Owner(Protocol):
    """A conversation. All of it runs on the I/O thread."""

    @property
    def key(self) -> bytes:
        """What its messages are known by."""

    @property
    def over(self) -> bool:
        """Nothing more will come of it: the loop forgets it."""

    @property
    def deadline(self) -> float | None:
        """When `expire` wants to be called."""

    def start(self, now: float) -> None: ...
    def receive(self, message: Message, payload: bytes | None, now: float) -> None: ...

    def expire(self, now: float) -> bool:
        """Whether the broadcaster was silent for longer than it should be."""

    def fail(self, error: BroadcasterError) -> None:
        """Ends it, because of `error`."""


class Reader(Owner, Protocol):
    """A conversation that takes the bytes of payloads from the data channel."""

    def wants(self, header: ChunkHeader) -> bool:
        """Whether the bytes of this answer are wanted."""

    def put(self, header: ChunkHeader, data: memoryview, now: float) -> None:
        """Puts bytes that were wanted where they belong."""


KEY = 8
"""Bytes at the start of a request id that name the conversation it belongs to."""


class Ids:
    """Request ids of one conversation: 8 random bytes that they share, and a count."""

    def __init__(self) -> None:
        self.key = os.urandom(KEY)
        self._count = itertools.count(1)

    def make(self) -> bytes:
        return self.key + next(self._count).to_bytes(16 - KEY, "big")
