"""What the Cogment front makes of uploads, right and wrong, row by row: as the Cogment Model Registry does, or better."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

import clients
from broadcaster.protocol.limits import MAX_PAYLOAD
from tests.bare_peer import wait_until
from tests.cogment.front import Registry, data_hash, refused
from tests.cogment_calls import SCHEMA, body, header


@pytest.fixture
def made(registry: Registry, model: str) -> str:
    """A model without versions."""
    registry.make(model)
    return model


class Held:
    """Messages of an upload that stays open after the last of them, until the end of the `with` block."""

    def __init__(self, *messages: Any) -> None:
        self._messages = messages
        self._over = threading.Event()
        self.taken = 0

    def __iter__(self) -> Iterator[Any]:
        for message in self._messages:
            self.taken += 1
            yield message
        self._over.wait(30)

    def __enter__(self) -> Held:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()


# --- numbers and stamps --------------------------------------------------------------------------------------------


def test_numbers_begin_at_1_and_what_the_header_says_of_them_is_ignored(registry: Registry, made: str) -> None:
    for number, archived in enumerate([False, True, True, False], 1):
        assert registry.create(made, b"weights", archived=archived, version_number=77).version_number == number


def test_a_time_in_the_header_counts_else_it_is_the_end_of_the_upload(registry: Registry, made: str) -> None:
    assert registry.create(made, b"weights", creation_timestamp=1234567890123456789).creation_timestamp == 1234567890123456789
    started = threading.Event()

    def slow() -> Iterator[Any]:
        yield header(made, 7)
        assert started.wait(20)
        yield body(b"weights")

    with ThreadPoolExecutor(1) as thread:
        upload = thread.submit(registry.send, slow())
        sent = time.time_ns()
        started.set()
        assert sent <= upload.result().creation_timestamp <= time.time_ns()
    stamps = [info.creation_timestamp for info in registry.infos(made)[0]]
    assert stamps[0] == 1234567890123456789 and stamps[1] >= sent


def test_parallel_uploads_get_a_number_each_and_every_one_is_there(registry: Registry, made: str) -> None:
    def upload(index: int) -> int:
        return int(registry.create(made, b"%d" % index, b"!" * 100_000, archived=index % 4 == 0).version_number)

    with ThreadPoolExecutor(40) as threads:
        numbers = list(threads.map(upload, range(40)))
    assert sorted(numbers) == list(range(1, 41))
    # Of large transient ones some of the newest are kept; what is there is what was uploaded under that number.
    there = registry.numbers(made)
    assert {40, *(number for index, number in enumerate(numbers) if index % 4 == 0)} <= set(there)
    for index, number in enumerate(numbers):
        if number in there:
            assert registry.data(made, number) == b"%d" % index + b"!" * 100_000


def test_equal_data_is_a_version_of_its_own_each_time(registry: Registry, made: str) -> None:
    infos = [registry.create(made, b"weights" * 20_000, archived=archived) for archived in (False, True, True)]
    assert [info.version_number for info in infos] == [1, 2, 3]
    assert len({info.data_hash for info in infos}) == 1


# --- models and forms that are none --------------------------------------------------------------------------------


def test_an_upload_for_an_unknown_model_is_refused_at_its_header(registry: Registry) -> None:
    with Held(header("nobody", 1 << 30)) as messages, refused("NOT_FOUND", "nobody"):
        registry.send(messages)
    with refused("NOT_FOUND", "nobody"):
        registry.infos("nobody")


def test_a_stream_of_another_form_is_an_invalid_argument(registry: Registry, made: str) -> None:
    for messages in (
        [],
        [body(b"weights")],
        [SCHEMA["CreateVersionRequestChunk"]()],
        [header(made, 7), header(made, 7), body(b"weights")],
        [header(made, 7), body(b"weights"), header(made, 7)],
        [header(made, 7), SCHEMA["CreateVersionRequestChunk"](), body(b"weights")],
    ):
        with refused("INVALID_ARGUMENT"):
            registry.send(messages)
    assert registry.numbers(made) == []


# --- sizes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 6, 8, 1 << 20])
@pytest.mark.parametrize("chunks", [(b"weights",), (b"wei", b"ghts")])
def test_another_size_than_was_declared_is_an_invalid_argument(registry: Registry, made: str, size: int, chunks: tuple) -> None:
    with refused("INVALID_ARGUMENT", "size"):
        registry.create(made, *chunks, size=size)
    assert registry.numbers(made) == []


@pytest.mark.parametrize("size", [100, 200_000, 3 << 20])
def test_the_first_excess_byte_is_refused_while_the_upload_is_open(registry: Registry, made: str, size: int) -> None:
    with Held(header(made, size), body(b"x" * size), body(b"y")) as messages, refused("INVALID_ARGUMENT", "size"):
        registry.send(messages)
    assert registry.numbers(made) == []


@pytest.mark.parametrize("size", [MAX_PAYLOAD + 1, 2**64 - 1, 2 << 30])
def test_a_declared_size_over_a_limit_is_refused_before_any_data(registry: Registry, made: str, size: int) -> None:
    """The largest payload, or, for the last one, the memory budget."""
    with Held(header(made, size)) as messages, refused("RESOURCE_EXHAUSTED"):
        registry.send(messages)


def test_a_header_alone_of_size_0_is_a_version_of_nothing(registry: Registry, made: str) -> None:
    for archived in (False, True):
        info = registry.create(made, archived=archived)
        assert (info.data_size, info.data_hash) == (0, data_hash(b""))
        assert registry.chunks(made) == [b""]


def test_chunks_may_be_empty_and_of_any_size(registry: Registry, made: str) -> None:
    registry.create(made, b"", b"w", b"", b"eights", b"x" * (3 << 20), b"")
    assert registry.data(made) == b"weights" + b"x" * (3 << 20)


# --- hashes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b"weights", b"weights" * 100_000], ids=["small", "large"])
def test_a_declared_hash_is_compared_and_the_own_one_told(registry: Registry, made: str, data: bytes) -> None:
    right = data_hash(data)
    assert registry.create(made, data, data_hash=right).data_hash == right
    assert registry.create(made, data).data_hash == right
    for wrong in (data_hash(data + b"!"), right[:-1], right.rstrip("="), hashlib.sha256(data).hexdigest(), "no base64 !"):
        with refused("INVALID_ARGUMENT", "digest-mismatch"):
            registry.create(made, data, data_hash=wrong)
    assert registry.numbers(made) == [1, 2]


# --- what does not end ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize("size", [1000, 5 << 20])
def test_an_abandoned_upload_takes_no_number_and_leaves_nothing(
    registry: Registry, client: clients.Client, made: str, archived: bool, size: int
) -> None:
    def under_way() -> float:
        return client.registry.stats()["uploads"]

    begun = threading.Event()

    def messages() -> Iterator[Any]:
        yield header(made, size, archived=archived)
        yield body(b"x" * (size // 2))
        begun.set()
        threading.Event().wait(0.05)

    call = registry.start(messages())
    assert begun.wait(20)
    call.cancel()
    wait_until(lambda: under_way() == 0, "the upload is given up")
    assert registry.create(made, b"weights").version_number == 1
    assert registry.numbers(made) == [1]


def test_the_user_data_of_a_version_is_what_its_header_said(registry: Registry, made: str) -> None:
    for archived in (False, True):
        registry.create(made, b"weights", archived=archived, user_data={"step": "7", "übung": "ja"})
    registry.make(made, other="data")
    assert [dict(info.user_data) for info in registry.infos(made)[0]] == [{"step": "7", "übung": "ja"}] * 2
