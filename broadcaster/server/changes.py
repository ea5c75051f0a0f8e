"""A change is made once: a request that comes again is answered with the first answer, or waits for it."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import xxhash

from broadcaster.broker import Caller, Timing
from broadcaster.protocol.errors import BroadcasterError, InvalidRequest
from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.messages import Message, Request
from broadcaster.slots import Tracker

KEPT = 4096
"""Answers kept."""
LASTS = 600.0
"""Seconds for which an answer is kept."""


@dataclass(slots=True)
class _Change:
    caller: Caller
    since: float
    content: bytes
    answer: Message | BroadcasterError | None = None


class Changes:
    """The requests that change something, by request id."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, _Change] = OrderedDict()

    def once(self, request: Request, caller: Caller, now: float) -> Once | None:
        """The caller to answer for a new request; None when the request is known, and answered or going to be.

        Raises InvalidRequest when its id is that of another request: the first answer would tell it of something else.
        """
        self._forget(now)
        request_id, content = request.request_id, _content(request)
        change = self._known.get(request_id)
        if change is None:
            change = self._known[request_id] = _Change(caller, now, content)
            return Once(change, self._known, request_id)
        if change.content != content:
            raise InvalidRequest(field="request_id", reason="another request had this id")
        change.caller = caller
        match change.answer:
            case Message() as message:
                caller.reply(message)
            case BroadcasterError() as error:
                caller.refuse(error)
        return None

    def _forget(self, now: float) -> None:
        while self._known:
            oldest = next(iter(self._known.values()))
            if len(self._known) < KEPT and now - oldest.since < LASTS:
                return
            self._known.popitem(last=False)


class Once:
    """Answers whoever asked last, and remembers the answer. What may succeed later is not remembered."""

    def __init__(self, change: _Change, known: OrderedDict[bytes, _Change], request_id: bytes) -> None:
        self._change = change
        self._known = known
        self._request_id = request_id
        self.then: Callable[[], None] | None = None
        """Called once it is answered."""

    @property
    def expires(self) -> float:
        return self._change.caller.expires

    @property
    def timing(self) -> Timing | None:
        return self._change.caller.timing

    def reply(self, message: Message, payload: memoryview | None = None) -> None:
        self._change.answer = message
        self._change.caller.reply(message)
        self._over()

    def refuse(self, error: BroadcasterError) -> None:
        if not error.retryable:
            self._change.answer = error
        elif self._known.get(self._request_id) is self._change:
            del self._known[self._request_id]
        self._change.caller.refuse(error)
        self._over()

    def _over(self) -> None:
        then, self.then = self.then, None
        if then is not None:
            then()

    def chunk(self, header: ChunkHeader, data: memoryview, *, track: bool) -> Tracker | None:
        return self._change.caller.chunk(header, data, track=track)


_OF_THE_MOMENT = {"request_id", "budget_ms", "timing"}
"""What may differ when a request is sent again."""


def _content(request: Request) -> bytes:
    """What a request wants, in 16 bytes: a request of 64 KiB need not be kept to know it again."""
    wanted = {name: value for name, value in request.write().items() if name not in _OF_THE_MOMENT}
    told = json.dumps([request.KIND.decode(), wanted], sort_keys=True, default=bytes.hex)
    return xxhash.xxh3_128_digest(told.encode("utf-8", "surrogatepass"))
