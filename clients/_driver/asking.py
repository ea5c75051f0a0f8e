"""One question on the data channel and its answer."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Generic, TypeVar

from broadcaster.protocol.errors import BroadcasterError, Busy, RemoteProtocolError, RequestTimeout
from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.limits import RETRY
from broadcaster.protocol.messages import Error, Message, Request
from clients._driver import futures
from clients._driver.owner import Ids, Send

T = TypeVar("T")


def left(deadline: float, now: float) -> int:
    """The time budget in milliseconds."""
    return max(1, round((deadline - now) * 1000))


class Ask(Generic[T]):
    """Asks, and asks again with the same id while no answer comes; ends by its deadline.

    `turn` makes the future's value of the answer. `request` is the question without its id, `answer` what answers it: None for
    bytes, which `wants` and `put` take.
    """

    def __init__(
        self,
        request: Callable[[bytes], Request],
        answer: type[Message] | None,
        turn: Callable[[Any], T],
        send: Send,
        deadline: float,
        timeout: float,
        what: str | None = None,
    ) -> None:
        ids = Ids()
        self.key = ids.key
        self.future: Future[T] = futures.new()
        self.over = False
        self._request = request(ids.make())
        self._answer = answer
        self._turn = turn
        self._send = send
        self._until = deadline
        self._timeout = timeout
        self._what = what or self._request.KIND.decode()
        self._again = deadline

    @property
    def deadline(self) -> float | None:
        return min(self._until, self._again)

    def start(self, now: float) -> None:
        self._again = now + RETRY
        self._send(replace(self._request, budget_ms=left(self._until, now)))

    def receive(self, message: Message, payload: bytes | None, now: float) -> None:
        if isinstance(message, Error):
            self._refused(message.to_raise(), now)
        elif self._answer is not None and isinstance(message, self._answer):
            self.over = True
            try:
                futures.fulfil(self.future, self._turn(message))
            except BroadcasterError as error:
                futures.fail(self.future, error)
        else:
            raise RemoteProtocolError(reason=f"{message.KIND.decode()} is no answer to {self._request.KIND.decode()}")

    def _refused(self, error: BroadcasterError, now: float) -> None:
        if isinstance(error, Busy) and type(error.retry_after) in (int, float) and now + error.retry_after < self._until:
            self._again = now + error.retry_after
        else:
            self.fail(error)

    def expire(self, now: float) -> bool:
        if now >= self._until:
            error = RequestTimeout(what=self._what, timeout=self._timeout)
            error.request_id = self._request.request_id.hex()
            self.fail(error)
            return True
        if now < self._again:
            return False
        self.start(now)
        return True

    def fail(self, error: BroadcasterError) -> None:
        self.over = True
        futures.fail(self.future, error)

    def wants(self, header: ChunkHeader) -> bool:
        return False

    def put(self, header: ChunkHeader, data: memoryview, now: float) -> None:
        raise AssertionError("a question wants no bytes")
