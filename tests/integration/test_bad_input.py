"""What a broadcaster answers to requests that it cannot grant: a typed error that says why. It stays up, and keeps nothing."""

from __future__ import annotations

import hashlib
import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

from broadcaster.protocol.frames import ChunkHeader
from broadcaster.protocol.limits import CONTROL, READ
from tests.bare_peer import BarePeer, Said, digest, heard, staged, wait_until
from tests.broadcaster_process import BroadcasterProcess

MIB = 1 << 20
BUDGET, LARGEST = 64 * MIB, 32 * MIB
PAYLOAD = random.Random(7).randbytes(3 * MIB + 5)


@pytest.fixture(scope="module")
def broadcaster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BroadcasterProcess]:
    options = ["--memory-budget", str(BUDGET), "--max-payload", str(LARGEST)]
    with BroadcasterProcess(tmp_path_factory.mktemp("bad") / "broadcaster", options=options) as process:
        yield process


@pytest.fixture
def peer(broadcaster: BroadcasterProcess) -> Iterator[BarePeer]:
    """A peer whose test must leave nothing behind: no memory of uploads, no slot, no staged file, no dead process."""
    with BarePeer(broadcaster.ready) as connected:
        before = connected.stats()["slots_used"]
        yield connected
        assert broadcaster.running, broadcaster.log()
        wait_until(lambda: connected.stats()["memory_uploads"] == 0, "the memory of uploads is free again")
        assert connected.stats()["slots_used"] == before
        wait_until(lambda: not staged(broadcaster.archive_dir), "no staged file is left")


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    return hashlib.sha256(request.node.name.encode()).hexdigest()[:20]


def begin(peer: BarePeer, model: str, size: int = len(PAYLOAD), **fields: Any) -> bytes:
    """An upload that is under way: its id."""
    upload_id = os.urandom(16)
    peer.say("begin", upload_id, **({"model_id": model, "size": size} | fields))
    assert peer.heard().kind == "credit"
    return upload_id


def refused(said: Said, code: str, *words: object) -> None:
    assert (said.kind, said.code) == ("error", code), said
    for word in words:
        assert str(word) in said.message, said.message


# --- what is not there ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["get-version", "read", "delete-version", "archive", "set-alias", "add-metrics", "set-tags"])
def test_an_unknown_model_and_an_unknown_version_are_named(peer: BarePeer, model: str, kind: str) -> None:
    about: dict[str, Any] = {"model_id": model, "ref": 7, "number": 7, "offset": 0, "length": 1}
    about |= {"alias": "best", "metrics": {"a": 1.0}, "tags": {"a": "b"}}
    refused(peer.ask(kind, **about), "unknown-model", model, "default")
    peer.ask("create-model", model_id=model)
    refused(peer.ask(kind, **about), "unknown-version", model, 7)


def test_a_read_out_of_range_is_refused(peer: BarePeer, model: str) -> None:
    peer.publish(model, b"x" * 100)
    for offset, length in [(101, 1), (0, READ + 1), (1 << 62, 1), (0, 1 << 62)]:
        refused(peer.ask("read", model_id=model, number=1, offset=offset, length=length), "invalid-request", "offset", "100")
    assert peer.ask("read", model_id=model, number=1, offset=90, length=100).payload == b"x" * 10
    assert peer.ask("read", model_id=model, number=1, offset=100, length=1).payload == b""


# --- payloads that are not what they were said to be ------------------------------------------------------------------


@pytest.mark.parametrize("archived", [False, True])
def test_a_wrong_digest_ends_the_upload_and_takes_no_number(peer: BarePeer, model: str, archived: bool) -> None:
    wrong = "0" * 32
    refused(peer.publish(model, PAYLOAD, digest=wrong, archived=archived), "digest-mismatch", model, digest(PAYLOAD), wrong)
    refused(peer.publish(model, b"small", digest=wrong, archived=archived), "digest-mismatch", model, digest(b"small"), wrong)
    assert peer.numbers(model) == []
    assert peer.publish(model, b"small").fields["version"]["number"] == 1


def test_a_payload_of_another_size_than_declared_is_refused(peer: BarePeer, model: str) -> None:
    peer.say("publish", os.urandom(16), b"four", model_id=model, size=5, digest=digest(b"four"))
    refused(peer.outcome(), "size-mismatch", model, 5, 4)
    peer.say("publish", os.urandom(16), model_id=model, size=5, digest=digest(b"five!"))
    refused(peer.outcome(), "size-mismatch", model, 5, 0)
    assert peer.numbers(model) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"size": len(PAYLOAD) + 1},
        {"size": 10 * MIB, "offset": 8 * MIB},
        {"offset": 1},
        {"length": MIB - 1},
    ],
    ids=["another size", "beyond the end", "between chunks", "short"],
)
@pytest.mark.parametrize("archived", [False, True])
def test_a_chunk_that_is_not_inside_the_declared_payload_ends_the_upload(
    peer: BarePeer, model: str, changes: dict[str, int], archived: bool
) -> None:
    upload_id = begin(peer, model, archived=archived)
    peer.chunk(upload_id, PAYLOAD, 0)
    data = PAYLOAD[: changes.get("length", MIB)]
    header = {"size": len(PAYLOAD), "offset": MIB, "length": len(data)} | changes
    peer.upload.send_multipart([b"", ChunkHeader(upload_id, **header).pack(), data])
    said = peer.outcome()
    refused(said, "size-mismatch", model, len(PAYLOAD))
    assert said.fields["upload_id"] == upload_id


def test_a_chunk_whose_header_does_not_fit_its_bytes_is_dropped(peer: BarePeer, model: str) -> None:
    upload_id = begin(peer, model)
    peer.chunk(upload_id, PAYLOAD, 0, length=5)
    peer.chunk(upload_id, PAYLOAD, 0, offset=1 << 62)
    peer.upload.send_multipart([b"", b"short header", PAYLOAD[:MIB]])
    for index in range(4):
        # Also in the middle, where the next header is known: with too many bytes, and with too few.
        wrong = ChunkHeader(upload_id, len(PAYLOAD), index * MIB, len(PAYLOAD[index * MIB :][:MIB])).pack()
        for data in (PAYLOAD[:MIB] + b"x", b"few", b""):
            peer.upload.send_multipart([b"", wrong, data])
        peer.chunk(upload_id, PAYLOAD, index)
    peer.say("commit", upload_id, digest=digest(PAYLOAD))
    assert peer.outcome().kind == "done"
    peer.ask("delete-version", model_id=model, number=1)


def test_chunks_of_an_upload_that_was_begun_anew_go_to_the_new_one(peer: BarePeer, model: str) -> None:
    upload_id = begin(peer, model)
    other = bytes(len(PAYLOAD))
    for index in (0, 1):
        peer.chunk(upload_id, other, index)
    peer.say("abort", upload_id)
    assert peer.heard().kind == "aborted"
    peer.chunk(upload_id, other, 2)  # The very chunk that came next, of an upload that is no more.
    peer.say("begin", upload_id, model_id=model, size=len(PAYLOAD))
    assert peer.heard().kind == "credit"
    peer.chunk(upload_id, other, 2)
    assert peer.heard().fields["rewind"] is True
    for index in range(4):
        peer.chunk(upload_id, PAYLOAD, index)
    peer.say("commit", upload_id, digest=digest(PAYLOAD))
    assert peer.outcome().fields["version"]["digest"] == digest(PAYLOAD)
    peer.ask("delete-version", model_id=model, number=1)


def received(peer: BarePeer, upload_id: bytes, model: str, size: int) -> int:
    """Chunks of an upload that are there, once all that this peer sent was looked at: it begins the upload once more."""
    peer.say("begin", upload_id, model_id=model, size=size)
    said = peer.heard()
    assert said.kind == "credit" and said.fields["rewind"] is True
    return int(said.fields["received"])


def test_an_upload_may_move_to_another_connection(broadcaster: BroadcasterProcess, peer: BarePeer, model: str) -> None:
    upload_id, size = begin(peer, model), len(PAYLOAD)
    for index in (0, 1):
        peer.chunk(upload_id, PAYLOAD, index)
    assert received(peer, upload_id, model, size) == 2
    with BarePeer(broadcaster.ready) as moved:
        assert received(moved, upload_id, model, size) == 2
        peer.chunk(upload_id, PAYLOAD, 2)  # Late, and still what comes next.
        assert received(peer, upload_id, model, size) == 3
        moved.chunk(upload_id, PAYLOAD, 3)
        moved.say("commit", upload_id, digest=digest(PAYLOAD))
        assert moved.outcome().fields["version"]["digest"] == digest(PAYLOAD)
        peer.ask("delete-version", model_id=model, number=1)
        assert peer.silent()


def test_who_sends_the_chunks_is_answered(broadcaster: BroadcasterProcess, peer: BarePeer, model: str) -> None:
    payload = bytes(30 * MIB)
    upload_id = begin(peer, model, size=len(payload))
    for index in range(3):
        peer.chunk(upload_id, payload, index)
    assert received(peer, upload_id, model, len(payload)) == 3
    with BarePeer(broadcaster.ready) as other:
        for index in range(3, 11):
            other.chunk(upload_id, payload, index)
        said = other.heard()
        assert said.kind == "credit" and said.fields["received"] == 11
        assert peer.silent()
    peer.say("abort", upload_id)
    assert peer.heard().kind == "aborted"


def test_repeated_and_older_chunks_are_dropped_without_a_word(peer: BarePeer, model: str) -> None:
    upload_id = begin(peer, model)
    other = bytes(len(PAYLOAD))
    for index, payload in [(0, PAYLOAD), (0, other), (1, PAYLOAD), (0, other), (1, other)]:
        peer.chunk(upload_id, payload, index)
    wait_until(lambda: peer.stats()["chunks_dropped"] >= 3, "the repetitions were counted")
    assert peer.silent()
    for index in (2, 3):
        peer.chunk(upload_id, PAYLOAD, index)
    peer.say("commit", upload_id, digest=digest(PAYLOAD))
    assert peer.outcome().fields["version"]["digest"] == digest(PAYLOAD)
    peer.ask("delete-version", model_id=model, number=1)


def test_a_chunk_behind_a_hole_and_an_early_commit_lead_back_to_what_is_missing(peer: BarePeer, model: str) -> None:
    upload_id = begin(peer, model)
    for index in (0, 2, 3):
        peer.chunk(upload_id, PAYLOAD, index)
    said = peer.heard()
    assert (said.fields["received"], said.fields["rewind"]) == (1, True)
    peer.say("commit", upload_id, digest=digest(PAYLOAD))
    said = peer.heard()
    assert (said.fields["received"], said.fields["rewind"]) == (1, True)
    peer.say("abort", upload_id)
    assert peer.heard().kind == "aborted"


# --- payloads that do not fit ----------------------------------------------------------------------------------------


def test_a_payload_over_the_limit_is_refused_before_a_byte_moves(peer: BarePeer, model: str) -> None:
    for size in (LARGEST + 1, (1 << 63) - 1):
        peer.say("begin", os.urandom(16), model_id=model, size=size)
        refused(peer.heard(), "payload-too-large", model, size, LARGEST)


def test_a_payload_over_the_budget_is_refused_with_the_sum(peer: BarePeer, model: str) -> None:
    under_way = [begin(peer, f"{model}-{index}", 24 * MIB) for index in range(2)]
    peer.say("begin", os.urandom(16), model_id=model, size=20 * MIB)
    said = peer.heard()
    refused(said, "budget-exceeded", model, "uploads in flight", "newest versions", "pinned", BUDGET)
    facts = said.fields["facts"]
    assert facts["in_flight"] == peer.stats()["memory_uploads"] >= 2 * 24 * MIB
    assert facts["in_flight"] + facts["newest"] + facts["pinned"] + facts["size"] > facts["budget"] == BUDGET
    for upload_id in under_way:
        peer.say("abort", upload_id)
        assert peer.heard().kind == "aborted"


# --- requests that break a rule ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a/b", "../x", "-a", "a b", "ä", "a\0b", "x" * 129, "x" * 60_000])
def test_invalid_names_are_refused_with_the_rule(peer: BarePeer, name: str) -> None:
    for fields in ({"model_id": name}, {"model_id": "m", "namespace": name}):
        refused(peer.publish(**({"payload": b"x", "model": "m"} | fields)), "invalid-name", "[A-Za-z0-9]")  # type: ignore[arg-type]
        peer.say("begin", os.urandom(16), size=100_000, **fields)
        refused(peer.heard(), "invalid-name", "[A-Za-z0-9]")
        refused(peer.ask("create-model", **fields), "invalid-name", "[A-Za-z0-9]")
        refused(peer.ask("follow", **fields), "invalid-name", "[A-Za-z0-9]")


@pytest.mark.parametrize(
    "fields, word",
    [
        ({"digest_kind": "md5"}, "digest_kind"),
        ({"content_type": "x" * 129}, "content_type"),
        ({"user_data": {"a": "b" * 17_000}}, "user_data"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(peer: BarePeer, model: str, fields: dict[str, Any], word: str) -> None:
    refused(peer.publish(model, b"x", **fields), "invalid-request", word)
    refused(peer.publish(model, PAYLOAD, **fields), "invalid-request", word)


def test_another_version_of_the_protocol_is_refused_with_both_numbers(peer: BarePeer, model: str) -> None:
    for theirs in (0, 2, -1, 1 << 63):
        refused(peer.ask("hello", protocol=theirs), "unsupported-protocol", f"protocol {theirs}", "speaks 1")
        refused(peer.publish(model, b"x", protocol=theirs), "unsupported-protocol", f"protocol {theirs}", "speaks 1")


def test_an_unknown_request_and_one_on_the_wrong_channel_are_refused(peer: BarePeer, model: str) -> None:
    refused(peer.ask("sing"), "invalid-request", "sing")
    refused(peer.ask("begin", model_id=model, upload_id=os.urandom(16), size=1), "invalid-request", "upload channel")
    peer.say("get-stats", os.urandom(16))
    refused(peer.heard(), "invalid-request", "data channel")


def test_a_commit_of_an_unknown_upload_says_begin_again_and_an_abort_is_done_already(peer: BarePeer) -> None:
    peer.say("commit", os.urandom(16), digest=digest(b""))
    said = peer.heard()
    refused(said, "invalid-request", "upload_id", "begin it again")
    assert said.fields["facts"]["field"] == "upload_id"
    peer.say("abort", os.urandom(16))
    assert peer.heard().kind == "aborted"


@pytest.mark.parametrize("archived", [False, True])
def test_an_aborted_upload_leaves_nothing_and_may_begin_again(peer: BarePeer, model: str, archived: bool) -> None:
    upload_id = begin(peer, model, archived=archived)
    peer.chunk(upload_id, PAYLOAD, 0)
    peer.say("abort", upload_id)
    assert peer.outcome().kind == "aborted"
    assert peer.numbers(model) == []
    assert peer.publish(model, PAYLOAD, upload_id=upload_id).fields["version"]["number"] == 1
    peer.ask("delete-version", model_id=model, number=1)


def test_a_broadcaster_that_ends_gives_up_what_is_under_way_without_a_word(tmp_path: Path) -> None:
    with BroadcasterProcess(tmp_path / "broadcaster") as broadcaster:
        with BarePeer(broadcaster.ready) as peer:
            begin(peer, "policy", archived=True)
            assert staged(broadcaster.archive_dir)
            assert broadcaster.stop() == 0
        assert not staged(broadcaster.archive_dir)
        assert "Exception" not in broadcaster.log()


def test_an_upload_id_of_another_payload_is_refused(peer: BarePeer, model: str) -> None:
    """Else the second payload would be lost, and its learner told that it is there."""
    upload_id = begin(peer, model)
    peer.say("begin", upload_id, model_id=model, size=len(PAYLOAD) + 1)
    refused(peer.heard(), "already-exists", model, len(PAYLOAD))
    peer.say("abort", upload_id)
    assert peer.heard().kind == "aborted"
    done = os.urandom(16)
    peer.publish(model, b"one", upload_id=done)
    for name, payload in [(model, b"three"), (model + "x", b"one")]:
        refused(peer.publish(name, payload, upload_id=done), "already-exists", name, f"3 bytes for default/{model}")
    assert peer.publish(model, b"one", upload_id=done).fields["version"]["number"] == 1
    assert peer.numbers(model) == [1]


# --- what is not of the protocol -----------------------------------------------------------------------------------


HOSTILE_MAPS = {
    "empty": b"",
    "an empty map": b"\x80",
    "nil": b"\xc0",
    "no map": msgpack.packb([1, 2]),
    "too large": msgpack.packb({"model_id": "x" * CONTROL}),
    "a map that says it is huge": b"\xdf\xff\xff\xff\xff",
    "an array that says it is huge": b"\x81\xa1a\xdd\xff\xff\xff\xff",
    "a repeated key": b"\x82\xa1a\x01\xa1a\x02",
    "a key that is no text": b"\x81\x01\x02",
    "an extension": b"\x81\xa1a\xd4\x01\x00",
    "broken text": b"\x81\xa1a\xa2\xff\xfe",
    "cut short": msgpack.packb({"model_id": "m", "request_id": bytes(16)})[:-1],
    "nested deep": b"\x81\xa8protocol" + b"\x91" * 1000 + b"\xc0",
    "nested deeper": b"\x81\xa8model_id" + b"\x91" * 60_000 + b"\xc0",
}


@pytest.mark.parametrize("name", HOSTILE_MAPS)
@pytest.mark.parametrize("kind", [b"begin", b"publish", b"commit", b"follow", b"read", b"set-tags", b"error", b"\xff\xff"])
def test_a_map_that_breaks_the_rules_is_answered_with_an_error(peer: BarePeer, name: str, kind: bytes) -> None:
    for sock, envelope in [(peer.upload, []), (peer.data, [b""])]:
        sock.send_multipart([*envelope, kind, HOSTILE_MAPS[name]])
        said = heard(sock, f"an answer to {kind!r}, {name}", 10, envelope=len(envelope))
        assert said.code in ("remote-protocol-error", "invalid-request"), said
        assert said.fields["request_id"] == bytes(16)


@pytest.mark.parametrize("frames", [[b"x"], [b"", b""], [b"hello"], [b"", b"", b"", b""], [b"y"] * 9, [b"", b"hello"], [b""]])
def test_a_wrong_number_of_frames_is_answered_or_dropped(peer: BarePeer, frames: list[bytes]) -> None:
    bad = peer.stats()["bad_messages"]
    for sock in (peer.upload, peer.data):
        sock.send_multipart(frames)
    wait_until(lambda: peer.stats()["bad_messages"] >= bad + 2, "both were counted")


@pytest.mark.parametrize("channel", ["upload", "push", "data"])
def test_bytes_that_are_not_zeromq_harm_nobody(broadcaster: BroadcasterProcess, peer: BarePeer, channel: str, model: str) -> None:
    rng = random.Random(channel)
    host, _, port = broadcaster.ready[channel].removeprefix("tcp://").rpartition(":")
    greeting = b"\xff\0\0\0\0\0\0\0\1\x7f\x03\0NULL" + bytes(16) + bytes(32)
    garbage = [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\0\1\0\1\xfc\x03\x03",
        greeting[:11],
        greeting,
        greeting + b"\x04\xff\xff\xff\xff\xff\xff\xff\xff",
        greeting + b"\x04\x19\x05READY\x0bSocket-Type\0\0\0\x03SUB" + b"\0\xff",
        greeting + b"\x06\x7f\xff\xff\xff\xff\xff\xff\xff",
        *(rng.randbytes(rng.randrange(1, 5000)) for _ in range(20)),
        *(greeting + rng.randbytes(rng.randrange(1, 200)) for _ in range(20)),
    ]
    for data in garbage:
        with socket.create_connection((host, int(port)), timeout=5) as raw:
            try:
                raw.sendall(data)
            except ConnectionError:
                pass  # It hung up in the middle.
    assert peer.publish(model, b"still here").kind == "done"
    assert peer.read(model, 1) == b"still here"


def test_subscriptions_to_anything_but_whole_topics_are_refused(
    broadcaster: BroadcasterProcess, peer: BarePeer, model: str
) -> None:
    before = peer.stats()["subscriptions_refused"]
    wrong = [b"", b"default/", f"default/{model}".encode(), f"default/{model}\0".encode(), f"{model}\0e".encode(), b"\xff" * 400]
    greedy = peer.subscription(broadcaster.ready["push"], *wrong)
    wait_until(lambda: peer.stats()["subscriptions_refused"] == before + len(wrong), "all were refused")
    right = peer.subscription(broadcaster.ready["push"], f"default/{model}\0e".encode())
    assert right.poll(10_000), "a beacon greets a subscription"
    peer.publish(model, b"x")
    assert right.poll(10_000)
    assert not greedy.poll(0)
