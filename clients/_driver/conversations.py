"""The conversations of a client, and bringing each arriving message to the one that it belongs to."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from broadcaster.protocol import names
from broadcaster.protocol.errors import BroadcasterError, RemoteProtocolError
from broadcaster.protocol.frames import ChunkHeader, decode
from broadcaster.protocol.messages import Done, Error, Message, Reply
from clients._driver.channel import Channel
from clients._driver.feed import Feed
from clients._driver.owner import KEY, Owner, Reader
from clients._driver.uploading import Upload

log = logging.getLogger("clients")

BURST = 32
"""Messages taken from one socket before the others have their turn."""


class Conversations:
    """All of it runs on the I/O thread."""

    def __init__(self) -> None:
        self.owners: dict[bytes, Owner] = {}
        """All of them, by key or upload id."""
        self.readers: dict[bytes, Reader] = {}
        """Those on the data channel, by the first bytes of their request ids."""
        self.uploads: dict[bytes, Upload] = {}
        self.feeds: dict[bytes, Feed] = {}
        """By topic without its last letter."""
        self.strange = 0
        """Messages that were dropped because they broke the rules."""
        self._receivers = {"data": self._receive_data, "push": self._receive_push, "upload": self._receive_upload}

    def add(self, owner: Reader) -> None:
        """Begins a conversation on the data channel."""
        self.owners[owner.key] = self.readers[owner.key] = owner
        self.turn(owner, lambda: owner.start(time.monotonic()))

    def add_upload(self, upload: Upload) -> None:
        """Takes an upload in; it is started apart from that."""
        self.uploads[upload.key] = self.owners[upload.key] = upload

    def turn(self, owner: Owner, call: Callable[[], bool | None]) -> bool:
        """Lets a conversation do something; what goes wrong in it ends it, and nothing else."""
        silent = False
        try:
            silent = bool(call())
        except RemoteProtocolError as error:
            self._note_strange(error)
        except BroadcasterError as error:
            owner.fail(error)
        if owner.over:
            self.forget(owner)
        return silent

    def forget(self, owner: Owner) -> None:
        for table in (self.owners, self.readers, self.uploads):
            table.pop(owner.key, None)

    def _note_strange(self, error: RemoteProtocolError) -> None:
        self.strange += 1
        log.debug("dropped a message reason=%s", error)

    # --- receiving ---------------------------------------------------------------------------------------------------

    def receive(self, channel: Channel) -> None:
        """Takes what has come on a channel, but not too much at once."""
        receive = self._receivers[channel.name]
        now = time.monotonic()
        for _ in range(BURST):
            first = channel.first()
            if first is None:
                return
            try:
                receive(channel, first, now)
            except RemoteProtocolError as error:
                self._note_strange(error)
            if channel.socket.closed:
                return  # A welcome named another address.
            channel.drop()

    def _receive_push(self, channel: Channel, topic: bytes, now: float) -> None:
        feed = self.feeds.get(topic[:-1])
        if feed is None:
            return
        frames: list[bytes] = []
        if topic[-1:] == names.CHUNKS:
            header = self._push_chunk(channel, feed, now, frames)
            if header is not None:
                self.turn(feed, lambda: feed.placed(header, now))
            if not frames:
                return
        frames += channel.rest()
        message = decode(frames)
        self.turn(feed, lambda: feed.receive(message, frames[2] if len(frames) > 2 else None, now))

    def _push_chunk(self, channel: Channel, feed: Feed, now: float, frames: list[bytes]) -> ChunkHeader | None:
        """The header of a chunk whose bytes are in place now; a frame that is no header goes to `frames`."""
        try:
            return channel.chunk(lambda header: feed.place(header, now), frames)
        except RemoteProtocolError:
            raise
        except BroadcasterError as error:  # No memory for it.
            log.warning("no room for a version model=%s code=%s", feed.model_id, error.code)
            return None

    def _receive_data(self, channel: Channel, envelope: bytes, now: float) -> None:
        if envelope:
            raise RemoteProtocolError(reason="a reply begins with an empty frame")
        frames = [channel.frame()]
        if frames[0]:
            frames += channel.rest()
            self._receive_reply(frames, now)
            return
        reader: list[Reader] = []

        def place(header: ChunkHeader) -> memoryview | None:
            found = self.readers.get(header.transfer[:KEY])
            if found is None:
                return None
            reader.append(found)
            return found.place_read(header)

        header = channel.chunk(place)
        if header is not None:
            self.turn(reader[0], lambda: reader[0].placed(header, now))

    def _receive_reply(self, frames: list[bytes], now: float) -> None:
        message = decode(frames)
        if not isinstance(message, Reply):
            raise RemoteProtocolError(reason=f"{message.KIND.decode()} is no reply")
        owner = self.readers.get(message.request_id[:KEY])
        if owner is not None:
            self.turn(owner, lambda: owner.receive(message, frames[2] if len(frames) > 2 else None, now))

    def _receive_upload(self, channel: Channel, kind: bytes, now: float) -> None:
        message = decode([kind, *channel.rest()])
        upload = self._upload_of(message)
        if upload is not None:
            self.turn(upload, lambda: upload.receive(message, None, now))

    def _upload_of(self, message: Message) -> Upload | None:
        upload_id: bytes | None = getattr(message, "upload_id", None)
        if upload_id is not None or not isinstance(message, Error | Done):
            return self.uploads.get(upload_id or b"")
        return next((found for found in self.uploads.values() if found.begin.request_id == message.request_id), None)
