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
from broadcaster.protocol.messages import Begin
from broadcaster.protocol.names import check_name
from broadcaster.protocol.version import VersionInfo
from clients import codec
from clients._checks import check_annotations, check_metrics, check_timeout, check_user_data
from clients._driver import futures
from clients._driver.loop import Driver
from clients._driver.uploading import Upload
from clients._sending import TIMEOUT, Sending
from clients.codec.plan import TensorPlan
from clients.draft import Draft

__all__ = ["LOOK", "TIMEOUT", "Progress", "Publisher"]

LOOK = 0.1
"""Seconds between two looks at how far an upload is, for `progress`."""

Progress = Callable[[int, int], None]


class Publisher:
    """Publishes versions of one model, in the order of the calls. May be used by several threads.

    On the broadcaster's host a payload over 64 KiB is copied straight into shared memory, and takes none of this process.
    Elsewhere the publisher has one payload's memory, kept and used again; calling `publish_nowait` while an upload is under way
    takes a second one.
    """

    def __init__(self, driver: Driver, namespace: str, model_id: str) -> None:
        self._driver = driver
        self._namespace = namespace
        self.model_id = check_name("model", model_id)
        self.keeps: object = None
        """What is to live as long as this: the client, which is closed when nothing refers to it."""
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

        `weights` is a tree of numpy, torch or jax arrays, bytes, or the Path of a file or directory. They are copied before this
        returns. `archived` keeps the version on disk for ever. `metrics` maps names to single numbers, `user_data` text to text.
        `progress` is told bytes done and in all, now and then. A retry with the same `upload_id` (16 bytes) makes no second
        version.

        Raises InvalidPayload, InvalidRequest, PayloadTooLarge, BudgetExceeded, NoSpace, StoreError, AccessDenied; RequestTimeout
        when the outcome is not known after `timeout` seconds: then a retry with the same `upload_id` is safe.
        """
        upload = self.begin(weights, archived, metrics, user_data, timeout, upload_id)
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
    ) -> Upload:
        """The upload of a snapshot of the weights, which is complete when this returns."""
        self._driver.check()
        deadline = time.monotonic() + check_timeout(timeout)
        ahead = upload_id is None
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
        )
        return self._sending.snapshot(begin, plan, deadline, timeout, ahead=ahead)

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
        return Draft(self, self._driver, self._sending, begin, plan.layout, layout)

    def _begin(self, size: int, content_type: str, *, archived: bool) -> Begin:
        return Begin(
            request_id=os.urandom(16),
            namespace=self._namespace,
            model_id=self.model_id,
            upload_id=os.urandom(16),
            size=size,
            archived=bool(archived),
            content_type=content_type,
        )

    def _check_size(self, size: int) -> None:
        welcome = self._driver.welcome
        limit = welcome.limits.get("max_payload", MAX_PAYLOAD) if welcome is not None else MAX_PAYLOAD
        if size > min(limit, MAX_PAYLOAD):
            raise PayloadTooLarge(model_id=self.model_id, size=size, limit=min(limit, MAX_PAYLOAD), what="the broadcaster's")
