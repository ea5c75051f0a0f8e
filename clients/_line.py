"""The order of a publisher's versions: one upload runs, at most one waits, and their memory is kept between them."""

from __future__ import annotations

import contextlib
import math
import mmap
import threading
import time

from broadcaster.protocol.errors import BroadcasterError, VersionSuperseded
from clients._driver.frames import Frames
from clients._driver.loop import Driver
from clients._driver.renewing import renewed
from clients._driver.uploading import Upload
from clients.buffers import Kept


class Line:
    """Shared by the threads that publish and the I/O thread that ends uploads.

    Memory of an upload is used again when the version is done, or when nothing of it was sent. After any other end it is let go:
    pieces of it may still be queued in a socket.
    """

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._lock = threading.RLock()
        self._running: Upload | None = None
        self._since = -math.inf
        """When (monotonic) it was started by way of the I/O thread."""
        self._waiting: Upload | None = None
        self._last: tuple[Upload, mmap.mmap | None] | None = None
        """What became the newest transient version, and its memory until that is needed."""
        self._memory: dict[bytes, mmap.mmap] = {}
        self._kept = Kept(keep=1)
        self._frames: dict[int, Frames] = {}

    def memory(self, size: int) -> tuple[mmap.mmap, Frames]:
        """Memory for the next payload, and the frames over it. Raises NoSpace."""
        with self._lock:
            self._supersede()
            if self._last is not None and self._last[1] is not None:
                self._kept.put(self._last[1])
                self._last = None
            # A second buffer is kept from the first time on that two were needed at once.
            self._kept.keep = max(self._kept.keep, len(self._memory) + 1)
        memory = self._kept.take(size)
        with self._lock:
            # Only of memory that is in use: frames keep theirs alive.
            self._frames = {id(one): self._frames.get(id(one)) or Frames() for one in (memory, *self._memory.values())}
            return memory, self._frames[id(memory)]

    def begin(self, upload: Upload, memory: mmap.mmap | None, *, direct: bool = False) -> bool:
        """Takes it in, and starts it if nothing is before it: whether it was started. With `direct` that is all: who calls
        sends it, or has it `go`."""
        with self._lock:
            self._supersede()
            if memory is not None:
                self._memory[upload.key] = memory
            if direct and self._running is None:
                self._running, self._since = upload, -math.inf
                return True
            self._driver.post(lambda now: self._driver.add_upload(upload))
            if self._running is None:
                self._start(upload)
            return self._running is upload

    def hold(self, upload: Upload, memory: mmap.mmap) -> None:
        """The payload of an upload that was taken in without memory is being copied to this one."""
        with self._lock:
            if not upload.over:
                self._memory[upload.key] = memory

    def queue(self, upload: Upload) -> None:
        """It is ready: it goes when what is before it has ended, and takes the place of one that waits for that too."""
        with self._lock:
            if upload.over or self._running is upload:
                return
            self._supersede()
            if self._running is None:
                self._start(upload)
            else:
                self._waiting = upload

    def go(self, upload: Upload) -> None:
        """One that was begun directly goes by way of the I/O thread."""
        with self._lock:
            self._driver.post(lambda now: self._driver.add_upload(upload))
            self._start(upload)

    def ended(self, upload: Upload, intact: bool) -> None:
        """`intact`: its memory is not used by anybody any more. Called on the I/O thread, before its future ends."""
        with self._lock:
            if upload.version is not None and not upload.version.archived:
                self._keep_last(upload)
            self._give_back(upload, intact=intact)
            if self._waiting is upload:
                self._waiting = None
            if self._running is not upload:
                return
            if not intact:
                self._driver.lane.given_up()
            elif upload.started:
                self._driver.lane.acknowledged(self._since)
            self._running, following, self._waiting = None, self._waiting, None
            if following is not None:
                with contextlib.suppress(BroadcasterError):  # The client ends, and with it the one that waited.
                    self._start(following)

    def _keep_last(self, upload: Upload) -> None:
        if self._last is not None and self._last[1] is not None:
            self._kept.put(self._last[1])
        self._last = upload, self._memory.pop(upload.key, None)

    # --- another life of the broadcaster -----------------------------------------------------------------------------

    @property
    def has_last(self) -> bool:
        """Whether there is a transient version that only the broadcaster's memory has, beside this process."""
        return self._last is not None

    def announce_again(self, now: float) -> None:
        """The last transient version went with the broadcaster that had it: another life of it gets it under the same number,
        unless a newer one is on its way. Called on the I/O thread."""
        with self._lock:
            last = self._last
            if last is None or self._running is not None or self._waiting is not None:
                return
            self._last = None
            upload, memory = last
            again = renewed(upload, self._driver.send_upload, self.ended, now)
            if again is None:
                if memory is not None:
                    self._kept.put(memory)
                return
            if memory is not None:
                self._memory[again.key] = memory
            self._driver.add_upload(again)
            self._start(again)

    def _supersede(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._give_back(waiting, intact=True)
            error = VersionSuperseded(model_id=waiting.begin.model_id)
            self._driver.post(lambda now: self._driver.fail_upload(waiting, error))

    def _start(self, upload: Upload) -> None:
        self._running, self._since = upload, time.monotonic()
        try:
            self._driver.post(lambda now: self._driver.start_upload(upload, now))
        except BroadcasterError:
            self._running = None  # The client has ended, and with it every upload that it knew.
            raise

    def _give_back(self, upload: Upload, *, intact: bool) -> None:
        memory = self._memory.pop(upload.key, None)
        if memory is not None and intact:
            self._kept.put(memory)
        elif memory is not None:
            self._frames.pop(id(memory), None)
