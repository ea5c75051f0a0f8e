"""The conversations of a client, and bringing each arriving message to the one that it belongs to."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import zmq

from broadcaster.protocol import names
from broadcaster.protocol.errors import BroadcasterError, NoSpace, RemoteProtocolError
from broadcaster.protocol.frames import ChunkHeader, decode, decode_header, is_chunk_header
from broadcaster.protocol.messages import Done, Error, Message, Reply
from clients._driver.alias_feed import AnyFeed
from clients._driver.channel import NOW, Channel
from clients._driver.feed import Feed
from clients._driver.fetching import Fetch
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
        self.feeds: dict[bytes, list[AnyFeed]] = {}
        """By topic without its last letter: more than one where subscribers want the same model in different ways."""
        self.strange = 0
        """Messages that were dropped because they broke the rules."""
        self.moved = True
        """A deadline may have come nearer since the loop looked at them last."""
        self._reading: Fetch[Any] | None = None
        """Whose bytes came last on the data channel."""
        self._receivers = {"data": self._receive_data, "push": self._receive_push, "upload": self._receive_upload}

    def add(self, owner: Reader) -> None:
        """Begins a conversation on the data channel."""
        self.owners[owner.key] = self.readers[owner.key] = owner
        self.moved = True
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
        if self._reading is owner:
            self._reading = None  # It would keep the payload's memory.

    # --- who follows -------------------------------------------------------------------------------------------------

    def join(self, feed: AnyFeed) -> None:
        """Takes a feed in, and starts it."""
        self.feeds.setdefault(feed.topic, []).append(feed)
        self.add(feed)

    def part(self, feed: AnyFeed) -> bool:
        """Takes a feed out; whether it was there."""
        feeds = self.feeds.get(feed.topic, [])
        if feed not in feeds:
            return False
        feeds.remove(feed)
        if not feeds:
            del self.feeds[feed.topic]
        return True

    @property
    def followers(self) -> list[AnyFeed]:
        """All feeds."""
        return [feed for feeds in self.feeds.values() for feed in feeds]

    def _note_strange(self, error: RemoteProtocolError) -> None:
        self.strange += 1
        log.debug("dropped a message reason=%s", error)

    # --- receiving ---------------------------------------------------------------------------------------------------

    def receive(self, channel: Channel) -> None:
        """Takes what has come on a channel, of which a poll has just said that something has, but not too much at once."""
        receive = self._receivers[channel.name]
        now = time.monotonic()
        left = BURST
        while left > 0:
            frame = channel.frame(ready=left == BURST)
            if frame is None:
                return
            frames = [frame]
            if channel.name == "push" and frame.bytes[-1:] == names.CHUNKS:
                taken, frames = self._take_run(channel, frame, now, left)
                left -= taken
            elif channel.name == "data" and self._reading is not None:
                taken, frames = self._take_answers(channel, frame, self._reading, now, left)
                left -= taken
                self.moved = True  # Who had been patient for long is so no more.
            if not frames:
                return
            left -= 1
            self.moved = True
            try:
                receive(channel.rest(frames), now)
            except RemoteProtocolError as error:
                self._note_strange(error)
            if channel.socket.closed:
                return  # A welcome named another address.

    def _take_run(self, channel: Channel, frame: zmq.Frame, now: float, most: int) -> tuple[int, list[zmq.Frame]]:
        """Takes up to `most` chunks of a version being pushed, the first of which begins with `frame`, as long as each is the one
        that comes next: nearly all are, and that takes a fraction of the work. Returns how many they were, and what the message
        behind them begins with: nothing when there is none yet, or when there were so many.

        Should a frame follow the bytes, it is taken for a message of its own, and dropped.
        """
        topic = frame.bytes
        feeds = self.feeds.get(topic[:-1], [])
        feed = feeds[0] if len(feeds) == 1 else None
        if not isinstance(feed, Feed) or feed.follower.expected is None or not frame.more:
            return 0, [frame]
        follower = feed.follower
        expected: bytes | None = follower.expected
        receive, receive_into, taken = channel.socket.recv, channel.socket.recv_into, 0
        try:
            while True:
                header = receive(NOW)
                if header != expected:
                    return taken, [channel.framed(topic, more=True), channel.framed(header)]
                place = follower.front
                if receive_into(place, flags=NOW) == len(place):
                    feed.received += len(place)
                    expected = follower.came(place, now)
                taken += 1
                if taken == most:
                    return taken, []
                first = receive(NOW)
                if first != topic:
                    return taken, [channel.framed(first)]
        except zmq.Again:
            return taken, []

    def _take_answers(
        self, channel: Channel, frame: zmq.Frame, fetch: Fetch[Any], now: float, most: int
    ) -> tuple[int, list[zmq.Frame]]:
        """As `_take_run`, of the answers to the reads of a fetch: two empty frames come before each header."""
        empty, receive, receive_into, taken = b"", channel.socket.recv, channel.socket.recv_into, 0
        if len(frame) or not frame.more:
            return 0, [frame]
        try:
            while True:
                second = receive(NOW)
                if second:
                    return taken, [channel.framed(empty, more=True), channel.framed(second)]
                header, fetcher = receive(NOW), fetch.fetcher
                if fetcher is None or header != fetcher.expected:
                    self._reading = None
                    return taken, [channel.framed(empty, more=True), channel.framed(empty, more=True), channel.framed(header)]
                place = fetcher.front
                if receive_into(place, flags=NOW) == len(place):
                    self.turn(fetch, partial(fetch.placed_next, place, now))
                taken += 1
                if taken == most:
                    return taken, []
                first = receive(NOW)
                if first:
                    return taken, [channel.framed(first)]
        except zmq.Again:
            return taken, []

    def nap(self, now: float) -> float:
        """Seconds in which nothing has to be looked at but what users want. Only where one model's transfer is all there is."""
        if len(self.owners) != 1 or len(self.feeds) != 1:
            return 0.0
        return next(iter(self.feeds.values()))[0].follower.nap(now)

    def _receive_push(self, frames: list[zmq.Frame], now: float) -> None:
        topic = frames[0].bytes
        feeds = self.feeds.get(topic[:-1])
        if feeds is None:
            return
        if topic[-1:] == names.CHUNKS and len(frames) > 2 and is_chunk_header(frames[1].buffer):
            for feed in [feed for feed in feeds if feed.takes_chunks]:
                self._chunk(frames, feed, now)
            return
        message = decode([frame.buffer for frame in frames[1:3]])
        payload = frames[3].bytes if len(frames) > 3 else None
        for feed in list(feeds):
            self.turn(feed, lambda feed=feed: feed.receive(message, payload, now))  # type: ignore[misc]

    def _chunk(self, frames: list[zmq.Frame], feed: AnyFeed, now: float) -> None:
        header = _chunk_header(frames)
        try:
            wanted = feed.wants_pushed(header, now)
        except NoSpace as error:
            log.warning("no room for a version model=%s code=%s", feed.model_id, error.code)
            return
        if wanted:
            self.turn(feed, lambda: feed.put(header, frames[2].buffer, now))

    def _receive_data(self, frames: list[zmq.Frame], now: float) -> None:
        if len(frames) < 3 or len(frames[0]):
            raise RemoteProtocolError(reason="a reply begins with an empty frame")
        if len(frames[1]):
            self._receive_reply(frames, now)
            return
        header = _chunk_header(frames[1:])
        reader = self.readers.get(header.transfer[:KEY])
        if reader is not None and reader.wants(header):
            self._reading = reader if isinstance(reader, Fetch) else None
            self.turn(reader, lambda: reader.put(header, frames[3].buffer, now))

    def _receive_reply(self, frames: list[zmq.Frame], now: float) -> None:
        message = decode([frame.buffer for frame in frames[1:3]])
        if not isinstance(message, Reply):
            raise RemoteProtocolError(reason=f"{message.KIND.decode()} is no reply")
        owner = self.readers.get(message.request_id[:KEY])
        if owner is not None:
            payload = frames[3].bytes if len(frames) > 3 else None
            self.turn(owner, lambda: owner.receive(message, payload, now))

    def _receive_upload(self, frames: list[zmq.Frame], now: float) -> None:
        message = decode([frame.buffer for frame in frames])
        upload = self._upload_of(message)
        if upload is not None:
            self.turn(upload, lambda: upload.receive(message, None, now))

    def _upload_of(self, message: Message) -> Upload | None:
        upload_id: bytes | None = getattr(message, "upload_id", None)
        if upload_id is not None or not isinstance(message, Error | Done):
            upload = self.uploads.get(upload_id or b"")
            return upload if upload is not None and upload.is_answered_by(message) else None
        return next((found for found in self.uploads.values() if found.begin.request_id == message.request_id), None)


def _chunk_header(frames: list[zmq.Frame]) -> ChunkHeader:
    """The header of `[..][header][bytes]`. Raises RemoteProtocolError unless it is one, and the bytes are as many as it says."""
    if len(frames) < 3:
        raise RemoteProtocolError(reason="a chunk has three frames")
    header = decode_header(frames[1].buffer)
    if len(frames[2]) != header.length:
        raise RemoteProtocolError(reason=f"a chunk of {header.length} bytes came with {len(frames[2])}")
    return header
