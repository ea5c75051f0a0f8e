"""A learner on the broadcaster's host: straight into a slot, whatever happens to either of them on the way."""

from __future__ import annotations

import contextlib
import functools
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import clients
from broadcaster.protocol.messages import Begin, Commit, Filled
from clients import codec
from tests.bare_peer import BarePeer, digest, wait_until
from tests.broadcaster_process import ROOT, BroadcasterProcess

MIB = 1 << 20
NO_SLOTS = "/nonexistent"
"""A client that finds no slots here gets and sends chunks."""


def stats(broadcaster: BroadcasterProcess) -> dict[str, float]:
    with BarePeer(broadcaster.ready) as peer:
        return peer.stats()


def read(broadcaster: BroadcasterProcess, model: str, number: int) -> bytes:
    with BarePeer(broadcaster.ready) as peer:
        return peer.read(model, number)


class Gated:
    """A payload whose copying waits in the middle until it is told to go on."""

    content_type = clients.OPAQUE
    metadata: dict[str, str] = {}

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.size = len(payload)
        self.half = threading.Event()
        self.go_on = threading.Event()

    def copy_into(self, buffer: memoryview, filled: Callable[[int], None]) -> None:
        middle = self.size // 2
        buffer[:middle] = self.payload[:middle]
        filled(middle)
        self.half.set()
        assert self.go_on.wait(30)
        buffer[middle:] = self.payload[middle:]
        filled(self.size)


@pytest.fixture
def gates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `publish` take a Gated payload."""
    plan = clients.publisher.codec.plan  # type: ignore[attr-defined]
    monkeypatch.setattr(
        "clients.codec.plan", lambda weights, cache: weights if isinstance(weights, Gated) else plan(weights, cache)
    )


@contextlib.contextmanager
def stopped(broadcaster: BroadcasterProcess) -> Iterator[None]:
    for pid in broadcaster.pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in broadcaster.pids:
            os.kill(pid, signal.SIGCONT)


# --- what is published --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(64 << 10) + 1, MIB, 5 * MIB + 3, 64 * MIB])
def test_bytes_of_every_size_arrive_through_a_slot(shared: BroadcasterProcess, model: str, size: int) -> None:
    payload, before = os.urandom(size), stats(shared)
    with clients.connect(shared.url) as client:
        version = client.publisher(model).publish(payload, metrics={"loss": 0.5}, user_data={"step": "1"})
    assert version.size == size and version.digest == digest(payload) and version.content_type == clients.OPAQUE
    assert version.metrics == {"loss": 0.5} and version.user_data == {"step": "1"}
    assert read(shared, model, version.number) == payload
    after = stats(shared)
    assert after["grants"] == before["grants"] + 1 and after["memory_uploads"] == 0


def test_tensors_files_and_directories_arrive_through_a_slot(shared: BroadcasterProcess, model: str, tmp_path: Path) -> None:
    weights = {"w": np.arange(300_000, dtype=np.float32).reshape(3, -1).T, "layers": [np.ones((256, 256)), 3]}
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "file").write_bytes(os.urandom(2 * MIB + 1))
    before = stats(shared)["grants"]
    with clients.connect(shared.url) as client:
        publisher = client.publisher(model)
        number = publisher.publish(weights).number
        publisher.publish(tmp_path / "d" / "file", archived=True)
        packed = publisher.publish(tmp_path / "d")
        tree = client.registry.get(model, number).tree()
        assert np.array_equal(tree["w"], weights["w"]) and tree["layers"][1] == 3
        client.registry.get(model, packed.number).download(tmp_path / "back")
    assert (tmp_path / "back" / "file").read_bytes() == (tmp_path / "d" / "file").read_bytes()
    assert read(shared, model, 2) == (tmp_path / "d" / "file").read_bytes()
    assert stats(shared)["grants"] == before + 3


def test_torch_tensors_arrive_through_a_slot(shared: BroadcasterProcess, model: str) -> None:
    torch = pytest.importorskip("torch")
    weights = {"w": torch.randn(512, 512), "b": torch.randn(1000, 100).bfloat16()}
    before = stats(shared)["grants"]
    with clients.connect(shared.url) as client:
        client.publisher(model).publish(weights)
        found = client.registry.get(model).tensors().torch()
    assert torch.equal(found["w"], weights["w"]) and torch.equal(found["b"], weights["b"])
    assert stats(shared)["grants"] == before + 1


def test_what_goes_through_a_slot_takes_no_memory_of_this_process(shared: BroadcasterProcess, model: str) -> None:
    with clients.connect(shared.url) as client:
        publisher = client.publisher(model)
        for _ in range(3):
            publisher.publish(os.urandom(4 * MIB))
        assert publisher._sending.line._kept.idle == [] and len(client._driver.grants) >= 1


def test_a_subscriber_elsewhere_gets_what_a_learner_writes_into_a_slot(shared: BroadcasterProcess, model: str) -> None:
    with clients.connect(shared.url) as client, clients.connect(shared.url, slot_dir=NO_SLOTS) as elsewhere:
        subscriber, publisher = elsewhere.subscriber(model), client.publisher(model)
        for index in range(5):
            payload = os.urandom([70_000, MIB, 5 * MIB + 3][index % 3])
            version = publisher.publish(payload)
            snapshot = subscriber.wait(timeout=20, newer_than=version.number - 1)
            assert snapshot.version.digest == version.digest and bytes(snapshot.payload) == payload


def test_in_the_steady_state_the_learner_faults_no_pages(shared: BroadcasterProcess, model: str) -> None:
    """Versions 41 to 61 of 16 MiB, which is 4,096 pages, through slots that come round."""
    weights = {"w": np.zeros(16 * MIB, np.uint8)}

    def faults() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

    with clients.connect(shared.url) as client:
        publisher, counted = client.publisher(model), []
        for index in range(61):
            weights["w"][:] = index
            before, mapped = faults(), len(client._driver.grants)
            version = publisher.publish(weights)
            if index >= 40 and len(client._driver.grants) == mapped:
                counted.append(faults() - before)
        print(f"minor faults per publish: {counted}, {len(client._driver.grants)} slots mapped")
        assert len(counted) >= 18, "hardly any slot is a new one by now"
        assert sum(counted) / len(counted) < 20
        assert client.registry.get(model, version.number).tensors()["w"][-1] == 60


# --- the grant that was asked for ahead ---------------------------------------------------------------------------


def test_the_next_slot_is_made_while_it_is_quiet_also_where_one_is_granted_ahead(own: BroadcasterProcess, model: str) -> None:
    with clients.connect(own.url) as client:
        publisher = client.publisher(model)
        for _ in range(3):
            publisher.publish(bytes(6 * MIB))

        def is_ready() -> bool:
            told = stats(own)
            return told["memory_uploads"] > 0 and told["slots_free"] > 0

        wait_until(is_ready, "one slot is granted ahead, and one is there for whoever comes after that")


def test_a_steady_learner_publishes_in_one_round_trip(shared: BroadcasterProcess, model: str) -> None:
    """Begin is asked behind the done before it: a publication sends what is filled, and the commit."""
    with clients.connect(shared.url) as client:
        publisher = client.publisher(model)
        said: list[Any] = []
        send = client._driver.send_upload
        client._driver.send_upload = lambda message, payload=None: (said.append(message), send(message, payload))[1]  # type: ignore
        for index in range(4):
            said_before = len(said)
            version = publisher.publish(bytes(5 * MIB), metrics={"index": index})
            kinds = [type(message) for message in said[said_before:]]
            committed = kinds.index(Commit)
            assert kinds[:committed] == ([Begin, Filled] if index < 2 else [Filled]), (index, kinds)
            assert version.metrics == {"index": index} and version.number == index + 1
            if index > 0:
                end = said_before + committed
                wait_until(lambda end=end: Begin in map(type, said[end:]), "the next grant is asked for")
    wait_until(lambda: stats(shared)["memory_uploads"] == 0, "it is given back when the client is closed", seconds=5)


def test_a_grant_that_was_asked_for_ahead_is_given_back_for_another_payload(shared: BroadcasterProcess, model: str) -> None:
    with clients.connect(shared.url) as client:
        publisher = client.publisher(model)
        for size in (MIB, MIB, 3 * MIB, MIB):
            payload = os.urandom(size)
            assert read(shared, model, publisher.publish(payload).number) == payload
        wait_until(lambda: stats(shared)["memory_uploads"] == 0, "nothing is reserved for the next one")


def test_a_retry_with_the_same_id_makes_no_second_version(shared: BroadcasterProcess, model: str) -> None:
    payload, upload_id = os.urandom(2 * MIB), os.urandom(16)
    with clients.connect(shared.url) as client, clients.connect(shared.url) as other:
        versions = [one.publisher(model).publish(payload, upload_id=upload_id) for one in (client, client, other)]
    assert {version.number for version in versions} == {1}


# --- several at once ----------------------------------------------------------------------------------------------


def test_a_publisher_used_by_four_threads_loses_nothing_but_what_is_superseded(shared: BroadcasterProcess, model: str) -> None:
    def publish(index: int) -> tuple[int, bytes]:
        payload = bytes([index]) * (MIB + index)
        while True:  # A third thread takes the place of the one that waits.
            with contextlib.suppress(clients.VersionSuperseded):
                return publisher.publish(payload).number, payload

    with clients.connect(shared.url) as client, ThreadPoolExecutor(4) as threads:
        publisher = client.publisher(model)
        done = sorted(threads.map(publish, range(16)))
        assert [number for number, _ in done] == list(range(1, 17))
        for number, payload in done[-3:]:
            assert client.registry.get(model, number).read() == payload
    wait_until(lambda: stats(shared)["memory_uploads"] == 0, "nothing is left over", seconds=5)


def test_a_third_call_takes_the_place_of_the_one_that_waits(own: BroadcasterProcess, model: str) -> None:
    with clients.connect(own.url) as client:
        publisher = client.publisher(model)
        publisher.publish(bytes(MIB))
        futures: list[Future[clients.VersionInfo]] = []
        with stopped(own):
            futures += [publisher.publish_nowait(bytes([index]) * MIB) for index in range(4)]
        first, second, third, last = futures
        assert first.result(20).number == 2 and last.result(20).number == 3
        for superseded in (second, third):
            assert isinstance(superseded.exception(20), clients.VersionSuperseded)
        assert client.registry.get(model, -1).read() == bytes([3]) * MIB


PUBLISH = """
import os, sys
import clients
url, model, fill, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
with clients.connect(url) as client:
    publisher = client.publisher(model)
    for index in range(count):
        print(publisher.publish(bytes([fill]) * (3 << 20)).number, flush=True)
    sys.stdin.read()
"""


def learner(broadcaster: BroadcasterProcess, model: str, fill: int, count: int) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", PUBLISH, broadcaster.url, model, str(fill), str(count)]
    return subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_two_learners_of_one_model_in_two_processes_mix_nothing(shared: BroadcasterProcess, model: str) -> None:
    learners = [learner(shared, model, fill, 15) for fill in (1, 2)]
    numbers = [[int(number) for number in (process.communicate("", 50)[0]).split()] for process in learners]
    assert sorted(numbers[0] + numbers[1]) == list(range(1, 31))
    with BarePeer(shared.ready) as peer:
        for number in peer.numbers(model):
            assert set(peer.read(model, number)) == {1 if number in numbers[0] else 2}


def test_a_learner_that_is_killed_disturbs_nobody(shared: BroadcasterProcess, model: str) -> None:
    doomed = learner(shared, model, 1, 3)
    assert doomed.stdout is not None and [int(doomed.stdout.readline()) for _ in range(3)] == [1, 2, 3]
    doomed.kill()  # It had a grant that it had asked for ahead.
    doomed.communicate()
    with clients.connect(shared.url) as client:
        for number in range(4, 20):
            assert client.publisher(model).publish(bytes([9]) * (3 * MIB)).number == number
        assert client.registry.get(model, 19).read() == bytes([9]) * (3 * MIB)


# --- a broadcaster that is slow, or another one -------------------------------------------------------------------


def test_a_broadcaster_that_is_stopped_before_the_grant_holds_nobody_up(own: BroadcasterProcess, model: str) -> None:
    payloads = [os.urandom(2 * MIB + index) for index in range(2)]
    with clients.connect(own.url) as client:
        publisher = client.publisher(model)
        with stopped(own):
            futures = [publisher.publish_nowait(payload) for payload in payloads]  # They return: the copies are private.
            assert not any(future.done() for future in futures)
        for future, payload in zip(futures, payloads, strict=True):
            assert read(own, model, future.result(20).number) == payload
    wait_until(lambda: stats(own)["memory_uploads"] == 0, "nothing is left over", seconds=5)


def test_a_broadcaster_that_never_answers_ends_the_publication_in_time(own: BroadcasterProcess, model: str) -> None:
    with clients.connect(own.url) as client:
        publisher = client.publisher(model)
        with stopped(own), pytest.raises(clients.RequestTimeout):
            publisher.publish(bytes(2 * MIB), timeout=0.7)
        assert publisher.publish(bytes(MIB)).number >= 1


@pytest.mark.parametrize("how", ["stopped", "restarted", "killed"])
@pytest.mark.parametrize("archived", [False, True])
def test_a_payload_that_is_half_copied_when_the_broadcaster_goes_arrives_whole(
    own: BroadcasterProcess, model: str, gates: None, how: str, archived: bool
) -> None:
    payload = Gated(os.urandom(9 * MIB + 1))
    with clients.connect(own.url) as client, ThreadPoolExecutor(1) as thread:
        publisher = client.publisher(model)
        result = thread.submit(publisher.publish, payload, archived=archived, metrics={"a": 1})
        assert payload.half.wait(10)
        if how == "stopped":
            with stopped(own):
                payload.go_on.set()
        else:
            own.restart(kill=how == "killed")
            payload.go_on.set()
        version = result.result(30)
        assert version.digest == digest(payload.payload) and version.metrics == {"a": 1} and version.archived == archived
        assert read(own, model, version.number) == payload.payload
        with BarePeer(own.ready) as peer:
            assert peer.numbers(model) == [version.number]
        # The slots of the new broadcaster are used from here on.
        before = stats(own)["grants"]
        wait_until(lambda: publisher.publish(bytes(2 * MIB)) and stats(own)["grants"] > before, "a slot is granted again")


@pytest.mark.parametrize("kill", [False, True])
def test_a_payload_that_is_whole_when_the_broadcaster_goes_arrives_once(own: BroadcasterProcess, model: str, kill: bool) -> None:
    payload = os.urandom(6 * MIB)
    with clients.connect(own.url) as client:
        publisher = client.publisher(model)
        for _ in range(3):
            first = publisher.publish(bytes(6 * MIB))  # From now on there is a grant ahead.
        wait_until(lambda: stats(own)["memory_uploads"] > 0, "a grant ahead")
        for pid in own.pids:
            os.kill(pid, signal.SIGSTOP)
        future = publisher.publish_nowait(payload)  # Copied and committed, but nobody hears it.
        own.kill()
        own.start()
        version = future.result(30)
        assert version.number > first.number and read(own, model, version.number) == payload
        with BarePeer(own.ready) as peer:
            assert peer.numbers(model) == [version.number]


def test_weights_that_cannot_be_copied_give_the_slot_back(own: BroadcasterProcess, model: str) -> None:
    class Broken(Gated):
        def copy_into(self, buffer: memoryview, filled: Callable[[int], None]) -> None:
            raise clients.InvalidPayload(where="file", reason="it shrank")

    with clients.connect(own.url) as client, pytest.MonkeyPatch.context() as patch:
        publisher = client.publisher(model)
        patch.setattr(codec, "plan", lambda weights, cache: weights)
        with pytest.raises(clients.InvalidPayload):
            publisher.publish(Broken(bytes(MIB)))
        wait_until(lambda: stats(own)["memory_uploads"] == 0, "it is taken back", seconds=5)
        assert stats(own)["grants_withdrawn"] == 0


def test_what_is_known_of_a_version_survives_that_its_slot_cannot_be_opened(own: BroadcasterProcess) -> None:
    with clients.connect(own.url) as client:
        publisher = client.publisher("policy")
        for _ in range(2):
            publisher.publish(bytes(MIB))
        wait_until(lambda: stats(own)["grants"] == 3, "the next grant")
        for slot in own.slot_dir.glob("slot-*"):
            slot.unlink()
        version = publisher.publish(bytes(MIB), metrics={"reward": 1.0}, user_data={"step": "3"})
        assert version.metrics == {"reward": 1.0} and version.user_data == {"step": "3"}
        assert client.registry.get("policy").info == version


def test_ctrl_c_in_any_moment_of_a_publication_does_not_stand_in_the_way_of_the_next_one(
    own: BroadcasterProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(real: Callable[..., bool], *given: Any, **options: Any) -> bool:
        real(*given, **options)
        raise KeyboardInterrupt

    for slot_dir, payload in [(None, bytes(3 * MIB)), (NO_SLOTS, bytes(3 * MIB)), (NO_SLOTS, bytes(MIB))]:
        for moment in ("begin", "queue"):
            with clients.connect(own.url, slot_dir=slot_dir) as client:
                publisher = client.publisher("policy")
                line = publisher._sending.line
                with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
                    patch.setattr(line, moment, functools.partial(interrupt, getattr(line, moment)))
                    publisher.publish(payload)
                # Of another size: two equal ones, should the first have got through, have a grant asked for ahead.
                assert publisher.publish(payload[1:], timeout=5.0).size == len(payload) - 1
                wait_until(lambda: not stats(own)["memory_uploads"], "nothing is reserved for what was interrupted")
