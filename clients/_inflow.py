"""A payload that comes piece by piece, from a network say, on its way to becoming a version: no process ever has all of it."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import fields, replace

import xxhash

from broadcaster.protocol.errors import Aborted, BroadcasterError, Closed, InvalidRequest, SizeMismatch
from broadcaster.protocol.frames import Buffer
from broadcaster.protocol.limits import CHUNK, FILLED, INLINE
from broadcaster.protocol.messages import AS_IT_LIES, Begin, Grant, Message, Publish
from broadcaster.protocol.names import check_name
from broadcaster.protocol.version import OPAQUE, VersionInfo
from clients._checks import check_annotations, check_timeout, check_user_data
from clients._driver import futures
from clients._driver.frames import Frames
from clients._driver.granted import SlotUpload
from clients._driver.loop import Driver
from clients._driver.owner import Send
from clients._driver.uploading import ChunkedUpload, Upload, WholeUpload
from clients._ready import nobody
from clients.buffers import allocate, view_of
from clients.slots.directory import SlotDirectory, SlotsUnusable


class Inflow:
    """One payload of a declared size. Its pieces are written, in order, where the actors will read them.

    On the broadcaster's host that is the slot that it grants, so this process holds none of it. Up to 64 KiB, on another host and
    where no slot is to be had, it is memory of this process, of the payload's size, until the commit has ended.

    `opened` ends when there is room for the payload, or with why there is none; `prepare` must have returned after that before
    anything is written. All of it is for one thread at a time, which need not be the same. Several payloads of a model do not
    wait for each other: they get their numbers in the order in which their commits are done.
    """

    def __init__(
        self,
        driver: Driver,
        namespace: str,
        model_id: str,
        size: int,
        *,
        archived: bool = False,
        content_type: str = OPAQUE,
        user_data: Mapping[str, str] | None = None,
    ) -> None:
        """Raises InvalidName, InvalidRequest, and what ended the client."""
        driver.check()
        texts = check_user_data(user_data)
        check_annotations(user_data=texts)
        self.size = size
        self.written = 0
        """Bytes that are in their place."""
        self._driver = driver
        self._slots: SlotDirectory | None = driver.slots if size > INLINE else None
        self._payload: memoryview | None = None
        self._digest = xxhash.xxh3_128()
        self._told = 0
        self._over = ""
        begin = Begin(
            request_id=os.urandom(16),
            namespace=namespace,
            model_id=check_name("model", model_id),
            upload_id=os.urandom(16),
            size=size,
            archived=bool(archived),
            content_type=content_type,
            user_data=texts,
            host_token=None if self._slots is None else self._slots.token,
        )
        self._begin = begin
        self._upload: _Opening | _Sent | None = None
        self.opened: Future[Grant | None] = futures.new()
        """Of the slot that was granted; of None when the payload goes otherwise."""
        if self._slots is not None:
            self._upload = _Opening(begin, driver.send_upload, self.opened)
            driver.post(lambda now: driver.add_upload(self._known))
            driver.post(self._upload.ask)
        else:
            futures.fulfil(self.opened, None)

    def prepare(self) -> None:
        """Makes the place to write to: maps the slot, which may take as long as a copy the first time. Raises NoSpace."""
        grant = self.opened.result(0)
        upload = self._upload
        if isinstance(upload, _Opening):
            self._payload = None if grant is None else self._mapped(upload, grant)
            if self._payload is None:
                private = view_of(allocate(self.size), self.size)
                self._payload = private
                upload.written()
                self._driver.post(lambda now: upload.in_chunks(private, Frames(), now))
            return
        self._payload = view_of(allocate(self.size), self.size) if self.size > CHUNK else memoryview(bytearray(self.size))
        if self.size > CHUNK:
            self._in_chunks(self._payload)

    def write(self, piece: Buffer) -> None:
        """The next bytes of the payload. Raises SizeMismatch, and writes nothing, when they are more than were declared; the
        error that has ended the upload meanwhile."""
        payload, upload = self._payload, self._upload
        assert payload is not None, "prepared first"
        size, at = memoryview(piece).nbytes, self.written
        if at + size > self.size:
            raise SizeMismatch(model_id=self._begin.model_id, size=self.size, found=f"at least {at + size} came")
        if upload is not None and upload.over:
            error = upload.future.exception(0)
            raise error if error is not None else Closed(what="the upload")
        payload[at : at + size] = piece
        self.written = at + size
        if not isinstance(upload, _Opening):
            self._digest.update(piece)
        if upload is not None and self.written - self._told >= FILLED:
            self._told = filled = self.written
            self._driver.post(lambda now: upload.filled(filled, now))

    def commit(self, *, creation_timestamp: int, timeout: float) -> Future[VersionInfo]:
        """Makes the payload a version, with this creation timestamp (ns). Raises SizeMismatch when bytes are missing.

        The future ends within `timeout` seconds, with what is known of the version once it is as durable as asked, or with what
        `Publisher.publish` raises.
        """
        if self.written != self.size:
            raise SizeMismatch(model_id=self._begin.model_id, size=self.size, found=f"{self.written} came")
        deadline = time.monotonic() + check_timeout(timeout)
        self._end("committed")
        last = replace(self._begin, creation_timestamp=creation_timestamp)
        post, upload = self._driver.post, self._upload
        if upload is None:
            return self._whole(last, deadline, timeout)
        digest = AS_IT_LIES if isinstance(upload, _Opening) else self._digest.hexdigest()
        upload.settle(last, nobody, deadline, timeout)
        upload.written()
        post(lambda now: self._driver.start_upload(self._known, now))
        post(lambda now: upload.finish(digest, now))
        return upload.future

    def discard(self) -> None:
        """No version comes of it. May be called twice, and after the commit, which it leaves alone."""
        if self._over:
            return
        self._end("discarded")
        upload = self._upload
        if upload is not None:
            upload.written()
            error = Aborted(model_id=self._begin.model_id, reason="not all of the payload came")
            try:
                self._driver.post(lambda now: self._driver.fail_upload(self._known, error))
            except BroadcasterError:
                return  # The client has ended, and with it every upload that it knew.

    # --- within ----------------------------------------------------------------------------------------------------

    @property
    def _known(self) -> Upload:
        assert self._upload is not None
        return self._upload

    def _mapped(self, upload: _Opening, grant: Grant) -> memoryview | None:
        assert self._slots is not None
        try:
            view = self._driver.grants.take(self._slots, grant.slot, self.size)
        except SlotsUnusable:
            return None
        upload.use(view)
        return view

    def _in_chunks(self, payload: memoryview) -> None:
        """They leave while the rest is still coming."""
        upload = _Sent(self._begin, payload, Frames(), self._driver.send_upload, nobody, math.inf, math.inf)
        self._upload = upload
        self._driver.post(lambda now: self._driver.add_upload(upload))
        self._driver.post(lambda now: self._driver.start_upload(upload, now))

    def _whole(self, begin: Begin, deadline: float, timeout: float) -> Future[VersionInfo]:
        assert self._payload is not None
        given = {field.name: getattr(begin, field.name) for field in fields(Begin)}
        message = Publish(**given, digest=self._digest.hexdigest())
        upload = WholeUpload(message, self._payload, self._driver.send_upload, nobody, deadline, timeout)
        self._driver.post(lambda now: self._driver.add_upload(upload))
        self._driver.post(lambda now: self._driver.start_upload(upload, now))
        return upload.future

    def _end(self, how: str) -> None:
        if self._over:
            raise InvalidRequest(field="payload", reason=f"it was {self._over} already")
        self._over = how


class _Opening(SlotUpload):
    """Tells by a future that it has a slot, or that it has none: nobody waits for it with a thread. It has all the time that it
    needs until it is settled."""

    def __init__(self, begin: Begin, send: Send, opened: Future[Grant | None]) -> None:
        self._opened = opened
        super().__init__(begin, send, nobody, math.inf, math.inf, settled=False)

    def _step(self, call: Callable[[], list[Message]], now: float) -> list[Message]:
        out = super()._step(call, now)
        self._look()
        return out

    def _end(self, version: VersionInfo | None, error: BroadcasterError | None) -> None:
        super()._end(version, error)
        self._look()

    def _look(self) -> None:
        if self._opened.done():
            return
        grant = self.wait_for_grant(0)
        if grant is not None:
            futures.fulfil(self._opened, grant)
        elif self.over:
            futures.fail(self._opened, self.future.exception(0) or Closed(what="the upload"))
        elif not self.has_slot and self._paused_until is None:
            futures.fulfil(self._opened, None)


class _Sent(ChunkedUpload):
    """One that is sent while it comes, and of which the last word is said with the commit."""

    def settle(self, last: Begin, ended: object, deadline: float, timeout: float) -> None:
        self._until, self._timeout = deadline, timeout
        self._last_words = {"creation_timestamp": last.creation_timestamp}
