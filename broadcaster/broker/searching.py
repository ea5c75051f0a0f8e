"""Searches, a slice at a time: between two slices the loop serves everyone else."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from broadcaster.broker.results import KEPT, Place, Places, Results
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
        self._results = Results()

    def search(self, request: Search, caller: Caller) -> None:
        """Raises InvalidRequest, UnknownModel, Busy; answers `caller` later."""
        if request.limit == 0:
            raise InvalidRequest(field="limit", reason="must be at least 1")
        query = Query(request.where, request.order or ("-creation_timestamp" if request.model_id is None else "-number"))
        after = None if request.after is None else query.after(request.after)
        limit = min(request.limit or PAGE, PAGE)
        if after is None or (query.field == "number" and request.model_id is not None):
            # In the order of numbers, nothing before the page and behind it need be looked at.
            numbered = query.field == "number" and request.model_id is not None
            enough, beyond = limit + 1 if numbered else None, None if after is None else -after[2]
            rows = self._rows(request.namespace, request.model_id, newest_first=query.descending, beyond=beyond)
            look = _Look(rows, Hits(query, limit + 1, after), enough)
            self._add(_Job(caller, query, look, lambda found: _page(request, query, found)))
        else:
            self._go_on(request, query, after, limit, caller)

    def _go_on(self, request: Search, query: Query, after: Place, limit: int, caller: Caller) -> None:
        """A page behind another one, in an order that versions are not kept in. Raises UnknownModel, Busy."""
        question = request.namespace, request.model_id, request.where, query.order
        rows = self._rows(request.namespace, request.model_id, newest_first=True)
        whole = _Look(rows, Hits(query, KEPT, after), None)
        known = self._results.behind(question, after, self._waiting.clock())

        def answer(found: list[VersionInfo]) -> Found:
            if job.look is whole:
                kept = Places(after, [place for place, _ in whole.hits.found], len(whole.hits) < KEPT)
                self._results.keep(question, kept, self._waiting.clock())
            return _page(request, query, found)

        first = whole
        if known is not None:
            rows = self._rows_at(request.namespace, query, known.places)
            first = _Look(rows, Hits(query, limit + 1, after), limit + 1, None if known.whole else whole)
        job = _Job(caller, query, first, answer)
        self._add(job)

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
        self._add(_Job(caller, query, _Look(rows, Hits(query, 1, None), None), answer))

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

    def _rows_at(self, namespace: str, query: Query, places: Iterable[Place]) -> Iterator[_Row]:
        """The versions that were at these places, and still are."""
        catalog, aliases = self._rooms.catalog, dict[Key, dict[int, list[str]]]()
        for place in places:
            number, key = -place[2], (namespace, place[3])
            info = catalog.known(key, number)
            if key not in aliases:
                aliases[key] = catalog.aliases(key)
            if info is not None and query.place(info) == place:
                yield info, aliases[key].get(number, ())

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
            done, looked = job.run(SLICE)
            self._rooms.stats.count("versions_searched", looked)
            if not done:
                self._front.post(self._next)
                return
            self._rooms.stats.count("searches")
            job.caller.reply(job.answer(job.look.hits.first()))
        except BroadcasterError as error:
            job.caller.refuse(error)
        self._jobs.popleft()
        if self._jobs:
            self._front.post(self._next)


@dataclass(slots=True)
class _Look:
    """A look at versions, which is over when `enough` were found. `instead` follows when there were not that many."""

    rows: Iterator[_Row]
    hits: Hits
    enough: int | None
    instead: _Look | None = None


class _Job:
    def __init__(self, caller: Caller, query: Query, look: _Look, answer: _Answer) -> None:
        self.caller = caller
        self.look = look
        self.answer = answer
        self._query = query

    def run(self, count: int) -> tuple[bool, int]:
        """Look at so many versions more; whether that was all, and how many they were."""
        looked, look = 0, self.look
        for info, aliases in islice(look.rows, count):
            looked += 1
            if self._query.wants(info, aliases):
                look.hits.offer(info)
                if len(look.hits) == look.enough:
                    return True, looked
        if looked == count:
            return False, looked
        self.look = look.instead or look
        return look.instead is None, looked


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
