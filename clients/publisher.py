"""Publishing: a snapshot of the weights, taken while it is sent."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from broadcaster.protocol.errors import InvalidPayload, InvalidRequest, PayloadTooLarge
from broadcaster.protocol.limits import MAX_PAYLOAD
from broadcaster.protocol.messages import APPLIED, RECEIVED, Begin
from broadcaster.protocol.names import check_name
from broadcaster.protocol.version import VersionInfo
from clients import codec
from clients._checks import check_annotations, check_count, check_metrics, check_timeout, check_user_data
from clients._driver import futures
from clients._driver.awaiting import AckCounts, Await
from clients._driver.loop import Driver
from clients._driver.uploading import Upload
from clients._sending import TIMEOUT, Sending
from clients._term import Term
from clients.codec.plan import TensorPlan
from clients.draft import Draft
from clients.timing import Timed

__all__ = ["LOOK", "TIMEOUT", "AckCounts", "Progress", "Publisher"]

LOOK = 0.1
"""Seconds between two looks at how far an upload is, for `progress`."""

Progress = Callable[[int, int], None]


def _timed(timings: list[Timed], began: float) -> Callable[[Upload], None]:
    """Notes where the time of an upload went that became a version."""

    def timed(upload: Upload) -> None:
        if upload.version is not None:
            timings.append(Timed(f"publish {upload.begin.model_id}", time.monotonic() - began, upload.hops))

    return timed


class Publisher:
    """Publishes versions of one model, in the order of the calls. May be used by several threads.

    On the broadcaster's host a payload over 64 KiB is copied straight into shared memory, and takes none of this process.
    Elsewhere the publisher has one payload's memory, kept and used again; calling `publish_nowait` while an upload is under way
    takes a second one. Of `bytes`, which cannot change, none is taken.

    Its last transient version is kept as it was sent: should the broadcaster be started again, it gets that one back under the
    same number within a few seconds, unless something newer is known there.
    """

    def __init__(self, driver: Driver, namespace: str, model_id: str, term: Term | None = None) -> None:
        """`term` is an exclusive publisher's."""
        self._driver = driver
        self._namespace = namespace
        self.model_id = check_name("model", model_id)
        self.keeps: object = None
        """What is to live as long as this: the client, which is closed when nothing refers to it."""
        self._term = term
        self._cache = codec.LayoutCache()
        self._sending = Sending(driver)

    def publish(
        self,
        weights: object,
        *,
        archived: bool = False,
        metrics: Mapping[str, Any] | None = None,
        user_data: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
        upload_id: bytes | None = None,
        progress: Progress | None = None,
    ) -> VersionInfo:
        """Makes `weights` the newest version, and returns what is known of it once it is as durable as asked.

        `weights` is a tree of numpy, torch or jax arrays, bytes, or the Path of a file or directory. They may change once this
        has returned. `archived` keeps the version on disk for ever. `metrics` maps names to single numbers, `user_data` text to
        text. `progress` is told bytes done and in all, now and then. A retry with the same `upload_id` (16 bytes) makes no second
        version.

        Raises InvalidPayload, InvalidRequest, PayloadTooLarge, BudgetExceeded, NoSpace, StoreError, AccessDenied; Fenced when
        another publisher is the model's only one, for ever if this one was; RequestTimeout when the outcome is not known after
        `timeout` seconds: then a retry with the same `upload_id` is safe.
        """
        upload = self.begin(weights, archived, metrics, user_data, timeout, upload_id, waits=True)
        while progress is not None and not futures.ended(upload.future, LOOK):
            progress(upload.acknowledged, upload.begin.size)
        version = futures.wait(upload.future, f"publishing {self.model_id}", timeout)
        if progress is not None:
            progress(version.size, version.size)
        return version

    def publish_nowait(
        self,
        weights: object,
        *,
        archived: bool = False,
        metrics: Mapping[str, Any] | None = None,
        user_data: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
        upload_id: bytes | None = None,
    ) -> Future[VersionInfo]:
        """As `publish`, but returns once the weights are copied, with a future of what `publish` returns or raises.

        While one upload is under way one more waits for it. A newer one takes the place of that, whose future then raises
        VersionSuperseded. The future cannot be cancelled.
        """
        return self.begin(weights, archived, metrics, user_data, timeout, upload_id).future

    def begin(
        self,
        weights: object,
        archived: bool,
        metrics: Mapping[str, Any] | None,
        user_data: Mapping[str, str] | None,
        timeout: float,
        upload_id: bytes | None,
        *,
        waits: bool = False,
    ) -> Upload:
        """The upload of a snapshot of the weights, which is complete when this returns. `waits`: the caller will wait for its
        end, so it may have come by then."""
        self._driver.check()
        began, timings = time.monotonic(), self._driver.timings
        deadline = began + check_timeout(timeout)
        ahead = upload_id is None and timings is None  # Of a slot that was asked for ahead, the way was another.
        upload_id = os.urandom(16) if upload_id is None else bytes(upload_id)
        if len(upload_id) != 16:
            raise InvalidRequest(field="upload_id", reason=f"must be 16 bytes, not {len(upload_id)}")
        numbers, texts = check_metrics(metrics), check_user_data(user_data)
        check_annotations(user_data=texts, metrics=numbers)
        plan = codec.plan(weights, self._cache)
        self._check_size(plan.size)
        begin = replace(
            self._begin(plan.size, plan.content_type, archived=archived),
            upload_id=upload_id,
            user_data=texts,
            metrics=numbers,
            creation_timestamp=time.time_ns(),
            timing=None if timings is None else True,
        )
        timed = None if timings is None else _timed(timings, began)
        upload = self._sending.snapshot(begin, plan, deadline, timeout, ahead=ahead, waits=waits, timed=timed)
        if self._term is not None:
            self._term.watch(upload.future)
        return upload

    def draft(self, layout: object, *, archived: bool = False) -> Draft:
        """Memory for the next version, for weights that are computed straight into it: on the broadcaster's host that is the
        shared memory which the actors will read, so nothing is copied at all.

        `layout` is a tree of arrays or tensors as `publish` takes it; only structure, shapes, dtypes and Python numbers are read,
        and where they are unchanged nothing is laid out again. The contents are whatever was there before.

        Raises InvalidPayload, PayloadTooLarge, BudgetExceeded, NoSpace, StoreError, AccessDenied.
        """
        self._driver.check()
        plan = codec.plan(layout, self._cache)
        if not isinstance(plan, TensorPlan):
            raise InvalidPayload(where="layout", reason="a draft is of tensors: bytes and files are published")
        self._check_size(plan.size)
        begin = self._begin(plan.size, plan.content_type, archived=archived)
        watch = None if self._term is None else self._term.watch
        return Draft(self, self._driver, self._sending, begin, plan.layout, layout, watch)

    # --- an exclusive one ------------------------------------------------------------------------------------------

    def term(self) -> int | None:
        """The term that makes this publisher the model's only one; None for one that is not exclusive. Raises Fenced when it is
        known to be over."""
        return None if self._term is None else self._term.require()

    def taking(self) -> Future[int] | None:
        """A future of the term; None for a publisher that is not exclusive."""
        return None if self._term is None else self._term.take()

    def close(self, timeout: float = TIMEOUT, *, wait: bool = True) -> None:
        """An exclusive publisher gives its term up, and publishes no more: then anybody may publish again. Others need no
        closing.

        What is under way is waited for, unless `wait` is False: then it ends with Fenced. Raises StoreError and RequestTimeout
        when the broadcaster does not take the term back in time. May be called twice.
        """
        if self._term is not None:
            self._term.end(check_timeout(timeout), wait=wait)

    def __enter__(self) -> Publisher:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- who has it ------------------------------------------------------------------------------------------------

    def wait(
        self,
        version: VersionInfo | int,
        *,
        applied_by: int | None = None,
        received_by: int | None = None,
        timeout: float = TIMEOUT,
    ) -> AckCounts:
        """Waits until so many subscribers have got as far as `version`: `applied_by` counts those whose users were handed it or a
        newer one, `received_by` those where it, or a newer one, is verified and visible. One applied it, unless either is given.

        Returns how many have received and how many have applied it by then. Subscribers say so about 0.1 s later, and one that
        has ended does not count any more. Raises RequestTimeout after `timeout` seconds, with both numbers as `received` and
        `applied` when the broadcaster could be asked.
        """
        return futures.wait(self.reached(version, applied_by, received_by, timeout), f"acks of {self.model_id}", timeout)

    def reached(
        self, version: VersionInfo | int, applied_by: int | None, received_by: int | None, timeout: float
    ) -> Future[AckCounts]:
        """A future of what `wait` returns. Raises InvalidRequest."""
        seconds = check_timeout(timeout)
        if applied_by is not None and received_by is not None:
            raise InvalidRequest(field="received_by", reason="cannot be waited for together with applied_by")
        stage, count = (APPLIED, 1 if applied_by is None else applied_by) if received_by is None else (RECEIVED, received_by)
        number, count = self._number_of(version), check_count(f"{stage}_by", count)
        deadline, send = time.monotonic() + seconds, self._driver.send_data
        waiting = Await(self._namespace, self.model_id, number, count, stage, send, deadline, seconds)
        self._driver.post(lambda now: self._driver.add(waiting))
        return waiting.future

    def _number_of(self, version: VersionInfo | int) -> int:
        """Raises InvalidRequest for what is no version of this model."""
        if not isinstance(version, VersionInfo):
            return check_count("version", version)
        if (version.namespace, version.model_id) != (self._namespace, self.model_id):
            raise InvalidRequest(field="version", reason=f"is one of {version.namespace}/{version.model_id}")
        return version.number

    def _begin(self, size: int, content_type: str, *, archived: bool) -> Begin:
        return Begin(
            request_id=os.urandom(16),
            namespace=self._namespace,
            model_id=self.model_id,
            upload_id=os.urandom(16),
            size=size,
            archived=bool(archived),
            content_type=content_type,
            term=None if self._term is None else self._term.require(),
        )

    def _check_size(self, size: int) -> None:
        welcome = self._driver.welcome
        limit = welcome.limits.get("max_payload", MAX_PAYLOAD) if welcome is not None else MAX_PAYLOAD
        if size > min(limit, MAX_PAYLOAD):
            raise PayloadTooLarge(model_id=self.model_id, size=size, limit=min(limit, MAX_PAYLOAD), what="the broadcaster's")
