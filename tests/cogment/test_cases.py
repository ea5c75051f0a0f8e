"""The cases that the Cogment Model Registry itself was tested with, in our words.

Those of its back end are asked over both interfaces, those of its server over gRPC. What it tested and no client could ask for
(writing a number again, deleting one version) is left out.
"""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import clients
from tests.cogment.doors import Door, Known, OverGrpc, OverZeroMq
from tests.cogment.front import Front, Registry, data_hash, refused
from tests.cogment_calls import body, header


@pytest.fixture(params=["gRPC", "ZeroMQ"])
def door(request: pytest.FixtureRequest, registry: Registry, client: clients.Client) -> Door:
    return OverGrpc(registry) if request.param == "gRPC" else OverZeroMq(client)


# --- the back end --------------------------------------------------------------------------------------------------


def test_a_model_is_there_once_it_was_made(door: Door, model: str) -> None:
    door.make(model, made="first")
    door.make(f"{model}-2", made="second")
    assert door.has(model) and door.has(f"{model}-2") and not door.has(f"{model}-3")
    assert (door.models()[model], door.models()[f"{model}-2"]) == ({"made": "first"}, {"made": "second"})


def test_a_model_is_deleted_once_and_may_be_made_again(door: Door, model: str) -> None:
    with pytest.raises(LookupError, match=model):
        door.delete(model)
    door.make(model, life="first")
    door.delete(model)
    assert not door.has(model)
    with pytest.raises(LookupError, match=model):
        door.delete(model)
    door.make(model, life="second")
    assert door.models()[model] == {"life": "second"}


def test_models_are_listed_in_order_of_name_whatever_their_versions(tmp_path: Path) -> None:
    with Front(tmp_path / "broadcaster") as front, Registry(front.address) as registry, clients.connect(front.url) as client:
        for door in (OverGrpc(registry), OverZeroMq(client)):
            assert door.models() == {}
            door.make("foo", kind="none")
            door.make("bar", kind="archived")
            door.make("baz", kind="both")
            door.publish("bar", b"archived", archived=True)
            door.publish("baz", b"archived", archived=True)
            door.publish("baz", b"transient", archived=False)
            listed = {"bar": {"kind": "archived"}, "baz": {"kind": "both"}, "foo": {"kind": "none"}}
            assert list(door.models().items()) == list(listed.items())
            door.delete("bar")
            assert list(door.models()) == ["baz", "foo"]
            door.delete("baz")
            door.delete("foo")


def test_versions_are_numbered_without_gaps_whatever_is_archived(door: Door, model: str) -> None:
    door.make(model)
    archived = [True, True, *[False] * 20, True]
    for number, keep in enumerate(archived, 1):
        assert door.publish(model, b"x" * number, archived=keep) == Known(number, keep, number)


def test_a_version_comes_back_as_it_was_until_its_model_goes(door: Door, model: str) -> None:
    door.make(model)
    data = {1: b"transient" * 1000, 2: b"archived" * 20_000}
    for number, payload in data.items():
        door.publish(model, payload, archived=number == 2)
    for number, payload in data.items():
        assert door.info(model, number) == Known(number, number == 2, len(payload))
        assert door.data(model, number) == payload
    for ask in (door.info, door.data):
        with pytest.raises(LookupError, match=rf"{model}.*\b3\b"):
            ask(model, 3)
    door.delete(model)
    for number, ask in itertools.product(data, (door.info, door.data)):
        with pytest.raises(LookupError, match=model):
            ask(model, number)


def test_the_latest_is_the_newest_of_both_kinds(door: Door, model: str) -> None:
    door.make(model)
    for ask in (door.info, door.data):
        with pytest.raises(LookupError):
            ask(model, -1)
    for number, archived in ((1, True), (2, False)):
        door.publish(model, b"%d" % number, archived=archived)
        assert door.info(model, -1) == Known(number, archived, 1)
        assert door.data(model, -1) == b"%d" % number


def test_versions_are_counted_from_the_latest(door: Door, model: str) -> None:
    door.make(model)
    door.publish(model, b"first", archived=False)
    door.publish(model, b"second!", archived=True)
    assert (door.info(model, -1), door.data(model, -1)) == (Known(2, True, 7), b"second!")
    assert (door.info(model, -2), door.data(model, -2)) == (Known(1, False, 5), b"first")
    for ask in (door.info, door.data):
        with pytest.raises(LookupError, match="-3"):
            ask(model, -3)


def test_versions_are_listed_from_a_number_on_up_to_a_limit(door: Door, model: str) -> None:
    door.make(model)
    for number in range(1, 21):
        door.publish(model, b"weights", archived=number % 2 == 0)
    for start, limit, listed in ((8, 5, range(8, 13)), (0, 2, range(1, 3)), (3, 3, range(3, 6)), (0, 0, range(1, 21))):
        assert door.numbers(model, start, limit) == list(listed)


def test_parallel_uploads_and_reads_of_two_models_all_succeed_with_distinct_numbers(door: Door, model: str) -> None:
    models = [f"{model}-{index}" for index in range(2)]
    for name in models:
        door.make(name)
        door.publish(name, b"first", archived=False)

    def upload(name: str) -> int:
        return door.publish(name, name.encode() * 1000, archived=False).number

    def read(name: str) -> bytes:
        return door.data(name, -1)

    with ThreadPoolExecutor(20) as threads:
        reads = [threads.submit(read, name) for name in models * 5]
        uploads = {name: [threads.submit(upload, name) for _ in range(5)] for name in models}
        assert {one.result() for one in reads} <= {b"first", *(name.encode() * 1000 for name in models)}
        for pending in uploads.values():
            assert sorted(one.result() for one in pending) == [2, 3, 4, 5, 6]


def test_of_a_limit_of_two_transient_versions_the_newest_two_remain(tmp_path: Path) -> None:
    with Front(tmp_path / "b", environment={"COGMENT_MODEL_REGISTRY_VERSION_CACHE_MAX_ITEMS": "2"}) as front:
        with Registry(front.address) as registry:
            registry.make("policy")
            for _ in range(3):
                registry.create("policy", b"weights")
            assert registry.numbers("policy") == [2, 3]


def test_what_is_archived_from_elsewhere_becomes_the_latest(registry: Registry, client: clients.Client, model: str) -> None:
    registry.make(model)
    registry.create(model, b"first", archived=True)
    client.publisher(model).publish(b"from elsewhere", archived=True)
    assert registry.data(model) == b"from elsewhere"
    assert registry.infos(model, -1)[0][0].version_number == 2


# --- the server ----------------------------------------------------------------------------------------------------


def test_models_are_made_listed_and_deleted(tmp_path: Path) -> None:
    with Front(tmp_path / "broadcaster") as front, Registry(front.address) as registry:
        registry.make("foo", made="first")
        assert registry.infos("foo") == ([], "0")
        registry.make("bar", made="second")
        assert registry.models() == ([("bar", {"made": "second"}), ("foo", {"made": "first"})], "2")
        registry.delete("foo")
        assert registry.models()[0] == [("bar", {"made": "second"})]
        with refused("NOT_FOUND", "foo"):
            registry.delete("foo")
        registry.make("foo")
        assert registry.models("foo") == ([("foo", {})], "1")


def test_uploads_in_one_chunk_and_in_two(registry: Registry, model: str) -> None:
    registry.make(model)
    first = registry.create(model, b"one chunk", user_data={"n": "1"})
    second = registry.create(model, b"two ", b"chunks", archived=True, user_data={"n": "2"})
    assert (first.version_number, first.archived, first.data_hash) == (1, False, data_hash(b"one chunk"))
    assert (second.version_number, second.archived, second.data_hash) == (2, True, data_hash(b"two chunks"))
    assert (dict(first.user_data), dict(second.user_data)) == ({"n": "1"}, {"n": "2"})
    assert registry.infos(model) == ([first, second], "3")


def test_infos_of_all_versions_come_in_pages(registry: Registry, model: str) -> None:
    registry.make(model)
    for _ in range(10):
        registry.create(model, b"weights")
    pages = [registry.infos(model, count=5, handle=handle) for handle in ("", "7", "11")]
    assert [[info.version_number for info in infos] for infos, _ in pages] == [[1, 2, 3, 4, 5], [7, 8, 9, 10], []]
    assert [handle for _, handle in pages] == ["6", "11", "11"]
    stamps = [info.creation_timestamp for info in registry.infos(model)[0]]
    assert stamps == sorted(stamps) and abs(stamps[-1] - time.time_ns()) < 60e9


def test_the_latest_can_be_asked_for_while_others_upload_slowly(registry: Registry, model: str) -> None:
    registry.make(model)
    registry.create(model, b"first")
    reading = threading.Barrier(2)

    def upload(index: int) -> int:
        def messages() -> object:
            yield header(model, 30)
            for _ in range(3):
                yield body(b"%010d" % index)
                if index == 0:
                    reading.wait(20)  # The readers come in while this one is under way.

        return int(registry.send(messages()).version_number)

    def read() -> int:
        return min(registry.infos(model, -1)[0][0].version_number for _ in range(10))

    with ThreadPoolExecutor(60) as threads:
        uploads = [threads.submit(upload, index) for index in range(50)]
        reads = []
        for _ in range(3):
            reads += [threads.submit(read) for _ in range(3)]
            reading.wait(20)
        assert sorted(one.result() for one in uploads) == list(range(2, 52))
        assert all(one.result() >= 1 for one in reads)


def test_infos_of_some_versions(registry: Registry, model: str) -> None:
    registry.make(model)
    for _ in range(10):
        registry.create(model, b"weights")
    for asked, number in ((1, 1), (5, 5), (-1, 10)):
        infos, handle = registry.infos(model, asked)
        # The original's handle is a number to start from; ours is an index into what was asked, which fits what is asked next.
        assert ([info.version_number for info in infos], handle) == ([number], "1")
    with refused("NOT_FOUND", "28"):
        registry.infos(model, 28)


def test_data_comes_in_chunks_of_the_size_that_was_set(tmp_path: Path) -> None:
    data = bytes(range(256)) * 4 + b"rest"
    with Front(tmp_path / "b", environment={"COGMENT_MODEL_REGISTRY_SENT_MODEL_VERSION_DATA_CHUNK_SIZE": "16"}) as front:
        with Registry(front.address) as registry:
            registry.make("policy")
            registry.create("policy", data)
            chunks = registry.chunks("policy")
            assert b"".join(chunks) == data
            assert {len(chunk) for chunk in chunks[:-1]} == {16} and len(chunks[-1]) == 4
            with refused("NOT_FOUND", "2"):
                registry.chunks("policy", 2)
