"""What holds for every request, whatever it asks: its id comes back, its time is kept, and it can ask where that went."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broadcaster.protocol.hops import Hop
from broadcaster.protocol.messages import KINDS, Abort, Begin, Commit, Publish, Request
from broadcaster.store.archive import Archive
from clients import NoBroadcaster, RequestTimeout, UnknownModel, aio, connect
from tests.bare_peer import BarePeer, Said, digest, wait_until
from tests.broadcaster_process import BroadcasterProcess
from tests.conformance.make_vectors import with_fields
from tests.integration.cores import Inbox, held, rooms, serving

ON_UPLOAD = (Begin, Publish, Commit, Abort)
ON_DATA = [kind for _, kind in sorted(KINDS.items()) if issubclass(kind, Request) and not issubclass(kind, ON_UPLOAD)]
EVERY_KIND = pytest.mark.parametrize("kind", ON_DATA, ids=lambda kind: kind.KIND.decode())
FOREVER = 60_000


@pytest.fixture
def peer(shared: BroadcasterProcess) -> Iterator[BarePeer]:
    with BarePeer(shared.ready) as connected:
        yield connected


def fields(kind: type[Request], **more: Any) -> dict[str, Any]:
    """A request of this kind for a version that is there; small enough to be answered soon."""
    written = with_fields(kind, full=False).write() | {"request_id": os.urandom(16)}
    fitting = {"model_id": "policy", "number": 1, "alias": "champion", "ref": 1, "offset": 0, "length": 1, "after": 0}
    return written | {name: value for name, value in fitting.items() if name in written} | {"budget_ms": 500} | more


def asked(peer: BarePeer, kind: type[Request], **more: Any) -> Said:
    return peer.ask(kind.KIND.decode(), **fields(kind, **more))


# --- ids -----------------------------------------------------------------------------------------------------------


@EVERY_KIND
@pytest.mark.parametrize("there", [True, False])
def test_every_answer_names_its_request(peer: BarePeer, kind: type[Request], there: bool) -> None:
    """`ask` passes everything over that does not."""
    namespace = f"to-{kind.KIND.decode()}"
    if there:
        assert peer.publish("policy", b"weights", namespace=namespace).kind == "done"
    said = asked(peer, kind, namespace=namespace)
    assert said.fields["request_id"]


def test_every_answer_of_an_upload_names_a_request_of_it(peer: BarePeer, model: str) -> None:
    upload_id, payload = os.urandom(16), os.urandom(3 << 20)
    begin, again, commit = (os.urandom(16) for _ in range(3))
    peer.say("begin", upload_id, model_id=model, size=len(payload), request_id=begin)
    assert (said := peer.heard()).kind == "credit" and said.fields["request_id"] == begin
    peer.say("begin", upload_id, model_id=model, size=len(payload), request_id=again)
    assert (said := peer.heard()).kind == "credit" and said.fields["request_id"] == again
    for index in range(2):
        peer.chunk(upload_id, payload, index)
    peer.say("commit", upload_id, digest=digest(payload), request_id=commit)
    said = peer.heard()
    while not said.fields["rewind"]:
        assert said.fields["request_id"] in (begin, again)
        said = peer.heard()
    assert said.fields["request_id"] == commit
    peer.chunk(upload_id, payload, 2, size=7 << 20)
    said = peer.outcome()
    assert (said.code, said.fields["request_id"], said.fields["upload_id"]) == ("size-mismatch", begin, upload_id), (
        "not the chunk's"
    )
    for kind, said_id in (("abort", os.urandom(16)), ("commit", os.urandom(16))):
        peer.say(kind, upload_id, request_id=said_id, **({"digest": "x"} if kind == "commit" else {}))
        assert peer.heard().fields["request_id"] == said_id


def test_a_client_is_told_which_request_was_refused(shared: BroadcasterProcess) -> None:
    with connect(shared.url) as client:
        with pytest.raises(UnknownModel) as refused:
            client.registry.model("nobody")
        assert refused.value.request_id is not None and len(bytes.fromhex(refused.value.request_id)) == 16
        assert [detail.error_class for detail in refused.value.details] == ["UnknownModel"]
        assert refused.value.hops == () and not refused.value.retryable


# --- time ----------------------------------------------------------------------------------------------------------


@EVERY_KIND
def test_a_request_without_time_is_refused_whatever_it_is(peer: BarePeer, kind: type[Request]) -> None:
    before = peer.stats()
    said = asked(peer, kind, budget_ms=0)
    assert (said.kind, said.code) == ("error", "request-timeout")
    after = peer.stats()
    assert after["requests_expired"] == before["requests_expired"] + 1
    assert after["offset"] == before["offset"], "nothing happened"


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("kind", ["publish", "begin"])
def test_an_upload_without_time_is_not_begun(peer: BarePeer, model: str, kind: str, archived: bool) -> None:
    before = peer.stats()
    more = {"digest": digest(b"x")} if kind == "publish" else {}
    request = {"model_id": model, "size": 1, "archived": archived, "budget_ms": 0}
    peer.say(kind, os.urandom(16), *([b"x"] if more else []), **request, **more)
    assert peer.heard().code == "request-timeout"
    after = peer.stats()
    assert after["requests_expired"] == before["requests_expired"] + 1
    assert after["uploads_begun"] == before["uploads_begun"] and peer.numbers(model) == []


def test_an_upload_whose_commit_has_no_time_makes_no_version(peer: BarePeer, model: str) -> None:
    upload_id, payload = os.urandom(16), os.urandom(100 << 10)
    peer.say("begin", upload_id, model_id=model, size=len(payload))
    assert peer.heard().kind == "credit"
    peer.chunk(upload_id, payload, 0)
    commit = os.urandom(16)
    peer.say("commit", upload_id, digest=digest(payload), budget_ms=0, request_id=commit)
    said = peer.outcome()
    assert (said.code, said.fields["request_id"]) == ("request-timeout", commit)
    assert peer.numbers(model) == [] and peer.stats()["memory_uploads"] == 0
    done = peer.publish(model, payload, upload_id=upload_id)
    assert done.kind == "done", "whoever has time again may try again under the same id"


CHANGES: dict[str, dict[str, Any]] = {
    "create-model": {"model_id": "new"},
    "update-model": {"model_id": "policy", "user_data": {"a": "b"}},
    "set-alias": {"model_id": "policy", "alias": "champion", "number": 1},
    "set-tags": {"model_id": "policy", "tags": {"a": "b"}},
    "add-metrics": {"model_id": "policy", "number": 1, "metrics": {"return": 1.0}},
    "archive": {"model_id": "policy", "ref": 2},
    "delete-version": {"model_id": "policy", "number": 1, "force": True},
    "delete-model": {"model_id": "policy", "force": True},
}
"""Requests that wait for the archive's thread."""


def test_what_waits_for_the_disk_until_its_time_is_over_is_not_begun(tmp_path: Path) -> None:
    with serving(tmp_path) as (core, peer):
        assert peer.publish("policy", b"one", archived=True).kind == "done"
        assert peer.publish("policy", b"two").kind == "done"
        before = state(peer)
        with held(rooms(core).writer) as release:
            inbox, upload_id = Inbox(peer), os.urandom(16)
            ids = {kind: inbox.send(kind, budget_ms=100, **request) for kind, request in CHANGES.items()}
            publish = {"model_id": "policy", "size": 5, "digest": digest(b"three"), "archived": True, "budget_ms": 100}
            peer.say("publish", upload_id, b"three", **publish)
            wait_until(lambda: rooms(core).writer.waiting == 3, "the first change of each model and the upload wait for the disk")
            wait_until(lambda: peer.stats()["changes_waiting"] == len(CHANGES) - 2, "the others for their turn")
            deadline = time.monotonic() + 0.15
            wait_until(lambda: time.monotonic() > deadline, "their time is over")
            release.set()
            answers = {kind: inbox.answer(ids[kind]) for kind in CHANGES}
        assert {kind: said.code for kind, said in answers.items()} == dict.fromkeys(CHANGES, "request-timeout")
        done = peer.outcome()
        assert (done.code, done.fields["facts"]["number"], done.fields["upload_id"]) == ("request-timeout", 3, upload_id)
        wait_until(lambda: peer.stats()["requests_expired"] == len(CHANGES) + 1, "each was counted")
        after = state(peer)
        assert after["versions"].pop(3)["archived"] is False, "it was announced already: it stays what it is"
        after["model"] |= {"newest": 2, "versions": 2}
        assert after == before
        assert not list((tmp_path / "archive" / "staging").iterdir())
        again = peer.publish("policy", b"three", archived=True, upload_id=upload_id)
        assert again.kind == "done" and again.fields["version"]["number"] == 3 and again.fields["version"]["archived"]
        for kind, request in CHANGES.items():
            assert peer.ask(kind, request_id=ids[kind], **request).kind != "error", (
                f"{kind}: what was not begun may be tried again"
            )


def test_reads_of_the_archive_that_nobody_waits_for_are_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Archive, "read_cached", lambda *_: None)  # As if the kernel had forgotten the file.
    with serving(tmp_path) as (core, peer):
        assert peer.publish("policy", os.urandom(100), archived=True).kind == "done"
    with serving(tmp_path) as (core, peer):
        with held(rooms(core).readers) as release:
            inbox, read = Inbox(peer), {"model_id": "policy", "number": 1, "offset": 0, "length": 100}
            ids = [inbox.send("read", budget_ms=budget, **read) for budget in (50, 50, FOREVER)]
            wait_until(lambda: rooms(core).readers.waiting == 3, "all of them wait")
            deadline = time.monotonic() + 0.1
            wait_until(lambda: time.monotonic() > deadline, "their time is over")
            release.set()
            answers = [inbox.answer(one) for one in ids]
        assert [said.code for said in answers] == ["request-timeout", "request-timeout", ""]
        assert len(answers[2].payload or b"") == 100
        wait_until(lambda: peer.stats()["requests_expired"] == 2, "both were counted")


def test_an_upload_that_waits_for_a_number_until_its_time_is_over_becomes_no_version(tmp_path: Path) -> None:
    with serving(tmp_path) as (core, peer):
        with held(rooms(core).reserver) as release:
            short, long = os.urandom(16), os.urandom(16)
            for upload_id, budget in ((short, 50), (long, FOREVER)):
                peer.say(
                    "publish", upload_id, b"x", model_id="policy", size=1, digest=digest(b"x"), budget_ms=budget, timing=True
                )
            wait_until(lambda: peer.stats()["uploads_begun"] == 2, "both wait")
            deadline = time.monotonic() + 0.1
            wait_until(lambda: time.monotonic() > deadline, "the time of one is over")
            release.set()
            said = {one.fields["upload_id"]: one for one in (peer.outcome(), peer.outcome())}
        assert said[short].code == "request-timeout" and said[long].kind == "done"
        assert said[long].fields["version"]["number"] == 1, "what is refused takes no number"
        assert peer.numbers("policy") == [1]
        (hop,) = said[long].fields["hops"]
        assert hop["queued"] >= 100_000_000, "that it waited is told"


def test_a_broadcaster_that_was_stopped_begins_nothing_whose_time_passed_meanwhile(own: BroadcasterProcess) -> None:
    with BarePeer(own.ready) as peer:
        assert peer.publish("policy", b"weights").kind == "done"
        inbox, short, long = Inbox(peer), [], []
        signalled(own, signal.SIGSTOP)
        try:
            for index in range(20):
                short.append(inbox.send("create-model", model_id=f"short-{index}", budget_ms=500))
                long.append(inbox.send("create-model", model_id=f"long-{index}", budget_ms=FOREVER))
            late, fresh = os.urandom(16), os.urandom(16)
            for upload_id, budget in ((late, 500), (fresh, FOREVER)):
                peer.say("publish", upload_id, b"x", model_id="policy", size=1, digest=digest(b"x"), budget_ms=budget)
            deadline = time.monotonic() + 1.2  # It is the time that passes which is tested.
            wait_until(lambda: time.monotonic() > deadline, "the time of those is over")
        finally:
            signalled(own, signal.SIGCONT)
        assert {inbox.answer(one).code for one in short} == {"request-timeout"}
        assert {inbox.answer(one).kind for one in long} == {"model"}
        said = {one.fields["upload_id"]: one for one in (peer.outcome(), peer.outcome())}
        assert said[late].code == "request-timeout" and said[fresh].fields["version"]["number"] == 2
        assert peer.stats()["requests_expired"] == len(short) + 1
        models = {model["model_id"] for model in peer.ask("list-models").fields["models"]}
        assert models == {"policy", *(f"long-{index}" for index in range(20))}
        again = {"model_id": "later", "budget_ms": 500, "exist_ok": True}
        wait_until(lambda: peer.ask("create-model", **again).kind == "model", "time is counted anew soon after")


def test_a_client_that_waited_in_vain_is_told_of_its_own_request(own: BroadcasterProcess) -> None:
    with connect(own.url) as client:
        client._calls.timeout = 0.2
        signalled(own, signal.SIGSTOP)
        try:
            with pytest.raises(RequestTimeout) as missed:
                client.ping()
        finally:
            signalled(own, signal.SIGCONT)
        assert missed.value.request_id is not None and missed.value.retryable and missed.value.details == ()


# --- where the time goes -------------------------------------------------------------------------------------------


@EVERY_KIND
def test_every_reply_says_where_it_was_if_that_was_asked_and_never_else(peer: BarePeer, kind: type[Request]) -> None:
    began = time.time_ns()
    said = asked(peer, kind, timing=True, namespace="nowhere")
    if said.kind:  # A chunk has no room.
        (hop,) = said.fields["hops"]
        assert set(hop) == {"node", "role", "received", "sent", "queued"} and hop["role"] == "broadcaster"
        assert began <= hop["received"] <= hop["sent"] <= time.time_ns(), "one host, one clock"
        assert hop["queued"] <= hop["sent"] - hop["received"] + 1_000_000
    for more in ({}, {"timing": False}):
        assert "hops" not in asked(peer, kind, namespace="nowhere", **more).fields


@pytest.mark.parametrize("size", [10, 100 << 10])
@pytest.mark.parametrize("archived", [False, True])
def test_done_says_where_the_upload_was(peer: BarePeer, model: str, size: int, archived: bool) -> None:
    began = time.time_ns()
    done = peer.publish(model, os.urandom(size), archived=archived, timing=True)
    (hop,) = done.fields["hops"]
    assert began <= hop["received"] <= hop["sent"] <= time.time_ns()
    assert (hop["queued"] > 0) is archived or not archived
    assert "hops" not in peer.publish(model, os.urandom(size), archived=archived).fields
    said = peer.publish(model, os.urandom(size), timing=True, digest="0" * 32)
    assert said.code == "digest-mismatch" and len(said.fields["hops"]) == 1, "a refusal says it too"


def test_how_long_a_request_waited_for_a_thread_is_told(tmp_path: Path) -> None:
    with serving(tmp_path) as (core, peer):
        with held(rooms(core).writer) as release:
            inbox = Inbox(peer)
            one = inbox.send("create-model", model_id="policy", timing=True)
            wait_until(lambda: rooms(core).writer.waiting == 1, "it waits")
            began = time.monotonic()
            wait_until(lambda: time.monotonic() > began + 0.1, "for a while")
            release.set()
            (hop,) = inbox.answer(one).fields["hops"]
        assert hop["node"] == "lab-7" and 100_000_000 <= hop["queued"] <= hop["sent"] - hop["received"] + 1_000_000
        assert peer.ask("ping", timing=True).fields["hops"][0]["queued"] == 0


def test_a_ping_says_how_long_the_way_is(shared: BroadcasterProcess) -> None:
    with connect(shared.url) as client:
        found = client.ping()
        assert found.what == "ping" and 0 < found.round_trip < 30
        (hop,) = found.hops
        assert isinstance(hop, Hop) and hop.queued == 0 and (hop.sent - hop.received) / 1e9 <= found.round_trip


async def test_a_ping_is_awaited_too(shared: BroadcasterProcess) -> None:
    async with aio.connect(shared.url) as client:
        assert len((await client.ping()).hops) == 1
        with client.timing() as timings:
            await client.registry.stats()
        assert [one.what for one in timings] == ["get-stats"]


def test_requests_of_a_client_are_timed_while_somebody_wants_to_know(shared: BroadcasterProcess, model: str) -> None:
    with connect(shared.url) as client:
        registry = client.registry
        with client.timing() as timings:
            registry.create(model)
            registry.set_alias(model, "champion", None)
            with client.timing() as inner, pytest.raises(UnknownModel) as refused:
                registry.model("nobody")
            registry.model(model)
        registry.stats()
        assert [one.what for one in timings] == [f"create-model {model}", f"set-alias {model} champion", f"get-model {model}"]
        assert all(len(one.hops) == 1 and one.round_trip > 0 for one in timings)
        assert inner == [] and len(refused.value.hops) == 1
    with pytest.raises(NoBroadcaster) as nobody:
        connect("tcp://127.0.0.1:1", timeout=0.2)
    assert nobody.value.request_id is None and nobody.value.details == ()


# --- what the tests speak with -------------------------------------------------------------------------------------


def signalled(broadcaster: BroadcasterProcess, number: signal.Signals) -> None:
    """To every process of it."""
    for pid in broadcaster.pids:
        os.kill(pid, number)


def state(peer: BarePeer) -> dict[str, Any]:
    """All that can be known of the model `policy` and of who else is there."""
    versions = peer.ask("list-versions", model_id="policy").fields["versions"]
    return {
        "models": [model["model_id"] for model in peer.ask("list-models").fields["models"]],
        "model": peer.ask("get-model", model_id="policy").fields["model"],
        "versions": {version["number"]: version for version in versions},
    }
