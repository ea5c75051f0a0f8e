"""Reading one given version, whole and verified."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from broadcaster.protocol.assembly import Assembly
from broadcaster.protocol.errors import BroadcasterError, RequestTimeout
from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.machines.fetch import Fetcher, FetcherState, Out
from broadcaster.protocol.messages import Message
from broadcaster.protocol.version import VersionInfo
from clients._driver import futures
from clients._driver.owner import Ids, Send

T = TypeVar("T")


class Fetch(Generic[T]):
    """Fills `buffer`, which has the version's size. `turn` makes the future's value of the filled buffer; `dropped` is told when
    it comes to nothing."""

    def __init__(
        self,
        version: VersionInfo,
        buffer: memoryview,
        turn: Callable[[VersionInfo, memoryview], T],
        send: Send,
        deadline: float,
        timeout: float,
        dropped: Callable[[memoryview], None] | None = None,
        *,
        chunks_per_read: int = 1,
    ) -> None:
        """`chunks_per_read`: how many one read may ask for."""
        ids = Ids()
        self.key = ids.key
        self.future: Future[T] = futures.new()
        self.over = False
        self.version = version
        self._assembly = Assembly(buffer)
        self._fetcher = Fetcher(version, self._assembly, ids.make, chunks_per_read=chunks_per_read, until=deadline)
        self._turn = turn
        self._send = send
        self._until = deadline
        self._timeout = timeout
        self._dropped = dropped

    @property
    def received(self) -> int:
        """Bytes that are here without a hole. May be read from any thread."""
        return min(self._assembly.front << 20, self.version.size)

    @property
    def deadline(self) -> float | None:
        return self._until if self._fetcher.deadline is None else min(self._until, self._fetcher.deadline)

    def start(self, now: float) -> None:
        self._act(self._fetcher.start(now))

    def receive(self, message: Message, payload: bytes | None, now: float) -> None:
        self._act(self._fetcher.receive(message, now))

    def wants(self, header: ChunkHeader) -> bool:
        return self._fetcher.place(header) is not None

    def put(self, header: ChunkHeader, data: memoryview, now: float) -> None:
        self._act(self._fetcher.placed(header, now, data))

    @property
    def fetcher(self) -> Fetcher | None:
        return None if self.over else self._fetcher

    def placed_next(self, place: memoryview, now: float) -> None:
        """The bytes of the answer that the fetcher expected are in their place."""
        self._act(self._fetcher.placed_next(place, now))

    def expire(self, now: float) -> bool:
        if now >= self._until:
            what = f"reading version {self.version.number} of {self.version.model_id}"
            self.fail(RequestTimeout(what=what, timeout=self._timeout))
            return True
        again = self._fetcher.expire(now)
        self._act(again)
        return bool(again)

    def _act(self, out: Out) -> None:
        for message in out:
            self._send(message)
        if self._fetcher.state is FetcherState.DONE and not self.over:
            self.over = True
            futures.fulfil(self.future, self._turn(self.version, self._assembly.buffer))
        elif self._fetcher.error is not None:
            self.fail(self._fetcher.error)

    def fail(self, error: BroadcasterError) -> None:
        if self.over:
            return
        self.over = True
        if self._dropped is not None:
            self._dropped(self._assembly.buffer)
        futures.fail(self.future, error)
