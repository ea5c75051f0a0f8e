"""The Cogment front of a real broadcaster, asked by a bare gRPC client: every call, what it refuses, what it lives through."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import os
import random
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import clients
from tests.bare_peer import wait_until
from tests.broadcaster_process import BroadcasterProcess

grpc = pytest.importorskip("grpc")

from broadcaster.cogment.limits import LARGEST_CHUNK  # noqa: E402
from tests.cogment_calls import SCHEMA, Calls, body, header, refused, upload  # noqa: E402

OK, GONE, WRONG = grpc.StatusCode.OK, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT
FULL, DENIED = grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.PERMISSION_DENIED
ON = ["--grpc-port", "0"]


def sha256(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()


def payload(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(min(size, 1 << 16)) * (size // (1 << 16)) + bytes(size % (1 << 16))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BroadcasterProcess]:
    directory = tmp_path_factory.mktemp("cogment") / "broadcaster"
    with BroadcasterProcess(directory, http=True, options=[*ON, "--grpc-reflection", "--keep-large", "20"]) as process:
        yield process


@pytest.fixture
def calls(served: BroadcasterProcess) -> Iterator[Calls]:
    with Calls(served.ready["grpc"]) as client:
        yield client


# --- models ----------------------------------------------------------------------------------------------------------


def test_a_model_is_made_updated_listed_and_deleted(calls: Calls, model: str) -> None:
    calls.make(model, kind="policy")
    assert calls("RetrieveModels", model_ids=[model]).model_infos[0].user_data == {"kind": "policy"}
    assert calls.infos(model) == ([], "0")
    calls.publish(model, b"weights")
    calls.make(model, other="x")
    assert calls("RetrieveModels", model_ids=[model]).model_infos[0].user_data == {"other": "x"}, "all of it is replaced"
    assert len(calls.infos(model)[0]) == 1, "and no version is touched"
    calls("DeleteModel", model_id=model)
    for call in (
        lambda: calls("DeleteModel", model_id=model),
        lambda: calls.models(model),
        lambda: calls.infos(model),
        lambda: calls.data(model),
        lambda: calls.data(model, 1),
        lambda: calls.publish(model, b"x"),
    ):
        assert refused(call)[0] is GONE
    calls.make(model)
    assert calls.publish(model, b"again").version_number == 2, "numbers go on"


def test_models_are_listed_by_name_in_pages_of_which_the_last_leads_to_an_empty_one(calls: Calls, model: str) -> None:
    names = [f"{model}-{letter}" for letter in "cab"]
    for name in names:
        calls.make(name)
    every, end = calls.models()
    assert every == sorted(every) and set(names) <= set(every) and end == str(len(every))
    paged, handle = [], ""
    while (page := calls.models(count=2, handle=handle))[0]:
        assert page[1] == str(len(paged) + len(page[0]))
        paged, handle = paged + page[0], page[1]
    assert paged == every and calls.models(handle="9999") == ([], "9999")
    assert calls.models(*names) == (names, "3"), "in the order of the list"
    assert calls.models(*names, count=2) == (names[:2], "2") and calls.models(*names, count=2, handle="2") == (names[2:], "3")
    assert calls.models(*names, handle="3") == ([], "3")


@pytest.mark.parametrize("name", ["", "../x", "a/b", "a b", ".hidden", "ü", "x" * 129, "a\0b"])
def test_a_name_that_is_none_is_refused(calls: Calls, name: str) -> None:
    for call in (
        lambda: calls.make(name),
        lambda: calls("DeleteModel", model_id=name),
        lambda: calls.models(name, name),
        lambda: calls.infos(name),
        lambda: calls.data(name),
        lambda: calls.publish(name, b"x"),
        lambda: calls.updates(name),
    ):
        assert refused(call)[0] is WRONG


@pytest.mark.parametrize("name", ["policy-v2", "123", "a.b_c-d", "policy-v000001"])
def test_names_that_the_original_mixed_up_are_names_like_any_other(calls: Calls, name: str) -> None:
    calls.make(name)
    assert [calls.publish(name, b"x", archived=True).version_number for _ in range(2)] == [1, 2]
    assert calls.models(name)[0] == [name] and len(calls.infos(name)[0]) == 2


# --- versions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, (2 << 20) - 1, 2 << 20, (2 << 20) + 1, 12 << 20])
@pytest.mark.parametrize("archived", [False, True])
def test_what_is_published_comes_back_bit_for_bit(calls: Calls, model: str, size: int, archived: bool) -> None:
    calls.make(model)
    data = payload(size, size)
    before = time.time_ns()
    info = calls.publish(model, data, archived=archived, sha256=sha256(data), user_data={"step": "7"}, version_number=99)
    assert (info.model_id, info.version_number, info.archived, info.data_size) == (model, 1, archived, size)
    assert info.data_hash == sha256(data) and info.user_data == {"step": "7"}
    assert before <= info.creation_timestamp <= time.time_ns()
    chunks = calls.chunks(model, 1)
    assert b"".join(chunks) == data
    assert [len(chunk) for chunk in chunks] == [2 << 20] * (size // (2 << 20)) + [size % (2 << 20)] * bool(
        size % (2 << 20) or not size
    )
    assert calls.infos(model, 1, -1)[0] == [info, info]


def test_numbers_are_one_sequence_and_the_nth_newest_is_counted_over_what_there_is(calls: Calls, model: str) -> None:
    calls.make(model)
    given = [calls.publish(model, bytes([n]), archived=n % 2 == 0).version_number for n in range(5)]
    assert given == [1, 2, 3, 4, 5]
    assert [calls.data(model, number) for number in (-1, -2, -5, 3)] == [b"\4", b"\3", b"\0", b"\2"]
    for number in (0, -6, -7, 6, 28, -(2**31), 2**31 - 1):
        assert refused(lambda number=number: calls.data(model, number))[0] is GONE
        assert refused(lambda number=number: calls.infos(model, 1, number))[0] is GONE, "one that is unknown is all"
    assert "n-5" in refused(lambda: calls.data(model, -6))[1]
    assert [info.version_number for info in calls.infos(model, 5, -5, 2, 2)[0]] == [5, 1, 2, 2]


def test_a_time_that_is_given_stays_and_equal_data_make_two_versions(calls: Calls, model: str) -> None:
    calls.make(model)
    first, second = (calls.publish(model, b"same", creation_timestamp=n) for n in (1234, 0))
    assert first.creation_timestamp == 1234 and second.creation_timestamp > 1234
    assert (first.version_number, second.version_number) == (1, 2) and first.data_hash == second.data_hash


def test_versions_are_listed_ascending_in_pages_by_number(calls: Calls, model: str) -> None:
    calls.make(model)
    made = [calls.publish(model, b"x" * n) for n in range(10)]
    assert calls.infos(model) == (made, "11")
    assert calls.infos(model, count=5) == (made[:5], "6")
    assert calls.infos(model, count=5, handle="7") == (made[6:], "11")
    assert calls.infos(model, count=5, handle="11") == ([], "11") and calls.infos(model, handle="400") == ([], "400")
    assert calls.infos(model, 1, 5, -1) == ([made[0], made[4], made[9]], "3"), "an index into the numbers, both ways"
    assert calls.infos(model, 1, 5, -1, count=2, handle="2") == ([made[9]], "3")


def test_an_archived_version_and_its_number_outlive_a_restart_and_no_number_comes_twice(tmp_path: Path) -> None:
    with BroadcasterProcess(tmp_path / "b", options=ON) as process, Calls(process.ready["grpc"]) as calls:
        assert "http" not in process.ready, "gRPC alone is a web process, too"
        calls.make("policy", a="b")
        calls.make("transient")
        data = payload(300_000)
        kept = calls.publish("policy", data, archived=True)
        seen = [calls.publish(name, b"x" * 100_000).version_number for name in ("policy", "transient", "transient")]
        assert seen == [2, 1, 2]
        process.restart()
        wait_until(lambda: calls.models()[0] == ["policy", "transient"], "the front serves again, at the same port")
        assert calls.infos("policy")[0] == [kept] and calls.data("policy") == data
        assert calls.data("policy", 1) == data and calls.infos("transient")[0] == []
        assert calls.publish("policy", b"new").version_number > 2 and calls.publish("transient", b"new").version_number > 2
        assert process.stop() == 0


def test_forty_uploads_at_a_time_are_forty_numbers(calls: Calls, model: str) -> None:
    calls.make(model)

    def publish(n: int) -> tuple[int, int]:
        return calls.publish(model, bytes([n]) * 90_000, step=30_000, archived=n % 8 == 0).version_number, n

    with ThreadPoolExecutor(40) as threads:
        given = dict(threads.map(publish, range(40)))
    assert sorted(given) == list(range(1, 41))
    for number in sorted(given)[-5:]:
        assert calls.data(model, number) == bytes([given[number]]) * 90_000


# --- the other way round -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, 200_000, 3_000_000])
def test_what_is_published_here_is_there_and_the_other_way_round(
    served: BroadcasterProcess, calls: Calls, model: str, size: int
) -> None:
    calls.make(model)
    with clients.connect(served.url) as client, client.subscriber(model) as subscriber:
        mine = payload(size, 1)
        info = calls.publish(model, mine, user_data={"a": "b"})
        snapshot = subscriber.wait(10)
        assert bytes(snapshot.payload) == mine and snapshot.version.number == info.version_number
        assert snapshot.version.user_data == {"a": "b"} and client.registry.get(model).info.size == size
        updates = calls.updates(model)
        assert next(updates).version_info == info
        theirs = payload(size, 2)
        version = client.publisher(model).publish(theirs)
        told = next(updates).version_info
        assert (told.version_number, told.data_size) == (version.number, size)
        assert calls.data(model) == theirs
        assert calls.infos(model, -1)[0][0].data_hash == sha256(theirs)
        assert told.data_hash in (sha256(theirs), ""), "it is not waited for very long"
        updates.cancel()


def test_a_learners_versions_are_hashed_where_they_lie(served: BroadcasterProcess, calls: Calls, model: str) -> None:
    with clients.connect(served.url) as client:
        data = [payload(1 << 20, seed) for seed in range(4)]
        for one in data:
            client.publisher(model).publish(one)
        before = client.registry.stats()["reads"]
        wait_until(lambda: [info.data_hash for info in calls.infos(model)[0]] == [sha256(one) for one in data], "hashed")
        assert client.registry.stats()["reads"] == before


# --- updates -----------------------------------------------------------------------------------------------------------


def test_updates_begin_with_the_newest_and_skip_what_is_not_new_any_more(calls: Calls, model: str) -> None:
    calls.make(model)
    waiting = calls.updates(model)  # Of a model that has no version yet.
    first = calls.publish(model, b"1")
    assert next(waiting).version_info == first
    late = calls.updates(model)
    assert next(late).version_info == first
    numbers = []
    with ThreadPoolExecutor(1) as threads:
        burst = threads.submit(lambda: [calls.publish(model, bytes(100)).version_number for _ in range(30)])
        while not numbers or numbers[-1] < 31:
            numbers.append(next(waiting).version_info.version_number)
        assert burst.result() == list(range(2, 32))
    assert numbers == sorted(set(numbers)), "never back, never twice"
    waiting.cancel()
    late.cancel()


def test_updates_of_a_model_end_with_it_and_begin_anew_for_the_next_one(calls: Calls, model: str) -> None:
    assert refused(lambda: calls.updates(model))[0] is WRONG, "as the original has it"
    calls.make(model)
    streams = [calls.updates(model) for _ in range(3)]
    calls.publish(model, b"1")
    for stream in streams:
        next(stream)
    calls("DeleteModel", model_id=model)
    calls.make(model)
    fresh = calls.updates(model)
    for stream in streams:
        assert refused(lambda stream=stream: stream)[0] is GONE
    number = calls.publish(model, b"2").version_number
    assert next(fresh).version_info.version_number == number
    fresh.cancel()


def test_updates_outlive_a_core_that_dies_and_end_with_the_server(tmp_path: Path) -> None:
    with BroadcasterProcess(tmp_path / "b", http=True, options=ON) as process, Calls(process.ready["grpc"]) as calls:
        calls.make("policy")
        calls.publish("policy", b"kept", archived=True)
        updates = calls.updates("policy", timeout=30)
        assert next(updates).version_info.version_number == 1
        os.kill(process.pids[1], signal.SIGKILL)
        number = calls.publish("policy", payload(200_000)).version_number
        assert number > 1 and next(updates).version_info.version_number == number
        begun = time.monotonic()
        assert process.stop() == 0
        assert refused(lambda: updates)[0] is grpc.StatusCode.UNAVAILABLE
        assert time.monotonic() - begun < 10


def test_what_was_told_of_just_now_can_be_read_although_it_has_left_memory(tmp_path: Path) -> None:
    options = [*ON, "--keep-large", "1"]
    with BroadcasterProcess(tmp_path / "b", options=options) as process, Calls(process.ready["grpc"]) as calls:
        calls.make("policy")
        data = payload(3 << 20, 1)
        calls.publish("policy", data)
        (told,), _ = calls.infos("policy", -1)
        updates = calls.updates("policy")
        next(updates)
        newer = payload(3 << 20, 2)
        calls.publish("policy", newer)
        assert next(updates).version_info.version_number == 2
        calls.publish("policy", payload(3 << 20, 3))
        assert [info.version_number for info in calls.infos("policy")[0]] == [3]
        assert calls.data("policy", told.version_number) == data and calls.data("policy", 2) == newer
        wait_until(lambda: gone(calls, 1), "it is held for a moment only")
        updates.cancel()


def gone(calls: Calls, number: int) -> bool:
    with contextlib.suppress(grpc.RpcError):
        calls.data("policy", number)
        return False
    return True


def test_a_web_process_that_dies_serves_again_at_the_same_port(served: BroadcasterProcess, calls: Calls, model: str) -> None:
    calls.make(model)
    data = payload(300_000)
    info = calls.publish(model, data)
    os.kill(served.pids[2], signal.SIGKILL)

    def again() -> bool:
        with contextlib.suppress(grpc.RpcError), Calls(served.ready["grpc"], timeout=2) as fresh:
            return fresh.infos(model)[0] == [info] and fresh.data(model) == data
        return False

    wait_until(again, "hashes and all")
    wait_until(served.ready_file.exists, "the ready file is there again")
    served.ready = json.loads(served.ready_file.read_text())


# --- what is refused -----------------------------------------------------------------------------------------------------


def test_malformed_requests_are_answered_and_nothing_else_happens(served: BroadcasterProcess, calls: Calls, model: str) -> None:
    calls.make(model)
    calls.publish(model, b"1")
    pids = served.pids
    raw = {
        "no model_info": lambda: calls("CreateOrUpdateModel"),
        "a handle beyond the list": lambda: calls.models(model, handle="2"),
        "a count beyond the list": lambda: calls.models(model, count=2),
        "a negative handle with ids": lambda: calls.models(model, handle="-1"),
        "a negative handle": lambda: calls.models(handle="-1"),
        "a handle that is none": lambda: calls.models(handle="x"),
        "a version handle beyond the list": lambda: calls.infos(model, 1, handle="2"),
        "a version count beyond the list": lambda: calls.infos(model, 1, count=2),
        "a negative version handle": lambda: calls.infos(model, handle="-1"),
        "a negative version handle with numbers": lambda: calls.infos(model, 1, handle="-1"),
        "a version handle that is none": lambda: calls.infos(model, handle="1.5"),
        "an enormous handle": lambda: calls.infos(model, handle="9" * 400),
        "an empty stream": lambda: calls.send([]),
        "chunks before the header": lambda: calls.send([body(b"1"), header(model, 1)]),
        "a message that is neither": lambda: calls.send([SCHEMA["CreateVersionRequestChunk"]()]),
        "a header without version_info": lambda: calls.send([SCHEMA["CreateVersionRequestChunk"](header={})]),
        "a second header": lambda: calls.send([header(model, 1), header(model, 1), body(b"1")]),
        "nothing after the header": lambda: calls.send([header(model, 1)]),
        "a byte too few": lambda: calls.send([header(model, 3), body(b"12")]),
        "a byte too many": lambda: calls.send([header(model, 1), body(b"12")]),
        "data where none was declared": lambda: calls.send([header(model, 0), body(b"1")]),
        "too few of a large one": lambda: calls.send([header(model, 300_000), body(bytes(299_999))]),
        "too many of a large one": lambda: calls.send([header(model, 300_000), body(bytes(300_001))]),
        "another hash": lambda: calls.publish(model, b"1", sha256=sha256(b"2")),
        "a hash that is none": lambda: calls.publish(model, b"1", sha256="=!"),
        "a time that is none": lambda: calls.publish(model, b"1", creation_timestamp=2**64 - 1),
        "too much user data": lambda: calls.publish(model, b"1", user_data={"k": "v" * 20_000}),
        "bytes that are no request": lambda: calls.raw("RetrieveModels", b"\xff\xff\xff"),
        "text that is none": lambda: calls.raw("VersionUpdate", b"\n\x01\xff"),
        "bytes that are no chunk": lambda: calls.send([b"\xff\xff\xff"]),
        "bytes that are no chunk, later": lambda: calls.send([header(model, 100_000), b"\xff\xff\xff"]),
    }  # fmt: skip
    for what, call in raw.items():
        assert refused(call)[0] is WRONG, what
    assert served.running and served.pids == pids
    assert calls.publish(model, b"2").version_number == 2, "no number was taken"
    assert len(calls.infos(model)[0]) == 2


def test_a_size_over_the_limit_is_refused_before_anything_is_received(calls: Calls, model: str) -> None:
    calls.make(model)
    for size in ((1 << 30) + 1, 1 << 40, 2**63, 2**64 - 1):
        assert refused(lambda size=size: calls.send([header(model, size)]))[0] is FULL
    assert calls.infos(model) == ([], "0")


def test_an_upload_to_a_model_that_is_not_there_is_refused_at_its_header(calls: Calls, model: str) -> None:
    go_on = threading.Event()

    def messages() -> Iterator[object]:
        yield header(model, 1 << 20)
        go_on.wait(10)

    begun = time.monotonic()
    assert refused(lambda: calls.send(messages()))[0] is GONE
    assert time.monotonic() - begun < 5, "not at the end of the stream"
    go_on.set()


@pytest.mark.parametrize("size", [10, 300_000])
def test_an_upload_whose_model_is_deleted_meanwhile_makes_neither(
    served: BroadcasterProcess, calls: Calls, model: str, size: int
) -> None:
    calls.make(model)
    deleted = threading.Event()

    def messages() -> Iterator[object]:
        yield header(model, size)
        yield body(bytes(size // 2))
        assert deleted.wait(10)
        yield body(bytes(size - size // 2))

    with ThreadPoolExecutor(1) as threads:
        uploading = threads.submit(lambda: refused(lambda: calls.send(messages())))
        with clients.connect(served.url) as client:
            wait_until(lambda: size < 65_536 or client.registry.stats()["uploads"] == 1, "the upload is under way")
        calls("DeleteModel", model_id=model)
        deleted.set()
        assert uploading.result()[0] is GONE
    assert refused(lambda: calls.models(model))[0] is GONE


def test_bytes_that_are_no_grpc_at_all_harm_nobody(served: BroadcasterProcess, calls: Calls, model: str) -> None:
    host, _, port = served.ready["grpc"].rpartition(":")
    dice = random.Random(11)
    greeting = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for said in (
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + dice.randbytes(500),
        b"",
        *(greeting[: dice.randrange(1, len(greeting))] for _ in range(3)),
        *(greeting + dice.randbytes(dice.randrange(1, 2000)) for _ in range(20)),
        greeting + b"\xff\xff\xff\x01\x04\x00\x00\x00\x01" + dice.randbytes(70_000),
    ):
        with socket.create_connection((host, int(port)), timeout=5) as stranger, contextlib.suppress(OSError):
            stranger.sendall(said)
    calls.make(model)
    assert calls.publish(model, b"1").version_number == 1
    assert json.loads(served.ready_file.read_text())["pids"] == served.pids


def test_a_client_that_leaves_in_the_middle_leaves_nothing(served: BroadcasterProcess, calls: Calls, model: str) -> None:
    calls.make(model)
    with clients.connect(served.url) as client:
        wait_until(lambda: client.registry.stats()["uploads"] == 0, "whatever came before has ended")
        before = client.registry.stats()["slots_used"]

        def leave(size: int, archived: bool) -> None:
            going = threading.Event()

            def messages() -> Iterator[object]:
                yield header(model, size, archived=archived)
                yield body(bytes(size // 2))
                going.wait(10)

            with Calls(served.ready["grpc"]) as leaving:
                call = leaving._calls["CreateVersion"].future(messages(), timeout=20)
                if size > 65_536:
                    wait_until(lambda: client.registry.stats()["uploads"] == 1, "the upload is under way")
                call.cancel()
                going.set()

        for size, archived in itertools.product((10, 300_000, 8 << 20), (False, True)):
            leave(size, archived)
            wait_until(lambda: client.registry.stats()["uploads"] == 0, "it was given up")
        wait_until(lambda: client.registry.stats()["slots_used"] <= before, "and their memory is free")
    assert calls.publish(model, b"1").version_number == 1


def test_a_client_that_brings_or_takes_nothing_is_given_up(
    served: BroadcasterProcess, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A front of this process's own, with less patience."""
    from broadcaster.cogment import downloads, uploads
    from broadcaster.cogment.options import CogmentOptions
    from broadcaster.cogment.serve import Server

    for module in (uploads, downloads):
        monkeypatch.setattr(module, "STALL", 0.5)
    late, go_on = grpc.StatusCode.DEADLINE_EXCEEDED, threading.Event()
    server = Server(CogmentOptions(host="127.0.0.1", port=0, core=served.ipc_url, version="0"))
    try:
        with Calls(f"127.0.0.1:{server.start()}") as calls, clients.connect(served.url) as client:
            calls.make(model)

            def messages(size: int) -> Iterator[object]:
                yield header(model, size)
                yield body(b"1")
                go_on.wait(20)

            for size in (10, 300_000):
                assert refused(lambda size=size: calls.send(messages(size)))[0] is late
            wait_until(lambda: client.registry.stats()["uploads"] == 0, "they were given up")
            calls.publish(model, bytes(64 << 20))
            stream = calls("RetrieveVersionData", model_id=model, version_number=-1)
            next(stream)
            time.sleep(1.5)  # What this is about: nothing is taken for longer than the front waits.
            assert refused(lambda: stream)[0] is late
            assert calls.publish(model, b"2").version_number == 2
    finally:
        go_on.set()
        server.stop()


def test_a_reader_that_leaves_in_the_middle_harms_nobody(served: BroadcasterProcess, calls: Calls, model: str) -> None:
    calls.make(model)
    data = payload(24 << 20)
    calls.publish(model, data)
    for _ in range(5):
        with Calls(served.ready["grpc"]) as leaving:
            stream = leaving("RetrieveVersionData", model_id=model, version_number=-1)
            assert next(stream).data_chunk == data[: 2 << 20]
            stream.cancel()
    assert calls.data(model) == data


def test_what_does_not_fit_is_refused_with_resource_exhausted_and_the_newest_stays(tmp_path: Path) -> None:
    options = [*ON, "--memory-budget", "16MiB"]
    with BroadcasterProcess(tmp_path / "b", options=options) as process, Calls(process.ready["grpc"]) as calls:
        for name in ("a", "b"):
            calls.make(name)
        assert refused(lambda: calls.publish("a", bytes(17 << 20)))[0] is FULL
        one = payload(4 << 20, 1)
        calls.publish("a", one)
        for _ in range(5):
            calls.publish("b", payload(4 << 20, 2))
        assert calls.data("a") == one, "the newest of a model goes for no other"
        assert refused(lambda: calls.publish("b", bytes(9 << 20)))[0] is FULL
        assert [info.version_number for info in calls.infos("b")[0]] == [4, 5]
        assert refused(lambda: calls.data("b", 1))[0] is GONE and "evicted" in refused(lambda: calls.data("b", 1))[1]
        for name in ("a", "b"):
            calls("DeleteModel", model_id=name)
        calls.make("c")
        assert calls.publish("c", payload(12 << 20)).version_number == 1
        maps = Path(f"/proc/{process.pids[2]}/maps")
        wait_until(
            lambda: "(deleted)" not in slots_in(maps), "slots that the core gave up are not kept in memory here", seconds=30
        )
        assert slots_in(maps), "while those that it has stay mapped"


def slots_in(maps: Path) -> str:
    """The lines about slots."""
    return "".join(line for line in maps.read_text().splitlines(keepends=True) if "/slot-" in line)


def test_with_the_originals_variables_it_is_open_and_the_bytes_alone_decide_what_stays(tmp_path: Path) -> None:
    environment = {
        "COGMENT_MODEL_REGISTRY_PORT": "0",
        "COGMENT_MODEL_REGISTRY_VERSION_CACHE_MAX_SIZE": str(64 << 20),
        "COGMENT_MODEL_REGISTRY_VERSION_CACHE_EXPIRATION": "1h30m",
        "COGMENT_MODEL_REGISTRY_SENT_MODEL_VERSION_DATA_CHUNK_SIZE": str(5 << 20),
        "COGMENT_MODEL_REGISTRY_GRPC_REFLECTION": "1",
    }
    from broadcaster.web.tokens import add_token

    file = tmp_path / "tokens.toml"
    add_token(file, "admin", "admin")
    with (
        BroadcasterProcess(tmp_path / "b", environment=environment, options=["--http-tokens", str(file)]) as process,
        Calls(process.ready["grpc"]) as calls,
    ):
        assert "OPEN: nobody needs a token on the gRPC port" in process.log()
        calls.make("policy")
        for n in range(40):
            calls.publish("policy", payload(1 << 20, n))
        assert len(calls.infos("policy")[0]) >= 25, "not the 8 that a model keeps of its large ones otherwise"
        calls.publish("policy", payload(12 << 20))
        assert max(map(len, calls.chunks("policy"))) <= LARGEST_CHUNK


# --- who may -----------------------------------------------------------------------------------------------------------


def test_roles_and_tokens_are_those_of_http(tmp_path: Path) -> None:
    from broadcaster.web.tokens import add_token, remove_token

    file = tmp_path / "tokens.toml"
    tokens = {role: add_token(file, role, role) for role in ("actor", "learner", "admin")}
    limited = add_token(file, "limited", "learner", ["default/mine-*"])
    options = [*ON, "--http-tokens", str(file)]
    with BroadcasterProcess(tmp_path / "b", options=options) as process, contextlib.ExitStack() as stack:
        address = process.ready["grpc"]
        actor, learner, admin = (stack.enter_context(Calls(address, token=tokens[role])) for role in tokens)
        mine, nobody = (stack.enter_context(Calls(address, token=token)) for token in (limited, None))
        stranger = stack.enter_context(Calls(address, token="x" * 43))
        learner.make("mine-1")
        learner.make("other")
        learner.publish("mine-1", b"1")
        assert actor.data("mine-1") == b"1" and mine.models()[0] == ["mine-1"] and admin.models()[0] == ["mine-1", "other"]
        for calls in (nobody, stranger):
            for call in (calls.models, lambda calls=calls: calls.publish("other", b""), lambda calls=calls: calls("Version")):
                assert refused(call)[0] is grpc.StatusCode.UNAUTHENTICATED
        for call in (
            lambda: actor.make("new"),
            lambda: actor.publish("mine-1", b"2"),
            lambda: learner("DeleteModel", model_id="other"),
            lambda: mine.models("other"),
            lambda: mine.publish("other", b"2"),
            lambda: mine.make("other"),
            lambda: mine.data("other"),
            lambda: mine.updates("other"),
        ):
            assert refused(call)[0] is DENIED
        assert mine.publish("mine-1", b"2").version_number == 2
        updates = mine.updates("mine-1")
        next(updates)
        remove_token(file, "limited")
        assert refused(lambda: updates)[0] is grpc.StatusCode.UNAUTHENTICATED, "within a second or two"
        admin("DeleteModel", model_id="other")
        assert not any(token in process.log() for token in (*tokens.values(), limited))


def test_tls_is_that_of_http(tmp_path: Path) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    make_certificate(certificate, key)
    options = [*ON, "--http-cert", str(certificate), "--http-key", str(key)]
    with BroadcasterProcess(tmp_path / "b", options=options) as process:
        port = process.ready["grpc"].rpartition(":")[2]
        with Calls(f"localhost:{port}", credentials=grpc.ssl_channel_credentials(certificate.read_bytes())) as calls:
            calls.make("policy")
            assert calls.publish("policy", payload(300_000)).version_number == 1
        with Calls(f"localhost:{port}", timeout=2) as plain:
            assert refused(plain.models)[0] in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)


def make_certificate(certificate: Path, key: Path) -> None:
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    subprocess.run([*made, *subject, *files], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--grpc-port", "{taken}"], "grpc-port: 127.0.0.1:{taken} is in use"),
        (["--grpc-port", "x"], "grpc-port: "),
        (["--grpc-port", "0", "--grpc-host", "0.0.0.0"], "grpc-host: 0.0.0.0 can be reached over the network"),
        (["--grpc-port", "0", "--http-cert", "/nonexistent"], "http-cert: /nonexistent"),
        (["--grpc-port", "0", "--http-key", "/nonexistent"], "http-key: "),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence_at_the_start(tmp_path: Path, options: list[str], sentence: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = BroadcasterProcess(tmp_path / "b", options=[option.replace("{taken}", port) for option in options])
        try:
            with pytest.raises(AssertionError, match="ended with [12]"):
                process.start()
            assert sentence.replace("{taken}", port) in process.log() and "Traceback" not in process.log()
        finally:
            process.close()


# --- health, reflection --------------------------------------------------------------------------------------------------


def test_the_standard_health_service_tells_whether_the_core_answers(served: BroadcasterProcess) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(served.ready["grpc"]) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def is_serving(name: str = "") -> bool:
            said = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5).status
            return bool(said == health_pb2.HealthCheckResponse.SERVING)

        wait_until(lambda: is_serving() and is_serving("cogmentAPI.ModelRegistrySP"), "it serves")
        os.kill(served.pids[1], signal.SIGSTOP)
        try:
            wait_until(lambda: not is_serving(), "the core does not answer")
        finally:
            os.kill(served.pids[1], signal.SIGCONT)
        wait_until(is_serving, "it does again")


def test_what_can_be_called_is_told_where_that_is_wanted(calls: Calls) -> None:
    from google.protobuf import descriptor_pb2
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    stub = reflection_pb2_grpc.ServerReflectionStub(calls.channel)
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="cogmentAPI.ModelRegistrySP"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.health.v1.Health"),
    ]
    listed, file, health = list(stub.ServerReflectionInfo(iter(asked), timeout=5))
    assert {service.name for service in listed.list_services_response.service} == {
        "cogmentAPI.ModelRegistrySP", "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection",
    }  # fmt: skip
    found = descriptor_pb2.FileDescriptorProto.FromString(file.file_descriptor_response.file_descriptor_proto[0])
    assert [method.name for method in found.service[0].method][:2] == ["CreateOrUpdateModel", "DeleteModel"]
    assert health.file_descriptor_response.file_descriptor_proto


def test_version_and_status_are_told(calls: Calls) -> None:
    (named,) = calls("Version").versions
    assert named.name == "model-broadcaster" and named.version
    assert (
        dict(calls("Status", names=["*"]).statuses)
        == dict(calls("Status", names=["overall_load"]).statuses)
        == {"overall_load": "0"}
    )
    assert dict(calls("Status").statuses) == dict(calls("Status", names=["else"]).statuses) == {}


def test_uploads_of_tiny_chunks_and_of_large_ones_are_the_same(calls: Calls, model: str) -> None:
    calls.make(model)
    data = payload(4 << 20, 9)
    for step in (1000, 4 << 20):
        calls.send(upload(model, data, step=step))
        assert calls.data(model) == data
