"""Exclusive publishers: while one holds a model's term nobody else publishes, and one that was replaced never does again."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clients
from broadcaster.store.archive import Archive
from clients import aio
from tests.bare_peer import BarePeer, Said, digest, wait_until
from tests.broadcaster_process import BroadcasterProcess
from tests.integration.commands import command, refused
from tests.integration.test_held_disk import core, serving

MIB = 1 << 20
SIZES = pytest.mark.parametrize("size", [100, 300_000, 3 * MIB + 5], ids=["one message", "slot", "large slot"])


@contextlib.contextmanager
def fenced(*, term: int, current: int) -> Iterator[None]:
    with pytest.raises(clients.Fenced) as caught:
        yield
    assert (caught.value.term, caught.value.current) == (term, current)


@pytest.fixture
def client(shared: BroadcasterProcess) -> Iterator[clients.Client]:
    with clients.connect(shared.url) as client:
        yield client


@pytest.fixture
def remote(shared: BroadcasterProcess) -> Iterator[clients.Client]:
    """One that finds no slots."""
    with clients.connect(shared.url, slot_dir="/nonexistent") as client:
        yield client


# --- what the broadcaster does -------------------------------------------------------------------------------------------


def test_a_term_is_asked_for_again_with_the_same_answer_and_the_next_one_is_larger(
    shared: BroadcasterProcess, model: str
) -> None:
    one, other = os.urandom(16), os.urandom(16)
    with BarePeer(shared.ready) as peer:
        terms = [peer.ask("take-term", model_id=model, publisher=who).fields["term"] for who in (one, one, other)]
        assert terms[0] == terms[1] < terms[2]
        assert peer.ask("give-up-term", model_id=model, publisher=one).fields.get("term") is None
        assert peer.ask("give-up-term", model_id=model).fields["term"] == terms[2]
        assert peer.ask("take-term", model_id=model, publisher=other).fields["term"] > terms[2]
        assert peer.ask("take-term", model_id="not a name", publisher=one).code == "invalid-name"
        assert peer.ask("take-term", model_id=model, publisher=b"short").code == "remote-protocol-error"


def test_what_is_under_way_with_an_older_term_ends_and_takes_no_number(shared: BroadcasterProcess, model: str) -> None:
    payload = os.urandom(3 * MIB)
    with BarePeer(shared.ready) as peer, BarePeer(shared.ready) as other:
        one = peer.ask("take-term", model_id=model, publisher=os.urandom(16)).fields["term"]
        upload_id, archived_id = os.urandom(16), os.urandom(16)
        peer.say("begin", upload_id, model_id=model, size=len(payload), term=one)
        assert peer.heard().kind == "credit"
        peer.chunk(upload_id, payload, 0)
        peer.say("begin", archived_id, model_id=model, size=len(payload), term=one, archived=True)
        assert peer.heard().kind == "credit"
        two = other.ask("take-term", model_id=model, publisher=os.urandom(16)).fields["term"]
        ended = [peer.heard(), peer.heard()]
        assert [said.code for said in ended] == ["fenced", "fenced"]
        assert {said.fields["upload_id"] for said in ended} == {upload_id, archived_id}
        assert ended[0].fields["facts"] == {"model_id": model, "term": one, "current": two}
        for index in (1, 2):
            peer.chunk(upload_id, payload, index)
        peer.say("commit", upload_id, digest=digest(payload))
        assert peer.outcome().fields["facts"]["field"] == "upload_id"
        peer.say("begin", os.urandom(16), model_id=model, size=len(payload), term=one)
        assert peer.heard().code == "fenced"  # before anything is reserved or sent
        assert peer.publish(model, b"small", term=one).code == "fenced"
        assert peer.publish(model, b"small").fields["facts"] == {"model_id": model, "term": 0, "current": two}
        assert other.publish(model, b"small", term=two).fields["version"]["number"] == 1
        assert peer.numbers(model) == [1]
        assert peer.stats()["memory_uploads"] == 0


def test_a_version_that_came_of_an_upload_is_still_named_to_who_asks_again(shared: BroadcasterProcess, model: str) -> None:
    upload_id = os.urandom(16)
    with BarePeer(shared.ready) as peer:
        one = peer.ask("take-term", model_id=model, publisher=os.urandom(16)).fields["term"]
        assert peer.publish(model, b"mine", upload_id=upload_id, term=one).kind == "done"
        peer.ask("take-term", model_id=model, publisher=os.urandom(16))
        assert peer.publish(model, b"mine", upload_id=upload_id, term=one).fields["version"]["number"] == 1


def test_an_upload_that_waits_for_its_number_is_looked_at_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began, go_on, take = threading.Event(), threading.Event(), Archive.take_term

    def late(*arguments: Any) -> int:
        began.set()
        assert go_on.wait(20)
        return take(*arguments)

    monkeypatch.setattr(Archive, "take_term", late)

    def race(peer: BarePeer) -> Said:
        taking = threading.Thread(target=lambda: peer.ask("take-term", model_id="policy", publisher=bytes(16)))
        taking.start()
        assert began.wait(20)
        with BarePeer(made.endpoints) as other:
            other.say("publish", bytes(16), b"one", model_id="policy", size=3, digest=digest(b"one"))
            wait_until(lambda: other.stats().get("uploads_begun"), "the upload has come")
            go_on.set()
            taking.join()
            said = other.heard()
            assert other.numbers("policy") == [] and other.stats()["memory_uploads"] == 0
            return said

    made = core(tmp_path)
    assert serving(made, race).code == "fenced"


def test_a_term_outlives_restarts_and_the_deletion_of_the_model(own: BroadcasterProcess) -> None:
    with clients.connect(own.url) as client:
        publisher = client.publisher("policy", exclusive=True)
        assert publisher.publish(b"one").number == 1
        own.restart(kill=True)
        with fenced(term=0, current=1):
            client.publisher("policy").publish(b"stranger", timeout=30)
        assert publisher.publish(b"two", timeout=30).number > 1
        client.registry.delete_model("policy")
        own.restart()
        with fenced(term=0, current=1):
            client.publisher("policy").publish(b"stranger", timeout=30)
        newer = client.publisher("policy", exclusive=True)
        assert newer.term() == 2
        with fenced(term=1, current=2):
            publisher.publish(b"three")
        assert newer.publish(b"four").number > 2


# --- what a learner sees ---------------------------------------------------------------------------------------------------


@SIZES
@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
def test_the_newest_exclusive_publisher_alone_publishes(
    client: clients.Client, remote: clients.Client, model: str, size: int, near: bool
) -> None:
    mine = client if near else remote
    before = mine.publisher(model)
    before.publish(os.urandom(size))
    one = mine.publisher(model, exclusive=True)
    with fenced(term=0, current=1):
        before.publish(os.urandom(size))
    for _ in range(4):  # Slots are asked for ahead from the third on.
        one.publish(os.urandom(size))
    two = mine.publisher(model, exclusive=True)
    number = two.publish(os.urandom(size)).number
    with fenced(term=1, current=2):
        one.publish(os.urandom(size))
    with fenced(term=1, current=2):
        one.publish_nowait(os.urandom(size)).result()
    with fenced(term=1, current=2):
        one.draft({"w": np.zeros(size)})
    two.close()
    with fenced(term=1, current=2):  # For ever: it is not asked again.
        one.publish(os.urandom(size))
    with pytest.raises(clients.Closed):
        two.publish(b"closed")
    assert before.publish(os.urandom(size)).number == number + 1
    assert mine.registry.model(model).newest == number + 1


@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
def test_a_draft_that_was_begun_before_another_took_over_cannot_be_committed(
    client: clients.Client, remote: clients.Client, model: str, near: bool
) -> None:
    mine = client if near else remote
    one = mine.publisher(model, exclusive=True)
    draft = one.draft({"w": np.zeros(100_000)})
    assert draft.in_slot == near
    two = mine.publisher(model, exclusive=True)
    draft.tree["w"][:] = 7
    with fenced(term=1, current=2):
        draft.commit()
    with fenced(term=1, current=2):
        one.publish(b"more")
    with two.draft({"w": np.zeros(100_000)}) as own:
        own.tree["w"][:] = 8
        assert own.commit().number == 1


def test_closing_waits_for_what_is_under_way_and_frees_the_model(client: clients.Client, model: str) -> None:
    with client.publisher(model, exclusive=True) as publisher:
        futures = [publisher.publish_nowait(os.urandom(2 * MIB)) for _ in range(2)]
    assert [future.result().number for future in futures] == [1, 2]
    publisher.close()
    assert client.publisher(model).publish(b"anybody").number == 3


def test_a_publisher_that_nobody_has_any_more_gives_its_term_up(client: clients.Client, model: str) -> None:
    future = client.publisher(model, exclusive=True).publish_nowait(os.urandom(20 * MIB))
    gc.collect()
    assert future.result().number == 1
    assert _publishes(client, model)


def _publishes(client: clients.Client, model: str) -> bool:
    """Whether a publisher without a term comes to publish."""

    def tried() -> bool:
        with contextlib.suppress(clients.Fenced):
            client.publisher(model).publish(b"anybody")
            return True
        return False

    return bool(wait_until(tried, "the term is given up"))


def test_a_client_that_is_closed_gives_its_terms_up(shared: BroadcasterProcess, client: clients.Client, model: str) -> None:
    with clients.connect(shared.url) as other:
        publisher = other.publisher(model, exclusive=True)
        assert publisher.publish(b"one").number == 1
    assert client.publisher(model).publish(b"anybody").number == 2
    with pytest.raises(clients.Closed):
        publisher.publish(b"late")
    publisher.close()


def test_a_forked_child_gives_nothing_up(client: clients.Client, model: str) -> None:
    publisher = client.publisher(model, exclusive=True)
    child = os.fork()
    if child == 0:
        code = 1
        with contextlib.suppress(BaseException):
            publisher.close()
            client.close()
            try:
                publisher.publish(b"from the child")
            except clients.ForkError:
                code = 0
        os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with fenced(term=0, current=1):
        client.publisher(model).publish(b"stranger")
    assert publisher.publish(b"mine").number == 1


def test_an_operator_takes_the_term_from_a_publisher(client: clients.Client, model: str) -> None:
    publisher = client.publisher(model, exclusive=True)
    assert client.registry.give_up_term(model) == 1
    assert client.registry.give_up_term(model) is None
    assert client.publisher(model).publish(b"anybody").number == 1
    with fenced(term=1, current=0):
        publisher.publish(b"late")


def test_the_same_model_in_two_namespaces_has_two_terms(shared: BroadcasterProcess, model: str) -> None:
    with clients.connect(shared.url, namespace="one") as one, clients.connect(shared.url, namespace="other") as other:
        held = one.publisher(model, exclusive=True)
        assert held.term() == 1 and other.publisher(model).publish(b"free").number == 1


def test_the_async_face_takes_and_gives_up_terms_too(shared: BroadcasterProcess, model: str) -> None:
    async def go() -> list[Any]:
        async with aio.connect(shared.url) as client:
            async with client.publisher(model, exclusive=True) as one:
                first = [await one.term(), (await one.publish(b"one")).number]
                two = client.publisher(model, exclusive=True)
                first.append((await two.publish(b"two")).number)
                with fenced(term=1, current=2):
                    await one.publish(b"three")
                first.append(await client.registry.give_up_term(model))
                with fenced(term=2, current=0):
                    await two.publish_nowait(b"four")
            return [*first, await client.publisher(model).term()]

    assert asyncio.run(go()) == [1, 1, 2, 2, None]


def test_the_command_takes_over_for_one_version_and_gives_terms_up(
    shared: BroadcasterProcess, client: clients.Client, model: str, tmp_path: Path
) -> None:
    (tmp_path / "weights").write_bytes(b"from the command")
    line = ["publish", tmp_path / "weights", "--model", model]
    publisher = client.publisher(model, exclusive=True)
    assert "a publisher with term 0 may not publish" in refused(command(*line, url=shared.url), 1)
    assert command(*line, "--exclusive", url=shared.url).returncode == 0
    with fenced(term=1, current=0):
        publisher.publish(b"late")
    held = client.publisher(model, exclusive=True)
    said = command("give-up-term", model, "--json", url=shared.url).stdout
    assert json.loads(said) == {"namespace": "default", "model_id": model, "given_up": held.term()}
    assert command("give-up-term", model, url=shared.url).stdout == f"{model}: no publisher was exclusive\n"
    assert command(*line, url=shared.url).returncode == 0
    assert client.registry.model(model).newest == 2
