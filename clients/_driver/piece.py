"""Reading a piece of one version: at most a chunk of bytes, for whoever passes them on as they come."""

from __future__ import annotations

from broadcaster.protocol.errors import RemoteProtocolError
from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.messages import Read
from broadcaster.protocol.version import VersionInfo
from clients._driver import futures
from clients._driver.asking import Ask
from clients._driver.owner import Send


class Piece(Ask[bytes]):
    """The `length` bytes (1 to 1 MiB) behind `offset` of a version. They are as the broadcaster has them: of an archived version
    verified there, of a transient one not hashed again."""

    def __init__(self, version: VersionInfo, offset: int, length: int, send: Send, deadline: float, timeout: float) -> None:
        def request(request_id: bytes) -> Read:
            return Read(
                request_id=request_id,
                namespace=version.namespace,
                model_id=version.model_id,
                number=version.number,
                offset=offset,
                length=length,
            )

        what = f"reading version {version.number} of {version.model_id}"
        super().__init__(request, None, bytes, send, deadline, timeout, what)
        self._asked = (version.size, offset, length)

    def wants(self, header: ChunkHeader) -> bool:
        if header.transfer != self._request.request_id or self.over:
            return False
        if (header.size, header.offset, header.length) != self._asked:
            size, offset, length = self._asked
            raise RemoteProtocolError(
                reason=f"asked for {length} bytes at {offset} of {size}, got {header.length} at {header.offset} of {header.size}"
            )
        return True

    def put(self, header: ChunkHeader, data: memoryview, now: float) -> None:
        self.over = True
        futures.fulfil(self.future, bytes(data))  # The one copy: the message's memory goes back to libzmq.
