"""Subscribing to an alias of a real broadcaster: whichever version it names, and again when that is another one."""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import clients
from broadcaster.protocol.errors import StoreUnavailable
from broadcaster.store.archive import Archive
from clients import aio
from tests.bare_peer import wait_until
from tests.broadcaster_process import ROOT, BroadcasterProcess
from tests.integration.commands import BASE, environment
from tests.integration.test_held_disk import core, serving

SIZE = (1 << 20) + 7


@pytest.fixture
def client(shared: BroadcasterProcess) -> Iterator[clients.Client]:
    with clients.connect(shared.url) as client:
        yield client


def payload_of(number: int) -> bytes:
    return bytes([number]) * SIZE


def publish(client: clients.Client, model: str, count: int) -> None:
    """Archived versions 1 to `count`, of bytes of their number."""
    publisher = client.publisher(model)
    for number in range(1, count + 1):
        assert publisher.publish(payload_of(number), archived=True, timeout=30).number == number


def test_whichever_version_the_alias_names_is_shown_also_an_older_one(client: clients.Client, model: str) -> None:
    publish(client, model, 4)
    client.registry.set_alias(model, "champion", 2)
    with client.subscriber(model, alias="champion") as subscriber:
        snapshot = subscriber.wait(timeout=20)
        assert snapshot.version.number == 2 and bytes(snapshot.payload) == payload_of(2)
        for number in (4, 1, 3, 2):
            client.registry.set_alias(model, "champion", number)
            snapshot = subscriber.wait(timeout=20, newer_than=snapshot.version.number)
            assert snapshot.version.number == number and bytes(snapshot.payload) == payload_of(number)
            latest = subscriber.latest()
            assert latest is not None and latest.version.number == number and subscriber.lag == clients.Lag(0, 0.0)
        stats = subscriber.stats()
        assert (stats.versions, stats.delivery, stats.bytes) == (5, "reads", 5 * SIZE)


def test_a_new_version_is_not_shown_unless_the_alias_names_it(client: clients.Client, model: str) -> None:
    publish(client, model, 1)
    client.registry.set_alias(model, "champion", 1)
    with client.subscriber(model, alias="champion") as subscriber, client.subscriber(model) as newest:
        subscriber.wait(timeout=20)
        number = client.publisher(model).publish(payload_of(9)).number
        newest.wait(timeout=20, newer_than=number - 1)
        with pytest.raises(clients.RequestTimeout):
            subscriber.wait(timeout=0.2, newer_than=1)
        client.registry.set_alias(model, "champion", number)
        assert subscriber.wait(timeout=20, newer_than=1).version.number == number


def test_an_alias_and_a_model_that_do_not_exist_yet_are_waited_for(client: clients.Client, model: str) -> None:
    with client.subscriber(model, alias="champion") as subscriber:
        assert subscriber.latest() is None
        with pytest.raises(clients.RequestTimeout):
            subscriber.wait(timeout=0.2)
        publish(client, model, 2)
        client.registry.set_alias(model, "other", 2)
        client.registry.set_alias(model, "champion", 1)
        assert subscriber.wait(timeout=20).version.number == 1


def test_while_the_alias_is_removed_the_last_version_stays(client: clients.Client, model: str) -> None:
    publish(client, model, 2)
    client.registry.set_alias(model, "champion", 2)
    with client.subscriber(model, alias="champion") as subscriber:
        subscriber.wait(timeout=20)
        client.registry.set_alias(model, "champion", None)
        with pytest.raises(clients.RequestTimeout):
            subscriber.wait(timeout=0.3, newer_than=2)
        latest = subscriber.latest()
        assert latest is not None and latest.version.number == 2
        client.registry.set_alias(model, "champion", 1)
        assert subscriber.wait(timeout=20, newer_than=2).version.number == 1


def test_it_is_found_out_after_a_restart_what_the_alias_names_now(own: BroadcasterProcess) -> None:
    with clients.connect(own.url) as client, client.subscriber("policy", alias="champion") as subscriber:
        publish(client, "policy", 3)
        client.registry.set_alias("policy", "champion", 3)
        assert subscriber.wait(timeout=20).version.number == 3
        for kill, before, number in ((True, 3, 1), (False, 1, 2)):
            own.restart(kill=kill)
            with clients.connect(own.url) as other:
                other.registry.set_alias("policy", "champion", number)
            snapshot = subscriber.wait(timeout=30, newer_than=before)
            assert snapshot.version.number == number and bytes(snapshot.payload) == payload_of(number)


def test_a_move_that_the_disk_refuses_is_taken_back_before_those_who_follow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go_on = threading.Event()

    def refusing(*_: object) -> None:
        assert go_on.wait(20)
        raise StoreUnavailable(operation="setting aliases", where="the archive", reason="no", hint="Check the disk.")

    def work(_: object) -> list[int]:
        with clients.connect(made.endpoints["data"]) as client, client.subscriber("policy", alias="champion") as subscriber:
            publish(client, "policy", 2)
            client.registry.set_alias("policy", "champion", 1)
            seen = [subscriber.wait(timeout=20).version.number]
            monkeypatch.setattr(Archive, "set_model", refusing)
            with ThreadPoolExecutor(1) as pool:
                moving = pool.submit(client.registry.set_alias, "policy", "champion", 2)
                seen.append(subscriber.wait(timeout=20, newer_than=1).version.number)
                go_on.set()
                assert isinstance(moving.exception(20), clients.StoreUnavailable)
            return [*seen, subscriber.wait(timeout=20, newer_than=2).version.number]

    made = core(tmp_path)
    assert serving(made, work) == [1, 2, 1]


def test_iterating_gives_each_version_that_it_comes_to_name(client: clients.Client, model: str) -> None:
    publish(client, model, 3)
    moves, seen = iter([3, 1, 3, 2]), []
    client.registry.set_alias(model, "champion", next(moves))
    with client.subscriber(model, alias="champion") as subscriber:
        for snapshot in subscriber:
            seen.append(snapshot.version.number)
            number = next(moves, None)
            if number is None:
                break
            client.registry.set_alias(model, "champion", number)
    assert seen == [3, 1, 3, 2]


def test_weights_of_an_older_version_are_loaded_too(client: clients.Client, model: str) -> None:
    publisher = client.publisher(model)
    for number in (1, 2):
        publisher.publish({"w": np.full(20_000, number, np.float32)}, archived=True)
    target = {"w": np.zeros(20_000, np.float32)}
    client.registry.set_alias(model, "champion", 2)
    with client.subscriber(model, alias="champion") as subscriber:
        subscriber.wait(timeout=20)
        assert subscriber.load_into(target) is target and target["w"][0] == 2
        assert subscriber.load_into(target) is None
        client.registry.set_alias(model, "champion", 1)
        subscriber.wait(timeout=20, newer_than=2)
        assert subscriber.load_into(target) is target and target["w"][-1] == 1


def test_subscribers_of_one_alias_share_and_those_of_others_do_not(client: clients.Client, model: str) -> None:
    publish(client, model, 2)
    client.registry.set_alias(model, "champion", 1)
    client.registry.set_alias(model, "candidate", 2)
    with (
        client.subscriber(model, alias="champion") as one,
        client.subscriber(model, alias="champion") as same,
        client.subscriber(model, alias="candidate") as other,
        client.subscriber(model) as newest,
    ):
        assert [each.wait(timeout=20).version.number for each in (one, same, other, newest)] == [1, 1, 2, 2]
        assert one.latest() is same.latest()
        one.close()
        client.registry.set_alias(model, "champion", 2)
        assert same.wait(timeout=20, newer_than=1).version.number == 2
        with pytest.raises(clients.Closed):
            one.wait(timeout=1)


def test_what_an_alias_cannot_give_is_refused(client: clients.Client, model: str) -> None:
    for wanted in ({"every": True}, {"delivery": "chunks"}, {"delivery": "shared"}):
        with pytest.raises(clients.InvalidRequest):
            client.subscriber(model, alias="champion", **wanted)  # type: ignore[arg-type]
    with pytest.raises(clients.InvalidName):
        client.subscriber(model, alias="not a name")
    with client.subscriber(model, alias="champion") as subscriber, pytest.raises(clients.InvalidRequest):
        subscriber.every()


def test_an_actor_that_is_behind_the_alias_says_so(client: clients.Client, model: str) -> None:
    publish(client, model, 2)
    client.registry.set_alias(model, "champion", 2)
    with client.subscriber(model, alias="champion") as subscriber:
        subscriber.wait(timeout=20)
        client.registry.set_alias(model, "champion", 1)
        wait_until(lambda: subscriber.lag.versions == 1, "the move was heard of")
        assert subscriber.wait(timeout=20, newer_than=2).version.number == 1 and subscriber.lag.versions == 0


def test_the_async_face_follows_an_alias_too(shared: BroadcasterProcess, client: clients.Client, model: str) -> None:
    publish(client, model, 3)

    async def go() -> list[int]:
        seen: list[int] = []
        async with aio.connect(shared.url) as other:
            await other.registry.set_alias(model, "champion", 3)
            async with other.subscriber(model, alias="champion") as subscriber:
                async for snapshot in subscriber:
                    seen.append(snapshot.version.number)
                    if len(seen) == 2:
                        return seen
                    await other.registry.set_alias(model, "champion", 1)
        return seen

    assert asyncio.run(go()) == [3, 1]


def test_the_command_watches_an_alias(shared: BroadcasterProcess, client: clients.Client, model: str) -> None:
    publish(client, model, 3)
    client.registry.set_alias(model, "champion", 3)
    line = [*BASE, "watch", model, "--alias", "champion", "--count", "2", "--timeout", "30", "--json"]
    with subprocess.Popen(line, cwd=ROOT, env=environment(shared.url), stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        assert json.loads(watching.stdout.readline())["number"] == 3
        client.registry.set_alias(model, "champion", 1)
        assert json.loads(watching.stdout.readline())["number"] == 1
    assert watching.returncode == 0
