"""Reading a piece of one version: at most a chunk of bytes, for whoever passes them on as they come."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import replace

from broadcaster.protocol.errors import BroadcasterError, Busy, RemoteProtocolError, RequestTimeout
from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.limits import RETRY
from broadcaster.protocol.messages import Error, Message, Read
from broadcaster.protocol.version import VersionInfo
from clients._driver import futures
from clients._driver.asking import left
from clients._driver.owner import Ids, Send


class Piece:
    """The `length` bytes (1 to 1 MiB) behind `offset` of a version. They are as the broadcaster has them: of an archived version
    verified there, of a transient one not hashed again."""

    def __init__(self, version: VersionInfo, offset: int, length: int, send: Send, deadline: float, timeout: float) -> None:
        ids = Ids()
        self.key = ids.key
        self.future: Future[bytes] = futures.new()
        self.over = False
        self._version = version
        self._read = Read(
            request_id=ids.make(),
            namespace=version.namespace,
            model_id=version.model_id,
            number=version.number,
            offset=offset,
            length=length,
        )
        self._send = send
        self._until = deadline
        self._timeout = timeout
        self._again = deadline

    @property
    def deadline(self) -> float | None:
        return min(self._until, self._again)

    def start(self, now: float) -> None:
        self._again = now + RETRY
        self._send(replace(self._read, budget_ms=left(self._until, now)))

    def receive(self, message: Message, payload: bytes | None, now: float) -> None:
        if not isinstance(message, Error):
            raise RemoteProtocolError(reason=f"{message.KIND.decode()} is no answer to read")
        error = message.to_raise()
        if isinstance(error, Busy) and type(error.retry_after) in (int, float) and now + error.retry_after < self._until:
            self._again = now + error.retry_after
        else:
            self.fail(error)

    def wants(self, header: ChunkHeader) -> bool:
        read = self._read
        if header.transfer != read.request_id or self.over:
            return False
        if (header.size, header.offset, header.length) != (self._version.size, read.offset, read.length):
            raise RemoteProtocolError(
                reason=f"asked for {read.length} bytes at {read.offset} of {self._version.size}, "
                f"got {header.length} at {header.offset} of {header.size}"
            )
        return True

    def put(self, header: ChunkHeader, data: memoryview, now: float) -> None:
        self.over = True
        futures.fulfil(self.future, bytes(data))  # The one copy: the message's memory goes back to libzmq.

    def expire(self, now: float) -> bool:
        if now >= self._until:
            what = f"reading version {self._version.number} of {self._version.model_id}"
            self.fail(RequestTimeout(what=what, timeout=self._timeout))
            return True
        if now < self._again:
            return False
        self.start(now)
        return True

    def fail(self, error: BroadcasterError) -> None:
        self.over = True
        futures.fail(self.future, error)
