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
from broadcaster.protocol.errors import BroadcasterError, DigestMismatch, InvalidRequest, RemoteProtocolError
from broadcaster.protocol.frames import Chunk, ChunkHeader
from broadcaster.protocol.limits import CHUNK, FAST_READS, READS, RETRY
from broadcaster.protocol.messages import XXH3, Error, Message, Read
from broadcaster.protocol.version import VersionInfo

Out = list[Message | Chunk]

FAST = 0.01
"""Seconds for each chunk: where they come faster, a fetch has more under way."""
MAX_PATIENCE = 8
"""How many times `retry` the wait for an answer may grow to."""


class FetcherState(Enum):
    READING = "reading"
    DONE = "done"
    FAILED = "failed"


class Fetcher:
    """Completes `assembly` with the bytes of one version, and checks the digest over the whole payload.

    `make_id` makes request ids (16 random bytes); one request asks for `chunks_per_read` chunks where so many in a row are
    missing. `reads` chunks are under way at a time, `fast_reads` where they come fast. The assembly may hold chunks already: only
    the missing ones are read. `until` is when nobody waits for them any more: the broadcaster is told.
    """

    def __init__(
        self,
        version: VersionInfo,
        assembly: Assembly,
        make_id: Callable[[], bytes],
        *,
        reads: int = READS,
        fast_reads: int = FAST_READS,
        chunks_per_read: int = 1,
        retry: float = RETRY,
        until: float | None = None,
    ) -> None:
        self.version = version
        self.assembly = assembly
        self.state = FetcherState.READING
        self.error: BroadcasterError | None = None
        self._make_id = make_id
        self._reads = reads
        self._fast_reads = fast_reads
        self._per_read = chunks_per_read
        self._retry = retry
        self._until = until
        self._todo = assembly.missing()[::-1]
        self._asked: dict[bytes, list[int]] = {}
        """The chunks, ascending, that each request is still to bring."""
        self._under_way = 0
        self._came = 0
        self._patience = retry
        self._begun = self._heard = 0.0

    @property
    def over(self) -> bool:
        return self.state is not FetcherState.READING

    def owns(self, request_id: bytes) -> bool:
        return request_id in self._asked

    def start(self, now: float) -> Out:
        self._begun = self._heard = now
        return self._ask()

    def place(self, header: ChunkHeader) -> memoryview | None:
        """Where the bytes of this reply go, or None for an answer that is not awaited any more."""
        awaited = self._asked.get(header.transfer)
        if awaited is None or self.over:
            return None
        index, rest = divmod(header.offset, CHUNK)
        if header.size != self.assembly.size or rest or not (index in awaited or self.assembly.has(index)):
            raise RemoteProtocolError(reason=f"asked for chunks {awaited}, got bytes at {header.offset} of {header.size}")
        self.assembly.index_of(header)
        return None if self.assembly.has(index) else self.assembly.view(index)

    def placed(self, header: ChunkHeader, now: float, data: memoryview | None = None) -> Out:
        """The bytes are where `place` said; those of `data` are put there now. Asks for more; ends when all are here."""
        index = header.offset // CHUNK
        self.assembly.add(index, data)
        return self._has(header.transfer, index, now)

    @property
    def expected(self) -> bytes | None:
        """The header of the answer that comes next where nothing is lost, whose bytes go to `front`; None when there is none. An
        answer with any other header is for `place` to judge."""
        front = self.assembly.front
        for request_id, awaited in self._asked.items():
            if awaited[0] == front:
                return self.assembly.header(request_id, 0)
        return None

    @property
    def front(self) -> memoryview:
        """Where the bytes of the expected answer go."""
        return self.assembly.view(self.assembly.front)

    def placed_next(self, place: memoryview, now: float) -> Out:
        """The bytes that were expected are in their `place`, which was the front. What follows is as with `placed`."""
        index = self.assembly.front
        request_id = next(request_id for request_id, awaited in self._asked.items() if awaited[0] == index)
        self.assembly.came(place)
        return self._has(request_id, index, now)

    def _has(self, request_id: bytes, index: int, now: float) -> Out:
        self._heard, self._patience = now, max(self._retry, self._patience / 2)
        awaited = self._asked[request_id]
        awaited.remove(index)
        self._came += 1
        self._under_way -= 1
        if not awaited:
            del self._asked[request_id]
        if self.assembly.complete:
            self._finish()
            return []
        return self._ask()

    def came(self, now: float) -> Out:
        """Chunks came another way: what is here is not read, nor waited for. Asks for more; DONE or FAILED once all are here."""
        if not self.over:
            self._heard = now
            left = {request_id: self._missing_of(awaited) for request_id, awaited in self._asked.items()}
            self._asked = {request_id: awaited for request_id, awaited in left.items() if awaited}
            self._under_way = sum(map(len, self._asked.values()))
        return self._ask()

    def receive(self, message: Message, now: float) -> Out:
        """An error instead of bytes ends the fetch."""
        if self.over or message.KIND != Error.KIND:
            return []
        assert isinstance(message, Error)
        if message.request_id in self._asked:
            error = message.to_raise()
            if isinstance(error, InvalidRequest) and self._per_read > 1:
                return self._one_by_one()
            self._fail(error)
        return []

    def _one_by_one(self) -> Out:
        """So long a read is not answered: perhaps an older broadcaster has taken the place of the one that said it would."""
        waiting = [index for awaited in self._asked.values() for index in awaited]
        self._per_read, self._under_way, self._asked = 1, 0, {}
        self._todo = sorted({*self._todo, *waiting}, reverse=True)
        return self._ask()

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
        return [self._read(request_id, awaited) for request_id, awaited in self._asked.items()]

    def _ask(self) -> Out:
        if self.assembly.complete and not self.over:
            self._finish()
        out: Out = []
        fast = self._came >= self._reads // 2 and self._heard - self._begun <= self._came * FAST
        most = self._fast_reads if fast else self._reads
        while not self.over and self._under_way + self._per_read <= most and (wanted := self._next()):
            request_id = self._make_id()
            self._asked[request_id] = wanted
            self._under_way += len(wanted)
            out.append(self._read(request_id, wanted))
        return out

    def _next(self) -> list[int]:
        """The next chunks that are missing, in a row; none when all are here or asked for."""
        wanted: list[int] = []
        while self._todo and len(wanted) < self._per_read:
            index = self._todo[-1]
            if wanted and index != wanted[-1] + 1:
                break
            self._todo.pop()
            if not self.assembly.has(index):
                wanted.append(index)
        return wanted

    def _missing_of(self, indices: list[int]) -> list[int]:
        return [index for index in indices if not self.assembly.has(index)]

    def _read(self, request_id: bytes, wanted: list[int]) -> Read:
        """Of these chunks, and what lies between them."""
        offset, end = wanted[0] * CHUNK, min((wanted[-1] + 1) * CHUNK, self.assembly.size)
        return Read(
            request_id=request_id,
            budget_ms=None if self._until is None else max(1, round((self._until - self._heard) * 1000)),
            namespace=self.version.namespace,
            model_id=self.version.model_id,
            number=self.version.number,
            offset=offset,
            length=end - offset,
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
