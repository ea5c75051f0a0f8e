"""A draft: the next version's memory, which the learner computes its weights into, and commits."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from broadcaster.protocol.errors import Aborted, BroadcasterError, InvalidRequest
from broadcaster.protocol.layout import Layout
from broadcaster.protocol.messages import Begin
from broadcaster.protocol.version import VersionInfo
from clients._checks import check_annotations, check_metrics, check_timeout, check_user_data
from clients._driver import futures
from clients._driver.granted import SlotUpload
from clients._driver.loop import Driver
from clients._sending import TIMEOUT, Sending
from clients.buffers import Bytes
from clients.codec.numpy import Array, view
from clients.codec.tree import SCALARS, Names, map_leaves

if TYPE_CHECKING:
    import torch


class Draft:
    """Writable arrays over the memory of a version that does not exist yet; made by `Publisher.draft`.

        with publisher.draft(weights) as draft:
            np.add(weights["w"], update, out=draft.tree["w"])
            draft.commit()

    What the arrays hold at first is whatever was in the memory: every element is to be written. With the commit they become
    read-only, and stay as they are while any of them lives, unless the version left memory at once. Leaving the `with` without a
    commit discards. A torch tensor cannot be made read-only: it must not be written to after the commit, and neither must a view
    that was made of an array before it. For one thread at a time.
    """

    def __init__(
        self,
        publisher: object,
        driver: Driver,
        sending: Sending,
        begin: Begin,
        layout: Layout,
        like: object,
        watch: Callable[[Future[VersionInfo]], None] | None = None,
    ) -> None:
        """`watch` gets the future of the commit."""
        self._publisher = publisher  # and with it the client, which is closed when nothing refers to it
        self._driver = driver
        self._sending = sending
        self._begin = begin
        self._layout = layout
        self._like = like
        self._watch = watch
        self._slots = driver.slots
        self._payload, self._upload = sending.open(begin)
        self.in_slot = self._upload is not None
        """Whether it lies in the broadcaster's shared memory, so that the commit copies nothing."""
        # For each draft an array of its own over the memory: what refers to that keeps the slot, and nothing else does.
        self._root: Bytes = np.frombuffer(self._payload, np.uint8)
        self._lock = threading.Lock()
        self._ended = ""
        if self._upload is not None:
            self._let_go = weakref.finalize(self._root, _let_go, driver, self._upload)
            self._let_go.atexit = False

    @cached_property
    def tensors(self) -> Mapping[str, Array]:
        """The arrays by name, in the order of the tree. Raises MissingDependency for bf16 and fp8 without ml_dtypes."""
        specs = {spec.name: spec for spec in self._layout.specs}
        found = {name: view(self._root, specs[name]) for name in self._names()}
        return found

    @cached_property
    def tree(self) -> Any:
        """A tree like the layout with the arrays in it: one of no dimensions in place of a numpy scalar; Python numbers as they
        are. Raises as `tensors`."""
        names, tensors = Names(), self.tensors
        return map_leaves(self._like, lambda path, leaf: leaf if type(leaf) in SCALARS else tensors[names.name(path)], keep=True)

    def torch(self) -> dict[str, torch.Tensor]:
        """Tensors over the same memory, by name. They must not be written to after the commit."""
        from clients.codec.torch import view

        self._check_open()
        specs = {spec.name: spec for spec in self._layout.specs}
        return {name: view(self._root, specs[name]) for name in self._names()}

    def commit(
        self,
        *,
        metrics: Mapping[str, Any] | None = None,
        user_data: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
    ) -> VersionInfo:
        """Makes what was written the newest version; the arrays are read-only from here on.

        Raises what `Publisher.publish` raises, and InvalidRequest when it was committed or discarded before.
        """
        future = self.commit_nowait(metrics=metrics, user_data=user_data, timeout=timeout)
        return futures.wait(future, f"publishing {self._begin.model_id}", timeout)

    def commit_nowait(
        self,
        *,
        metrics: Mapping[str, Any] | None = None,
        user_data: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
    ) -> Future[VersionInfo]:
        """As `commit`, but returns at once where the draft lies in a slot, elsewhere once it is hashed, with a future; see
        `Publisher.publish_nowait`."""
        self._driver.check()
        deadline = time.monotonic() + check_timeout(timeout)
        numbers, texts = check_metrics(metrics), check_user_data(user_data)
        check_annotations(user_data=texts, metrics=numbers)
        self._end("committed")
        self._root[: len(self._layout.header)] = np.frombuffer(self._layout.header, np.uint8)
        self._freeze()
        last = replace(self._begin, user_data=texts, metrics=numbers, creation_timestamp=time.time_ns())
        upload = self._upload
        if upload is None:
            plain = self._sending.plain(last, self._payload, deadline, timeout)
            self._sending.commit(plain, self._payload)
            return self._watched(plain.future)
        self._let_go.detach()
        if upload.settle(last, self._done, deadline, timeout):
            self._sending.commit(upload, self._payload)
        return self._watched(upload.future)

    def _watched(self, future: Future[VersionInfo]) -> Future[VersionInfo]:
        if self._watch is not None:
            self._watch(future)
        return future

    def discard(self) -> None:
        """No version comes of it; the arrays are not to be used any more. May be called twice, and after the commit."""
        with contextlib.suppress(InvalidRequest):
            self._end("discarded")
            self._freeze()
            if self._upload is not None:
                self._let_go()

    def __enter__(self) -> Draft:
        return self

    def __exit__(self, *_: object) -> None:
        self.discard()

    def _names(self) -> list[str]:
        names, found = Names(), list[str]()
        map_leaves(self._like, lambda path, leaf: None if type(leaf) in SCALARS else found.append(names.name(path)))
        return found

    def _check_open(self) -> None:
        if self._ended:
            raise InvalidRequest(field="draft", reason=f"it was {self._ended} already")

    def _end(self, how: str) -> None:
        with self._lock:
            self._check_open()
            self._ended = how

    def _freeze(self) -> None:
        arrays: Mapping[str, Array] = self.__dict__.get("tensors", {})
        for array in (*arrays.values(), self._root):
            array.flags.writeable = False

    def _done(self, upload: SlotUpload, intact: bool) -> None:
        self._upload = None  # No circle: the lease is to end with the last array, not when circles are found.
        grant = upload.grant
        if upload.through_slot and grant is not None and self._slots is not None:
            self._driver.grants.hold(self._slots, grant.slot, grant.generation, self._root)
        self._sending.ended(upload, intact)


def _let_go(driver: Driver, upload: SlotUpload) -> None:
    """Nobody can write to it any more: the slot is given back. May be called from a finalizer."""
    upload.written()
    error = Aborted(model_id=upload.begin.model_id, reason="the draft was discarded")
    with contextlib.suppress(BroadcasterError):  # The client has ended, and with it every upload that it knew.
        driver.post(lambda now: driver.fail_upload(upload, error))
