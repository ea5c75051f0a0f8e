"""One suite for both faces of the clients, sync and async, against a real broadcaster."""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import signal
import socket
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zmq

import clients
import clients.aio
from broadcaster.protocol.frames import decode, encode
from broadcaster.protocol.limits import INLINE
from broadcaster.protocol.messages import Error, Hello, Welcome
from clients import connect
from tests.broadcaster_process import BroadcasterProcess

MIB = 1 << 20

Connect = Callable[..., Any]


class Blocking:
    """An async object under the face of a sync one: what has to be awaited is, on a loop of its own thread."""

    def __init__(self, target: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._target = target
        self._loop = loop

    def _run(self, awaitable: Any) -> Any:
        async def run() -> Any:
            return await awaitable

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result()

    def _wrap(self, value: Any) -> Any:
        if isinstance(value, asyncio.Future):
            return asyncio.run_coroutine_threadsafe(asyncio.wait_for(value, None), self._loop)
        if inspect.isawaitable(value):
            return self._wrap(self._run(value))
        return Blocking(value, self._loop) if type(value).__module__ == "clients.aio" or hasattr(value, "__anext__") else value

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._target, name)
        if not callable(found):
            return self._wrap(found)

        def call(*args: Any, **kwargs: Any) -> Any:
            async def on_loop() -> Any:
                return found(*args, **kwargs)  # Where asyncio.wrap_future finds its loop.

            return self._wrap(self._run(on_loop()))

        return call

    def __iter__(self) -> Iterator[Any]:
        return Blocking(aiter(self._target), self._loop)

    def __next__(self) -> Any:
        try:
            return self._run(anext(self._target))
        except StopAsyncIteration:
            raise StopIteration from None

    def __enter__(self) -> Any:
        return self._wrap(self._run(self._target.__aenter__()))

    def __exit__(self, *error: Any) -> None:
        self._run(self._target.__aexit__(*error))


@pytest.fixture(scope="module")
def broadcaster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BroadcasterProcess]:
    with BroadcasterProcess(tmp_path_factory.mktemp("broadcaster")) as process:
        yield process


@pytest.fixture(params=["sync", "async"])
def face(request: pytest.FixtureRequest) -> Iterator[Connect]:
    """`connect` of one face; what it opens is closed in the end."""
    if request.param == "sync":
        opened: list[Any] = []

        def open_sync(*args: Any, **kwargs: Any) -> Any:
            opened.append(connect(*args, **kwargs))
            return opened[-1]

        yield open_sync
        for client in opened:
            client.close()
        return
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    made: list[Any] = []

    def open_async(*args: Any, **kwargs: Any) -> Any:
        async def make() -> Any:
            return await clients.aio.connect(*args, **kwargs)

        client = asyncio.run_coroutine_threadsafe(make(), loop).result()
        made.append(Blocking(client, loop))
        return made[-1]

    yield open_async
    for client in made:
        client.close()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def client(face: Connect, broadcaster: BroadcasterProcess) -> Any:
    return face(broadcaster.url)


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """A name that no other test has."""
    return "m" + os.urandom(8).hex()


def weights(value: float, count: int = 10) -> dict[str, np.ndarray]:
    return {"a": np.full(count, value, np.float32), "b": np.arange(3)}


LARGE = 3 * MIB // 4 + 5
"""Floats: a payload of three chunks and a bit."""


def eventually(condition: Callable[[], Any], seconds: float = 10) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.002)
    return found


# --- publish and follow --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 1000, LARGE])
def test_what_is_published_is_what_is_followed(client: Any, model: str, count: int) -> None:
    subscriber = client.subscriber(model)
    assert subscriber.latest() is None
    before = time.time_ns()
    version = client.publisher(model).publish(weights(1.5, count), metrics={"return": np.float32(2)}, user_data={"step": "7"})
    assert (version.number, version.model_id, version.archived) == (1, model, False)
    assert (version.metrics, version.user_data) == ({"return": 2.0}, {"step": "7"})
    assert before <= version.creation_timestamp <= time.time_ns()
    snapshot = subscriber.wait(timeout=10)
    assert snapshot.version == version and len(snapshot.payload) == version.size and snapshot.payload.readonly
    assert np.array_equal(snapshot.tensors["a"], weights(1.5, count)["a"]) and np.array_equal(snapshot.tree()["b"], [0, 1, 2])
    assert subscriber.latest().version == version


@pytest.mark.parametrize("size", [0, 1, INLINE, INLINE + 1, MIB, MIB + 1, 17 * MIB + 3])
def test_bytes_of_any_size_come_back_as_they_were(client: Any, model: str, size: int) -> None:
    payload = np.random.default_rng(size).bytes(size)
    subscriber = client.subscriber(model)
    version = client.publisher(model).publish(payload)
    assert version.size == size and version.content_type == clients.OPAQUE
    assert subscriber.wait(timeout=10).payload == payload
    assert client.registry.get(model).read() == payload
    with pytest.raises(clients.InvalidPayload):
        _ = subscriber.latest().tensors


@pytest.mark.parametrize("count", [1, LARGE])
def test_a_late_joiner_gets_the_latest_version(client: Any, face: Connect, broadcaster: Any, model: str, count: int) -> None:
    publisher = client.publisher(model)
    for value in range(3):
        publisher.publish(weights(value, count))
    snapshot = face(broadcaster.url).subscriber(model).wait(timeout=10)
    assert snapshot.version.number == 3 and snapshot.tensors["a"][0] == 2


def test_publishing_again_and_again_reuses_the_memory_and_mixes_nothing(client: Any, model: str) -> None:
    publisher, subscriber = client.publisher(model), client.subscriber(model)
    kept = []
    for value in range(12):
        number = publisher.publish(weights(value, LARGE)).number
        snapshot = subscriber.wait(timeout=10, newer_than=number - 1)
        assert snapshot.version.number == number
        assert (snapshot.tensors["a"] == value).all()
        if value % 4 == 0:
            kept.append(snapshot)
    assert [set(np.unique(old.tensors["a"])) for old in kept] == [{0.0}, {4.0}, {8.0}]


def test_the_weights_may_change_as_soon_as_publish_nowait_returns(client: Any, model: str) -> None:
    publisher = client.publisher(model)
    changing = weights(1, 4 * LARGE)
    pending = publisher.publish_nowait(changing)
    changing["a"][:] = 2
    assert pending.result(20).number == 1
    assert (client.registry.get(model).tensors()["a"] == 1).all()


def test_a_newer_publish_nowait_takes_the_place_of_one_that_waits(client: Any, model: str) -> None:
    publisher = client.publisher(model)
    pending: list[Future[Any]] = [publisher.publish_nowait(weights(value, 8 * LARGE)) for value in range(8)]
    numbers, superseded = [], 0
    for future in pending:
        try:
            numbers.append(future.result(30).number)
        except clients.VersionSuperseded:
            superseded += 1
    assert numbers == sorted(numbers) and len(numbers) >= 2 and len(numbers) + superseded == 8
    assert (client.registry.get(model).tensors()["a"] == 7).all()
    assert publisher.publish(weights(9)).number == numbers[-1] + 1


def test_small_and_large_versions_keep_the_order_of_the_calls(client: Any, model: str) -> None:
    publisher = client.publisher(model)
    large = publisher.publish_nowait(weights(1, 8 * LARGE))
    small = publisher.publish(weights(2))
    assert (large.result(10).number, small.number) == (1, 2)


def test_the_same_upload_id_makes_one_version(client: Any, model: str) -> None:
    publisher, upload_id = client.publisher(model), os.urandom(16)
    for count in (1, LARGE):
        upload_id = os.urandom(16)
        first = publisher.publish(weights(1, count), upload_id=upload_id)
        assert publisher.publish(weights(1, count), upload_id=upload_id) == first
        assert publisher.publish(weights(1, count)).number == first.number + 1


def test_progress_is_told_up_to_the_end(client: Any, model: str) -> None:
    told: list[tuple[int, int]] = []
    version = client.publisher(model).publish(bytes(9 * MIB), progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (version.size, version.size) and told == sorted(told)


def test_iterating_gives_the_newest_each_once(client: Any, model: str) -> None:
    publisher, numbers = client.publisher(model), []
    publisher.publish(weights(0))
    for snapshot in client.subscriber(model):
        numbers.append(snapshot.version.number)
        if len(numbers) == 5:
            break
        publisher.publish(weights(1))
        publisher.publish(weights(2))
    assert numbers == sorted(set(numbers)) and numbers[0] == 1


def test_subscribers_of_one_model_share_what_comes_and_close_alone(client: Any, model: str) -> None:
    first, second = client.subscriber(model), client.subscriber(model)
    client.publisher(model).publish(weights(1))
    assert first.wait(timeout=10).version.number == second.wait(timeout=10).version.number == 1
    first.close()
    with pytest.raises(clients.Closed):
        first.latest()
    client.publisher(model).publish(weights(2))
    assert second.wait(timeout=10, newer_than=1).version.number == 2
    assert second.stats().versions == 2 and second.stats().delivery == "shared"


def test_models_whose_names_begin_alike_are_not_mixed(client: Any, model: str) -> None:
    short, long = client.subscriber(model), client.subscriber(model + "x")
    client.publisher(model + "x").publish(weights(1, LARGE))
    assert long.wait(timeout=10).version.model_id == model + "x"
    assert short.latest() is None and short.stats().bytes == 0


def test_namespaces_keep_models_apart(face: Connect, broadcaster: BroadcasterProcess, model: str) -> None:
    one, other = face(broadcaster.url, namespace="one"), face(broadcaster.url, namespace="other")
    assert one.publisher(model).publish(weights(1)).namespace == "one"
    with pytest.raises(clients.UnknownModel):
        other.registry.get(model)


def test_lag_counts_from_what_was_handed_out(client: Any, model: str) -> None:
    publisher, subscriber = client.publisher(model), client.subscriber(model)
    publisher.publish(weights(0))
    assert subscriber.wait(timeout=10).version.number == 1 and subscriber.lag == clients.Lag(0, 0.0)
    publisher.publish(weights(1))
    publisher.publish(weights(2))
    lag = eventually(lambda: subscriber.lag if subscriber.lag.versions == 2 else None)
    assert lag.seconds > 0
    assert subscriber.latest().version.number == 3 and subscriber.lag.versions == 0


def test_a_publisher_waits_for_its_subscribers_and_the_registry_lists_them(client: Any, model: str) -> None:
    publisher, subscriber = client.publisher(model), client.subscriber(model)
    version = publisher.publish(weights(0))
    subscriber.wait(timeout=10)
    assert publisher.wait(version, applied_by=1, timeout=10) == clients.AckCounts(received=1, applied=1)
    assert publisher.wait(1, received_by=1, timeout=10).received == 1
    (listed,) = client.registry.subscribers(model)
    assert isinstance(listed, clients.SubscriberInfo) and (listed.received, listed.applied, listed.lag) == (1, 1, 0)
    with pytest.raises(clients.RequestTimeout) as late:
        publisher.wait(version, applied_by=2, timeout=0.5)
    assert (late.value.received, late.value.applied) == (1, 1)
    with pytest.raises(clients.InvalidRequest):
        publisher.wait(version, applied_by=1, received_by=1)


def test_load_into_copies_the_newest_once(client: Any, model: str) -> None:
    subscriber, target = client.subscriber(model), weights(0)
    assert subscriber.load_into(target) is None
    client.publisher(model).publish(weights(5))
    subscriber.wait(timeout=10)
    assert subscriber.load_into(target) is target and target["a"][0] == 5
    assert subscriber.load_into(target) is None


def test_a_client_over_ipc_gets_the_same(face: Connect, broadcaster: BroadcasterProcess, model: str) -> None:
    client = face(broadcaster.ipc_url)
    version = client.publisher(model).publish(weights(1, LARGE))
    assert client.subscriber(model).wait(timeout=10).version == version


# --- every version -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 40_000])
def test_every_gives_each_version_in_order_from_the_newest_at_the_call(client: Any, model: str, count: int) -> None:
    publisher, subscriber = client.publisher(model), client.subscriber(model)
    for value in range(3):
        publisher.publish(weights(value, count))
    subscriber.wait(timeout=10, newer_than=2)
    every = iter(subscriber.every())
    for value in range(3, 8):
        publisher.publish(weights(value, count))
    found = [next(every) for _ in range(6)]
    assert [snapshot.version.number for snapshot in found] == [3, 4, 5, 6, 7, 8]
    assert [snapshot.tensors["a"][0] for snapshot in found] == [2, 3, 4, 5, 6, 7]


def test_every_may_be_asked_for_from_the_start(client: Any, model: str) -> None:
    publisher, subscriber = client.publisher(model), client.subscriber(model, every=True)
    eventually(lambda: subscriber.stats().versions == 0)
    publisher.publish(weights(0))
    subscriber.wait(timeout=10)
    for value in range(1, 5):
        publisher.publish(weights(value))
    every = iter(subscriber.every())
    assert [next(every).version.number for _ in range(5)] == [1, 2, 3, 4, 5]


def test_each_iterator_gets_every_version_for_itself(client: Any, model: str) -> None:
    publisher, subscriber = client.publisher(model), client.subscriber(model)
    publisher.publish(weights(0))
    subscriber.wait(timeout=10)
    first = iter(subscriber.every())
    assert next(first).version.number == 1
    publisher.publish(weights(1))
    subscriber.wait(timeout=10, newer_than=1)
    second = iter(client.subscriber(model).every())
    publisher.publish(weights(2))
    assert [next(second).version.number for _ in range(2)] == [2, 3]
    assert [next(first).version.number for _ in range(2)] == [2, 3]


def test_a_version_that_was_evicted_is_named_and_the_iteration_goes_on(client: Any, model: str) -> None:
    publisher, subscriber = client.publisher(model), client.subscriber(model)
    publisher.publish(weights(0, LARGE))
    subscriber.wait(timeout=10)
    every = iter(subscriber.every())
    assert next(every).version.number == 1
    for value in range(1, 13):
        publisher.publish(weights(value, LARGE))
    subscriber.wait(timeout=10, newer_than=12)
    evicted, found = [], []
    while not found or found[-1] < 13:
        try:
            found.append(next(every).version.number)
        except clients.VersionEvicted as gone:
            assert gone.model_id == model
            evicted.append(gone.number)
    assert sorted(evicted + found) == list(range(2, 14)) and 2 in evicted and evicted < found


# --- the registry --------------------------------------------------------------------------------------------------


def test_models_are_created_updated_listed_and_deleted(client: Any, model: str) -> None:
    registry = client.registry
    made = registry.create(model, user_data={"a": "1"}, tags={"t": "2"})
    assert (made.model_id, made.user_data, made.tags, made.newest) == (model, {"a": "1"}, {"t": "2"}, None)
    with pytest.raises(clients.AlreadyExists):
        registry.create(model)
    assert registry.create(model, exist_ok=True).user_data == {"a": "1"}
    assert registry.update(model, {"b": "2"}).user_data == {"b": "2"}
    assert registry.model(model).user_data == {"b": "2"}
    assert model in [found.model_id for found in registry.models()]
    registry.delete_model(model)
    with pytest.raises(clients.UnknownModel):
        registry.model(model)


def test_versions_are_found_by_number_place_and_alias(client: Any, model: str) -> None:
    publisher, registry = client.publisher(model), client.registry
    for value in range(3):
        publisher.publish(weights(value), metrics={"return": [2.0, 3.0, 1.0][value]})
    assert [version.number for version in registry.versions(model)] == [1, 2, 3]
    assert registry.set_alias(model, "champion", -2).aliases == {"champion": 2}
    assert [registry.get(model, ref).info.number for ref in (1, -1, -3, "champion")] == [1, 3, 1, 2]
    assert registry.get(model).info.number == 3
    for nothing in (0, 4, -4, "nobody"):
        with pytest.raises(clients.UnknownVersion):
            registry.get(model, nothing)
    assert (registry.best(model, "return").info.number, registry.best(model, "return", mode="min").info.number) == (2, 3)
    with pytest.raises(clients.Conflict):
        registry.set_alias(model, "champion", 3, expect=1)
    with pytest.raises(clients.Refused):
        registry.delete(model, "champion")
    registry.delete(model, "champion", force=True)
    with pytest.raises(clients.UnknownVersion):
        registry.get(model, 2)


def test_models_and_versions_are_described(client: Any, model: str) -> None:
    registry = client.registry
    assert registry.create(model, description="what it is for").description == "what it is for"
    assert registry.update(model, {"a": "1"}).description == "what it is for"
    assert registry.update(model, {"a": "2"}, description="").description == ""
    assert registry.describe(model, "naïve ✓").description == "naïve ✓" and registry.model(model).user_data == {"a": "2"}
    client.publisher(model).publish(weights(1), archived=True)
    assert registry.describe(model, "good", ref=-1).description == "good"
    assert [version.description for version in registry.versions(model)] == ["good"]
    assert registry.describe(model, "x" * 4096, ref=1).description == "x" * 4096
    for wrong in ("x" * 4097, "✓" * 1366, "\ud800", 5):
        with pytest.raises(clients.InvalidRequest, match="description"):
            registry.describe(model, wrong)
    registry.set_tags(model, {"long": "x" * 10_000})
    registry.describe(model, "y" * 4096)
    registry.set_tags(model, {"longer": "x" * 2_000})
    with pytest.raises(clients.InvalidRequest, match="user_data, metrics, tags and description: 1[67]"):
        registry.set_tags(model, {"longest": "x" * 1_000})


def test_versions_are_found_by_what_is_known_of_them(client: Any, model: str) -> None:
    publisher, registry = client.publisher(model), client.registry
    for step, value in enumerate((200.0, 100.0, 300.0, float("nan"), 300.0), 1):
        publisher.publish(weights(step), metrics={"return": value}, user_data={"step": str(step * 100)}, archived=step == 3)
    for number in (1, 3, 4):
        registry.set_tags(model, {"stage": "candidate"}, ref=number)

    def found(where: Any = None, **more: Any) -> list[int]:
        return [version.number for version in registry.search(model, where, **more)]

    assert found() == [5, 4, 3, 2, 1]
    assert found("metrics.return >= 200 and tags.stage = 'candidate'", order="-metrics.return") == [3, 1]
    assert found([("metrics.return", ">=", 200), ("tags.stage", "=", "candidate")], order="metrics.return") == [1, 3]
    assert found(order="-metrics.return") == [5, 3, 1, 2, 4] and found(order="metrics.return") == [2, 1, 5, 3, 4]
    assert found(order="-metrics.return", limit=2) == [5, 3]
    assert found("user_data.step > 300", order="user_data.step") == [4, 5]
    assert found("archived = true") == [3] and found("tags.stage missing", order="number") == [2, 5]
    registry.set_alias(model, "champion", 3)
    assert found("alias = 'champion'") == [3] and found("alias exists and archived = false") == []
    assert found(f"model_id = '{model}'", order="size") == [5, 4, 3, 2, 1]
    everywhere = [version for version in registry.search(where=f"model_id = '{model}'")]
    assert [(version.model_id, version.number) for version in everywhere] == [(model, number) for number in (5, 4, 3, 2, 1)]
    assert registry.best(model, "return").info.number == 5
    assert registry.best(model, "return", where="tags.stage = 'candidate'").info.number == 3
    with pytest.raises(clients.UnknownVersion, match="with metric return"):
        registry.best(model, "return", where="number > 9")


def test_a_long_search_comes_in_pages_and_misses_nothing(client: Any, model: str) -> None:
    publisher, registry = client.publisher(model), client.registry
    for number in range(60):
        publisher.publish(b"x", metrics={"m": float(number % 7)}, user_data={"text": "x" * 8000})
    assert [version.number for version in registry.versions(model)] == list(range(1, 61)), "several pages, and a real end"
    versions = iter(registry.search(model, order="-metrics.m"))
    first = [next(versions).number for _ in range(10)]
    registry.delete(model, first[9])
    for number in (54, 45):
        if number not in first:
            registry.delete(model, number)
    publisher.publish(b"x", metrics={"m": 9.0})
    rest = [version.number for version in versions]
    expected = sorted(range(1, 61), key=lambda number: (-((number - 1) % 7), -number))
    assert first == expected[:10] and set(expected) - {54, 45} <= {*first, *rest} and len({*first, *rest}) == len(first + rest)
    assert [version.number for version in registry.search(model, "metrics.m < 2", limit=3)] == [58, 57, 51]


@pytest.mark.parametrize(
    ("arguments", "field", "words"),
    [
        ({"where": "metrics.return >> 5"}, "where", "position 17"),
        ({"where": [("number", "~", 5)]}, "where", "number"),
        ({"where": "nothing = 5"}, "where", "is no field"),
        ({"order": "nothing"}, "order", "is no field"),
        ({"limit": 0}, "limit", "above 0"),
        ({"where": " and ".join(["number > 0"] * 33)}, "where", "limit of 32"),
    ],
)
def test_a_wrong_search_is_told_with_what_is_wrong(
    client: Any, model: str, arguments: dict[str, Any], field: str, words: str
) -> None:
    client.registry.create(model)
    with pytest.raises(clients.InvalidRequest, match=words) as refused:
        list(client.registry.search(model, **arguments))
    assert refused.value.facts["field"] == field
    with pytest.raises(clients.UnknownModel):
        list(client.registry.search(f"{model}-no"))


@pytest.mark.parametrize("size", [1000, 3 * MIB + 5])
def test_a_version_that_leaves_between_look_up_and_reading_is_whole_or_clearly_gone(client: Any, model: str, size: int) -> None:
    publisher, registry = client.publisher(model), client.registry
    for value in range(3):
        publisher.publish(bytes([value]) * size)
    found = [registry.get(model, number) for number in (1, 2, 3)]
    for value in range(3, 12 if size > INLINE else 3):
        publisher.publish(bytes([value]) * size)  # Eight large ones are kept: the first three leave.
    if size <= INLINE:
        for number in (1, 2):
            registry.delete(model, number)
    for number, version in enumerate(found, 1):
        try:
            assert version.read() == bytes([number - 1]) * size
            gone = False
        except (clients.VersionEvicted, clients.UnknownVersion) as error:
            assert error.facts["number"] == number
            gone = True
        assert gone == (size > INLINE or number < 3)


def test_tags_and_metrics_are_added_and_removed(client: Any, model: str) -> None:
    client.publisher(model).publish(weights(1))
    registry = client.registry
    assert registry.set_tags(model, {"a": "1", "b": "2"}, ref=-1).tags == {"a": "1", "b": "2"}
    assert registry.set_tags(model, {"a": None}, ref=1).tags == {"b": "2"}
    assert registry.set_tags(model, {"c": "3"}).tags == {"c": "3"}
    assert registry.add_metrics(model, -1, {"score": 1}).metrics == {"score": 1.0}


def test_an_archived_version_has_its_sha256_and_reads_the_same(client: Any, model: str) -> None:
    publisher, registry = client.publisher(model), client.registry
    publisher.publish(weights(1, LARGE))
    archived = registry.archive(model)
    assert archived.archived and archived.sha256 is not None and registry.archive(model, 1) == archived
    durable = publisher.publish(weights(2, LARGE), archived=True, timeout=30)
    assert durable.archived and len(durable.sha256 or "") == 64
    handle = registry.get(model, durable.number)
    assert handle.info == durable and (handle.tree()["a"] == 2).all() and handle.read().readonly


def test_a_download_is_a_file_or_the_directory_that_was_published(client: Any, model: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "inner").mkdir(parents=True)
    (source / "inner" / "file.bin").write_bytes(b"abc" * MIB)
    client.publisher(model).publish(source)
    told: list[tuple[int, int]] = []
    target = client.registry.get(model).download(tmp_path / "target", progress=lambda *progress: told.append(progress))
    assert (target / "inner" / "file.bin").read_bytes() == b"abc" * MIB and told[-1][0] == told[-1][1] > 3 * MIB
    client.publisher(model).publish(b"xyz")
    assert client.registry.get(model).download(tmp_path / "file").read_bytes() == b"xyz"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "source", "target"]


def test_stats_are_numbers(client: Any, model: str) -> None:
    client.publisher(model).publish(weights(1))
    stats = client.registry.stats()
    assert stats["publishes"] >= 1 and all(isinstance(value, float) for value in stats.values())


def test_rules_pins_and_pruning_are_the_same_in_both_faces(client: Any, model: str) -> None:
    publisher, registry = client.publisher(model), client.registry
    for value in range(6):
        publisher.publish(weights(value), archived=True, metrics={"return": float(value == 1)})
    assert registry.pin(model, 1).pinned and registry.pin(model).pinned and not registry.unpin(model, -1).pinned
    would = registry.prune(model, last=1, best="return", dry_run=True)
    assert (would.numbers, would.kept) == ((3, 4, 5), 3) and would.bytes == sum(
        v.size for v in list(registry.versions(model))[2:5]
    )
    assert registry.prune(model, last=1, best=("return", "max", 1)) == would
    with pytest.raises(clients.VersionDeleted):
        registry.get(model, 4)
    assert registry.retention(model, every=5, age=3600).retention == {"every": 5, "age": 3600.0}
    assert registry.prune(model).numbers == () and registry.retention(model).retention == {}
    with pytest.raises(clients.Refused, match="pinned"):
        registry.delete(model, 1)
    with pytest.raises(clients.InvalidRequest):
        registry.prune(model, best=("return", "max", 1, 2))


# --- errors --------------------------------------------------------------------------------------------------------


def test_wrong_arguments_are_refused_before_anything_is_sent(client: Any, model: str) -> None:
    publisher = client.publisher(model)
    for wrong in ({"user_data": {"a": 1}}, {"metrics": {"a": "1"}}, {"upload_id": b"short"}, {"timeout": 0}):
        with pytest.raises(clients.InvalidRequest):
            publisher.publish(weights(1), **wrong)
    with pytest.raises(clients.InvalidPayload):
        publisher.publish({"a": object()})
    for call in (client.publisher, client.subscriber, client.registry.model):
        with pytest.raises(clients.InvalidName):
            call("../etc")
    with pytest.raises(clients.UnknownModel):
        client.registry.model(model)


def test_a_payload_over_the_limit_is_refused_at_once(client: Any, model: str) -> None:
    with pytest.raises(clients.PayloadTooLarge, match=model):
        client.publisher(model).publish(np.broadcast_to(np.float32(0), (1 << 40,)))


def test_waiting_ends_with_its_timeout(client: Any, model: str) -> None:
    subscriber = client.subscriber(model)
    started = time.monotonic()
    with pytest.raises(TimeoutError, match=f"waiting for a version of {model} did not finish within 0.2 s"):
        subscriber.wait(timeout=0.2)
    assert 0.2 <= time.monotonic() - started < 3


def test_no_broadcaster_is_told_within_the_timeout(face: Connect) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"tcp://127.0.0.1:{unused.getsockname()[1]}"
        started = time.monotonic()
        with pytest.raises(ConnectionError, match=f"no broadcaster answered at {url} within 0.3 s: start one") as told:
            face(url, timeout=0.3)
    assert isinstance(told.value, clients.NoBroadcaster) and time.monotonic() - started < 3
    with pytest.raises(clients.InvalidRequest):
        face("not an address")


@pytest.mark.parametrize("how", ["welcome", "error"])
def test_a_broadcaster_of_another_protocol_is_told_with_both_versions(face: Connect, how: str) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")

    def answer() -> None:
        peer, envelope, *frames = router.recv_multipart()
        hello = decode(frames)
        assert isinstance(hello, Hello)
        reply: Any = Welcome(
            request_id=hello.request_id, protocol=2, epoch=1, offset=0, server_version="9", endpoints={"upload": 1, "push": 1}
        )
        if how == "error":
            facts = {"theirs": 1, "ours": 2}
            reply = Error(request_id=hello.request_id, code="unsupported-protocol", message="", facts=facts)
        router.send_multipart([peer, envelope, *encode(reply)])

    thread = threading.Thread(target=answer)
    thread.start()
    with pytest.raises(clients.UnsupportedProtocol, match="2.*1|1.*2"):
        face(f"tcp://127.0.0.1:{port}")
    thread.join()
    router.close(linger=0)
    context.term()


# --- the end -------------------------------------------------------------------------------------------------------


def test_close_ends_everything_at_once(face: Connect, broadcaster: BroadcasterProcess, model: str) -> None:
    client = face(broadcaster.url)
    subscriber, publisher = client.subscriber(model), client.publisher(model)
    publisher.publish(weights(3, LARGE))
    snapshot = subscriber.wait(timeout=10)
    ended: list[BaseException] = []

    def wait_for_ever() -> None:
        try:
            subscriber.wait(newer_than=1)
        except clients.BroadcasterError as error:
            ended.append(error)

    thread = threading.Thread(target=wait_for_ever)
    thread.start()
    started = time.monotonic()
    client.close()
    client.close()
    thread.join(5)
    assert time.monotonic() - started < 2 and [type(error) for error in ended] == [clients.Closed]
    calls = (
        subscriber.latest,
        lambda: publisher.publish(weights(1)),
        lambda: client.registry.model(model),
        lambda: client.publisher(model),
    )
    for call in calls:
        with pytest.raises(clients.Closed):
            call()
    assert (snapshot.tensors["a"] == 3).all()


def test_a_client_has_one_thread_and_leaves_none(face: Connect, broadcaster: BroadcasterProcess, model: str) -> None:
    before = set(threading.enumerate())
    client = face(broadcaster.url)
    client.subscriber(model)
    client.publisher(model).publish(weights(1))
    assert len([thread for thread in set(threading.enumerate()) - before if thread.name.startswith("clients ")]) == 1
    client.close()
    assert [thread for thread in threading.enumerate() if thread.name.startswith("clients ") and thread not in before] == []


def test_a_forked_child_gets_a_fork_error_and_connects_for_itself(broadcaster: BroadcasterProcess, model: str) -> None:
    with connect(broadcaster.url) as client:
        publisher, subscriber = client.publisher(model), client.subscriber(model)
        publisher.publish(weights(4, LARGE))
        snapshot = subscriber.wait(timeout=10)
        child = os.fork()
        if child == 0:
            os._exit(_in_forked_child(broadcaster.url, client, publisher, subscriber, snapshot))
        deadline = time.monotonic() + 20
        while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                pytest.fail("the forked child hangs")
            time.sleep(0.01)
        assert os.waitstatus_to_exitcode(ended[1]) == 0
        assert publisher.publish(weights(5)).number == 3  # The parent goes on; 2 was the child's.


def _in_forked_child(url: str, client: Any, publisher: Any, subscriber: Any, snapshot: Any) -> int:
    """0 when all is as promised; what is not goes to stderr."""
    calls: list[Callable[[], Any]] = [
        subscriber.latest,
        subscriber.wait,
        subscriber.every,
        lambda: next(iter(subscriber)),
        lambda: publisher.publish(weights(1)),
        lambda: publisher.publish_nowait(weights(1)),
        lambda: client.registry.model("policy"),
        lambda: client.registry.get("policy"),
        lambda: client.publisher("policy"),
        lambda: client.subscriber("policy"),
    ]
    try:
        for call in calls:
            with pytest.raises(clients.ForkError, match="before a fork: call connect"):
                call()
        client.close()
        assert (snapshot.tensors["a"] == 4).all()
        with connect(url) as own:
            assert own.publisher(subscriber.model_id).publish(weights(1)).number == 2
        return 0
    except BaseException:
        traceback.print_exc()
        return 1


# --- a broadcaster that goes and comes back ------------------------------------------------------------------------


@pytest.mark.parametrize("kill", [False, True])
def test_everything_goes_on_after_a_restart(face: Connect, tmp_path: Path, kill: bool) -> None:
    with BroadcasterProcess(tmp_path) as broadcaster:
        client = face(broadcaster.url)
        publisher, subscriber = client.publisher("policy"), client.subscriber("policy")
        every = iter(subscriber.every())
        archived = publisher.publish(weights(1, LARGE), archived=True)
        assert next(every).version.number == archived.number == subscriber.wait(timeout=10).version.number
        broadcaster.restart(kill=kill)
        assert client.registry.get("policy").info == archived
        version = publisher.publish(weights(2, LARGE))
        assert version.number > archived.number
        assert subscriber.wait(timeout=20, newer_than=archived.number).version == version
        found = []
        while not found:
            try:
                found.append(next(every).version)
            except clients.VersionEvicted as hole:  # Numbers that may have been given out just before the end.
                assert archived.number < hole.number <= hole.until < version.number
        assert found == [version]


def test_a_publication_outlives_a_restart_in_its_middle(face: Connect, tmp_path: Path) -> None:
    with BroadcasterProcess(tmp_path) as broadcaster:
        client = face(broadcaster.url)
        publisher = client.publisher("policy")
        publisher.publish(weights(0))
        for pid in broadcaster.pids:
            os.kill(pid, signal.SIGSTOP)
        pending = publisher.publish_nowait(weights(1, 8 * LARGE), timeout=30)
        broadcaster.restart(kill=True)
        assert pending.result(30).size > 20 * MIB
        assert (client.registry.get("policy").tensors()["a"] == 1).all()


def test_other_ports_after_a_restart_are_found(face: Connect, tmp_path: Path) -> None:
    with BroadcasterProcess(tmp_path) as broadcaster:
        client = face(broadcaster.url)
        publisher, subscriber = client.publisher("policy"), client.subscriber("policy")
        publisher.publish(weights(0, LARGE))
        subscriber.wait(timeout=10)
        before = broadcaster.ready
        broadcaster.stop()
        broadcaster._ports |= {"upload": 0, "push": 0}
        broadcaster.start()
        assert broadcaster.ready["push"] != before["push"]
        version = publisher.publish(weights(1, LARGE), timeout=20)
        assert subscriber.wait(timeout=20, newer_than=1).version == version


def test_a_call_to_a_broadcaster_that_is_gone_ends_with_its_timeout(face: Connect, tmp_path: Path) -> None:
    with BroadcasterProcess(tmp_path) as broadcaster:
        client = face(broadcaster.url)
        publisher = client.publisher("policy")
        publisher.publish(weights(0))
        broadcaster.kill()
        started = time.monotonic()
        for count in (1, LARGE):
            with pytest.raises(clients.RequestTimeout, match="publishing policy did not finish within 0.5 s"):
                publisher.publish(weights(1, count), timeout=0.5)
        assert 1.0 <= time.monotonic() - started < 5
        broadcaster.start()
        assert publisher.publish(weights(2, LARGE)).number > 1


# --- one client, and what must not touch others ----------------------------------------------------------------------


def test_looking_at_the_newest_version_calls_nothing(broadcaster: BroadcasterProcess, model: str) -> None:
    """No call, so no system call and no lock: only attributes are read."""
    with connect(broadcaster.url) as client:
        subscriber = client.subscriber(model)
        client.publisher(model).publish(weights(1))
        subscriber.wait(timeout=10)
        events: list[str] = []
        sys.setprofile(lambda frame, event, argument: events.append(event))
        subscriber.latest()
        sys.setprofile(None)
    assert events == ["call", "return", "c_call"], events  # The last is setprofile itself.


def test_a_bug_in_the_io_thread_fails_what_is_pending_and_all_that_comes(
    broadcaster: BroadcasterProcess, model: str, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(broadcaster.url) as client:
        subscriber = client.subscriber(model)
        pending = subscriber.newer(0, None)
        client._driver.post(lambda now: 1 // 0)  # type: ignore[arg-type,return-value]
        with pytest.raises(clients.LocalProtocolError, match="I/O thread ended: ZeroDivisionError") as told:
            pending.result(10)
        assert isinstance(told.value.__cause__, ZeroDivisionError)
        for call in (subscriber.latest, lambda: client.registry.model(model), lambda: client.publisher(model)):
            with pytest.raises(clients.LocalProtocolError, match="ZeroDivisionError"):
                call()
    assert "the I/O thread ended" in caplog.text


def test_messages_that_break_the_rules_are_dropped(tmp_path: Path) -> None:
    """A peer that answers nonsense, then the truth."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    router = context.socket(zmq.ROUTER)
    port = router.bind_to_random_port("tcp://127.0.0.1")

    def serve() -> None:
        peer, envelope, *frames = router.recv_multipart()
        hello = decode(frames)
        assert isinstance(hello, Hello)
        nonsense = [[b"x"], [b""], [b"", b""], [b"", b"", b"short"], [b"", b"", bytes(64), b"x"], [b"", b"what", b"\x80"]]
        nonsense += [[b"", b"welcome", b"\xc1"], [b"", b"welcome"], [b"", b"error", b"\x80"], [b"", b"", b"\xc4K\1" + bytes(61)]]
        for frames in nonsense:
            router.send_multipart([peer, *frames])
        welcome = Welcome(
            request_id=hello.request_id, protocol=1, epoch=1, offset=0, server_version="9", endpoints={"upload": 1, "push": 1}
        )
        router.send_multipart([peer, envelope, *encode(welcome)])

    thread = threading.Thread(target=serve)
    thread.start()
    with connect(f"tcp://127.0.0.1:{port}") as client:
        assert client.server_version == "9" and client._driver.strange >= 8
    thread.join()
    router.close(linger=0)
    context.term()


def test_a_client_that_nothing_refers_to_is_closed(broadcaster: BroadcasterProcess, model: str) -> None:
    subscriber = connect(broadcaster.url).subscriber(model)
    subscriber.keeps = subscriber.keeps
    client = weakref.ref(subscriber.keeps)  # type: ignore[call-overload]
    driver = subscriber._driver
    gc.collect()
    assert driver.ended is None and client() is not None
    del subscriber
    gc.collect()
    assert isinstance(driver.ended, clients.Closed)


def test_threads_may_share_a_client(broadcaster: BroadcasterProcess, model: str) -> None:
    wrong: list[BaseException] = []
    with connect(broadcaster.url) as client:

        def work(index: int) -> None:
            try:
                publisher, subscriber = client.publisher(f"{model}{index}"), client.subscriber(f"{model}{index}")
                for value in range(10):
                    number = publisher.publish(weights(value, 30_000)).number
                    snapshot = subscriber.wait(timeout=20, newer_than=number - 1)
                    assert snapshot.version.number == number and (snapshot.tensors["a"] == value).all()
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


async def test_a_cancelled_task_misses_no_version(broadcaster: BroadcasterProcess, model: str) -> None:
    async with clients.aio.connect(broadcaster.url) as client:
        publisher, every = client.publisher(model), client.subscriber(model, every=True).every()
        await publisher.publish(weights(0))
        assert (await anext(every)).version.number == 1
        waiting = asyncio.ensure_future(anext(every))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        for value in (1, 2):
            await publisher.publish(weights(value))
        assert [(await anext(every)).version.number for _ in range(2)] == [2, 3]
