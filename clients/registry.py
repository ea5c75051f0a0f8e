"""Models and versions apart from publishing and following: looking them up, reading them, naming, marking and deleting them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from broadcaster.protocol.messages import Pruned
from broadcaster.protocol.subscriber import SubscriberInfo
from broadcaster.protocol.version import ModelInfo, VersionInfo
from clients import codec
from clients._calls import Calls, Page
from clients._driver import futures
from clients._driver.fetching import Fetch
from clients._filter import Where
from clients.buffers import Bytes, view_of_array
from clients.codec import files
from clients.retention import Best, PruneResult, joined, policy_of

T = TypeVar("T")

READ_TIMEOUT = 600.0
"""Seconds that reading a payload may take, unless told otherwise."""
LOOK = 0.1
"""Seconds between two looks at how far a download is, for `progress`."""

Progress = Callable[[int, int], None]
Ref = int | str
"""A version: its number, -1 for the newest (-n for the n-th newest) that can be fetched, or an alias."""


class StoredVersion:
    """One version that the broadcaster has; its payload is read when it is asked for."""

    def __init__(self, calls: Calls, info: VersionInfo) -> None:
        self._calls = calls
        self.info = info
        """What was known of the version when it was looked up."""

    def read(self, *, timeout: float = READ_TIMEOUT) -> memoryview:
        """The whole payload, read-only, its digest verified. Takes one payload's memory, which goes when no view of it is left.

        Raises VersionEvicted, UnknownVersion, StoreCorrupt, DigestMismatch, NoSpace, RequestTimeout after `timeout` seconds.
        """
        return view_of_array(self._read(timeout))

    def tensors(self, *, timeout: float = READ_TIMEOUT) -> codec.Tensors:
        """The tensors by name, as read-only arrays. Raises what `read` does, and InvalidPayload when they are none."""
        return codec.decode(self._read(timeout), self.info.content_type)

    def tree(self, like: object = None, *, timeout: float = READ_TIMEOUT) -> Any:
        """The tree that was published, with read-only arrays; with `like`, in its classes. Raises what `tensors` does."""
        return self.tensors(timeout=timeout).tree(like)

    def download(self, path: str | Path, *, progress: Progress | None = None, timeout: float = READ_TIMEOUT) -> Path:
        """Writes the verified payload to the file `path`, or unpacks it to the directory `path` if it is one packed; returns
        `path`.

        There is never a part of it at `path`. `progress` is told bytes done and in all, now and then. Raises what `read` does,
        AlreadyExists for a directory that is not empty, and OSError as the disk has it.
        """
        return files.write(self._read(timeout, progress), self.info.content_type, Path(path))

    def _read(self, timeout: float, progress: Progress | None = None) -> Bytes:
        fetch = self._calls.read(self.info, timeout)
        while progress is not None and not futures.ended(fetch.future, LOOK):
            progress(fetch.received, self.info.size)
        payload = wait_for_fetch(fetch, timeout)
        if progress is not None:
            progress(self.info.size, self.info.size)
        return payload

    def __repr__(self) -> str:
        return f"<version {self.info.number} of {self.info.model_id}: {self.info.size} bytes>"


class Registry:
    """Everything that can be asked of the models and versions of one namespace, or changed in them.

    Every method raises UnknownModel or UnknownVersion for what is not there, InvalidName and InvalidRequest for wrong arguments,
    AccessDenied, StoreError, and RequestTimeout when no answer comes. A change is durable when its method returns.
    """

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    def _wait(self, future: Future[T]) -> T:
        return futures.wait(future, "a request", self._calls.timeout)

    # --- models ----------------------------------------------------------------------------------------------------

    def create(
        self,
        model_id: str,
        *,
        user_data: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
        exist_ok: bool = False,
    ) -> ModelInfo:
        """Makes a model without versions. Raises AlreadyExists, unless `exist_ok`: then the model stays as it is."""
        return self._wait(self._calls.create(model_id, user_data, tags, description, exist_ok=exist_ok))

    def model(self, model_id: str) -> ModelInfo:
        """What is known of a model."""
        return self._wait(self._calls.model(model_id))

    def update(self, model_id: str, user_data: Mapping[str, str], *, description: str | None = None) -> ModelInfo:
        """Replaces a model's user data, and its description unless that is None."""
        return self._wait(self._calls.update(model_id, user_data, description))

    def delete_model(self, model_id: str, *, force: bool = False) -> None:
        """Deletes a model and all its versions. Raises Refused while an alias points into it or one is pinned, unless `force`."""
        self._wait(self._calls.delete_model(model_id, force=force))

    def models(self) -> Iterator[ModelInfo]:
        """All models in order of name, page by page."""
        after = None
        while True:
            page, after = self._wait(self._calls.models(after))
            yield from page
            if after is None:
                return

    # --- versions --------------------------------------------------------------------------------------------------

    def versions(self, model_id: str) -> Iterator[VersionInfo]:
        """The versions of a model that can be fetched, ascending, page by page."""
        after = None
        while True:
            page, after = self._wait(self._calls.versions(model_id, after))
            yield from page
            if after is None:
                return

    def get(self, model_id: str, ref: Ref = -1) -> StoredVersion:
        """A version: by number, -1 for the newest (-n for the n-th newest), or by alias."""
        return StoredVersion(self._calls, self._wait(self._calls.get(model_id, ref)))

    def best(self, model_id: str, metric: str, *, mode: str = "max", where: Where | None = None) -> StoredVersion:
        """The version with the greatest (`max`) or least (`min`) value of a metric; of equal ones the newest, NaN never.

        With `where`, of the versions for which that holds; see `search`.
        """
        return StoredVersion(self._calls, self._wait(self._calls.best(model_id, metric, mode, where)))

    def search(
        self,
        model_id: str | None = None,
        where: Where | None = None,
        *,
        order: str | None = None,
        limit: int | None = None,
    ) -> Iterator[VersionInfo]:
        """The versions of a model (of all, where it is None) for which `where` holds, page by page, at most `limit`.

        `where` is a filter like `"metrics.return >= 200 and tags.stage = 'candidate'"`, or its conditions like
        `[("metrics.return", ">=", 200)]`; `order` is a field, or "-" and a field for the greatest first: the newest first where
        it is None. Raises InvalidRequest at once, with the place of a mistake in the filter.
        """
        return self._found(self._calls.search(model_id, where, order, limit), limit)

    def _found(self, ask: Callable[[str | None, int], Future[Page[VersionInfo]]], limit: int | None) -> Iterator[VersionInfo]:
        after, count = None, 0
        while True:
            page, after = self._wait(ask(after, count))
            yield from page
            count += len(page)
            if after is None or count == limit:
                return

    def archive(self, model_id: str, ref: Ref = -1) -> VersionInfo:
        """Keeps a version for ever; returns when it is durable."""
        return self._wait(self._calls.archive(model_id, ref))

    def delete(self, model_id: str, ref: Ref, *, force: bool = False) -> None:
        """Deletes one version. Raises Refused while an alias names it or it is pinned, unless `force`."""
        self._wait(self._calls.delete(model_id, ref, force=force))

    def add_metrics(self, model_id: str, ref: Ref, metrics: Mapping[str, Any]) -> VersionInfo:
        """Adds metrics to a version, or overwrites those of the same name."""
        return self._wait(self._calls.add_metrics(model_id, ref, metrics))

    # --- names and marks -------------------------------------------------------------------------------------------

    def set_tags(self, model_id: str, tags: Mapping[str, str | None], *, ref: Ref | None = None) -> ModelInfo | VersionInfo:
        """Sets tags of a version, or of the model where `ref` is None; a tag of value None is removed. Returns what has them."""
        if ref is None:
            return self._wait(self._calls.tag_model(model_id, tags))
        return self._wait(self._calls.tag_version(model_id, ref, tags))

    def describe(self, model_id: str, description: str, *, ref: Ref | None = None) -> ModelInfo | VersionInfo:
        """Replaces the description of a version, or of the model where `ref` is None: at most 4 KiB. Returns what has it."""
        if ref is None:
            return self._wait(self._calls.describe_model(model_id, description))
        return self._wait(self._calls.describe_version(model_id, ref, description))

    def set_alias(self, model_id: str, alias: str, ref: Ref | None, *, expect: int | None = None) -> ModelInfo:
        """Makes `alias` name a version, or nothing where `ref` is None.

        With `expect`, only if it names that version now (0: none); else raises Conflict.
        """
        return self._wait(self._calls.set_alias(model_id, alias, ref, expect))

    # --- what is kept ----------------------------------------------------------------------------------------------

    def retention(
        self,
        model_id: str,
        *,
        last: int | None = None,
        every: int | None = None,
        best: Best | None = None,
        age: float | timedelta | None = None,
    ) -> ModelInfo:
        """Makes these rules the model's own: they decide from now on, again and again, which archived versions stay. Without a
        rule, the model has none any more, and all stay.

        A version stays when any rule keeps it: the `last` so many, each whose number is a multiple of `every`, the `best` by a
        metric (`("return", "max", 3)`), those younger than `age` (seconds). The newest, and what is pinned or has an alias,
        always stays. Returns the model: its `retention` is the rules as a map.
        """
        return self._wait(self._calls.set_retention(model_id, policy_of(last, every, best, age)))

    def prune(
        self,
        model_id: str,
        *,
        last: int | None = None,
        every: int | None = None,
        best: Best | None = None,
        age: float | timedelta | None = None,
        dry_run: bool = False,
        force: bool = False,
    ) -> PruneResult:
        """Deletes the archived versions that these rules (none given: the model's own) let go; with `dry_run`, only says which.

        Raises Refused for an `age` while the broadcaster's clock has jumped, unless `force`.
        """
        policy, pages, after = policy_of(last, every, best, age), list[Pruned](), None
        while not pages or after is not None:
            pages.append(self._wait(self._calls.prune(model_id, policy, after, dry_run=dry_run, force=force)))
            after = pages[-1].next
        return joined(pages)

    def pin(self, model_id: str, ref: Ref = -1) -> VersionInfo:
        """Nothing but force deletes this version from now on, and it does not leave memory if it is not archived.

        Raises PinsExceeded when pinned transient versions take too much memory already.
        """
        return self._wait(self._calls.pin(model_id, ref, pinned=True))

    def unpin(self, model_id: str, ref: Ref) -> VersionInfo:
        """Lets a pinned version go the way of the others."""
        return self._wait(self._calls.pin(model_id, ref, pinned=False))

    # --- terms -----------------------------------------------------------------------------------------------------

    def give_up_term(self, model_id: str) -> int | None:
        """Takes the term from the model's exclusive publisher, whoever that is, so that any publisher may publish again: for when
        it died and nobody takes over. Should it live, it gets Fenced.

        Returns the term that ended; None when there was none.
        """
        return self._wait(self._calls.give_up_term(model_id, None))

    def subscribers(self, model_id: str) -> Iterator[SubscriberInfo]:
        """Who follows a model, and how far each is, page by page. Raises UnknownModel when there is neither the model nor anybody
        who follows it."""
        after = None
        while True:
            page, after = self._wait(self._calls.subscribers(model_id, after))
            yield from page
            if after is None:
                return

    def stats(self) -> Mapping[str, float]:
        """The broadcaster's counters and gauges by name."""
        return self._wait(self._calls.stats())


def wait_for_fetch(fetch: Fetch[Bytes], timeout: float) -> Bytes:
    """The payload, or what went wrong."""
    return futures.wait(fetch.future, f"reading version {fetch.version.number} of {fetch.version.model_id}", timeout)
