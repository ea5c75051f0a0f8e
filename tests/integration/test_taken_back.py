"""What the archive knows is what was answered: also when a change is taken back, or another came in between."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broadcaster.protocol.errors import StoreUnavailable
from broadcaster.protocol.limits import ALIASES
from broadcaster.server.core import Core
from broadcaster.store.archive import Archive
from tests.bare_peer import BarePeer, wait_until
from tests.integration.cores import Inbox, held, rooms, serving


def refusing(*_: object, **__: object) -> None:
    raise StoreUnavailable(operation="writing", where="the archive", reason="no", hint="Check the disk.")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[tuple[Core, BarePeer]]:
    with serving(tmp_path) as served:
        yield served


def test_what_is_said_of_a_deleted_model_is_not_said_of_the_next_one(tmp_path: Path) -> None:
    with serving(tmp_path) as (made, peer):
        peer.publish("policy", b"weights", archived=True)
        peer.ask("set-tags", model_id="policy", tags={"old": "yes"})
        peer.ask("set-retention", model_id="policy", retention={"last": 1})
        inbox, writer = Inbox(peer), rooms(made).writer
        with held(writer) as release:
            deleted = inbox.send("delete-model", model_id="policy")
            wait_until(lambda: writer.waiting == 1, "the deletion waits for the disk")
            published = threading.Thread(target=lambda: peer.publish("policy", b"newer", archived=True))
            published.start()
            wait_until(lambda: writer.waiting == 2, "a version that came meanwhile waits behind it")
            release.set()
        assert inbox.answer(deleted).kind == "deleted"
        published.join()
        before = peer.ask("get-model", model_id="policy").fields["model"]
    with serving(tmp_path) as (_, peer):
        after = peer.ask("get-model", model_id="policy").fields["model"]
    for model in (before, after):
        assert (model["newest"], model["versions"], model.get("tags"), model.get("retention")) == (2, 1, None, None)


def test_a_deletion_that_failed_leaves_what_is_said_of_the_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path) as (_, peer):
        peer.publish("policy", b"weights", archived=True)
        peer.ask("set-tags", model_id="policy", tags={"kept": "yes"})
        with monkeypatch.context() as patch:
            patch.setattr(Archive, "delete_model", refusing)
            assert peer.ask("delete-model", model_id="policy").fields["code"] == "store-unavailable"
        peer.publish("policy", b"newer", archived=True)
    with serving(tmp_path) as (_, peer):
        assert peer.ask("get-model", model_id="policy").fields["model"]["tags"] == {"kept": "yes"}


def test_a_model_that_the_disk_refused_is_written_with_its_alias_and_its_versions_can_be_deleted(
    desk: tuple[Core, BarePeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, peer = desk
    with monkeypatch.context() as patch:
        patch.setattr(Archive, "set_model", refusing)
        for payload in (b"one", b"two"):
            assert peer.publish("policy", payload).kind == "done"
        wait_until(lambda: not rooms(made).writer.pending, "the disk has refused the model")
    assert peer.ask("delete-version", model_id="policy", number=1).kind == "deleted"
    assert peer.ask("set-alias", model_id="policy", alias="champion", number=2).kind == "model"


def test_an_alias_outlives_a_deletion_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(tmp_path) as (_, peer):
        peer.publish("policy", b"weights", archived=True)
        peer.ask("set-alias", model_id="policy", alias="champion", number=1)
        with monkeypatch.context() as patch:
            patch.setattr(Archive, "delete_version", refusing)
            refused = peer.ask("delete-version", model_id="policy", number=1, force=True)
            assert refused.fields["code"] == "store-unavailable"
    with serving(tmp_path) as (_, peer):
        assert peer.ask("get-version", model_id="policy", ref="champion").fields["version"]["number"] == 1


def test_no_alias_looks_like_a_number(desk: tuple[Core, BarePeer]) -> None:
    _, peer = desk
    peer.publish("policy", b"weights")
    assert peer.ask("set-alias", model_id="policy", alias="7", number=1).fields["facts"]["field"] == "alias"
    assert peer.ask("set-alias", model_id="policy", alias="v7", number=1).kind == "model"


def test_a_model_with_all_the_aliases_it_may_have_is_told_of(desk: tuple[Core, BarePeer]) -> None:
    _, peer = desk
    peer.publish("policy", b"weights")
    for at in range(ALIASES):
        assert peer.ask("set-alias", model_id="policy", alias=f"a{at:0127}", number=1).kind == "model"
    assert peer.ask("set-alias", model_id="policy", alias="one-more", number=1).fields["code"] == "refused"
    assert len(peer.ask("list-models").fields["models"][0]["aliases"]) == ALIASES


@pytest.mark.parametrize("archived", [False, True], ids=["transient", "archived"])
def test_an_upload_sent_again_is_answered_with_what_was_said_of_its_version_since(
    desk: tuple[Core, BarePeer], *, archived: bool
) -> None:
    _, peer = desk
    peer.publish("policy", b"weights", archived=archived, upload_id=b"u" * 16)
    peer.ask("add-metrics", model_id="policy", number=1, metrics={"return": 1.0})
    again = peer.publish("policy", b"weights", archived=archived, upload_id=b"u" * 16)
    assert again.fields["version"]["number"] == 1 and again.fields["version"]["metrics"] == {"return": 1.0}


CHANGES: dict[str, dict[str, Any]] = {
    "update-model": {"user_data": {"a": "b"}},
    "set-tags": {"tags": {"a": "b"}},
    "describe": {"number": 1, "description": "other"},
    "add-metrics": {"number": 1, "metrics": {"return": 1.0}},
    "set-retention": {"retention": {"last": 1}},
    "pin": {"ref": 1, "pinned": True},
}


@pytest.mark.parametrize(("kind", "fields"), CHANGES.items(), ids=CHANGES.keys())
def test_a_change_that_is_taken_back_is_told_as_it_was_before(
    desk: tuple[Core, BarePeer], monkeypatch: pytest.MonkeyPatch, kind: str, fields: dict[str, Any]
) -> None:
    _, peer = desk
    peer.publish("policy", b"weights", archived=True)
    before = peer.ask("get-version", model_id="policy", ref=1).fields["version"]
    offset = peer.ask("hello").fields["offset"]
    for method in ("set_model", "add_metrics", "set_description", "set_pinned"):
        monkeypatch.setattr(Archive, method, refusing)
    assert peer.ask(kind, model_id="policy", **fields).fields["code"] == "store-unavailable"
    epoch = peer.ask("hello").fields["epoch"]
    events = peer.ask("replay", epoch=epoch, after=offset).fields["events"]
    assert [event["event"] for event in events] == ["updated", "updated"]
    assert events[1].get("version", before) == before
    assert peer.ask("get-version", model_id="policy", ref=1).fields["version"] == before


def test_a_model_that_could_not_be_created_is_told_as_deleted(
    desk: tuple[Core, BarePeer], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, peer = desk
    hello = peer.ask("hello").fields
    monkeypatch.setattr(Archive, "set_model", refusing)
    assert peer.ask("create-model", model_id="policy").fields["code"] == "store-unavailable"
    events = peer.ask("replay", epoch=hello["epoch"], after=hello["offset"]).fields["events"]
    assert [event["event"] for event in events] == ["created", "deleted"]
    assert peer.ask("get-model", model_id="policy").fields["code"] == "unknown-model"
