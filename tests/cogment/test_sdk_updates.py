"""What the Cogment Python SDK is told while it listens: `iteration_updates`, `track_latest_model`, and over a restart."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import clients
from tests.bare_peer import wait_until
from tests.broadcaster_process import BroadcasterProcess
from tests.cogment.front import Front, data_hash
from tests.cogment.sdk import Sdk, SdkError, missing
from tests.integration.test_cogment import make_certificate
from tests.integration.test_supervised import kill_core

# --- iteration_updates ---------------------------------------------------------------------------------------------


def test_the_newest_is_told_at_once_and_then_each_that_follows(sdk: Sdk, client: clients.Client, model: str) -> None:
    publisher = client.publisher(model)
    for _ in range(3):
        publisher.publish(b"before")
    assert sdk.ask("next_update", model_name=model, stream=model)["iteration"] == 3
    for number, data in ((4, b"small"), (5, b"large" * 100_000)):
        following = sdk.begin("next_update", model_name=model, stream=model)
        published = publisher.publish(data, archived=number == 4, user_data={"step": str(number)})
        told = following.result()
        # A push does not wait for a disk: whether it is stored is known by the time that the publisher knows.
        assert told | {"stored": number == 4} == {
            "model_name": model,
            "iteration": number,
            "timestamp": published.creation_timestamp,
            "hash": data_hash(data),
            "size": len(data),
            "stored": number == 4,
            "properties": {"step": str(number)},
        }
        assert sdk.ask("get_iteration_info", name=model, iteration=number)["stored"] is (number == 4)
    sdk.ask("close_updates", stream=model)


def test_a_model_without_a_version_is_waited_for(sdk: Sdk, model: str) -> None:
    sdk.ask("publish_model", name=model, model=None)
    first = sdk.begin("next_update", model_name=model, stream=model)
    sdk.ask("publish_model", name=model, model=b"weights")
    assert first.result()["iteration"] == 1


def test_a_burst_ends_with_the_last_and_never_goes_back(sdk: Sdk, client: clients.Client, model: str) -> None:
    publisher, told = client.publisher(model), [0]
    publisher.publish(b"first")
    for number in range(2, 101):
        publisher.publish(b"%d" % number)
    while told[-1] < 100:
        told.append(sdk.ask("next_update", model_name=model, stream=model)["iteration"])
    assert told == sorted(set(told))


def test_an_unknown_model_is_an_invalid_argument(sdk: Sdk) -> None:
    with pytest.raises(SdkError) as caught:
        sdk.ask("next_update", model_name="nobody", stream="nobody")
    assert (caught.value.kind, caught.value.code) == ("AioRpcError", "INVALID_ARGUMENT")


def test_a_deletion_ends_the_updates_and_those_of_the_model_made_again_go_on(sdk: Sdk, model: str) -> None:
    sdk.ask("publish_model", name=model, model=b"weights")
    sdk.ask("next_update", model_name=model, stream="first life")
    ending = sdk.begin("next_update", model_name=model, stream="first life")
    sdk.ask("remove_model", name=model)
    with pytest.raises(SdkError) as caught:
        ending.result()
    assert (caught.value.kind, caught.value.code) == ("AioRpcError", "NOT_FOUND")
    sdk.ask("publish_model", name=model, model=b"again")
    assert sdk.ask("next_update", model_name=model, stream="second life")["iteration"] == 2


# --- track_latest_model --------------------------------------------------------------------------------------------


def test_a_tracker_has_what_a_publisher_publishes(sdk: Sdk, client: clients.Client, model: str) -> None:
    publisher = client.publisher(model)
    publisher.publish(b"first")
    sdk.ask("track", name=model)
    assert sdk.ask("tracked", name=model)["model"] == b"first"
    for number, size in ((2, 100), (3, 5 << 20)):
        newer = sdk.begin("tracked", name=model, newer_than=number - 1)
        data = bytes([number]) * size
        publisher.publish(data, user_data={"step": str(number)})
        found = newer.result()
        assert (found["model"], found["info"]["iteration"]) == (data, number)
        assert (found["info"]["hash"], found["info"]["properties"]) == (data_hash(data), {"step": str(number)})


def test_a_tracker_has_what_another_sdk_publishes_decoded(sdk: Sdk, front: Front, model: str) -> None:
    with Sdk(front.address) as learner:
        learner.ask("publish_model", name=model, model=b"first")
        sdk.ask("track", name=model, decoded=True)
        assert sdk.ask("tracked", name=model)["model"] == "FIRST"
        newer = sdk.begin("tracked", name=model, newer_than=1)
        learner.ask("store_model", name=model, model=b"second")
        assert newer.result()["model"] == "SECOND"


def test_a_tracker_ends_with_the_last_of_a_burst(sdk: Sdk, client: clients.Client, model: str) -> None:
    publisher = client.publisher(model)
    publisher.publish(b"0")
    sdk.ask("track", name=model)
    for number in range(1, 50):
        publisher.publish(b"%d" % number)
    found = sdk.ask("tracked", name=model, newer_than=49)
    assert (found["info"]["iteration"], found["model"]) == (50, b"49")


def test_a_tracker_waits_for_a_model_that_comes_later(sdk: Sdk, client: clients.Client, model: str) -> None:
    tracking = sdk.begin("track", name=model, initial_wait=10)
    client.registry.create(model)
    assert tracking.result() == model
    assert sdk.ask("tracked", name=model, wait=False) is False
    available = sdk.begin("tracked", name=model)
    client.publisher(model).publish(b"at last")
    assert available.result()["model"] == b"at last"
    assert sdk.ask("tracked", name=model, wait=False) is True


def test_an_unknown_model_is_not_tracked(sdk: Sdk) -> None:
    with pytest.raises(SdkError, match="not found") as caught:
        sdk.ask("track", name="nobody")
    assert caught.value.kind == "CogmentError"


# --- whole lives ---------------------------------------------------------------------------------------------------


@pytest.fixture
def needed() -> None:
    if why := missing():
        pytest.skip(why)


@pytest.mark.usefixtures("needed")
def test_a_tracker_does_not_notice_that_the_core_died(own: Front) -> None:
    with Sdk(own.address) as sdk, clients.connect(own.url) as client:
        publisher = client.publisher("policy")
        before = publisher.publish(b"before")
        sdk.ask("track", name="policy")
        assert sdk.ask("tracked", name="policy")["model"] == b"before"
        newer = sdk.begin("tracked", name="policy", newer_than=before.number)
        kill_core(own)
        after = publisher.publish(b"after" * 100_000)
        found = newer.result()
        assert (found["info"]["iteration"], found["model"]) == (after.number, b"after" * 100_000)
        assert after.number > before.number


@pytest.mark.usefixtures("needed")
def test_a_restart_keeps_what_was_stored_and_uses_no_number_twice(own: Front) -> None:
    with Sdk(own.address) as sdk:
        sdk.ask("update_model_info", name="policy", properties={"actor": "pilot"})
        kept = [
            sdk.ask("store_model", name="policy", model=b"%d" % number, iteration_properties={"n": str(number)})
            for number in (1, 2)
        ]
        sdk.ask("publish_model", name="policy", model=b"3")
        assert sdk.ask("next_update", model_name="policy", stream="updates")["iteration"] == 3
        ending = sdk.begin("next_update", model_name="policy", stream="updates")
        own.restart(kill=True)
        assert ending.result() is None  # The SDK takes UNAVAILABLE for the end.
        wait_until(lambda: sdk.ask("get_model_info", name="policy"), "the SDK's channel connects again")
        assert sdk.ask("get_model_info", name="policy")["properties"] == {"actor": "pilot"}
        assert sdk.ask("list_iterations", model_name="policy") == kept
        assert sdk.ask("retrieve_model", name="policy", iteration=1) == b"1"
        assert sdk.ask("get_iteration_info", name="policy", iteration=-1)["iteration"] == 2
        assert sdk.ask("next_update", model_name="policy", stream="again")["iteration"] == 2
        newer = sdk.begin("next_update", model_name="policy", stream="again")
        began = time.time_ns()
        number = sdk.ask("store_model", name="policy", model=b"after")["iteration"]
        assert number > 3
        told = newer.result()
        assert told["iteration"] == number and told["timestamp"] > began
        assert sdk.ask("retrieve_model", name="policy", iteration=2) == b"2"


@pytest.mark.usefixtures("needed")
@pytest.mark.parametrize("size", [200_000, 2_000_000])
def test_what_the_sdk_was_told_of_it_can_read_though_newer_ones_push_it_out(tmp_path: Path, size: int) -> None:
    last = 40
    front = Front(tmp_path / "b", environment={"COGMENT_MODEL_REGISTRY_VERSION_CACHE_MAX_ITEMS": "1"})
    with front, Sdk(front.address) as sdk, clients.connect(front.url) as client, ThreadPoolExecutor(1) as thread:
        publisher = client.publisher("policy")

        def publish() -> None:
            for number in range(2, last + 1):
                publisher.publish(bytes([number]) * size)

        publisher.publish(bytes([1]) * size)
        told = sdk.ask("next_update", model_name="policy", stream="updates")["iteration"]
        assert sdk.ask("retrieve_model", name="policy", iteration=told) == bytes([told]) * size
        learning = thread.submit(publish)
        while told < last:
            told = sdk.ask("next_update", model_name="policy", stream="updates")["iteration"]
            assert sdk.ask("retrieve_model", name="policy", iteration=told) == bytes([told]) * size
        learning.result()


@pytest.mark.usefixtures("needed")
def test_the_variable_of_the_original_is_enough(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    with BroadcasterProcess(tmp_path / "b", environment={"COGMENT_MODEL_REGISTRY_PORT": port}), Sdk(f"localhost:{port}") as sdk:
        assert sdk.ask("store_model", name="policy", model=b"weights")["iteration"] == 1
        assert sdk.ask("retrieve_model", name="policy") == b"weights"


@pytest.mark.usefixtures("needed")
def test_the_sdk_speaks_tls(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_certificate(certificate, key)
    with Front(tmp_path / "b", "--http-cert", str(certificate), "--http-key", str(key)) as front:
        with Sdk(f"localhost:{front.address.rpartition(':')[2]}", key, certificate) as sdk:
            sdk.ask("publish_model", name="policy", model=b"weights" * 1_000_000)
            assert sdk.ask("retrieve_model", name="policy") == b"weights" * 1_000_000
            assert sdk.ask("next_update", model_name="policy", stream="updates")["iteration"] == 1
