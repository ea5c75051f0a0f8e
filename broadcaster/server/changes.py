"""A change is made once: a request that comes again is answered with the first answer, or waits for it."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from broadcaster.broker import Caller
from broadcaster.protocol.errors import BroadcasterError
from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.messages import Message
from broadcaster.slots import Tracker

KEPT = 4096
"""Answers kept."""
LASTS = 600.0
"""Seconds for which an answer is kept."""


@dataclass(slots=True)
class _Change:
    caller: Caller
    since: float
    answer: Message | BroadcasterError | None = None


class Changes:
    """The requests that change something, by request id."""

    def __init__(self) -> None:
        self._known: OrderedDict[bytes, _Change] = OrderedDict()

    def once(self, request_id: bytes, caller: Caller, now: float) -> Caller | None:
        """The caller to answer for a new request; None when the request is known, and answered or going to be."""
        self._forget(now)
        change = self._known.get(request_id)
        if change is None:
            change = self._known[request_id] = _Change(caller, now)
            return Once(change, self._known, request_id)
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

    @property
    def expires(self) -> float:
        return self._change.caller.expires

    def reply(self, message: Message, payload: memoryview | None = None) -> None:
        self._change.answer = message
        self._change.caller.reply(message)

    def refuse(self, error: BroadcasterError) -> None:
        if error.retryable:
            self._known.pop(self._request_id, None)
        else:
            self._change.answer = error
        self._change.caller.refuse(error)

    def chunk(self, header: ChunkHeader, data: memoryview, *, track: bool) -> Tracker | None:
        return self._change.caller.chunk(header, data, track=track)
