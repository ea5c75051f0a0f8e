"""Searches, a slice at a time: between two slices the loop serves everyone else."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterator
from itertools import islice

from broadcaster.broker.rooms import Caller, Front, Key, Rooms
from broadcaster.broker.waiting import Waiting
from broadcaster.protocol.condition import EXISTS, Condition
from broadcaster.protocol.errors import BroadcasterError, Busy, InvalidRequest, UnknownVersion
from broadcaster.protocol.frames import encoded_size
from broadcaster.protocol.limits import CONTROL, PAGE
from broadcaster.protocol.messages import Best, Found, Search, Version, write_value
from broadcaster.protocol.version import VersionInfo
from broadcaster.search import Hits, Query

SLICE = 256
"""Versions looked at in one turn of the loop: well under a millisecond for a condition or two."""
WAITING = 64
"""Searches that may wait for their turn."""
_PAGE_BYTES = CONTROL * 3 // 4

_Row = tuple[VersionInfo, Collection[str]]
_Answer = Callable[[list[VersionInfo]], Found | Version]


class Searching:
    """Answers searches one after the other, in the order in which they were asked."""

    def __init__(self, rooms: Rooms, front: Front, waiting: Waiting) -> None:
        self._rooms = rooms
        self._front = front
        self._waiting = waiting
        self._jobs: deque[_Job] = deque()

    def search(self, request: Search, caller: Caller) -> None:
        """Raises InvalidRequest, UnknownModel, Busy; answers `caller` later."""
        if request.limit == 0:
            raise InvalidRequest(field="limit", reason="must be at least 1")
        query = Query(request.where, request.order or ("-creation_timestamp" if request.model_id is None else "-number"))
        after = None if request.after is None else query.after(request.after)
        limit = min(request.limit or PAGE, PAGE)
        hits, enough, beyond = Hits(query, limit + 1, after), None, None
        if query.field == "number" and request.model_id is not None:
            # In this order, nothing before the page and behind it need be looked at.
            enough, beyond = limit + 1, None if after is None else -after[2]
        rows = self._rows(request.namespace, request.model_id, newest_first=query.descending, beyond=beyond)
        self._add(_Job(caller, query, hits, rows, enough, lambda found: _page(request, query, found)))

    def best(self, request: Best, caller: Caller) -> None:
        """Greatest (`max`) or least (`min`) value of a metric; ties go to the newest, NaN never wins.

        Raises InvalidRequest, UnknownModel, Busy; answers `caller` later, with UnknownVersion when none has the metric.
        """
        if request.mode not in ("max", "min"):
            raise InvalidRequest(field="mode", reason=f"must be max or min, not {request.mode[:20]}")
        field = f"metrics.{request.metric}"
        query = Query(
            (*(request.where or ()), Condition(field=field, op=EXISTS)), f"-{field}" if request.mode == "max" else field
        )

        def answer(found: list[VersionInfo]) -> Version:
            value = found[0].metrics[request.metric] if found else None
            if value is None or value != value:
                raise UnknownVersion(model_id=request.model_id, number=f"with metric {request.metric}")
            return Version(request_id=request.request_id, version=found[0])

        rows = self._rows(request.namespace, request.model_id, newest_first=True)
        self._add(_Job(caller, query, Hits(query, 1, None), rows, None, answer))

    # --- inside ----------------------------------------------------------------------------------------------------

    def _rows(self, namespace: str, model_id: str | None, *, newest_first: bool, beyond: int | None = None) -> Iterator[_Row]:
        """The versions there are when their turn comes, with their aliases. Raises UnknownModel at once."""
        catalog = self._rooms.catalog
        if model_id is not None:
            catalog.require(key := (namespace, model_id))
            return self._rows_of(key, newest_first=newest_first, beyond=beyond)
        keys = [(namespace, name) for name in catalog.names(namespace)]
        return (row for key in keys if catalog.has(key) for row in self._rows_of(key, newest_first=True))

    def _rows_of(self, key: Key, *, newest_first: bool, beyond: int | None = None) -> Iterator[_Row]:
        catalog = self._rooms.catalog
        numbers, aliases = catalog.numbers(key), catalog.aliases(key)
        if newest_first:
            numbers = numbers[: len(numbers) if beyond is None else bisect_left(numbers, beyond)]
            numbers.reverse()
        elif beyond is not None:
            numbers = numbers[bisect_right(numbers, beyond) :]
        for number in numbers:
            info = catalog.known(key, number)
            if info is not None:  # It may have left since.
                yield info, aliases.get(number, ())

    def _add(self, job: _Job) -> None:
        if len(self._jobs) > WAITING:
            raise Busy(what="search", retry_after=0.5)
        self._jobs.append(job)
        if len(self._jobs) == 1:
            self._next()

    def _next(self) -> None:
        """One slice of the search whose turn it is; then everyone else's turn."""
        job = self._jobs[0]
        try:
            self._waiting.require_time(job.caller)
            if not job.run(SLICE):
                self._front.post(self._next)
                return
            self._rooms.stats.count("searches")
            job.caller.reply(job.answer(job.hits.first()))
        except BroadcasterError as error:
            job.caller.refuse(error)
        self._jobs.popleft()
        if self._jobs:
            self._front.post(self._next)


class _Job:
    def __init__(
        self, caller: Caller, query: Query, hits: Hits, rows: Iterator[_Row], enough: int | None, answer: _Answer
    ) -> None:
        self.caller = caller
        self.hits = hits
        self.answer = answer
        self._query = query
        self._rows = rows
        self._enough = enough

    def run(self, count: int) -> bool:
        """Look at so many versions more; whether that was all."""
        looked = 0
        for info, aliases in islice(self._rows, count):
            looked += 1
            if self._query.wants(info, aliases):
                self.hits.offer(info)
                if len(self.hits) == self._enough:
                    return True
        return looked < count


def _page(request: Search, query: Query, found: list[VersionInfo]) -> Found:
    """As many as `limit` and a control map allow; one more than those was found if there are more."""
    fitting, size = 0, 0
    for info in found[: min(request.limit or PAGE, PAGE)]:
        size += encoded_size(write_value(info))
        if size > _PAGE_BYTES and fitting:
            break
        fitting += 1
    more = fitting < len(found)
    return Found(
        request_id=request.request_id, versions=tuple(found[:fitting]), next=query.cursor(found[fitting - 1]) if more else None
    )
