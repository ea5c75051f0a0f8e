"""What subscribers say of how far they are, and who waits for them to get there."""

from __future__ import annotations

from dataclasses import dataclass

from broadcaster.acks import Acked, Counts
from broadcaster.broker.rooms import Caller, Key, Rooms
from broadcaster.protocol.errors import Busy, InvalidName, InvalidRequest, RequestTimeout, UnknownModel
from broadcaster.protocol.frames import encoded_size
from broadcaster.protocol.limits import CONTROL, PAGE
from broadcaster.protocol.messages import (
    APPLIED,
    STAGES,
    Ack,
    Acks,
    AwaitAcks,
    ListSubscribers,
    Subscribers,
    write_subscriber,
)
from broadcaster.protocol.names import check_name
from broadcaster.protocol.subscriber import SubscriberInfo

WAITERS = 1000
"""Requests that wait for acks at a time."""
ASKED_AGAIN = 60.0
"""Seconds for which a request waits that is not asked again: clients do so every second."""

_PAGE_BYTES = CONTROL * 3 // 4


@dataclass(slots=True)
class _Waiter:
    request: AwaitAcks
    caller: Caller
    since: float
    until: float

    @property
    def key(self) -> Key:
        return self.request.namespace, self.request.model_id

    @property
    def asks(self) -> tuple[str | int, ...]:
        return _asks(self.request)


class Acknowledging:
    """The subscribers of all models, on the loop's thread."""

    def __init__(self, rooms: Rooms) -> None:
        self._rooms = rooms
        self._table = rooms.acks
        self._waiters: dict[bytes, _Waiter] = {}
        """By request id."""
        self._moved: set[Key] = set()
        """Models of which something was heard that somebody may wait for."""
        self.deadline: float | None = None
        """When `settle` has something to do, whatever comes."""

    # --- what subscribers say ----------------------------------------------------------------------------------------

    def ack(self, ack: Ack, now: float) -> None:
        """Not answered, whatever it is: what says nothing about this life of the broadcaster is dropped."""
        if ack.epoch != self._rooms.log.epoch or not _is_named(ack):
            self._rooms.stats.count("acks_dropped")
            return
        self._rooms.stats.count("acks")
        key = (ack.namespace, ack.model_id)
        if ack.age_us is not None and (published := self._table.published_at(key, ack.received)) is not None:
            self._rooms.stats.took("visible_seconds", max(0.0, now - published - ack.age_us / 1e6))
        if ack.gone:
            self._table.gone(key, ack.subscriber)
        else:
            newest, last = self._newest(key), self._rooms.numbers.last(key)
            at = {"received": ack.received, "applied": ack.applied}
            self._table.heard(key, ack.subscriber, ack.name, **at, newest=newest, last=last, now=now)
        if self._waiters:
            self._moved.add(key)
            self.deadline = now

    # --- who waits for it --------------------------------------------------------------------------------------------

    def wait(self, request: AwaitAcks, caller: Caller, now: float) -> None:
        """Answers as soon as so many are that far, or with RequestTimeout. Asked again with the same id it is the same request.

        Raises InvalidRequest, UnknownModel, Busy.
        """
        if request.stage not in STAGES:
            raise InvalidRequest(field="stage", reason=f"must be one of {', '.join(STAGES)}")
        waiter = self._waiters.get(request.request_id)
        if waiter is not None and waiter.asks != _asks(request):
            raise InvalidRequest(field="request_id", reason="another request has it")
        if waiter is None:
            self._require(request)
            waiter = _Waiter(request, caller, now, now)
            if self._answer(waiter, self._table.counts(waiter.key)):
                return
            if len(self._waiters) >= WAITERS:
                raise Busy(what="waiting for acks", retry_after=1)
            self._waiters[request.request_id] = waiter
        waiter.caller, waiter.until = caller, min(caller.expires, now + ASKED_AGAIN)
        self._set_deadline()

    def settle(self, now: float) -> None:
        """Answers who waited for what was heard meanwhile, and whose time is over."""
        if self.deadline is None or now < self.deadline:
            return
        moved, self._moved = self._moved, set()
        counts = {key: self._table.counts(key) for key in {waiter.key for waiter in self._waiters.values()} & moved}
        for request_id, waiter in list(self._waiters.items()):
            found = counts.get(waiter.key)
            if found is not None and self._answer(waiter, found):
                del self._waiters[request_id]
            elif now >= waiter.until:
                del self._waiters[request_id]
                waiter.caller.refuse(self._too_late(waiter, now))
        self._set_deadline()

    def _set_deadline(self) -> None:
        self.deadline = min((waiter.until for waiter in self._waiters.values()), default=None)

    def _answer(self, waiter: _Waiter, counts: Counts) -> bool:
        """Whether enough are that far; who waits is told then."""
        request = waiter.request
        received, applied = counts.received(request.number), counts.applied(request.number)
        if (applied if request.stage == APPLIED else received) < request.count:
            return False
        waiter.caller.reply(Acks(request_id=request.request_id, received=received, applied=applied))
        return True

    def _too_late(self, waiter: _Waiter, now: float) -> RequestTimeout:
        request, counts = waiter.request, self._table.counts(waiter.key)
        received, applied = counts.received(request.number), counts.applied(request.number)
        wanted = f"{request.count} subscribers of {request.model_id} have {request.stage} version {request.number}"
        what = f"waiting until {wanted} (received by {received}, applied by {applied})"
        return RequestTimeout(what=what, timeout=round(now - waiter.since, 3), received=received, applied=applied)

    # --- the table ---------------------------------------------------------------------------------------------------

    def subscribers(self, request: ListSubscribers, now: float) -> Subscribers:
        """One page of who follows a model. Raises UnknownModel, InvalidRequest."""
        key = (request.namespace, request.model_id)
        self._require(request)
        if request.limit == 0:
            raise InvalidRequest(field="limit", reason="must be at least 1")
        limit = min(request.limit or PAGE, PAGE)
        found = self._table.page(key, request.after, limit + 1)
        page: list[SubscriberInfo] = []
        size, newest = 0, self._newest(key)
        for acked in found[:limit]:
            info = self._info(key, acked, newest, now)
            size += encoded_size(write_subscriber(info))
            if size > _PAGE_BYTES and page:
                break
            page.append(info)
        more = page[-1].subscriber if len(page) < len(found) else None
        return Subscribers(request_id=request.request_id, subscribers=tuple(page), next=more)

    def gauges(self, now: float) -> dict[str, float]:
        """How many there are, and how far the last of them is behind."""
        lags = list(self._table.behind(self._newest))
        return {
            "subscribers": self._table.count,
            "subscribers_behind": sum(lag.late for lag in lags),
            "worst_lag_versions": max((self._lag(lag.key, lag.at, lag.newest) for lag in lags), default=0),
            "worst_lag_seconds": max((now - lag.since for lag in lags), default=0.0),
            "ack_waiters": len(self._waiters),
        }

    def tick(self, now: float) -> None:
        """Forgets who was silent for too long."""
        self._table.forget_silent(now)

    # --- inside ------------------------------------------------------------------------------------------------------

    def _newest(self, key: Key) -> int:
        """The newest version that can be fetched, 0 for none."""
        kept = self._rooms.catalog.newest(key)
        return 0 if kept is None else kept.info.number

    def _info(self, key: Key, acked: Acked, newest: int, now: float) -> SubscriberInfo:
        behind = acked.at < newest
        return SubscriberInfo(
            subscriber=acked.subscriber,
            name=acked.name,
            received=acked.received,
            applied=acked.applied,
            lag=self._lag(key, acked.at, newest) if behind else 0,
            lag_ms=int((now - self._table.since(key, acked)) * 1000) if behind else 0,
            seen_ms=int((now - acked.heard) * 1000),
        )

    def _lag(self, key: Key, at: int, newest: int) -> int:
        """Versions above `at`: all numbers of this life, and what there still is of earlier ones, whose numbers have gaps."""
        floor = self._rooms.numbers.floor(key)
        return max(0, newest - max(at, floor)) + self._rooms.catalog.count(key, at, min(floor, newest))

    def _require(self, request: AwaitAcks | ListSubscribers) -> None:
        """Raises UnknownModel when there is neither the model nor anybody who follows it."""
        key = (request.namespace, request.model_id)
        if not self._rooms.catalog.has(key) and not self._table.follows(key):
            raise UnknownModel(model_id=request.model_id, namespace=request.namespace)


def _asks(request: AwaitAcks) -> tuple[str | int, ...]:
    """What a request asks for, however often, and for whatever time."""
    return request.namespace, request.model_id, request.number, request.count, request.stage


def _is_named(ack: Ack) -> bool:
    """Whether its names may be those of a model."""
    try:
        check_name("namespace", ack.namespace)
        check_name("model", ack.model_id)
    except InvalidName:
        return False
    return True
