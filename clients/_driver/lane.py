"""A small publication on a connection of its own: the thread that publishes sends it, and waits for the answer itself.

By way of the I/O thread two more threads are woken for each version, which costs more than all that is said of it: processor time
in the learner 0.28 instead of 0.48 ms for 4 KiB.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import zmq

from broadcaster.protocol.errors import RemoteProtocolError
from broadcaster.protocol.frames import Buffer, Chunk, decode, encode
from broadcaster.protocol.messages import Message
from clients._driver.channel import NOW, Channel
from clients._driver.uploading import WholeUpload

PATIENCE = 0.25
"""Seconds after which the answer is left to the I/O thread."""


class Lane:
    """One for each client, for one thread at a time; the others go by way of the I/O thread meanwhile. `opened` makes its
    connection, or tells that the one there is leads to where the broadcaster still is."""

    def __init__(self, address: Callable[[], str], opened: Callable[[str], Channel]) -> None:
        self._address = address
        self._opened = opened
        self._lock = threading.Lock()
        self._channel: Channel | None = None
        self._poller = zmq.Poller()
        self._closed = False
        self._doubt: float | None = None
        """Since when (monotonic) something may lie in the I/O thread's queue that nobody waits for any more."""

    def exchange(self, upload: WholeUpload) -> bool:
        """Whether the upload is over. If not, it may have been sent, and goes by way of the I/O thread under the same id."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            return not self._closed and self._doubt is None and self._exchange(upload, self._open())
        finally:
            self._lock.release()

    def given_up(self) -> None:
        """An upload that went by way of the I/O thread was given up. It may still become a version when the broadcaster
        comes back: nothing newer is to overtake it here."""
        self._doubt = time.monotonic()

    def acknowledged(self, since: float) -> None:
        """A version came of an upload that was started by way of the I/O thread at `since` (monotonic): what lay in its queue
        before that has been read."""
        if self._doubt is not None and since > self._doubt:
            self._doubt = None

    def close(self) -> None:
        """Nothing is sent from here on. A thread that waits gives up soon."""
        self._closed = True
        if self._lock.acquire(timeout=4 * PATIENCE):  # Ctrl-C can have left it locked: then nobody is in here.
            self._lock.release()
        self._drop()

    def _exchange(self, upload: WholeUpload, channel: Channel) -> bool:
        until = time.monotonic() + PATIENCE
        try:
            upload.ask(self._send, time.monotonic())
            while (left := until - time.monotonic()) > 0 and not self._closed:
                if self._poller.poll(int(left * 1000) + 1):
                    message = decode([frame.buffer for frame in channel.rest([channel.socket.recv(NOW, copy=False)])])
                    # Another one's: of an upload that was given up, or left to the I/O thread.
                    if upload.is_answered_by(message):
                        upload.receive(message, None, time.monotonic())
                        return upload.over
        except zmq.Again:
            return False  # Not connected yet.
        except RemoteProtocolError:
            pass
        # What is queued here must not come to another life of the broadcaster, behind newer versions that went the other way.
        self._drop()
        return False

    def _send(self, message: Message | Chunk, payload: Buffer | zmq.Frame | None = None) -> None:
        assert isinstance(message, Message) and payload is not None and self._channel is not None
        self._channel.socket.send_multipart([*encode(message), payload], NOW)

    def _open(self) -> Channel:
        address = self._address()
        if self._channel is not None and self._channel.address != address:
            self._drop()
        if self._channel is None:
            self._channel = self._opened(address)
            self._poller.register(self._channel.socket, zmq.POLLIN)
        return self._channel

    def _drop(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            self._poller.unregister(channel.socket)
            channel.close()
