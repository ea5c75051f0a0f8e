"""The same names for asyncio: what waits is awaited, over the very same futures.

    async with connect() as client:
        version = await client.publisher("policy").publish(weights)
        async for snapshot in client.subscriber("policy"): ...

Copying weights and looking at the newest version happen where they are called; only waiting is given to the event loop. A task
that is cancelled stops waiting; what it began goes on.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from broadcaster.protocol.keyfile import Key
from broadcaster.protocol.messages import Pruned
from broadcaster.protocol.names import DEFAULT_NAMESPACE
from broadcaster.protocol.subscriber import SubscriberInfo
from broadcaster.protocol.version import ModelInfo, VersionInfo
from clients import codec
from clients._calls import Calls, Page
from clients._driver.delivery import Kind
from clients._filter import Where
from clients.buffers import Bytes, view_of_array
from clients.client import Client, Opening
from clients.codec import files
from clients.draft import Draft
from clients.publisher import LOOK, TIMEOUT, AckCounts, Progress, Publisher
from clients.registry import READ_TIMEOUT, Ref
from clients.retention import Best, PruneResult, joined, policy_of
from clients.snapshot import Snapshot
from clients.subscriber import Every, Lag, Subscriber, SubscriberStats
from clients.timing import Timed

T = TypeVar("T")

__all__ = [
    "AsyncClient",
    "AsyncDraft",
    "AsyncEvery",
    "AsyncPublisher",
    "AsyncRegistry",
    "AsyncStoredVersion",
    "AsyncSubscriber",
    "connect",
]


def connect(
    url: str | None = None,
    *,
    namespace: str = DEFAULT_NAMESPACE,
    name: str | None = None,
    timeout: float = 5.0,
    slot_dir: str | None = None,
    key: Key | str | os.PathLike[str] | None = None,
) -> _Connecting:
    """As `clients.connect`: `client = await connect()`, or `async with connect() as client`."""
    return _Connecting(lambda: Opening(url, namespace, name, timeout, slot_dir, key))


class _Connecting:
    def __init__(self, opening: Callable[[], Opening]) -> None:
        self._opening = opening
        self._client: AsyncClient | None = None

    def __await__(self) -> Generator[Any, None, AsyncClient]:
        return self._connect().__await__()

    async def _connect(self) -> AsyncClient:
        opening = self._opening()
        try:
            await asyncio.wrap_future(opening.welcome)
        except BaseException as error:
            return AsyncClient(opening.finish(error))
        return AsyncClient(opening.finish(None))

    async def __aenter__(self) -> AsyncClient:
        self._client = await self._connect()
        return self._client

    async def __aexit__(self, *_: object) -> None:
        if self._client is not None:
            await self._client.close()


class AsyncClient:
    """See `clients.Client`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.registry = AsyncRegistry(client.registry._calls)

    @property
    def address(self) -> str:
        return self._client.address

    @property
    def server_version(self) -> str:
        return self._client.server_version

    def publisher(self, model_id: str, *, exclusive: bool = False) -> AsyncPublisher:
        """With `exclusive` the term is asked for at once; `async with` waits for it, else the first publication does."""
        return AsyncPublisher(self._client._publisher(model_id, exclusive=exclusive))

    async def ping(self) -> Timed:
        return await asyncio.wrap_future(self._client._calls.ping())

    def timing(self) -> AbstractContextManager[list[Timed]]:
        return self._client.timing()

    def subscriber(
        self,
        model_id: str,
        *,
        alias: str | None = None,
        every: bool = False,
        delivery: Kind = "auto",
        verify: bool = False,
    ) -> AsyncSubscriber:
        return AsyncSubscriber(self._client.subscriber(model_id, alias=alias, every=every, delivery=delivery, verify=verify))

    async def close(self) -> None:
        self._client.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncPublisher:
    """See `clients.Publisher`. The weights are copied before the first `await` gives way to another task.

    An exclusive one waits for its term first, if it was not entered with `async with`: `publish` awaits it, `publish_nowait` and
    `draft` wait where they are called.
    """

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher

    @property
    def model_id(self) -> str:
        return self._publisher.model_id

    async def publish(
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
        taking = self._publisher.taking()
        if taking is not None and not taking.done():
            await asyncio.wrap_future(taking)
        upload = self._publisher.begin(weights, archived, metrics, user_data, timeout, upload_id)
        return await _watched(upload.future, progress, lambda: upload.acknowledged, upload.begin.size)

    def publish_nowait(
        self,
        weights: object,
        *,
        archived: bool = False,
        metrics: Mapping[str, Any] | None = None,
        user_data: Mapping[str, str] | None = None,
        timeout: float = TIMEOUT,
        upload_id: bytes | None = None,
    ) -> asyncio.Future[VersionInfo]:
        return asyncio.wrap_future(self._publisher.begin(weights, archived, metrics, user_data, timeout, upload_id).future)

    async def wait(
        self,
        version: VersionInfo | int,
        *,
        applied_by: int | None = None,
        received_by: int | None = None,
        timeout: float = TIMEOUT,
    ) -> AckCounts:
        return await asyncio.wrap_future(self._publisher.reached(version, applied_by, received_by, timeout))

    def draft(self, layout: object, *, archived: bool = False) -> AsyncDraft:
        return AsyncDraft(self._publisher.draft(layout, archived=archived))

    async def term(self) -> int | None:
        taking = self._publisher.taking()
        if taking is not None:
            await asyncio.wrap_future(taking)
        return self._publisher.term()

    async def close(self, timeout: float = TIMEOUT, *, wait: bool = True) -> None:
        await asyncio.to_thread(self._publisher.close, timeout, wait=wait)

    async def __aenter__(self) -> AsyncPublisher:
        await self.term()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncDraft:
    """See `clients.Draft`."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft

    @property
    def in_slot(self) -> bool:
        return self._draft.in_slot

    @property
    def tensors(self) -> Mapping[str, Any]:
        return self._draft.tensors

    @property
    def tree(self) -> Any:
        return self._draft.tree

    def torch(self) -> dict[str, Any]:
        return self._draft.torch()

    async def commit(
        self, *, metrics: Mapping[str, Any] | None = None, user_data: Mapping[str, str] | None = None, timeout: float = TIMEOUT
    ) -> VersionInfo:
        return await self.commit_nowait(metrics=metrics, user_data=user_data, timeout=timeout)

    def commit_nowait(
        self, *, metrics: Mapping[str, Any] | None = None, user_data: Mapping[str, str] | None = None, timeout: float = TIMEOUT
    ) -> asyncio.Future[VersionInfo]:
        return asyncio.wrap_future(self._draft.commit_nowait(metrics=metrics, user_data=user_data, timeout=timeout))

    def discard(self) -> None:
        self._draft.discard()

    async def __aenter__(self) -> AsyncDraft:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.discard()


class AsyncSubscriber:
    """See `clients.Subscriber`."""

    def __init__(self, subscriber: Subscriber) -> None:
        self._subscriber = subscriber

    @property
    def model_id(self) -> str:
        return self._subscriber.model_id

    @property
    def lag(self) -> Lag:
        return self._subscriber.lag

    def latest(self) -> Snapshot | None:
        return self._subscriber.latest()

    def load_into(self, target: object, *, strict: bool = True) -> Any:
        return self._subscriber.load_into(target, strict=strict)

    def attach(self, module: object, *, strict: bool = True) -> Snapshot | None:
        return self._subscriber.attach(module, strict=strict)

    async def wait(self, timeout: float | None = None, newer_than: int | None = None) -> Snapshot:
        snapshot = self._subscriber.latest()
        if snapshot is None or not self._subscriber.is_news(snapshot, newer_than):
            snapshot = await asyncio.wrap_future(self._subscriber.newer(newer_than or 0, timeout))
        return self._subscriber.hand_out(snapshot)

    async def __aiter__(self) -> AsyncIterator[Snapshot]:
        last = 0
        while True:
            snapshot = await self.wait(newer_than=last)
            last = snapshot.version.number
            yield snapshot

    def every(self) -> AsyncEvery:
        return AsyncEvery(self._subscriber.every())

    def stats(self) -> SubscriberStats:
        return self._subscriber.stats()

    async def close(self) -> None:
        self._subscriber.close()

    async def __aenter__(self) -> AsyncSubscriber:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class AsyncEvery(AsyncIterator[Snapshot]):
    """See `clients.subscriber.Every`. A task that is cancelled while it waits misses nothing."""

    def __init__(self, every: Every) -> None:
        self._every = every

    async def __anext__(self) -> Snapshot:
        future = self._every.following()
        try:
            snapshot = await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            raise
        except BaseException:
            self._every.answered(future)
            raise
        self._every.answered(future)
        return self._every.hand_out(snapshot)


class AsyncStoredVersion:
    """See `clients.StoredVersion`."""

    def __init__(self, calls: Calls, info: VersionInfo) -> None:
        self._calls = calls
        self.info = info

    async def read(self, *, timeout: float = READ_TIMEOUT) -> memoryview:
        return view_of_array(await self._read(timeout))

    async def tensors(self, *, timeout: float = READ_TIMEOUT) -> codec.Tensors:
        return codec.decode(await self._read(timeout), self.info.content_type)

    async def tree(self, like: object = None, *, timeout: float = READ_TIMEOUT) -> Any:
        return (await self.tensors(timeout=timeout)).tree(like)

    async def download(self, path: str | Path, *, progress: Progress | None = None, timeout: float = READ_TIMEOUT) -> Path:
        payload = await self._read(timeout, progress)
        return await asyncio.to_thread(files.write, payload, self.info.content_type, Path(path))

    async def _read(self, timeout: float, progress: Progress | None = None) -> Bytes:
        fetch = self._calls.read(self.info, timeout)
        return await _watched(fetch.future, progress, lambda: fetch.received, self.info.size)


class AsyncRegistry:
    """See `clients.Registry`."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def create(
        self,
        model_id: str,
        *,
        user_data: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
        exist_ok: bool = False,
    ) -> ModelInfo:
        return await asyncio.wrap_future(self._calls.create(model_id, user_data, tags, description, exist_ok=exist_ok))

    async def model(self, model_id: str) -> ModelInfo:
        return await asyncio.wrap_future(self._calls.model(model_id))

    async def update(self, model_id: str, user_data: Mapping[str, str], *, description: str | None = None) -> ModelInfo:
        return await asyncio.wrap_future(self._calls.update(model_id, user_data, description))

    async def delete_model(self, model_id: str, *, force: bool = False) -> None:
        await asyncio.wrap_future(self._calls.delete_model(model_id, force=force))

    async def models(self) -> AsyncIterator[ModelInfo]:
        after = None
        while True:
            page, after = await asyncio.wrap_future(self._calls.models(after))
            for model in page:
                yield model
            if after is None:
                return

    async def versions(self, model_id: str) -> AsyncIterator[VersionInfo]:
        after = None
        while True:
            page, after = await asyncio.wrap_future(self._calls.versions(model_id, after))
            for version in page:
                yield version
            if after is None:
                return

    async def get(self, model_id: str, ref: Ref = -1) -> AsyncStoredVersion:
        return AsyncStoredVersion(self._calls, await asyncio.wrap_future(self._calls.get(model_id, ref)))

    async def best(self, model_id: str, metric: str, *, mode: str = "max", where: Where | None = None) -> AsyncStoredVersion:
        return AsyncStoredVersion(self._calls, await asyncio.wrap_future(self._calls.best(model_id, metric, mode, where)))

    def search(
        self,
        model_id: str | None = None,
        where: Where | None = None,
        *,
        order: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[VersionInfo]:
        return self._found(self._calls.search(model_id, where, order, limit), limit)

    async def _found(
        self, ask: Callable[[str | None, int], Future[Page[VersionInfo]]], limit: int | None
    ) -> AsyncIterator[VersionInfo]:
        after, count = None, 0
        while True:
            page, after = await asyncio.wrap_future(ask(after, count))
            for version in page:
                yield version
            count += len(page)
            if after is None or count == limit:
                return

    async def archive(self, model_id: str, ref: Ref = -1) -> VersionInfo:
        return await asyncio.wrap_future(self._calls.archive(model_id, ref))

    async def delete(self, model_id: str, ref: Ref, *, force: bool = False) -> None:
        await asyncio.wrap_future(self._calls.delete(model_id, ref, force=force))

    async def add_metrics(self, model_id: str, ref: Ref, metrics: Mapping[str, Any]) -> VersionInfo:
        return await asyncio.wrap_future(self._calls.add_metrics(model_id, ref, metrics))

    async def set_tags(self, model_id: str, tags: Mapping[str, str | None], *, ref: Ref | None = None) -> ModelInfo | VersionInfo:
        if ref is None:
            return await asyncio.wrap_future(self._calls.tag_model(model_id, tags))
        return await asyncio.wrap_future(self._calls.tag_version(model_id, ref, tags))

    async def describe(self, model_id: str, description: str, *, ref: Ref | None = None) -> ModelInfo | VersionInfo:
        if ref is None:
            return await asyncio.wrap_future(self._calls.describe_model(model_id, description))
        return await asyncio.wrap_future(self._calls.describe_version(model_id, ref, description))

    async def set_alias(self, model_id: str, alias: str, ref: Ref | None, *, expect: int | None = None) -> ModelInfo:
        return await asyncio.wrap_future(self._calls.set_alias(model_id, alias, ref, expect))

    async def retention(
        self,
        model_id: str,
        *,
        last: int | None = None,
        every: int | None = None,
        best: Best | None = None,
        age: float | timedelta | None = None,
    ) -> ModelInfo:
        return await asyncio.wrap_future(self._calls.set_retention(model_id, policy_of(last, every, best, age)))

    async def prune(
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
        policy, pages, after = policy_of(last, every, best, age), list[Pruned](), None
        while not pages or after is not None:
            page = self._calls.prune(model_id, policy, after, dry_run=dry_run, force=force)
            pages.append(await asyncio.wrap_future(page))
            after = pages[-1].next
        return joined(pages)

    async def pin(self, model_id: str, ref: Ref = -1) -> VersionInfo:
        return await asyncio.wrap_future(self._calls.pin(model_id, ref, pinned=True))

    async def unpin(self, model_id: str, ref: Ref) -> VersionInfo:
        return await asyncio.wrap_future(self._calls.pin(model_id, ref, pinned=False))

    async def give_up_term(self, model_id: str) -> int | None:
        return await asyncio.wrap_future(self._calls.give_up_term(model_id, None))

    async def subscribers(self, model_id: str) -> AsyncIterator[SubscriberInfo]:
        after = None
        while True:
            page, after = await asyncio.wrap_future(self._calls.subscribers(model_id, after))
            for subscriber in page:
                yield subscriber
            if after is None:
                return

    async def stats(self) -> Mapping[str, float]:
        return await asyncio.wrap_future(self._calls.stats())


async def _watched(future: Future[T], progress: Progress | None, done: Callable[[], int], size: int) -> T:
    """What comes of the future; until then `progress` is told how far it is, now and then."""
    waiting = asyncio.wrap_future(future)
    while progress is not None and not (await asyncio.wait([waiting], timeout=LOOK))[0]:
        progress(done(), size)
    found = await waiting
    if progress is not None:
        progress(size, size)
    return found
