"""Which archived versions go, and which stay: policies, pins and deletions, in both faces and over restarts."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clients
from clients import (
    Client,
    InvalidRequest,
    ModelInfo,
    Refused,
    StoreUnavailable,
    UnknownModel,
    UnknownVersion,
    VersionDeleted,
    VersionEvicted,
    connect,
)
from tests.bare_peer import BarePeer, wait_until
from tests.broadcaster_process import BroadcasterProcess
from tests.integration.cores import Inbox, held, rooms, serving

LARGE = 70_000


@pytest.fixture
def client(shared: BroadcasterProcess) -> Iterator[Client]:
    with connect(shared.url) as found:
        yield found


def publish(client: Client, model: str, count: int, *, size: int = 10, **more: Any) -> list[int]:
    """Archived versions of different bytes; their numbers."""
    publisher = client.publisher(model)
    return [
        publisher.publish(os.urandom(size), archived=True, metrics={"return": float(at % 5)}, **more).number
        for at in range(count)
    ]


def numbers(client: Client, model: str) -> list[int]:
    return [version.number for version in client.registry.versions(model)]


# --- prune ---------------------------------------------------------------------------------------------------------


def test_a_dry_run_names_exactly_what_a_real_run_deletes(client: Client, model: str) -> None:
    publish(client, model, 20)
    client.registry.set_alias(model, "champion", 2)
    client.registry.pin(model, 3)
    rules: dict[str, Any] = {"last": 4, "every": 10, "best": ("return", "max", 2)}
    would = client.registry.prune(model, **rules, dry_run=True)
    assert numbers(client, model) == list(range(1, 21)), "nothing went"
    went = client.registry.prune(model, **rules)
    assert went == would
    left = [2, 3, 10, 15, 17, 18, 19, 20]  # champion, pinned, 10 and 20, best are 15 and 20, the last four
    assert numbers(client, model) == left and went.kept == len(left)
    assert went.bytes == 10 * len(went.numbers) and set(went.numbers) == set(range(1, 21)) - set(left)
    assert client.registry.prune(model, **rules).numbers == ()
    assert client.registry.prune(model).numbers == (), "a model without a policy keeps all"


def test_many_versions_go_in_pages(client: Client, model: str) -> None:
    publish(client, model, 105)
    would = client.registry.prune(model, last=2, dry_run=True)
    assert client.registry.prune(model, last=2) == would
    assert would.numbers == tuple(range(1, 104)) and would.kept == 2 and numbers(client, model) == [104, 105]


def test_transient_versions_are_neither_counted_nor_deleted(client: Client, model: str) -> None:
    publish(client, model, 3)
    for _ in range(3):
        client.publisher(model).publish(b"transient")
    assert client.registry.prune(model, last=1).numbers == (1, 2)
    assert numbers(client, model) == [3, 4, 5, 6]


def test_ages_are_those_of_the_creation_timestamp(client: Client, model: str, shared: BroadcasterProcess) -> None:
    with BarePeer(shared.ready) as peer:
        for age in (7200, 3601, 3000, 0):
            created = time.time_ns() - age * 10**9
            said = peer.publish(model, os.urandom(8), archived=True, creation_timestamp=created)
            assert said.kind == "done"
    assert client.registry.prune(model, age=timedelta(hours=1), dry_run=True).numbers == (1, 2)
    assert client.registry.prune(model, age=3600).numbers == (1, 2)


def test_what_is_pruned_is_told_and_stays_gone(own: BroadcasterProcess, model: str) -> None:
    with connect(own.url) as client, BarePeer(own.ready) as peer:
        publish(client, model, 4, size=LARGE)
        hello = peer.ask("hello")
        client.registry.prune(model, last=2)
        replay = {"epoch": hello.fields["epoch"], "after": hello.fields["offset"], "model_id": model}
        events = [event for event in peer.ask("replay", **replay).fields["events"] if event["event"] != "published"]
        assert [(event["event"], event["number"]) for event in events] == [("version-deleted", 1), ("version-deleted", 2)]
        blobs = list((own.archive_dir / "blobs").glob("*/*"))
        assert len(blobs) == 2, "the disk has its room back"
    for kill in (False, True):
        own.restart(kill=kill)
        with connect(own.url) as client:
            assert numbers(client, model) == [3, 4]
            with pytest.raises(VersionDeleted) as refused:
                client.registry.get(model, 2)
            assert refused.value.number == 2 and isinstance(refused.value, UnknownVersion)
            with pytest.raises(UnknownVersion) as never:
                client.registry.get(model, 99)
            assert type(never.value) is UnknownVersion


@pytest.mark.parametrize("rules", [{"last": 0}, {"every": -1}, {"best": ("return", "most")}, {"age": -5}, {"last": True}])
def test_rules_that_make_no_sense_are_refused_by_the_client(client: Client, model: str, rules: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="retention"):
        client.registry.prune(model, **rules)
    with pytest.raises(InvalidRequest, match="retention"):
        client.registry.retention(model, **rules)


@pytest.mark.parametrize(
    "rules",
    [{}, {"last": 0}, {"last": "3"}, {"mode": "max"}, {"best": "x", "mode": "most"}, {"age": float("nan")}, {"every": 1.5}],
)
def test_rules_that_make_no_sense_are_refused_by_the_broadcaster(
    client: Client, model: str, shared: BroadcasterProcess, rules: dict[str, Any]
) -> None:
    publish(client, model, 2)
    with BarePeer(shared.ready) as peer:
        for kind in ("prune", "set-retention"):
            assert peer.ask(kind, model_id=model, retention=rules).code == "invalid-request", kind
    assert numbers(client, model) == [1, 2] and client.registry.model(model).retention == {}


def test_models_that_are_not_there_are_named(client: Client, model: str) -> None:
    for call in (client.registry.prune, client.registry.retention, client.registry.pin):
        with pytest.raises(UnknownModel):
            call(model)


# --- standing policies ---------------------------------------------------------------------------------------------


def test_a_standing_policy_works_by_itself_and_outlives_a_restart(own: BroadcasterProcess, model: str) -> None:
    with connect(own.url) as client:
        publish(client, model, 6)
        info = client.registry.retention(model, last=2, best="return")
        assert info.retention == {"last": 2, "best": "return", "mode": "max", "count": 1}
        wait_until(lambda: numbers(client, model) == [5, 6], "the policy is applied to what is there")
    own.restart(kill=True)
    with connect(own.url) as client:
        assert client.registry.model(model).retention == info.retention
        publish(client, model, 3)  # Their metrics are 0, 1, 2; that of version 5 is 4.
        wait_until(
            lambda: numbers(client, model)[-2:] == numbers(client, model)[1:] and numbers(client, model)[0] == 5, "applied"
        )
        last = numbers(client, model)
        assert client.registry.retention(model).retention == {}
        publish(client, model, 3)
        peer = client.registry.prune(model)
        assert peer.numbers == () and len(numbers(client, model)) == len(last) + 3


def test_a_standing_policy_deletes_many_old_versions_some_at_a_time(client: Client, model: str) -> None:
    publish(client, model, 105)
    before = client.registry.stats()["pruned"]
    client.registry.retention(model, last=3)
    wait_until(lambda: numbers(client, model) == [103, 104, 105], "all of them went")
    assert client.registry.stats()["pruned"] == before + 102


def test_rules_delete_nothing_before_they_are_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_model: ModelInfo) -> None:
        raise StoreUnavailable(operation="storing a model", where="the archive", reason="a test", hint="")

    with serving(tmp_path) as (made, peer):
        catalog, archive, writer = rooms(made).catalog, rooms(made).archive, rooms(made).writer
        for name in ("policy", "other") * 3:
            assert peer.publish(name, os.urandom(8), archived=True).kind == "done"
        inbox = Inbox(peer)
        with held(writer):
            monkeypatch.setattr(archive, "set_model", fail)
            asked = inbox.send("set-retention", model_id="policy", retention={"last": 1})
            wait_until(lambda: writer.waiting == 1, "the rules wait for the disk")
            made.loop.post(lambda: catalog.update(("default", "other"), retention={"last": 1}) and None)
            made.loop.post(lambda: made._broker.pruning.want(("default", "other")))
            wait_until(lambda: writer.waiting == 2, "another model's turn has come")
        assert inbox.answer(asked).code == "store-unavailable"
        wait_until(lambda: peer.numbers("other") == [3], "the other model's rules did their work")
        assert peer.numbers("policy") == [1, 2, 3] and catalog.model(("default", "policy")).retention == {}


# --- pins ----------------------------------------------------------------------------------------------------------


def test_what_is_pinned_or_has_an_alias_is_deleted_by_force_only(client: Client, model: str) -> None:
    publish(client, model, 3)
    assert client.registry.pin(model, 1).pinned and client.registry.get(model, 1).info.pinned
    with pytest.raises(Refused, match="version 1 is pinned"):
        client.registry.delete(model, 1)
    with pytest.raises(Refused, match="version 1 of it is pinned"):
        client.registry.delete_model(model)
    assert not client.registry.unpin(model, 1).pinned
    client.registry.delete(model, 1)
    client.registry.set_alias(model, "champion", 2)
    with pytest.raises(Refused, match="champion"):
        client.registry.delete(model, 2)
    client.registry.pin(model, 2)
    client.registry.delete(model, 2, force=True)
    client.registry.pin(model)
    client.registry.delete_model(model, force=True)
    with pytest.raises(UnknownModel):
        client.registry.model(model)


def test_a_pin_of_an_archived_version_outlives_a_restart(own: BroadcasterProcess, model: str) -> None:
    with connect(own.url) as client:
        publish(client, model, 3)
        client.registry.pin(model, 1)
        client.registry.pin(model, 2)
        client.registry.unpin(model, 2)
    own.restart(kill=True)
    with connect(own.url) as client:
        assert [version.pinned for version in client.registry.versions(model)] == [True, False, False]
        assert client.registry.prune(model, last=1).numbers == (2,)


@pytest.fixture
def narrow(tmp_path: Path) -> Iterator[BroadcasterProcess]:
    with BroadcasterProcess(tmp_path / "narrow", options=["--keep", "3", "--keep-large", "3"]) as process:
        yield process


@pytest.mark.parametrize("size", [10, LARGE])
def test_a_pinned_transient_version_stays_in_memory_and_stays_pinned_when_it_is_archived(
    narrow: BroadcasterProcess, model: str, size: int
) -> None:
    with connect(narrow.url) as client:
        publisher, payload = client.publisher(model), os.urandom(size)
        publisher.publish(payload)
        client.registry.pin(model, 1)
        for _ in range(10):
            publisher.publish(os.urandom(size))
        assert numbers(client, model)[0] == 1 and bytes(client.registry.get(model, 1).read()) == payload
        with pytest.raises(VersionEvicted):
            client.registry.get(model, 2)
        assert client.registry.archive(model, 1).pinned
        client.registry.archive(model, -1)
    narrow.restart(kill=True)
    with connect(narrow.url) as client:
        assert [(version.number, version.pinned) for version in client.registry.versions(model)] == [(1, True), (11, False)]
        assert bytes(client.registry.get(model, 1).read()) == payload


def test_an_unpinned_transient_version_leaves_memory_like_the_others(narrow: BroadcasterProcess, model: str) -> None:
    with connect(narrow.url) as client:
        publisher = client.publisher(model)
        publisher.publish(b"first")
        client.registry.pin(model, 1)
        for _ in range(5):
            publisher.publish(b"more")
        client.registry.unpin(model, 1)
        publisher.publish(b"last")
        assert 1 not in numbers(client, model)


def test_pins_in_memory_have_a_limit(tmp_path: Path, model: str) -> None:
    with BroadcasterProcess(tmp_path / "small", options=["--memory-budget", "12MiB"]) as process, connect(process.url) as client:
        publisher = client.publisher(model)
        for number in range(1, 4):
            publisher.publish(os.urandom(800_000))
            if number < 3:
                client.registry.pin(model, number)
        with pytest.raises(clients.PinsExceeded) as refused:
            client.registry.pin(model, 3)
        assert refused.value.count == 2 and isinstance(refused.value, clients.BudgetExceeded)
        for _ in range(5):
            publisher.publish(os.urandom(800_000))
        assert numbers(client, model)[:2] == [1, 2], "they stay, and publishing goes on beside them"


# --- deleted is for ever -------------------------------------------------------------------------------------------


def test_an_upload_whose_version_was_deleted_makes_no_second_one(own: BroadcasterProcess, model: str) -> None:
    with connect(own.url) as client:
        upload_id, publisher = os.urandom(16), client.publisher(model)
        publisher.publish(b"weights", archived=True, upload_id=upload_id)
        publisher.publish(b"newer", archived=True)
        client.registry.delete(model, 1)
        with pytest.raises(VersionDeleted):
            publisher.publish(b"weights", archived=True, upload_id=upload_id)
    own.restart(kill=True)
    with connect(own.url) as client:
        with pytest.raises(VersionDeleted) as refused:
            client.publisher(model).publish(b"weights", archived=True, upload_id=upload_id)
        assert refused.value.number == 1 and numbers(client, model) == [2]
        client.registry.delete_model(model)
    own.restart(kill=True)
    with connect(own.url) as client, pytest.raises(VersionDeleted):
        client.publisher(model).publish(b"weights", archived=True, upload_id=upload_id)


@pytest.mark.parametrize(("archived", "restart"), [(False, False), (False, True), (True, True)])
def test_subscribers_see_the_versions_of_a_model_that_is_made_again(
    own: BroadcasterProcess, model: str, archived: bool, restart: bool
) -> None:
    def weights(value: float) -> dict[str, np.ndarray]:
        return {"a": np.full(3, value)}

    with connect(own.url) as client, connect(own.url) as actor:
        latest, every = actor.subscriber(model), actor.subscriber(model, every=True).every()
        for value in (1.0, 2.0, 3.0):
            client.publisher(model).publish(weights(value), archived=archived)
        assert [next(every).version.number for _ in range(3)] == [1, 2, 3]
        assert latest.wait(20, newer_than=2).version.number == 3
        client.registry.delete_model(model)
        if restart:
            own.restart(kill=True)
        made = client.publisher(model).publish(weights(4.0), archived=archived)
        assert made.number > 3, "numbers go on"
        seen = latest.wait(20, newer_than=3)
        assert seen.version.number == made.number and seen.tensors["a"][0] == 4.0
        assert _following(every).version.number == made.number
        again = client.publisher(model).publish(weights(5.0), archived=archived)
        assert again.number == made.number + 1
        assert latest.wait(20, newer_than=made.number).version.number == again.number
        assert _following(every).version.number == again.number
        assert numbers(client, model) == [made.number, again.number]
        with pytest.raises(VersionDeleted):
            client.registry.get(model, 2)


def _following(every: Any) -> Any:
    """The next version that is there: one that a restart took may be told of first."""
    while True:
        try:
            return next(every)
        except UnknownVersion:
            continue


def test_a_model_that_is_deleted_and_made_again_is_told(client: Client, model: str, shared: BroadcasterProcess) -> None:
    with BarePeer(shared.ready) as peer:
        hello = peer.ask("hello")
        publish(client, model, 1)
        client.registry.retention(model, last=1)
        client.registry.delete_model(model)
        client.registry.create(model)
        assert client.registry.model(model).retention == {}, "its rules went with it"
        replay = {"epoch": hello.fields["epoch"], "after": hello.fields["offset"], "model_id": model}
        events = [event["event"] for event in peer.ask("replay", **replay).fields["events"]]
        assert events == ["created", "published", "archived", "updated", "deleted", "created"]


# --- clocks --------------------------------------------------------------------------------------------------------


def test_ages_wait_while_the_clock_has_jumped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ahead, real = [0], time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + ahead[0] * 10**9)
    with serving(tmp_path) as (core, peer):
        for _ in range(3):
            assert peer.publish("policy", os.urandom(8), archived=True).kind == "done"
        assert peer.ask("set-retention", model_id="policy", retention={"age": 3600}).kind == "model"
        ahead[0] = 7200
        for dry_run in (True, False):
            said = peer.ask("prune", model_id="policy", retention={"age": 3600}, dry_run=dry_run)
            assert said.code == "refused" and "7200 s ahead" in said.message
        assert peer.ask("prune", model_id="policy", retention={"last": 2}, dry_run=True).fields["numbers"] == [1]
        assert peer.publish("policy", os.urandom(8), archived=True).kind == "done"
        wait_until(lambda: peer.ask("get-stats").fields["values"].get("retention_refused", 0), "the standing policy waits")
        assert peer.numbers("policy") == [1, 2, 3, 4]
        forced = {"retention": {"age": 3600}, "force": True}
        assert peer.ask("prune", model_id="policy", dry_run=True, **forced).fields["numbers"] == [1, 2, 3]
        assert peer.ask("prune", model_id="policy", retention={"age": 3600}).code == "refused", "a look changes nothing"
        assert peer.ask("prune", model_id="policy", **forced).fields["numbers"] == [1, 2, 3]
        ahead[0] += 3601
        assert peer.ask("prune", model_id="policy", retention={"age": 3600}).code == "refused"
        ahead[0] -= 3601
        assert peer.ask("prune", model_id="policy", retention={"age": 3600}).kind == "pruned"
