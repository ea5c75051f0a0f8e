"""Drafts: weights computed straight into the memory of the next version."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import clients
import clients.aio
from tests.bare_peer import BarePeer, wait_until
from tests.broadcaster_process import BroadcasterProcess

NO_SLOTS = "/nonexistent"
"""A client that finds no slots here has its drafts in memory of its own."""
LAYOUT = {"w": np.zeros((700, 400), np.float32), "b": [np.zeros(5, np.int64), 3], "scalar": np.float64(2.0)}


@pytest.fixture(params=["slot", "private"])
def client(request: pytest.FixtureRequest, shared: BroadcasterProcess) -> Iterator[clients.Client]:
    with clients.connect(shared.url, slot_dir=NO_SLOTS if request.param == "private" else None) as client:
        assert (client._driver.slots is None) == (request.param == "private")
        yield client


def stats(broadcaster: BroadcasterProcess) -> dict[str, float]:
    with BarePeer(broadcaster.ready) as peer:
        return peer.stats()


def fill(tree: Any, value: int) -> None:
    tree["w"][:] = value
    tree["b"][0][:] = value
    tree["scalar"][...] = value


def check(client: clients.Client, version: clients.VersionInfo, value: int) -> None:
    tree = client.registry.get(version.model_id, version.number).tree()
    assert (tree["w"] == value).all() and tree["w"].shape == (700, 400) and tree["w"].dtype == np.float32
    assert (tree["b"][0] == value).all() and tree["b"][1] == 3 and tree["scalar"] == value


def test_what_is_written_into_a_draft_is_what_is_published(client: clients.Client, model: str) -> None:
    publisher = client.publisher(model)
    for value in range(1, 5):
        with publisher.draft(LAYOUT) as draft:
            assert draft.in_slot == (client._driver.slots is not None)
            fill(draft.tree, value)
            version = draft.commit(metrics={"value": value}, user_data={"a": "b"})
        assert version.number == value and version.metrics == {"value": value} and version.user_data == {"a": "b"}
        check(client, version, value)


def test_a_draft_is_published_between_other_versions_in_the_order_of_the_commits(client: clients.Client, model: str) -> None:
    publisher = client.publisher(model)
    draft = publisher.draft(LAYOUT)
    assert publisher.publish(bytes(100_000)).number == 1
    fill(draft.tree, 7)
    future = draft.commit_nowait()
    assert publisher.publish(bytes(100_000)).number == 3
    assert future.result(10).number == 2
    check(client, future.result(), 7)


def test_the_arrays_of_a_committed_draft_are_read_only_and_stay_as_they_are(client: clients.Client, model: str) -> None:
    publisher = client.publisher(model)
    first = publisher.draft(LAYOUT)
    fill(first.tree, 1)
    tree = first.tree
    first.commit()
    for array in (tree["w"], tree["b"][0], first.tensors["scalar"]):
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 5
    for value in range(2, 30):  # More than the broadcaster keeps: slots come round.
        draft = publisher.draft(LAYOUT)
        np.add(tree["w"], value - 1, out=draft.tree["w"])
        draft.commit()
    assert (tree["w"] == 1).all() and (draft.tree["w"] == 29).all()


def test_the_slot_under_a_draft_comes_round_when_its_arrays_are_gone(shared: BroadcasterProcess, model: str) -> None:
    with clients.connect(shared.url) as client:
        publisher = client.publisher(model)
        gc.disable()  # Nothing may hang in a circle.
        try:
            for value in range(40):
                draft = publisher.draft(LAYOUT)
                fill(draft.tree, value)
                draft.commit()
            assert len(client._driver.grants) <= 12
        finally:
            gc.enable()


def test_a_draft_that_is_left_without_a_commit_is_no_version_and_reserves_nothing(shared: BroadcasterProcess, model: str) -> None:
    with clients.connect(shared.url) as client:
        publisher = client.publisher(model)
        with pytest.raises(RuntimeError), publisher.draft(LAYOUT) as draft:
            raise RuntimeError
        with pytest.raises(clients.InvalidRequest, match="discarded"):
            draft.commit()
        draft.discard()
        forgotten = publisher.draft(LAYOUT)
        array = forgotten.tree["w"]
        del forgotten
        assert stats(shared)["memory_uploads"] > 0, "while an array lives it may be written to"
        del array
        wait_until(lambda: stats(shared)["memory_uploads"] == 0, "both are given back", seconds=5)
        with publisher.draft(LAYOUT) as draft:
            fill(draft.tree, 1)
            assert draft.commit().number == 1
        with pytest.raises(clients.InvalidRequest, match="committed"):
            draft.commit()


def test_archived_drafts_are_archived(client: clients.Client, model: str) -> None:
    draft = client.publisher(model).draft(LAYOUT, archived=True)
    fill(draft.tree, 3)
    version = draft.commit()
    assert version.archived and version.sha256
    check(client, version, 3)


def test_a_small_draft_is_published_too(client: clients.Client, model: str) -> None:
    with client.publisher(model).draft({"a": np.zeros(3)}) as draft:
        draft.tree["a"][:] = 4
        version = draft.commit()
    assert client.registry.get(model).tree()["a"].tolist() == [4, 4, 4] and version.number == 1


def test_only_tensors_are_drafted(client: clients.Client, model: str) -> None:
    with pytest.raises(clients.InvalidPayload, match="draft"):
        client.publisher(model).draft(bytes(100_000))


def test_torch_tensors_lie_over_a_draft(client: clients.Client, model: str) -> None:
    torch = pytest.importorskip("torch")
    layout = {"w": torch.zeros(300, 300), "h": torch.zeros(1000, dtype=torch.bfloat16)}
    with client.publisher(model).draft(layout) as draft:
        tensors = draft.torch()
        torch.add(torch.ones(300, 300), 1, out=tensors["w"])
        tensors["h"].fill_(3)
        draft.commit()
    found = client.registry.get(model).tensors().torch()
    assert (found["w"] == 2).all() and (found["h"] == 3).all()
    with pytest.raises(clients.InvalidRequest):
        draft.torch()


@pytest.mark.parametrize("kill", [False, True])
def test_a_draft_outlives_a_restart_of_the_broadcaster(own: BroadcasterProcess, model: str, kill: bool) -> None:
    with clients.connect(own.url) as client:
        publisher = client.publisher(model)
        draft = publisher.draft(LAYOUT)
        assert draft.in_slot
        fill(draft.tree, 1)
        own.restart(kill=kill)
        fill(draft.tree, 2)
        version = draft.commit(metrics={"a": 1})
        assert version.metrics == {"a": 1}
        check(client, version, 2)
        assert (draft.tree["w"] == 2).all()
        with BarePeer(own.ready) as peer:
            assert peer.numbers(model) == [version.number]


def test_a_client_that_is_closed_ends_its_drafts(shared: BroadcasterProcess, model: str) -> None:
    with clients.connect(shared.url) as client:
        draft = client.publisher(model).draft(LAYOUT)
    fill(draft.tree, 1)  # Harmless.
    with pytest.raises(clients.Closed):
        draft.commit()


def test_a_draft_in_a_coroutine(shared: BroadcasterProcess, model: str) -> None:
    async def main() -> None:
        async with clients.aio.connect(shared.url) as client:
            publisher = client.publisher(model)
            async with publisher.draft(LAYOUT) as draft:
                fill(draft.tree, 6)
                version = await draft.commit()
            assert version.number == 1 and draft.in_slot
            assert ((await (await client.registry.get(model)).tree())["w"] == 6).all()

    asyncio.run(main())
