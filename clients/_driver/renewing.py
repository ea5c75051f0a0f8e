"""A transient version once more, for a broadcaster that was started again and has forgotten it."""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Protocol

import xxhash

from broadcaster.protocol.errors import BroadcasterError
from broadcaster.protocol.limits import CHUNK
from broadcaster.protocol.messages import Begin, Message, Publish
from clients._driver.frames import Frames
from clients._driver.owner import Ids, Send
from clients._driver.uploading import ChunkedUpload, Ended, Upload, WholeUpload

LOOK = 2.0
"""Seconds between two looks whether the broadcaster is still the same."""
TIMEOUT = 30.0
"""Seconds that a version may take to be there again."""


def renewed(upload: Upload, send: Send, ended: Ended, now: float) -> Upload | None:
    """An upload of the version that came of this one, under its number; None when its bytes are not there any more."""
    version, payload = upload.version, upload.payload
    if version is None or payload is None or xxhash.xxh3_128_hexdigest(payload) != version.digest:
        return None
    names = [field.name for field in fields(Begin)]
    begin = replace(
        Begin(**{name: getattr(upload.begin, name) for name in names}),
        request_id=os.urandom(16),
        host_token=None,
        number=version.number,
        creation_timestamp=version.creation_timestamp,
        user_data=version.user_data,
        metrics=version.metrics,
    )
    if version.size <= CHUNK:
        message = Publish(**{name: getattr(begin, name) for name in names}, digest=version.digest)
        return WholeUpload(message, payload, send, ended, now + TIMEOUT, TIMEOUT)
    again = ChunkedUpload(begin, payload, Frames(), send, ended, now + TIMEOUT, TIMEOUT)
    again.finish(version.digest, now)
    return again


class Renewable(Protocol):
    """Who may have a version to announce again."""

    @property
    def has_last(self) -> bool: ...
    def announce_again(self, now: float) -> None: ...


class Watch:
    """Looks now and then whether the broadcaster is still the same, for learners that have a version to announce again: who
    publishes seldom would not notice. All of it runs on the I/O thread."""

    def __init__(self) -> None:
        self.key = Ids().key
        self.over = False
        self._next = 0.0
        self._all: weakref.WeakSet[Renewable] = weakref.WeakSet()

    def add(self, one: Renewable, now: float) -> None:
        self._all.add(one)
        self._next = max(self._next, now + LOOK)

    def another_life(self, now: float) -> None:
        """The broadcaster was started again."""
        for one in list(self._all):
            one.announce_again(now)

    @property
    def deadline(self) -> float | None:
        return self._next if self._all else None

    def start(self, now: float) -> None:
        return

    def receive(self, message: Message, payload: bytes | None, now: float) -> None:
        return

    def expire(self, now: float) -> bool:
        """Whether there is a reason to ask who the broadcaster is."""
        self._next = now + LOOK
        return _any_last(self._all)

    def fail(self, error: BroadcasterError) -> None:
        self.over = True


def _any_last(all_: Iterable[Renewable]) -> bool:
    return any(one.has_last for one in list(all_))
