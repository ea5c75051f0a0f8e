"""What comes while the disk is still busy with something else: held for a moment, so that the order is sure."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from broadcaster.catalog import Retention
from broadcaster.server.core import Core, CoreOptions
from broadcaster.store.archive import Archive
from tests.bare_peer import BarePeer, wait_until


def core(tmp_path: Path) -> Core:
    return Core(
        CoreOptions(
            host="127.0.0.1",
            upload_port=0,
            push_port=0,
            data_port=0,
            advertise=None,
            archive_dir=tmp_path / "archive",
            slot_dir=tmp_path / "slots",
            max_payload=1 << 30,
            retention=Retention(),
        )
    )


def serving(made: Core, work: Callable[[BarePeer], Any]) -> Any:
    """What `work` returns while the core serves."""
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        with BarePeer(made.endpoints) as peer:
            return work(peer)
    finally:
        made.loop.stop()
        thread.join()
        made.close()


def test_a_version_that_comes_before_the_first_block_of_numbers_waits_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert serving(core(tmp_path), lambda peer: peer.publish("policy", b"one", archived=True)).kind == "done"
    held, reserve = threading.Event(), Archive.reserve_numbers

    def late(self: Archive, ceilings: Iterable[tuple[str, str, int]]) -> None:
        assert held.wait(20)
        reserve(self, ceilings)

    monkeypatch.setattr(Archive, "reserve_numbers", late)

    def publish(peer: BarePeer) -> Any:
        timer = threading.Timer(0.2, held.set)  # After the upload has come; if it comes later the test is merely easier.
        timer.start()
        return peer.publish("policy", b"two")

    done = serving(core(tmp_path), publish)
    assert done.kind == "done" and done.fields["version"]["number"] == 2


def test_what_is_said_of_a_version_while_it_is_archived_is_durable_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held, keep, answered = threading.Event(), Archive.keep, threading.Event()

    def late(self: Archive, *what: Any) -> Any:
        kept = keep(self, *what)
        answered.set()
        assert held.wait(20)
        return kept

    monkeypatch.setattr(Archive, "keep", late)
    model = {"model_id": "policy"}

    def work(peer: BarePeer) -> Any:
        archiving = threading.Thread(target=publish)
        archiving.start()
        assert answered.wait(20)
        peer.ask("add-metrics", **model, number=1, metrics={"return": 5.0})
        peer.ask("set-tags", **model, number=1, tags={"stage": "good"})
        described = peer.ask("describe", **model, number=1, description="said late")
        held.set()
        archiving.join()
        return described

    def publish() -> None:
        with BarePeer(made.endpoints) as other:
            done.append(other.publish("policy", b"one", archived=True))

    done: list[Any] = []
    made = core(tmp_path)
    described = serving(made, work)
    monkeypatch.undo()
    again = serving(core(tmp_path), lambda peer: peer.ask("get-version", **model, ref=1))
    version = again.fields["version"]
    assert (version["metrics"], version["tags"], version["description"]) == ({"return": 5.0}, {"stage": "good"}, "said late")
    assert {**described.fields["version"], "archived": True, "sha256": version["sha256"]} == version == done[0].fields["version"]


@pytest.mark.parametrize("whole_model", [False, True])
def test_a_version_that_is_being_deleted_cannot_be_archived_behind_its_deletion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole_model: bool
) -> None:
    held, name = threading.Event(), "delete_model" if whole_model else "delete_version"
    delete = getattr(Archive, name)

    def late(self: Archive, *what: Any) -> None:
        assert held.wait(20)
        delete(self, *what)

    monkeypatch.setattr(Archive, name, late)

    def race(peer: BarePeer) -> str:
        assert peer.publish("policy", b"one", archived=True).kind == "done"
        assert peer.publish("policy", b"two").kind == "done"
        what: dict[str, Any] = {} if whole_model else {"number": 2}
        deleting = threading.Thread(target=lambda: ask("delete-model" if whole_model else "delete-version", **what))
        deleting.start()
        wait_until(lambda: peer.stats()["archive_jobs"] == 1, "the deletion is under way")
        answers: list[str] = []
        archiving = threading.Thread(target=lambda: answers.append(archive()))
        archiving.start()
        wait_until(lambda: answers or peer.stats()["changes_waiting"] == 1, "the other one has come")
        held.set()
        deleting.join()
        archiving.join()
        return answers[0]

    def archive() -> str:
        with BarePeer(made.endpoints) as other:
            return other.ask("archive", model_id="policy", ref=2).code

    def ask(kind: str, **what: Any) -> None:
        with BarePeer(made.endpoints) as other:
            assert other.ask(kind, model_id="policy", force=True, **what).kind == "deleted"

    made = core(tmp_path)
    assert serving(made, race) == ("unknown-model" if whole_model else "version-deleted")
    numbers = serving(
        core(tmp_path), lambda peer: [] if peer.ask("get-model", model_id="policy").code else peer.numbers("policy")
    )
    assert 2 not in numbers
