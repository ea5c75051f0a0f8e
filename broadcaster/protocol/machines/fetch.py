"""Reading a payload, or the part of it that is missing, over the data channel.

Fetcher (client)                  broadcaster
READING  ── read, read, ... ────▶
         ◀────────── chunk ──────
DONE     (every chunk here)       or FAILED (version evicted, damaged, ...)
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from broadcaster.protocol.assembly import Assembly
from broadcaster.protocol.errors import BroadcasterError, DigestMismatch, RemoteProtocolError
from broadcaster.protocol.frames import Chunk, ChunkHeader
from broadcaster.protocol.limits import CHUNK, READS, RETRY
from broadcaster.protocol.messages import XXH3, Error, Message, Read
from broadcaster.protocol.version import VersionInfo

Out = list[Message | Chunk]

MAX_PATIENCE = 8
"""How many times `retry` the wait for an answer may grow to."""


class FetcherState(Enum):
    READING = "reading"
    DONE = "done"
    FAILED = "failed"


class Fetcher:
    """Completes `assembly` with the bytes of one version, and checks the digest over the whole payload.

    `make_id` makes request ids (16 random bytes); `reads` requests are under way at a time. The assembly may hold chunks already:
    only the missing ones are read. `until` is when nobody waits for them any more: the broadcaster is told.
    """

    def __init__(
        self,
        version: VersionInfo,
        assembly: Assembly,
        make_id: Callable[[], bytes],
        *,
        reads: int = READS,
        retry: float = RETRY,
        until: float | None = None,
    ) -> None:
        self.version = version
        self.assembly = assembly
        self.state = FetcherState.READING
        self.error: BroadcasterError | None = None
        self._make_id = make_id
        self._reads = reads
        self._retry = retry
        self._until = until
        self._todo = assembly.missing()[::-1]
        self._asked: dict[bytes, int] = {}
        self._patience = retry
        self._heard = 0.0

    @property
    def over(self) -> bool:
        return self.state is not FetcherState.READING

    def owns(self, request_id: bytes) -> bool:
        return request_id in self._asked

    def start(self, now: float) -> Out:
        self._heard = now
        return self._ask()

    def place(self, header: ChunkHeader) -> memoryview | None:
        """Where the bytes of this reply go, or None for an answer that is not awaited any more."""
        index = self._asked.get(header.transfer)
        if index is None or self.over or self.assembly.has(index):
            return None
        if header.size != self.assembly.size or header.offset != index * CHUNK:
            raise RemoteProtocolError(reason=f"asked for chunk {index}, got bytes at {header.offset} of {header.size}")
        self.assembly.index_of(header)
        return self.assembly.view(index)

    def placed(self, header: ChunkHeader, now: float, data: memoryview | None = None) -> Out:
        """The bytes are where `place` said; those of `data` are put there now. Asks for more; ends when all are here."""
        self._heard, self._patience = now, max(self._retry, self._patience / 2)
        self.assembly.add(self._asked.pop(header.transfer), data)
        if self.assembly.complete:
            self._finish()
            return []
        return self._ask()

    def came(self, now: float) -> Out:
        """Chunks came another way: what is here is not read, nor waited for. Asks for more; DONE or FAILED once all are here."""
        if not self.over:
            self._heard = now
            self._asked = {request_id: index for request_id, index in self._asked.items() if not self.assembly.has(index)}
        return self._ask()

    def receive(self, message: Message, now: float) -> Out:
        """An error instead of bytes ends the fetch."""
        if self.over or message.KIND != Error.KIND:
            return []
        assert isinstance(message, Error)
        if message.request_id in self._asked:
            self._fail(message.to_raise())
        return []

    @property
    def deadline(self) -> float | None:
        return None if self.over else self._heard + self._patience

    def expire(self, now: float) -> Out:
        """Nothing came: ask for everything that is out again, with the same ids, so that a late answer still counts.

        Each time with twice the patience: a slow connection must not be filled with the same bytes again and again.
        """
        if self.over or now < self._heard + self._patience:
            return []
        self._heard, self._patience = now, min(2 * self._patience, MAX_PATIENCE * self._retry)
        return [self._read(request_id, index) for request_id, index in self._asked.items()]

    def _ask(self) -> Out:
        if self.assembly.complete and not self.over:
            self._finish()
        out: Out = []
        while not self.over and self._todo and len(self._asked) < self._reads:
            index = self._todo.pop()
            if self.assembly.has(index):
                continue
            request_id = self._make_id()
            self._asked[request_id] = index
            out.append(self._read(request_id, index))
        return out

    def _read(self, request_id: bytes, index: int) -> Read:
        return Read(
            request_id=request_id,
            budget_ms=None if self._until is None else max(1, round((self._until - self._heard) * 1000)),
            namespace=self.version.namespace,
            model_id=self.version.model_id,
            number=self.version.number,
            offset=index * CHUNK,
            length=len(self.assembly.view(index)),
        )

    def _finish(self) -> None:
        if self.assembly.digest == self.version.digest:
            self.state = FetcherState.DONE
            return
        self._fail(
            DigestMismatch(
                model_id=self.version.model_id,
                digest_kind=XXH3,
                found=self.assembly.digest,
                declared=self.version.digest,
            )
        )

    def _fail(self, error: BroadcasterError) -> None:
        self.state, self.error = FetcherState.FAILED, error
        self._asked.clear()
