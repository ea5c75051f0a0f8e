"""A small broadcaster for the simulation: assemblers, an event log, beacons and a dict of payloads; no sockets, no disk."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

import xxhash

from broadcaster.beacons import Beacons
from broadcaster.eventlog import EventLog
from broadcaster.protocol.errors import BroadcasterError, InvalidRequest, UnknownModel, VersionEvicted
from broadcaster.protocol.frames import Chunk, ChunkHeader, decode, decode_header, encode
from broadcaster.protocol.machines.upload import Assembler
from broadcaster.protocol.messages import (
    Abandon,
    Abort,
    Aborted,
    Beacon,
    Begin,
    Commit,
    Done,
    Error,
    Events,
    Follow,
    Message,
    Read,
    Replay,
    State,
)
from broadcaster.protocol.version import VersionInfo

NAMESPACE, MODEL = "default", "policy"
KEY = NAMESPACE, MODEL
INLINE = 24
"""Bytes: the limit of payloads inside messages, small as the chunks of the simulation are."""
WINDOW = 4

Frames = list[bytes]


@dataclass(slots=True)
class _Upload:
    assembler: Assembler
    buffer: bytearray
    transfer: bytes
    attempt: int


class SmallBroadcaster:
    """One model. `pushed` gathers what subscribers are sent; `truth` is every payload ever published, by number."""

    def __init__(self, random: Random, *, keep: int = 4, kept_events: int = 12) -> None:
        self.random = random
        self.keep = keep
        self.pushed: list[Frames] = []
        self.truth: dict[int, bytes] = {}
        self.infos: dict[int, VersionInfo] = {}
        self.lost = 0
        """The highest number of former lives: what is not available of those was lost with them."""
        self.made_of: dict[bytes, list[int]] = {}
        """Numbers by upload id: more than one in one epoch is a bug."""
        self.replay_limit = 5
        self.available: list[int] = []
        self._kept_events = kept_events
        self._epoch = 0
        self._used = 0
        self._start()

    def _start(self) -> None:
        self._epoch += 1
        self.log = EventLog(self._epoch, kept=self._kept_events)
        self.beacons = Beacons()
        self._uploads: dict[bytes, _Upload] = {}
        self._attempts: dict[bytes, int] = {}
        self._finished: dict[bytes, VersionInfo] = {}

    def restart(self, now: float) -> None:
        """Another life: some versions were transient and are gone, uploads are forgotten, numbers go on behind a hole."""
        self.lost = max(self.truth, default=0)
        self._used += self.random.randrange(5)
        self.available = [number for number in self.available if self.random.random() < 0.5]
        self._start()
        self.beacons.subscribed(KEY, now)

    @property
    def newest(self) -> VersionInfo | None:
        return self.infos[self.available[-1]] if self.available else None

    # --- upload ----------------------------------------------------------------------------------------------------

    def upload(self, frames: Frames, now: float) -> list[Frames]:
        """Answers to one message of a learner."""
        if not frames[0]:
            return self._chunk(decode_header(frames[1]), frames[2], now)
        message = decode(frames)
        try:
            return [encode(answer) for answer in self._control(message, now)]
        except BroadcasterError as error:
            return [encode(_error(message, error))]

    def _control(self, message: Message, now: float) -> Iterable[Message]:
        match message:
            case Begin():
                return self._begin(message, now)
            case Commit():
                return self._commit(message, now)
            case Abort():
                self._forget(message.upload_id)
                return [Aborted(request_id=message.request_id, upload_id=message.upload_id)]
        raise AssertionError(f"{message} on the upload channel")

    def _begin(self, begin: Begin, now: float) -> Iterable[Message]:
        if (info := self._finished.get(begin.upload_id)) is not None:
            return [Done(request_id=begin.request_id, upload_id=begin.upload_id, version=info)]
        if (known := self._uploads.get(begin.upload_id)) is not None:
            return _messages(known.assembler.resume(begin.request_id, now))
        buffer = bytearray(b"\xee" * begin.size)
        attempt = self._attempts.get(begin.upload_id, -1) + 1
        assembler = Assembler(begin, memoryview(buffer), now, window=WINDOW, idle=20.0)
        self._uploads[begin.upload_id] = _Upload(assembler, buffer, self.random.randbytes(16), attempt)
        return _messages(assembler.start(now))

    def _chunk(self, header: ChunkHeader, data: bytes, now: float) -> list[Frames]:
        upload = self._uploads.get(header.transfer)
        if upload is None:
            return []
        goes_on = upload.assembler.expects(header.pack(), len(data))
        view = upload.assembler.place(header)
        if view is None:
            assert not goes_on
            return [encode(answer) for answer in _messages(upload.assembler.dropped(header, now))]
        pushed = ChunkHeader(upload.transfer, header.size, header.offset, header.length, upload.attempt)
        self.pushed.append([b"", pushed.pack(), data])
        if goes_on and self.random.random() < 0.5:
            assert upload.assembler.assembly.header(upload.transfer, upload.attempt) == pushed.pack()
            return [encode(answer) for answer in _messages(upload.assembler.placed_next(memoryview(data), now))]
        return [encode(answer) for answer in _messages(upload.assembler.placed(header, now, memoryview(data)))]

    def _commit(self, commit: Commit, now: float) -> Iterable[Message]:
        upload = self._uploads.get(commit.upload_id)
        if upload is None:
            if (info := self._finished.get(commit.upload_id)) is not None:
                return [Done(request_id=commit.request_id, upload_id=commit.upload_id, version=info)]
            raise InvalidRequest(field="upload_id", reason="there is no such upload")
        try:
            missing = upload.assembler.commit(commit, now)
        except BroadcasterError:
            self._forget(commit.upload_id)
            raise
        if missing:
            return _messages(missing)
        return [Done(request_id=commit.request_id, upload_id=commit.upload_id, version=self._publish(upload, now))]

    def _publish(self, upload: _Upload, now: float) -> VersionInfo:
        self._used += 1
        number, payload = self._used, bytes(upload.buffer)
        digest = upload.assembler.assembly.digest
        info = VersionInfo(
            namespace=NAMESPACE, model_id=MODEL, number=number, size=len(payload), digest=digest, creation_timestamp=number
        )
        upload_id = upload.assembler.begin.upload_id
        self.truth[number], self.infos[number] = payload, info
        self.made_of.setdefault(upload_id, []).append(number)
        self._finished[upload_id] = info
        del self._uploads[upload_id]
        self.available.append(number)
        evicted, self.available = self.available[: -self.keep], self.available[-self.keep :]
        event = self.log.append(
            KEY,
            "published",
            number=number,
            version=info,
            transfer=upload.transfer,
            attempt=upload.attempt,
            evicted=tuple(evicted),
            **self.place_of(info),
        )
        self.beacons.news(KEY, now)
        self.pushed.append([*encode(event), *([payload] if len(payload) <= INLINE else [])])
        return info

    def place_of(self, info: VersionInfo) -> dict[str, Any]:
        """The slot that a version lies in: three of them come round."""
        return {"slot": f"slot-{info.number % 3}-0123abcd", "generation": info.number} if info.size > INLINE else {}

    def annotate(self, now: float) -> None:
        """Something that is no publication: the log has other events too."""
        self.pushed.append(encode(self.log.append(KEY, "updated")))
        self.log.append((NAMESPACE, "another"), "updated")

    def _forget(self, upload_id: bytes) -> None:
        upload = self._uploads.pop(upload_id, None)
        if upload is not None:
            self._attempts[upload_id] = upload.attempt
            self.pushed.append(encode(Abandon(transfer=upload.transfer, attempt=upload.attempt)))

    def tick(self, now: float) -> None:
        """Gives up what makes no progress, and sends the beacons that are due."""
        for upload_id, upload in list(self._uploads.items()):
            try:
                upload.assembler.expire(now)
            except BroadcasterError:
                self._forget(upload_id)
        for _, interval in self.beacons.due(now):
            beacon = Beacon(
                epoch=self.log.epoch,
                offset=self.log.offset,
                model_offset=self.log.model_offset(KEY),
                namespace=NAMESPACE,
                model_id=MODEL,
                interval_ms=int(interval * 1000),
            )
            self.pushed.append(encode(beacon))

    # --- data ------------------------------------------------------------------------------------------------------

    def ask(self, frames: Frames) -> Frames:
        """The answer to one request."""
        message = decode(frames)
        try:
            match message:
                case Read():
                    return self._read(message)
                case Follow():
                    return self._follow(message)
                case Replay():
                    return encode(self._replay(message))
        except BroadcasterError as error:
            return encode(_error(message, error))
        raise AssertionError(f"{message} on the data channel")

    def _read(self, read: Read) -> Frames:
        if read.number not in self.available:
            raise VersionEvicted(model_id=MODEL, number=read.number)
        payload = self.truth[read.number]
        data = payload[read.offset : read.offset + read.length]
        return [b"", ChunkHeader(read.request_id, len(payload), read.offset, len(data)).pack(), data]

    def _follow(self, follow: Follow) -> Frames:
        newest = self.newest
        if newest is None and not self.log.offset:
            raise UnknownModel(model_id=MODEL, namespace=NAMESPACE)
        state = State(
            request_id=follow.request_id,
            epoch=self.log.epoch,
            offset=self.log.offset,
            model_offset=self.log.model_offset(KEY),
            newest=newest,
            **({} if newest is None else self.place_of(newest)),
        )
        inline = newest is not None and newest.size <= INLINE and self.random.random() < 0.7
        return [*encode(state), *([self.truth[newest.number]] if newest is not None and inline else [])]

    def _replay(self, replay: Replay) -> Events:
        found, following = self.log.replay(replay.epoch, replay.after, NAMESPACE, replay.model_id, self.replay_limit)
        return Events(
            request_id=replay.request_id, epoch=self.log.epoch, offset=self.log.offset, events=tuple(found), next=following
        )


def _messages(out: Iterable[Message | Chunk]) -> list[Message]:
    return [one for one in out if isinstance(one, Message)]


def _error(message: Message, error: BroadcasterError) -> Error:
    given = message.write()
    return Error(
        request_id=given["request_id"], upload_id=given.get("upload_id"), code=error.code, message=str(error), facts=error.facts
    )


def payload_sizes(chunk: int) -> list[int]:
    """Sizes at which something changes."""
    return [0, 1, INLINE, INLINE + 1, chunk - 1, chunk, chunk + 1, 2 * chunk, 9 * chunk, 9 * chunk + 5, 20 * chunk - 1]


def digest_of(payload: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(payload)
