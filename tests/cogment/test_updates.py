"""VersionUpdate of the Cogment front, row by row: as the Cogment Model Registry does, or better."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import clients
from tests.bare_peer import wait_until
from tests.cogment.front import Front, Registry, data_hash, refused


@contextmanager
def listening(registry: Registry, model: str) -> Iterator[Any]:
    updates = registry.updates(model)
    try:
        yield (update.version_info for update in updates)
    finally:
        updates.cancel()


def test_the_latest_is_told_at_once_and_is_the_info_of_the_version(registry: Registry, model: str) -> None:
    registry.make(model)
    registry.create(model, b"first")
    second = registry.create(model, b"second", archived=True, user_data={"step": "2"})
    with listening(registry, model) as updates:
        assert next(updates) == second
        third = registry.create(model, b"x" * (3 << 20))
        assert next(updates) == third


def test_both_interfaces_are_heard_in_one_order(registry: Registry, client: clients.Client, model: str) -> None:
    registry.make(model)
    with listening(registry, model) as updates, client.subscriber(model) as subscriber:
        for number in range(1, 9):
            data = bytes([number]) * (100_000 if number % 3 else 10)
            if number % 2:
                registry.create(model, data, archived=number % 4 == 1)
            else:
                client.publisher(model).publish(data)
            info = next(updates)
            assert (info.version_number, info.data_hash) == (number, data_hash(data))
            assert bytes(subscriber.wait(10, newer_than=number - 1).payload) == data


def test_of_a_burst_the_last_is_told_and_none_twice_or_backwards(registry: Registry, client: clients.Client, model: str) -> None:
    publisher = client.publisher(model)
    publisher.publish(b"first")
    with listening(registry, model) as updates:
        told = [next(updates).version_number]
        for number in range(200):
            publisher.publish(b"%d" % number)
        while told[-1] < 201:
            told.append(next(updates).version_number)
    assert told == sorted(set(told))


def test_many_listeners_are_all_told_and_one_that_leaves_disturbs_none(registry: Registry, model: str) -> None:
    registry.make(model)
    streams = [registry.updates(model) for _ in range(20)]
    for number in range(1, 4):
        registry.create(model, b"%d" % number)
        for stream in streams:
            assert next(stream).version_info.version_number == number
        streams.pop().cancel()
    for stream in streams:
        stream.cancel()


def test_an_unknown_model_is_an_invalid_argument(registry: Registry) -> None:
    with refused("INVALID_ARGUMENT", "nobody"), listening(registry, "nobody") as updates:
        next(updates)


def test_a_deleted_model_is_not_found_at_once_and_made_again_it_is_another(registry: Registry, model: str) -> None:
    registry.make(model)
    registry.create(model, b"first life")
    with listening(registry, model) as first:
        next(first)
        registry.delete(model)
        registry.make(model)
        registry.create(model, b"second life")
        with refused("NOT_FOUND", model):
            next(first)
    with listening(registry, model) as second:
        assert next(second).version_number == 2


def test_a_model_without_versions_is_waited_for_and_its_deletion_told(registry: Registry, model: str) -> None:
    registry.make(model)
    with listening(registry, model) as updates:
        registry.delete(model)
        with refused("NOT_FOUND", model):
            next(updates)


def test_a_client_that_leaves_is_noticed_without_an_upload(own: Front) -> None:
    with clients.connect(own.url) as client, Registry(own.address) as registry:
        registry.make("policy")
        registry.create("policy", b"weights")
        streams = [registry.updates("policy") for _ in range(3)]
        for stream in streams:
            next(stream)

        def followed() -> bool:
            return client.registry.stats()["subscriptions"] > 0

        assert followed()
        for stream in streams:
            stream.cancel()
        wait_until(lambda: not followed(), "the core is told that nobody listens any more")


def test_a_restart_ends_the_stream_as_unavailable_and_a_new_one_goes_on(own: Front) -> None:
    with Registry(own.address) as registry:
        registry.make("policy")
        registry.create("policy", b"weights", archived=True)
        with listening(registry, "policy") as updates:
            assert next(updates).version_number == 1
            own.restart()
            with refused("UNAVAILABLE"):
                next(updates)
    with Registry(own.address) as registry, listening(registry, "policy") as updates:
        assert next(updates).version_number == 1
        number = registry.create("policy", b"after").version_number
        assert next(updates).version_number == number > 1
