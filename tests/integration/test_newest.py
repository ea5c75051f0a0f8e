"""What is newest of a model, told to those who want to know: the same to all, and one life of the model each."""

from __future__ import annotations

import os
import signal

import pytest

import clients
from broadcaster.protocol.errors import Closed, UnknownModel
from clients import Client
from clients._driver import futures
from clients._newest import NewestVersion
from tests.bare_peer import wait_until
from tests.broadcaster_process import BroadcasterProcess


def follow(client: Client, model: str) -> NewestVersion:
    return NewestVersion(client._driver, client.registry.model(model))


def newer(one: NewestVersion, than: int) -> int:
    """The number of what is newer."""
    return futures.wait(one.newer(than), "something newer", 20).version.number


def test_each_newer_version_is_told_to_all_and_where_it_lies(shared: BroadcasterProcess, model: str) -> None:
    with clients.connect(shared.url) as client, clients.connect(shared.url) as learner:
        learner.registry.create(model)
        first, second = follow(client, model), follow(client, model)
        assert first._feed is second._feed, "they share what is heard"
        waiting = [one.newer(0) for one in (first, second)]
        learner.publisher(model).publish(bytes(100_000))
        for future in waiting:
            heard = futures.wait(future, "the first", 20)
            assert heard.version.number == 1 and heard.where is not None and heard.where[1].startswith("slot-")
        assert newer(first, 0) == 1, "what is known already is told at once"
        for _ in range(20):
            learner.publisher(model).publish(b"small")
        assert [newer(one, 20) for one in (first, second)] == [21, 21]
        pending = second.newer(21)
        second.close()
        second.close()
        with pytest.raises(Closed):
            futures.wait(pending, "nothing", 20)
        learner.publisher(model).publish(b"more")
        assert newer(first, 21) == 22, "one that leaves takes nothing from the others"
        first.close()
        wait_until(lambda: not client._driver._all.feeds, "nobody follows any more")
        assert list(learner.registry.subscribers(model)) == [], "and nobody was in the table of those who do"


def test_a_model_that_is_made_again_is_another_one_for_whoever_comes_then(shared: BroadcasterProcess, model: str) -> None:
    with clients.connect(shared.url) as client:
        registry = client.registry
        registry.create(model)
        old = follow(client, model)
        client.publisher(model).publish(b"1")
        assert newer(old, 0) == 1
        registry.delete_model(model)
        registry.create(model)
        fresh = follow(client, model)  # While the other one is not closed, and may not have heard of the deletion.
        with pytest.raises(UnknownModel):
            newer(old, 1)
        client.publisher(model).publish(b"2")
        assert newer(fresh, 0) == 2
        with pytest.raises(UnknownModel):
            newer(old, 0)
        old.close()
        assert newer(fresh, 0) == 2
        fresh.close()


def test_a_core_that_is_started_again_is_found_and_asked(own: BroadcasterProcess) -> None:
    with clients.connect(own.url) as client:
        client.publisher("policy").publish(b"1", archived=True)
        one = follow(client, "policy")
        assert newer(one, 0) == 1
        os.kill(own.pids[1] if len(own.pids) > 2 else own.pids[-1], signal.SIGKILL)
        number = client.publisher("policy").publish(b"2").number
        assert newer(one, 1) == number
        one.close()
