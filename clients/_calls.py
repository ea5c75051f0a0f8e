"""What can be asked of the registry, as futures: both faces wait for these in their own way."""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, TypeVar

from broadcaster.protocol import messages as m
from broadcaster.protocol.errors import BroadcasterError, InvalidRequest
from broadcaster.protocol.limits import PAGE
from broadcaster.protocol.names import check_name
from broadcaster.protocol.retention import RetentionPolicy
from broadcaster.protocol.subscriber import SubscriberInfo
from broadcaster.protocol.version import ModelInfo, VersionInfo
from clients._checks import (
    check_annotations,
    check_count,
    check_description,
    check_metrics,
    check_ref,
    check_tags,
    check_timeout,
    check_user_data,
)
from clients._driver import futures
from clients._driver.asking import Ask
from clients._driver.fetching import Fetch
from clients._driver.loop import Driver
from clients._driver.piece import Piece
from clients._filter import Where, conditions_of
from clients.buffers import BufferPool, Bytes, allocate, array_of, view_of
from clients.timing import Timed, timed

T = TypeVar("T")

Page = tuple[tuple[T, ...], Any]
"""Some of a listing, and where the next page begins (None: this was the last)."""


KEPT_READ = 256 << 20
"""Bytes: memory of payloads up to this size is used for the next read once nothing views it; fresh memory costs more than the
network."""


class Calls:
    """One future per call, each ended within `timeout` seconds. Raises at once what is wrong with the arguments."""

    def __init__(self, driver: Driver, namespace: str, timeout: float) -> None:
        self._driver = driver
        self.namespace = namespace
        self.timeout = timeout
        self.timings: list[Timed] | None = None
        """What requests ask for where the time goes for, while somebody wants to know."""
        self._pool = BufferPool()

    @property
    def driver(self) -> Driver:
        """What asks, for who needs more of it than questions."""
        return self._driver

    def of(self, namespace: str, timeout: float) -> Calls:
        """The same broadcaster, asked of another namespace, with another patience."""
        return Calls(self._driver, namespace, timeout)

    def _ask(self, kind: type[m.Request], answer: type[m.Message], turn: Callable[[Any], T], **fields: Any) -> Future[T]:
        timeout, timings = self.timeout, self.timings
        what = " ".join(
            [
                kind.KIND.decode(),
                *(str(fields[name]) for name in ("model_id", "alias", "ref", "number") if fields.get(name) is not None),
            ]
        )

        if timings is not None:
            fields, turn = fields | {"timing": True}, timed(what, turn, timings)

        def request(request_id: bytes) -> m.Request:
            return kind(request_id=request_id, namespace=self.namespace, **fields)

        question = Ask(request, answer, turn, self._driver.send_data, time.monotonic() + timeout, timeout, what)
        self._driver.post(lambda now: self._driver.add(question))
        return question.future

    # --- models ----------------------------------------------------------------------------------------------------

    def create(
        self,
        model_id: str,
        user_data: Mapping[str, str] | None,
        tags: Mapping[str, str] | None,
        description: str,
        *,
        exist_ok: bool,
    ) -> Future[ModelInfo]:
        data, marks = check_user_data(user_data), check_user_data(tags, field="tags")
        check_annotations(user_data=data, tags=marks)
        fields = {"model_id": check_name("model", model_id), "user_data": data, "tags": marks, "exist_ok": bool(exist_ok)}
        return self._ask(m.CreateModel, m.Model, _model, **fields, description=check_description(description) or None)

    def model(self, model_id: str) -> Future[ModelInfo]:
        return self._ask(m.GetModel, m.Model, _model, model_id=check_name("model", model_id))

    def update(self, model_id: str, user_data: Mapping[str, str], description: str | None) -> Future[ModelInfo]:
        if user_data is None:
            raise InvalidRequest(field="user_data", reason="None is none: {} removes all of it, `describe` leaves it alone")
        data = check_user_data(user_data)
        check_annotations(user_data=data)
        text = None if description is None else check_description(description)
        fields = {"model_id": check_name("model", model_id), "user_data": data, "description": text}
        return self._ask(m.UpdateModel, m.Model, _model, **fields)

    def describe_model(self, model_id: str, description: str) -> Future[ModelInfo]:
        fields = {"model_id": check_name("model", model_id), "description": check_description(description)}
        return self._ask(m.Describe, m.Model, _model, **fields)

    def delete_model(self, model_id: str, *, force: bool) -> Future[None]:
        return self._ask(m.DeleteModel, m.Deleted, _nothing, model_id=check_name("model", model_id), force=bool(force))

    def models(self, after: str | None, limit: int | None = None) -> Future[Page[ModelInfo]]:
        return self._ask(m.ListModels, m.Models, lambda page: (page.models, page.next), after=after, limit=limit)

    # --- versions --------------------------------------------------------------------------------------------------

    def versions(self, model_id: str, after: int | None, limit: int | None = None) -> Future[Page[VersionInfo]]:
        fields = {"model_id": check_name("model", model_id), "after": after, "limit": limit}
        return self._ask(m.ListVersions, m.Versions, lambda page: (page.versions, page.next), **fields)

    def get(self, model_id: str, ref: int | str) -> Future[VersionInfo]:
        return self._ask(m.GetVersion, m.Version, _version, model_id=check_name("model", model_id), ref=check_ref(ref))

    def best(self, model_id: str, metric: str, mode: str, where: Where | None) -> Future[VersionInfo]:
        if mode not in ("max", "min"):
            raise InvalidRequest(field="mode", reason=f"{mode!r} is neither 'max' nor 'min'")
        fields = {"model_id": check_name("model", model_id), "metric": metric, "mode": mode}
        return self._ask(m.Best, m.Version, _version, **fields, where=conditions_of(where) or None)

    def search(
        self, model_id: str | None, where: Where | None, order: str | None, limit: int | None
    ) -> Callable[[str | None, int], Future[Page[VersionInfo]]]:
        """Asks for the page behind a cursor, when so many were found before it."""
        fields: dict[str, Any] = {"where": conditions_of(where), "order": order}
        if model_id is not None:
            fields["model_id"] = check_name("model", model_id)
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
            raise InvalidRequest(field="limit", reason=f"{limit!r} is not a number of versions above 0")

        def page(after: str | None, found: int) -> Future[Page[VersionInfo]]:
            left = None if limit is None else min(limit - found, PAGE)
            return self._ask(m.Search, m.Found, lambda page: (page.versions, page.next), **fields, after=after, limit=left)

        return page

    def describe_version(self, model_id: str, ref: int | str, description: str) -> Future[VersionInfo]:
        text = check_description(description)

        def describe(number: int) -> Future[VersionInfo]:
            return self._ask(m.Describe, m.Version, _version, model_id=model_id, number=number, description=text)

        return self._with_number(model_id, ref, describe)

    def archive(self, model_id: str, ref: int | str) -> Future[VersionInfo]:
        return self._ask(m.Archive, m.Version, _version, model_id=check_name("model", model_id), ref=check_ref(ref))

    def delete(self, model_id: str, ref: int | str, *, force: bool) -> Future[None]:
        def delete(number: int) -> Future[None]:
            return self._ask(m.DeleteVersion, m.Deleted, _nothing, model_id=model_id, number=number, force=bool(force))

        return self._with_number(model_id, ref, delete)

    def add_metrics(self, model_id: str, ref: int | str, metrics: Mapping[str, Any]) -> Future[VersionInfo]:
        numbers = check_metrics(metrics)
        check_annotations(metrics=numbers)

        def add(number: int) -> Future[VersionInfo]:
            return self._ask(m.AddMetrics, m.Version, _version, model_id=model_id, number=number, metrics=numbers)

        return self._with_number(model_id, ref, add)

    def _with_number(self, model_id: str, ref: int | str, call: Callable[[int], Future[T]]) -> Future[T]:
        """A future of what `call` makes of the number that `ref` stands for, which only some requests resolve themselves."""
        ref = check_ref(ref)
        if isinstance(ref, int) and ref >= 0:
            check_name("model", model_id)
            return call(ref)
        return _later(self.get(model_id, ref), lambda info: call(info.number))

    # --- names and marks -------------------------------------------------------------------------------------------

    def tag_model(self, model_id: str, tags: Mapping[str, str | None]) -> Future[ModelInfo]:
        return self._ask(m.SetTags, m.Model, _model, model_id=check_name("model", model_id), tags=_tags(tags))

    def tag_version(self, model_id: str, ref: int | str, tags: Mapping[str, str | None]) -> Future[VersionInfo]:
        found = _tags(tags)

        def tag(number: int) -> Future[VersionInfo]:
            return self._ask(m.SetTags, m.Version, _version, model_id=model_id, number=number, tags=found)

        return self._with_number(model_id, ref, tag)

    def set_alias(self, model_id: str, alias: str, ref: int | str | None, expect: int | None) -> Future[ModelInfo]:
        names = {"model_id": check_name("model", model_id), "alias": check_name("alias", alias)}
        fields = {**names, "expect": None if expect is None else check_count("expect", expect)}

        def move(number: int | None) -> Future[ModelInfo]:
            return self._ask(m.SetAlias, m.Model, _model, **fields, number=number)

        return move(None) if ref is None else self._with_number(model_id, ref, move)

    # --- what is kept ----------------------------------------------------------------------------------------------

    def set_retention(self, model_id: str, policy: RetentionPolicy | None) -> Future[ModelInfo]:
        fields = {"model_id": check_name("model", model_id), "retention": None if policy is None else policy.write()}
        return self._ask(m.SetRetention, m.Model, _model, **fields)

    def prune(
        self, model_id: str, policy: RetentionPolicy | None, after: int | None, *, dry_run: bool, force: bool
    ) -> Future[m.Pruned]:
        """Of one page; `next` is where the following one begins."""
        fields = {"model_id": check_name("model", model_id), "retention": None if policy is None else policy.write()}
        flags = {"dry_run": bool(dry_run), "force": bool(force)}
        return self._ask(m.Prune, m.Pruned, _itself, **fields, **flags, after=after)

    def pin(self, model_id: str, ref: int | str, *, pinned: bool) -> Future[VersionInfo]:
        fields = {"model_id": check_name("model", model_id), "ref": check_ref(ref), "pinned": pinned}
        return self._ask(m.Pin, m.Version, _version, **fields)

    # --- terms -----------------------------------------------------------------------------------------------------

    def take_term(self, model_id: str, publisher: bytes) -> Future[int]:
        """Of the term that this publisher (16 bytes) holds from then on."""
        fields = {"model_id": check_name("model", model_id), "publisher": publisher}
        return self._ask(m.TakeTerm, m.Term, operator.attrgetter("term"), **fields)

    def give_up_term(self, model_id: str, publisher: bytes | None) -> Future[int | None]:
        """Of the term that ended, None when this publisher (None: anybody) held none."""
        fields = {"model_id": check_name("model", model_id), "publisher": publisher}
        return self._ask(m.GiveUpTerm, m.GivenUp, operator.attrgetter("term"), **fields)

    def subscribers(self, model_id: str, after: bytes | None, limit: int | None = None) -> Future[Page[SubscriberInfo]]:
        fields = {"model_id": check_name("model", model_id), "after": after, "limit": limit}
        return self._ask(m.ListSubscribers, m.Subscribers, lambda page: (page.subscribers, page.next), **fields)

    def ping(self) -> Future[Timed]:
        timings: list[Timed] = []
        return self._ask(m.Ping, m.Pong, timed("ping", lambda _: timings[0], timings), timing=True)

    def stats(self) -> Future[Mapping[str, float]]:
        return self._ask(m.GetStats, m.Stats, operator.attrgetter("values"))

    def events(self, epoch: int, after: int, limit: int | None = None) -> Future[m.Events]:
        """Of a page of what happened in the namespace. Ends in EventsGone when the log does not reach back so far."""
        return self._ask(m.Replay, m.Events, _itself, epoch=epoch, after=after, limit=limit)

    # --- payloads --------------------------------------------------------------------------------------------------

    def piece(self, version: VersionInfo, offset: int, length: int) -> Future[bytes]:
        """Of `length` bytes (1 to 1 MiB, all inside the payload) from `offset` on; fastest where they are a whole chunk."""
        piece = Piece(version, offset, length, self._driver.send_data, time.monotonic() + self.timeout, self.timeout)
        self._driver.post(lambda now: self._driver.add(piece))
        return piece.future

    def read(self, version: VersionInfo, timeout: float) -> Fetch[Bytes]:
        """The payload as a read-only array, verified: its future ends within `timeout` seconds. Raises NoSpace."""
        seconds = check_timeout(timeout)
        deadline = time.monotonic() + seconds
        send, pool, most = self._driver.send_data, self._pool, self._driver.chunks_per_read
        if version.size > KEPT_READ:
            buffer = view_of(allocate(version.size), version.size)
            fetch = Fetch(version, buffer, lambda _, filled: array_of(filled), send, deadline, seconds, chunks_per_read=most)
        else:
            buffer = pool.lend(version.size)
            fetch = Fetch(
                version, buffer, lambda _, filled: pool.root(filled), send, deadline, seconds, pool.give, chunks_per_read=most
            )
        self._driver.post(lambda now: self._driver.add(fetch))
        return fetch


def _later(future: Future[Any], call: Callable[[Any], Future[T]]) -> Future[T]:
    """A future of what `call` makes of what comes of the first."""
    made: Future[T] = futures.new()

    def second(done: Future[T]) -> None:
        error = done.exception()
        if error is not None:
            futures.fail(made, error)
        else:
            futures.fulfil(made, done.result())

    def first(done: Future[Any]) -> None:
        error = done.exception()
        try:
            if error is not None:
                raise error
            call(done.result()).add_done_callback(second)
        except BroadcasterError as failed:
            futures.fail(made, failed)

    future.add_done_callback(first)
    return made


def _tags(tags: Mapping[str, str | None]) -> dict[str, str | None]:
    found = check_tags(tags)
    check_annotations(tags=found)
    return found


_version = operator.attrgetter("version")
_model = operator.attrgetter("model")


def _itself(answer: T) -> T:
    return answer


def _nothing(_: object) -> None:
    return None
