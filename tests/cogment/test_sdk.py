"""The published Cogment Python SDK, unchanged, through every method of its current interface that answers once."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2

import clients
from broadcaster.cogment.schema import make_file
from tests.cogment.front import data_hash
from tests.cogment.sdk import Sdk, SdkError

CHUNK = 2 << 20
"""Bytes that the SDK sends in a message."""


def weights(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


# --- the interface -------------------------------------------------------------------------------------------------


def shapes(files: list[descriptor_pb2.FileDescriptorProto]) -> dict[str, Any]:
    """Every message with its fields, every call with its types: what travels, without what only names it in a file."""
    found: dict[str, Any] = {}

    def note(prefix: str, message: descriptor_pb2.DescriptorProto) -> None:
        found[f"{prefix}.{message.name}"] = {
            (one.name, one.number, one.type, one.label, one.type_name, one.HasField("oneof_index")) for one in message.field
        }
        for nested in message.nested_type:
            note(f"{prefix}.{message.name}", nested)

    for file in files:
        for message in file.message_type:
            note(file.package, message)
        for service in file.service:
            for rpc in service.method:
                found[f"{file.package}.{service.name}/{rpc.name}"] = (
                    rpc.input_type,
                    rpc.output_type,
                    rpc.client_streaming,
                    rpc.server_streaming,
                )
    return found


def test_the_interface_is_the_one_that_the_sdk_was_made_from(sdk: Sdk) -> None:
    theirs = shapes([descriptor_pb2.FileDescriptorProto.FromString(file) for file in sdk.ask("files")])
    ours = shapes([make_file()])
    assert {name: shape for name, shape in ours.items() if theirs.get(name) != shape} == {}
    calls = {name for name in theirs if name.startswith("cogmentAPI.ModelRegistrySP/")}
    assert len(calls) == 9 and calls <= set(ours)


# --- publish_model, store_model ------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["publish_model", "store_model"])
def test_what_is_sent_is_told_back_as_it_became_known(sdk: Sdk, model: str, verb: str) -> None:
    data, before = weights(1000), time.time_ns()
    info = sdk.ask(verb, name=model, model=data, iteration_properties={"step": "1000", "größe": "42 ✓"})
    assert before <= info.pop("timestamp") <= time.time_ns()
    assert info == {
        "model_name": model,
        "iteration": 1,
        "hash": data_hash(data),
        "size": 1000,
        "stored": verb == "store_model",
        "properties": {"step": "1000", "größe": "42 ✓"},
    }
    assert sdk.ask("retrieve_model", name=model) == data


def test_stored_and_published_iterations_share_one_sequence(sdk: Sdk, model: str) -> None:
    verbs = ["publish_model", "store_model", "store_model", "publish_model"]
    infos = [sdk.ask(verb, name=model, model=b"same") for verb in verbs]
    assert [info["iteration"] for info in infos] == [1, 2, 3, 4]
    assert [info["stored"] for info in infos] == [False, True, True, False]
    assert {info["hash"] for info in infos} == {data_hash(b"same")}


@pytest.mark.parametrize("size", [1, 64 << 10, (64 << 10) + 1, CHUNK, CHUNK + 1, 12 << 20])
@pytest.mark.parametrize("verb", ["publish_model", "store_model"])
def test_a_model_of_any_size_comes_back_bit_for_bit(sdk: Sdk, model: str, verb: str, size: int) -> None:
    data = weights(size)
    info = sdk.ask(verb, name=model, model=data)
    assert (info["size"], info["hash"]) == (size, data_hash(data))
    assert sdk.ask("retrieve_model", name=model, iteration=info["iteration"]) == data


def test_without_data_only_the_model_is_made(sdk: Sdk, model: str) -> None:
    assert sdk.ask("publish_model", name=model, model=None) is None
    assert sdk.ask("get_model_info", name=model) == {"name": model, "properties": {}}
    assert sdk.ask("list_iterations", model_name=model) == []
    assert sdk.ask("retrieve_model", name=model) is None
    assert sdk.ask("get_iteration_info", name=model, iteration=-1) is None


def test_parallel_publications_of_one_model_get_a_number_each(sdk: Sdk, model: str) -> None:
    sdk.ask("publish_model", name=model, model=b"first")
    under_way = [sdk.begin("publish_model", name=model, model=b"%d" % index) for index in range(40)]
    infos = [one.result() for one in under_way]
    assert sorted(info["iteration"] for info in infos) == list(range(2, 42))
    for index in (0, 20, 39):
        assert sdk.ask("retrieve_model", name=model, iteration=infos[index]["iteration"]) == b"%d" % index


@pytest.mark.parametrize("name", ["", "../outside", "a/b", "-dash", "ünicode", "x" * 129])
def test_a_name_that_is_none_is_refused_and_leaves_nothing(sdk: Sdk, name: str) -> None:
    with pytest.raises(SdkError, match="name") as caught:
        sdk.ask("store_model", name=name, model=b"weights")
    assert (caught.value.kind, caught.value.code) == ("AioRpcError", "INVALID_ARGUMENT")
    assert sdk.ask("get_model_info", name=name) is None
    assert name not in [info["name"] for info in sdk.ask("list_models")]


def test_too_many_properties_are_refused_and_take_no_number(sdk: Sdk, model: str) -> None:
    with pytest.raises(SdkError) as caught:
        sdk.ask("publish_model", name=model, model=b"weights", iteration_properties={"x": "y" * 20_000})
    assert caught.value.code == "INVALID_ARGUMENT"
    assert sdk.ask("publish_model", name=model, model=b"weights")["iteration"] == 1


# --- retrieve_model, get_iteration_info ----------------------------------------------------------------------------


def test_iterations_are_had_by_number_and_counted_from_the_newest(sdk: Sdk, model: str) -> None:
    for data in (b"one", b"two", b"three"):
        sdk.ask("publish_model", name=model, model=data)
    for iteration, (number, data) in {1: (1, b"one"), 3: (3, b"three"), -1: (3, b"three"), -3: (1, b"one")}.items():
        assert sdk.ask("retrieve_model", name=model, iteration=iteration) == data
        info = sdk.ask("get_iteration_info", name=model, iteration=iteration)
        assert (info["iteration"], info["hash"], info["size"]) == (number, data_hash(data), len(data))


@pytest.mark.parametrize("iteration", [0, 4, 28, -4, -5, 2**31 - 1, -(2**31)])
def test_an_iteration_that_is_not_there_is_none(sdk: Sdk, iteration: int) -> None:
    model = "three-iterations"
    while len(sdk.ask("list_iterations", model_name=model) if sdk.ask("get_model_info", name=model) else []) < 3:
        sdk.ask("publish_model", name=model, model=b"weights")
    assert sdk.ask("retrieve_model", name=model, iteration=iteration) is None
    assert sdk.ask("get_iteration_info", name=model, iteration=iteration) is None


def test_an_unknown_model_is_an_error_of_the_sdk(sdk: Sdk) -> None:
    for do, arguments in {
        "retrieve_model": {"name": "nobody"},
        "get_iteration_info": {"name": "nobody", "iteration": 1},
        "list_iterations": {"model_name": "nobody"},
    }.items():
        with pytest.raises(SdkError, match="nobody") as caught:
            sdk.ask(do, **arguments)
        assert caught.value.kind == "CogmentError", do
    assert sdk.ask("get_model_info", name="nobody") is None


# --- list_iterations, list_models ----------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [9, 10, 11, 30])
def test_all_iterations_are_listed_ascending_past_the_page_of_ten(
    sdk: Sdk, client: clients.Client, model: str, count: int
) -> None:
    publisher = client.publisher(model)
    for number in range(1, count + 1):
        publisher.publish(b"%d" % number, archived=number % 3 == 0, user_data={"step": str(number)})
    infos = sdk.ask("list_iterations", model_name=model)
    assert [info["iteration"] for info in infos] == list(range(1, count + 1))
    assert [info["properties"]["step"] for info in infos] == [str(number) for number in range(1, count + 1)]
    assert [info["hash"] for info in infos] == [data_hash(b"%d" % number) for number in range(1, count + 1)]
    assert [info["stored"] for info in infos] == [number % 3 == 0 for number in range(1, count + 1)]


def test_all_models_are_listed_by_name_past_the_page_of_ten(sdk: Sdk, model: str) -> None:
    made = [f"{model}-{index:02}" for index in range(25)]
    for name in reversed(made):
        sdk.ask("update_model_info", name=name, properties={"called": name})
    listed = sdk.ask("list_models")
    names = [info["name"] for info in listed]
    assert names == sorted(names) and len(set(names)) == len(names)
    assert [info for info in listed if info["name"] in made] == [{"name": name, "properties": {"called": name}} for name in made]


# --- get_model_info, update_model_info, remove_model ---------------------------------------------------------------


def test_an_update_replaces_all_properties_and_leaves_the_iterations(sdk: Sdk, model: str) -> None:
    sdk.ask("update_model_info", name=model, properties={"made": "by an update", "gone": "soon"})
    sdk.ask("publish_model", name=model, model=b"weights", iteration_properties={"step": "1"})
    sdk.ask("update_model_info", name=model, properties={"made": "anew"})
    assert sdk.ask("get_model_info", name=model) == {"name": model, "properties": {"made": "anew"}}
    assert sdk.ask("get_iteration_info", name=model, iteration=1)["properties"] == {"step": "1"}
    assert sdk.ask("retrieve_model", name=model) == b"weights"


def test_a_removed_model_is_gone_and_made_again_its_numbers_go_on(sdk: Sdk, model: str) -> None:
    sdk.ask("update_model_info", name=model, properties={"life": "first"})
    for verb in ("publish_model", "store_model"):
        sdk.ask(verb, name=model, model=b"weights")
    assert sdk.ask("remove_model", name=model) is None
    assert sdk.ask("get_model_info", name=model) is None
    with pytest.raises(SdkError, match="Unknown model"):
        sdk.ask("retrieve_model", name=model, iteration=2)
    assert sdk.ask("publish_model", name=model, model=b"again")["iteration"] == 3
    assert sdk.ask("get_model_info", name=model)["properties"] == {}
    assert sdk.ask("retrieve_model", name=model, iteration=1) is None
    assert [info["iteration"] for info in sdk.ask("list_iterations", model_name=model)] == [3]


def test_removing_an_unknown_model_is_not_found(sdk: Sdk) -> None:
    with pytest.raises(SdkError) as caught:
        sdk.ask("remove_model", name="nobody")
    assert (caught.value.kind, caught.value.code) == ("AioRpcError", "NOT_FOUND")


# --- beside clients of our own -------------------------------------------------------------------------------------


def test_a_subscriber_has_what_the_sdk_publishes(sdk: Sdk, client: clients.Client, model: str) -> None:
    with client.subscriber(model) as subscriber:
        for size in (100, 3 << 20):
            data = weights(size)
            info = sdk.ask("publish_model", name=model, model=data, iteration_properties={"step": "7"})
            snapshot = subscriber.wait(10, newer_than=info["iteration"] - 1)
            version = snapshot.version
            assert (version.number, version.size, dict(version.user_data)) == (info["iteration"], size, {"step": "7"})
            assert version.creation_timestamp == info["timestamp"]
            assert bytes(snapshot.payload) == data


def test_what_the_sdk_stores_is_archived_under_its_hash(sdk: Sdk, client: clients.Client, model: str) -> None:
    data = weights(200_000)
    sdk.ask("store_model", name=model, model=data)
    found = client.registry.get(model, 1).info
    assert (found.archived, found.sha256) == (True, hashlib.sha256(data).hexdigest())


def test_the_sdk_has_the_weights_that_a_publisher_publishes(sdk: Sdk, client: clients.Client, model: str) -> None:
    tree = {"layer": np.arange(300_000, dtype=np.float32)}
    published = client.publisher(model).publish(tree, user_data={"step": "9"})
    payload = bytes(client.registry.get(model, published.number).read())
    info = sdk.ask("get_iteration_info", name=model, iteration=-1)
    assert (info["iteration"], info["hash"], info["size"]) == (published.number, data_hash(payload), published.size)
    assert (info["timestamp"], info["properties"]) == (published.creation_timestamp, {"step": "9"})
    assert sdk.ask("retrieve_model", name=model) == payload
    assert payload.endswith(tree["layer"].tobytes())
