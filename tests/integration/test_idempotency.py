"""Every change that is sent again with the same id is made once, and answered the same: however often, and whatever was lost."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broadcaster.protocol.messages import KINDS, Request
from clients import AlreadyExists, connect
from tests.bare_peer import WAIT, BarePeer, Said, digest, heard, wait_until
from tests.broadcaster_process import BroadcasterProcess
from tests.integration.cores import Inbox, held, rooms, serving

CHANGES: dict[str, list[dict[str, Any]]] = {
    "create-model": [{"model_id": "fresh"}],
    "update-model": [{"user_data": {"a": "b"}}],
    "delete-model": [{"force": True}],
    "delete-version": [{"number": 1, "force": True}, {"number": 2, "force": True}],
    "archive": [{"ref": 2}],
    "set-alias": [{"alias": "champion", "number": 1, "expect": 0}, {"alias": "champion", "number": 2}, {"alias": "old"}],
    "set-tags": [{"tags": {"a": "b"}}, {"number": 1, "tags": {"a": "b", "keep": None}}],
    "add-metrics": [{"number": 1, "metrics": {"return": 1.0}}, {"number": 2, "metrics": {"return": 2.0}}],
    "describe": [{"description": "ours"}, {"number": 1, "description": "one"}],
    "set-retention": [{"retention": {"last": 5}}],
    "prune": [{"retention": {"last": 1}}],
    "pin": [{"ref": 1, "pinned": True}],
    "take-term": [{"publisher": b"p" * 16}],
    "give-up-term": [{}],
}
"""What is asked of a model with an archived version 1 and a transient version 2, by kind."""
EACH = [pytest.param(kind, fields, id=f"{kind} {fields}") for kind, cases in CHANGES.items() for fields in cases]
EVERY_CHANGE = pytest.mark.parametrize(("kind", "fields"), EACH)
READING = (
    "hello ping list-models get-model list-versions get-version follow read replay best search get-stats await-acks "
    "list-subscribers begin publish commit abort"
).split()


def test_every_request_that_changes_something_is_tried_here() -> None:
    kinds = {kind.decode() for kind, one in KINDS.items() if issubclass(one, Request)}
    assert kinds - set(READING) == set(CHANGES)


@pytest.fixture
def peer(shared: BroadcasterProcess) -> Iterator[BarePeer]:
    with BarePeer(shared.ready) as connected:
        yield connected


def prepared(peer: BarePeer, namespace: str) -> None:
    for archived in (True, False):
        assert peer.publish("policy", b"weights", archived=archived, namespace=namespace).kind == "done"


def request(fields: dict[str, Any], namespace: str) -> dict[str, Any]:
    return {"model_id": "policy", "request_id": os.urandom(16), "namespace": namespace} | fields


def same(one: Said, other: Said) -> bool:
    return (one.kind, one.fields) == (other.kind, other.fields)


@EVERY_CHANGE
def test_asked_twice_it_is_done_once(peer: BarePeer, model: str, kind: str, fields: dict[str, Any]) -> None:
    prepared(peer, model)
    given, before = request(fields, model), peer.stats()["offset"]
    first = peer.ask(kind, **given)
    assert first.kind != "error", first
    events = peer.stats()["offset"] - before
    for _ in range(3):
        assert same(peer.ask(kind, **given), first)
    assert peer.stats()["offset"] - before == events, "it was told of once"


@EVERY_CHANGE
def test_two_hundred_at_once_are_one(
    shared: BroadcasterProcess, peer: BarePeer, model: str, kind: str, fields: dict[str, Any]
) -> None:
    """Whoever asks while it is under way takes the place of whoever asked before, and gets the answer instead."""
    prepared(peer, model)
    given, before = request(fields, model), peer.stats()["offset"]
    with BarePeer(shared.ready) as many:
        inbox = Inbox(many)
        for _ in range(200):
            inbox.send(kind, **given)
        first = inbox.answer(given["request_id"])
        last = inbox.send("ping")
        while (said := heard(many.data, "the last answer", WAIT, envelope=1)).fields["request_id"] != last:
            assert same(said, first)
    events = peer.stats()["offset"] - before
    assert same(peer.ask(kind, **given), first)
    assert peer.stats()["offset"] - before == events <= 3, "it was told of once"


@EVERY_CHANGE
def test_an_id_that_was_used_for_another_change_is_refused(peer: BarePeer, model: str, kind: str, fields: dict[str, Any]) -> None:
    prepared(peer, model)
    given = request(fields, model)
    assert (first := peer.ask(kind, **given)).kind != "error"
    before = peer.stats()["offset"]
    for other in (given | {"namespace": "elsewhere"}, given | {"model_id": "another"}):
        said = peer.ask(kind, **other)
        assert (said.code, said.fields["facts"]["field"]) == ("invalid-request", "request_id")
    said = peer.ask("create-model" if kind != "create-model" else "set-tags", **(given | {"tags": {}}))
    assert said.code == "invalid-request"
    assert same(peer.ask(kind, **given), first) and peer.stats()["offset"] == before


def test_whoever_asks_again_while_it_is_under_way_gets_its_answer(tmp_path: Path) -> None:
    with serving(tmp_path) as (core, peer), BarePeer(core.endpoints) as other:
        given = {"model_id": "policy", "request_id": os.urandom(16)}
        with held(rooms(core).writer) as release:
            first, second = Inbox(peer), Inbox(other)
            first.send("create-model", **given)
            wait_until(lambda: rooms(core).writer.waiting == 1, "it is under way")
            second.send("create-model", **given)
            wait_until(lambda: peer.stats()["requests"] >= 2, "it was asked again")
            release.set()
            assert second.answer(given["request_id"]).kind == "model", "on another connection: the first one may be gone"
        assert peer.ask("create-model", **given).kind == "model"
        assert [event["event"] for event in events(peer)] == ["created"]


def test_what_was_refused_for_now_is_tried_again_under_the_same_id(tmp_path: Path) -> None:
    with serving(tmp_path) as (core, peer):
        given = {"model_id": "policy", "request_id": os.urandom(16)}
        with held(rooms(core).writer) as release:
            rooms(core).writer.capacity = 0
            assert peer.ask("create-model", **given).code == "busy"
            rooms(core).writer.capacity = 1024
            release.set()
        assert peer.ask("create-model", **given).kind == "model"
        assert peer.ask("create-model", **given).kind == "model"
        assert peer.ask("create-model", model_id="policy").code == "already-exists"


def test_a_change_that_was_refused_leaves_nothing_in_one_that_was_not(tmp_path: Path) -> None:
    """Two changes of one model, the first without time to wait for the disk: what it wanted is neither here nor on disk."""
    with serving(tmp_path) as (core, peer):
        assert peer.publish("policy", b"one", archived=True).kind == "done"
        with held(rooms(core).writer) as release:
            inbox = Inbox(peer)
            wanted = inbox.send("update-model", model_id="policy", user_data={"refused": "yes"}, budget_ms=1)
            tags = inbox.send("set-tags", model_id="policy", tags={"kept": "yes"})
            alias = inbox.send("set-alias", model_id="policy", alias="champion", number=1)
            wait_until(lambda: peer.stats()["changes_waiting"] == 2, "two wait for the first")
            deadline = time.monotonic() + 0.05
            wait_until(lambda: time.monotonic() > deadline, "its time is over")
            release.set()
            said = inbox.answer(wanted)
            assert said.code == "request-timeout", said
            assert {inbox.answer(tags).kind, inbox.answer(alias).kind} == {"model"}
        now = peer.ask("get-model", model_id="policy").fields["model"]
    with serving(tmp_path) as (_, peer):
        later = peer.ask("get-model", model_id="policy").fields["model"]
    for model in (now, later):
        assert (model.get("user_data"), model["tags"], model["aliases"]) == (None, {"kept": "yes"}, {"champion": 1})


# --- uploads -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("archived", [False, True])
def test_an_upload_sent_two_hundred_times_is_one_version(peer: BarePeer, model: str, archived: bool) -> None:
    upload_id, request_id = os.urandom(16), os.urandom(16)
    given = {"model_id": model, "size": 1, "digest": digest(b"x"), "archived": archived, "request_id": request_id}
    for _ in range(200):
        peer.say("publish", upload_id, b"x", **given)
    first = peer.outcome()
    assert first.kind == "done"
    wait_until(lambda: peer.stats()["archive_jobs"] == 0, "all of it is done")
    assert peer.numbers(model) == [1]
    while not peer.silent():
        assert same(peer.outcome(), first)


@pytest.mark.parametrize("archived", [False, True])
def test_an_upload_id_is_one_payloads(peer: BarePeer, model: str, archived: bool) -> None:
    upload_id = os.urandom(16)
    assert peer.publish(model, b"one", upload_id=upload_id, archived=archived).kind == "done"
    assert peer.publish(model, b"two", upload_id=upload_id, archived=archived).code == "already-exists", "another payload"
    assert peer.publish(model, b"three", upload_id=upload_id, archived=archived).code == "already-exists", "another size"
    assert peer.publish(model, b"one", upload_id=upload_id, archived=archived, namespace="other").code == "already-exists"
    assert peer.numbers(model) == [1]


# --- a restart -----------------------------------------------------------------------------------------------------


def test_a_broadcaster_that_was_restarted_comes_to_the_same_or_says_that_it_is_done(own: BroadcasterProcess) -> None:
    again = {
        "create-model": "already-exists",
        "set-alias": "conflict",
        "delete-version": "unknown-version version-deleted",
        "delete-model": "unknown-model",
    }
    cases = [(kind, fields, f"{kind}-{at}") for kind, found in CHANGES.items() for at, fields in enumerate(found)]
    with BarePeer(own.ready) as peer:
        sent = []
        for kind, fields, namespace in cases:
            prepared(peer, namespace)
            if fields.get("number") == 2 or fields.get("ref") == 2:
                assert peer.ask("archive", model_id="policy", ref=2, namespace=namespace).kind == "version"
            sent.append((kind, request(fields, namespace), namespace))
            assert peer.ask(kind, **sent[-1][1]).kind != "error"
        before = {namespace: state(peer, namespace) for _, _, namespace in sent}
    own.restart(kill=True)
    with BarePeer(own.ready) as peer:
        for kind, given, _ in sent:
            said = peer.ask(kind, **given)
            if kind == "set-alias" and "expect" not in given:
                assert said.kind == "model"
            elif kind in again:
                assert said.code in again[kind].split(), (kind, said)
            else:
                assert said.kind != "error", (kind, said)
        assert {namespace: state(peer, namespace) for _, _, namespace in sent} == before


def test_a_client_that_creates_a_model_while_the_broadcaster_is_killed_learns_what_became_of_it(own: BroadcasterProcess) -> None:
    """It asks again by itself: it is told that the model was made, or that it exists; never that it is not there."""
    with connect(own.url) as client:
        stop, outcomes = threading.Event(), []

        def create() -> None:
            for number in range(10_000):
                if stop.is_set():
                    return
                try:
                    outcomes.append(client.registry.create(f"model-{number}").model_id)
                except AlreadyExists as error:
                    outcomes.append(error.model_id)

        creating = threading.Thread(target=create)
        creating.start()
        wait_until(lambda: len(outcomes) > 5, "some were made")
        own.restart(kill=True)
        before = len(outcomes)
        wait_until(lambda: len(outcomes) > before + 5, "some more were made")
        stop.set()
        creating.join()
        assert outcomes == [f"model-{number}" for number in range(len(outcomes))]
        assert {model.model_id for model in client.registry.models()} == set(outcomes)


def state(peer: BarePeer, namespace: str) -> dict[str, Any]:
    """The archived part of a namespace, which a restart must not change."""
    models = peer.ask("list-models", namespace=namespace).fields["models"]
    versions = peer.ask("list-versions", namespace=namespace, model_id="policy").fields.get("versions", [])
    return {
        "models": [{name: value for name, value in model.items() if name not in ("newest", "versions")} for model in models],
        "versions": [version for version in versions if version.get("archived")],
    }


def events(peer: BarePeer) -> list[dict[str, Any]]:
    epoch = peer.ask("hello").fields["epoch"]
    found: list[dict[str, Any]] = peer.ask("replay", epoch=epoch, after=0).fields["events"]
    return found
