"""The next grant, asked for before it is needed: a publication then begins with the copying, and takes one round trip."""

from __future__ import annotations

import os
import threading
from dataclasses import replace

from broadcaster.protocol.errors import Aborted
from broadcaster.protocol.messages import Begin
from clients._driver.granted import SlotUpload
from clients._driver.loop import Driver
from clients._driver.uploading import Upload

IDLE = 30.0
"""Seconds after which a grant that nobody wanted is given back."""

Shape = tuple[int, str]


class Ready:
    """At most one upload that was begun ahead: when two versions of one size and kind went through slots one after the other, for
    whoever publishes once is to reserve nothing for a second time."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._lock = threading.Lock()
        self._upload: SlotUpload | None = None
        self._last: Shape | None = None

    def take(self, begin: Begin) -> SlotUpload | None:
        """An upload for a payload like the one of `begin`, to be settled; another one is given back."""
        with self._lock:
            upload, self._upload = self._upload, None
        if upload is None or upload.over:
            return None
        if upload.has_slot and _shape(upload.begin) == _shape(begin) and upload.begin.host_token == begin.host_token:
            return upload
        self._give_back(upload)
        return None

    def follow(self, done: Begin, now: float) -> None:
        """A version came of `done`, through a slot. Called on the I/O thread."""
        shape = _shape(done)
        with self._lock:
            steady, self._last = shape == self._last, shape
            if not steady or done.archived or (self._upload is not None and not self._upload.over):
                return
            self._upload = upload = self._begin(done, now)
        self._driver.add_upload(upload)
        upload.ask(now)

    def _begin(self, done: Begin, now: float) -> SlotUpload:
        begin = replace(
            done, request_id=os.urandom(16), upload_id=os.urandom(16), user_data={}, metrics={}, creation_timestamp=None
        )
        return SlotUpload(begin, self._driver.send_upload, nobody, now + IDLE, IDLE, settled=False)

    def _give_back(self, upload: SlotUpload) -> None:
        error = Aborted(model_id=upload.begin.model_id, reason="the next payload is another one")
        self._driver.post(lambda now: self._driver.fail_upload(upload, error))


def nobody(_upload: Upload, _intact: bool) -> None:
    """Nobody waits for the end of an upload that is not settled."""


def _shape(begin: Begin) -> Shape:
    return begin.size, begin.content_type
