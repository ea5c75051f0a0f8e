"""How the snapshot of a payload leaves: inside one message, through a slot of the broadcaster, or in chunks."""

from __future__ import annotations

import math
import mmap
import threading
import time
from collections.abc import Callable
from dataclasses import fields, replace

import xxhash

from broadcaster.protocol.errors import Aborted
from broadcaster.protocol.limits import CHUNK, FILLED, INLINE
from broadcaster.protocol.messages import AS_IT_LIES, Begin, Publish
from clients import codec
from clients._driver import futures
from clients._driver.frames import Frames
from clients._driver.granted import SlotUpload
from clients._driver.loop import Driver
from clients._driver.uploading import ChunkedUpload, Ended, Upload, WholeUpload
from clients._line import Line
from clients._ready import Ready, nobody
from clients.buffers import allocate, view_of
from clients.slots.directory import SlotDirectory, SlotsUnusable

TIMEOUT = 30.0
"""Seconds that a publication may take, unless told otherwise."""
TELL = (1 << 20, 4 << 20)
"""Bytes copied between two words to the I/O thread when chunks are sent, least and most: few enough that it starts soon, enough
that it does not disturb the copying."""
PATIENCE = 0.5
"""Seconds that a payload waits for the slot it is to be copied to. Then it is copied to memory of this process, and goes in
chunks."""
DOUBT = 5.0
"""Seconds for which no slot is waited for after that."""


class Sending:
    """The uploads of one publisher, in the order of the calls."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self.line = line = Line(driver)
        driver.post(lambda now: driver.watch(line, now))
        self._ready = Ready(driver)
        self._doubt = 0.0
        """Until when (monotonic) no slot is waited for."""
        self._one_snapshot = threading.Lock()

    def snapshot(
        self,
        begin: Begin,
        plan: codec.Plan,
        deadline: float,
        timeout: float,
        *,
        ahead: bool,
        waits: bool = False,
        timed: Callable[[Upload], None] | None = None,
    ) -> Upload:
        """The upload of a payload, which is copied when this returns. `ahead`: it may be one that was begun before. `waits`: the
        caller will wait for its end, so it may have come by then. `timed` is told before anybody else that it is over."""
        with self._one_snapshot:
            slots = self.slots(plan.size)
            if slots is not None:
                ended = _first(timed, self.ended)
                return self._granted(begin, plan, slots, ended, deadline, timeout, ahead=ahead)
            ended = _first(timed, self.line.ended)
            if plan.size <= CHUNK:
                return self._whole(begin, plan, ended, deadline, timeout, direct=waits and plan.size <= INLINE)
            return self._chunked(begin, plan, ended, deadline, timeout)

    def slots(self, size: int) -> SlotDirectory | None:
        """Where a payload of this size is written to, if there are slots for it."""
        return self._driver.slots if size > INLINE and time.monotonic() >= self._doubt else None

    def _granted(
        self,
        begin: Begin,
        plan: codec.Plan,
        slots: SlotDirectory,
        ended: Ended,
        deadline: float,
        timeout: float,
        *,
        ahead: bool,
    ) -> Upload:
        """A payload that is copied into the slot that the broadcaster grants."""
        begin, post = replace(begin, host_token=slots.token), self._driver.post
        upload = self._slot_upload(begin, ended, deadline, timeout, ahead=ahead)
        try:
            self.line.begin(upload, None)
            if upload.key == begin.upload_id:  # Else it was begun ahead.
                post(upload.ask)
            view = self._room(upload, slots, deadline)
            if upload.over:
                return upload  # Refused, or there is a version of this upload id already.

            def tell(filled: int) -> None:
                post(lambda now: upload.filled(filled, now))

            # The broadcaster hashes a slot right behind the copy: a second hash of the same memory would compare nothing.
            if upload.has_slot:
                plan.copy_into(view, _every(FILLED, tell))
                digest = AS_IT_LIES
            else:
                digest = _copy(plan, view, tell, FILLED)
            upload.written()
            post(lambda now: upload.finish(digest, now))
            self.line.queue(upload)
        except BaseException as error:
            upload.written()
            self.take_back(upload, error)
            raise
        return upload

    # --- a payload that the user writes himself --------------------------------------------------------------------

    def open(self, begin: Begin) -> tuple[memoryview, SlotUpload | None]:
        """Where a payload is to be written, and the upload that goes with that place if it is a slot. Raises why none is granted,
        and NoSpace."""
        slots = self.slots(begin.size)
        if slots is not None:
            upload = self._unsettled(replace(begin, host_token=slots.token))
            try:
                view = self._slot(upload, slots, PATIENCE)
                if upload.over:
                    futures.wait(upload.future, "a slot", PATIENCE)
                if view is not None:
                    return view, upload
            except BaseException as error:
                upload.written()
                self.take_back(upload, error)
                raise
            self._driver.post(self._driver.slots_refused)
            self.take_back(upload, SlotsUnusable("none was granted"))
        return view_of(allocate(begin.size), begin.size), None

    def _unsettled(self, begin: Begin) -> SlotUpload:
        """An upload that has a slot, or has asked for one, and all the time that it needs."""
        found = None if begin.archived else self._ready.take(begin)
        if found is not None and found.keep():
            return found
        upload = SlotUpload(begin, self._driver.send_upload, nobody, math.inf, math.inf, settled=False)
        self._driver.post(lambda now: self._driver.add_upload(upload))
        self._driver.post(upload.ask)
        return upload

    def commit(self, upload: SlotUpload | ChunkedUpload, payload: memoryview) -> None:
        """The payload of this upload is whole: it is committed when its turn comes."""
        post = self._driver.post
        with self._one_snapshot:
            try:
                self.line.begin(upload, None)
                digest = AS_IT_LIES
                if isinstance(upload, ChunkedUpload):
                    digest = _digest(payload, lambda filled: post(lambda now: upload.filled(filled, now)))
                upload.written()
                post(lambda now: upload.finish(digest, now))
            except BaseException as error:
                upload.written()
                self.take_back(upload, error)
                raise
            self.line.queue(upload)

    def plain(self, begin: Begin, payload: memoryview, deadline: float, timeout: float) -> ChunkedUpload:
        """An upload of what lies in memory of this process and does not change any more."""
        return ChunkedUpload(begin, payload, Frames(), self._driver.send_upload, self.line.ended, deadline, timeout)

    # --- a snapshot ------------------------------------------------------------------------------------------------

    def _slot_upload(self, begin: Begin, ended: Ended, deadline: float, timeout: float, *, ahead: bool) -> SlotUpload:
        """An upload that has a slot, or is to ask for one."""
        found = self._ready.take(begin) if ahead and not begin.archived else None
        if found is not None and found.settle(begin, ended, deadline, timeout):
            return found
        return SlotUpload(begin, self._driver.send_upload, ended, deadline, timeout)

    def _room(self, upload: SlotUpload, slots: SlotDirectory, deadline: float) -> memoryview:
        """Where the payload goes: the granted slot, or else memory of this process. Raises NoSpace."""
        post, size = self._driver.post, upload.begin.size
        view = self._slot(upload, slots, min(PATIENCE, deadline - time.monotonic()))
        if view is not None or upload.over:
            return memoryview(b"") if view is None else view
        post(self._driver.slots_refused)
        memory, frames = self.line.memory(size)
        self.line.hold(upload, memory)
        private = view_of(memory, size)
        post(lambda now: upload.in_chunks(private, frames, now))
        return private

    def _slot(self, upload: SlotUpload, slots: SlotDirectory, patience: float) -> memoryview | None:
        """The slot that is granted; None when there is none."""
        grant = upload.wait_for_grant(max(0.0, patience))
        if grant is None:
            if upload.has_slot and not upload.begin.archived:  # Else a disk may be what is slow.
                self._doubt = time.monotonic() + DOUBT
            return None
        try:
            view = self._driver.grants.take(slots, grant.slot, upload.begin.size)
        except SlotsUnusable:
            upload.written()
            return None
        upload.use(view)
        return view

    def ended(self, upload: SlotUpload, intact: bool) -> None:
        self.line.ended(upload, intact)
        if upload.through_slot:
            # Behind the end of this one, whose user is waiting.
            self._driver.post(lambda now: self._ready.follow(upload.begin, now))

    def take_back(self, upload: Upload, error: BaseException) -> None:
        reason = f"the weights could not be copied: {type(error).__name__}"
        aborted = Aborted(model_id=upload.begin.model_id, reason=reason)

        def fail(now: float) -> None:
            self._driver.add_upload(upload)  # Ctrl-C may have come before that.
            self._driver.fail_upload(upload, aborted)

        self._driver.post(fail)

    def _whole(self, begin: Begin, plan: codec.Plan, ended: Ended, deadline: float, timeout: float, *, direct: bool) -> Upload:
        """A payload that fits one message: copied first, then sent. The tiny ones need no memory that is kept."""
        memory, frames = self._memory(plan) if plan.size > INLINE else (None, None)
        view = plan.fixed
        if view is None:
            view = memoryview(bytearray(plan.size)) if memory is None else view_of(memory, plan.size)
        digest = _snapshot(plan, view, lambda filled: None, plan.size)
        given = {field.name: getattr(begin, field.name) for field in fields(begin)}
        payload = view if frames is None else frames.whole(view)
        message = Publish(**given, digest=digest)
        upload = WholeUpload(message, payload, self._driver.send_upload, ended, deadline, timeout)
        try:
            if not self.line.begin(upload, memory, direct=direct):
                self.line.queue(upload)
            elif direct and not self._driver.lane.exchange(upload):
                self.line.go(upload)
        except BaseException as error:
            self.take_back(upload, error)
            raise
        return upload

    def _chunked(self, begin: Begin, plan: codec.Plan, ended: Ended, deadline: float, timeout: float) -> Upload:
        """A payload whose chunks leave while the rest is still being copied."""
        memory, frames = self._memory(plan)
        view, post = plan.fixed if memory is None else view_of(memory, plan.size), self._driver.post
        assert view is not None
        upload = ChunkedUpload(begin, view, frames, self._driver.send_upload, ended, deadline, timeout)
        try:
            self.line.begin(upload, memory)
            step = min(max(plan.size // 16, TELL[0]), TELL[1])
            digest = _snapshot(plan, view, lambda filled: post(lambda now: upload.filled(filled, now)), step)
            post(lambda now: upload.finish(digest, now))
            self.line.queue(upload)
        except BaseException as error:
            self.take_back(upload, error)
            raise
        return upload

    def _memory(self, plan: codec.Plan) -> tuple[mmap.mmap | None, Frames]:
        """Where the payload is copied to, and the frames to send it in; None where it can be sent from where it lies. Raises
        NoSpace."""
        return self.line.memory(plan.size) if plan.fixed is None else (None, Frames())


def _first(timed: Callable[[Upload], None] | None, ended: Ended) -> Ended:
    """`ended`, and before it `timed`, if there is one."""
    if timed is None:
        return ended

    def both(upload: Upload, intact: bool) -> None:
        timed(upload)
        ended(upload, intact)

    return both


def _digest(payload: memoryview, tell: Callable[[int], None]) -> str:
    """The xxh3-128 of a payload that is in place; `tell` hears now and then how far it is."""
    digest = xxhash.xxh3_128()
    for start in range(0, len(payload), FILLED):
        piece = payload[start : start + FILLED]
        digest.update(piece)
        tell(start + len(piece))
    return digest.hexdigest()


def _snapshot(plan: codec.Plan, view: memoryview, tell: Callable[[int], None], step: int) -> str:
    """The xxh3-128 of the payload, which lies in `view` for good when this returns, and may do so before."""
    if plan.fixed is not None:
        return _digest(view, tell)
    return _copy(plan, view, tell, step)


def _copy(plan: codec.Plan, view: memoryview, tell: Callable[[int], None], step: int) -> str:
    """Copies the payload and hashes it right behind the copy, while the bytes are warm. Returns the xxh3-128; `tell` hears every
    `step` bytes how many are in place."""
    digest, hashed, told = xxhash.xxh3_128(), 0, _every(step, tell)

    def filled(size: int) -> None:
        nonlocal hashed
        digest.update(view[hashed:size])
        hashed = size
        told(size)

    plan.copy_into(view, filled)
    return digest.hexdigest()


def _every(step: int, tell: Callable[[int], None]) -> Callable[[int], None]:
    """Hears often how many bytes are in place, and tells it every `step` bytes."""
    told = 0

    def filled(size: int) -> None:
        nonlocal told
        if size - told >= step:
            told = size
            tell(size)

    return filled
