"""The older interface of the Cogment Python SDK (`get_model_registry`), as programs before 2.5 use it."""

from __future__ import annotations

import pytest

from tests.cogment.front import data_hash
from tests.cogment.sdk import Sdk, SdkError


def test_two_versions_are_stored_and_had_back_with_both_kinds_of_user_data(sdk: Sdk, model: str) -> None:
    first = sdk.ask(
        "store_initial_version",
        model_id=model,
        serialized_model=b"weights",
        user_data={"actor": "pilot", "layers": 3},
        version_user_data={"step": 10},
    )
    assert (first["version_number"], first["data_size"], first["data_hash"]) == (1, 7, data_hash(b"weights"))
    assert not first["archived"]
    second = sdk.ask("store_version", model_id=model, serialized_model=b"better", version_user_data={"step": 20}, archived=True)
    assert (second["version_number"], second["archived"]) == (2, True)
    found = sdk.ask("retrieve_version", model_id=model, version_number=1)
    assert (found["id"], found["serialized_model"], found["stored_version_info"]) == (model, b"weights", first)
    assert found["version_user_data"] == {"step": "10"}
    newest = sdk.ask("retrieve_version", model_id=model)
    assert (newest["serialized_model"], newest["stored_version_info"]) == (b"better", second)


def test_a_model_that_others_made_is_told_with_its_user_data(sdk: Sdk, model: str) -> None:
    sdk.ask("update_model_info", name=model, properties={"actor": "pilot"})
    info = sdk.ask("retrieve_model_info", model_id=model)
    assert info == {"id": model, "user_data": {"actor": "pilot"}}


def test_a_value_is_decoded_once_and_then_found_by_its_hash(sdk: Sdk, model: str) -> None:
    for number in (1, 2):
        sdk.ask("publish_model", name=model, model=model.encode())
        found = sdk.ask("retrieve_version", model_id=model, version_number=number, decoded=True)
        assert found["stored_version_info"]["version_number"] == number
        assert found["deserialized_model"] == model.upper()
        # The second one has the hash of the first, so its bytes are not asked for at all.
        assert found["serialized_model"] == (model.encode() if number == 1 else None)
    kept = sdk.ask("cached")
    assert model in kept["models"] and kept["values"][data_hash(model.encode())] == model.upper()


def test_what_is_not_there_is_none(sdk: Sdk, model: str) -> None:
    assert sdk.ask("retrieve_model_info", model_id="nobody") is None
    assert sdk.ask("retrieve_version", model_id="nobody") is None
    sdk.ask("publish_model", name=model, model=b"weights")
    assert sdk.ask("retrieve_version", model_id=model, version_number=2) is None
    assert sdk.ask("retrieve_version", model_id=model, version_number=-2) is None


def test_a_version_of_a_model_that_nobody_made_is_refused(sdk: Sdk) -> None:
    with pytest.raises(SdkError) as caught:
        sdk.ask("store_version", model_id="nobody", serialized_model=b"weights")
    assert caught.value.code == "NOT_FOUND"


def test_a_large_model_comes_back(sdk: Sdk, model: str) -> None:
    data = bytes(range(256)) * (20 << 10)
    sdk.ask("store_initial_version", model_id=model, serialized_model=data)
    assert sdk.ask("retrieve_version", model_id=model)["serialized_model"] == data
