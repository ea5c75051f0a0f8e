"""Small publications on a connection of their own: the same promises as by way of the I/O thread, whatever happens in between."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator

import pytest

import clients
from clients._driver.lane import PATIENCE, Lane
from clients._driver.uploading import WholeUpload
from tests.bare_peer import wait_until
from tests.broadcaster_process import BroadcasterProcess


@pytest.fixture
def exchanged(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """What came of each attempt to go directly."""
    outcomes: list[bool] = []
    real = Lane.exchange

    def exchange(lane: Lane, upload: WholeUpload) -> bool:
        outcomes.append(real(lane, upload))
        return outcomes[-1]

    monkeypatch.setattr(Lane, "exchange", exchange)
    return outcomes


@pytest.fixture
def stopped(own: BroadcasterProcess) -> Iterator[BroadcasterProcess]:
    yield own
    for pid in own.pids:
        os.kill(pid, signal.SIGCONT)


def test_once_it_is_connected_small_versions_go_directly(shared: BroadcasterProcess, model: str, exchanged: list[bool]) -> None:
    with clients.connect(shared.url) as client:
        publisher = client.publisher(model)
        numbers = [publisher.publish(b"weights %d" % index).number for index in range(50)]
        assert numbers == sorted(set(numbers)) and bytes(client.registry.get(model).read()) == b"weights 49"
    assert exchanged[-20:] == [True] * 20


def test_large_versions_and_those_that_nobody_waits_for_do_not(
    shared: BroadcasterProcess, model: str, exchanged: list[bool]
) -> None:
    with clients.connect(shared.url) as client:
        publisher = client.publisher(model)
        publisher.publish(bytes(1 << 17))
        publisher.publish_nowait(b"weights").result(10)
    assert exchanged == []


def test_a_refusal_comes_as_the_typed_error(shared: BroadcasterProcess, model: str, exchanged: list[bool]) -> None:
    with clients.connect(shared.url) as client:
        wait_until(lambda: client.publisher(model).publish(b"weights").number > 0 and exchanged[-1], "it is connected")
        with pytest.raises(clients.AlreadyExists):
            for size in (3, 4):
                client.publisher(model).publish(bytes(size), upload_id=b"0123456789abcdef")
        assert client.publisher(model).publish(b"the next one").size == 12


def test_threads_that_publish_at_once_lose_nothing(shared: BroadcasterProcess, model: str, exchanged: list[bool]) -> None:
    numbers: list[int] = []

    def learn(publisher: clients.Publisher) -> None:
        for _ in range(40):
            numbers.append(publisher.publish(b"weights").number)

    with clients.connect(shared.url) as client:
        publisher = client.publisher(model)
        threads = [threading.Thread(target=learn, args=(one,)) for one in (publisher, publisher, client.publisher(model))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert sorted(numbers) == list(range(1, 121)) and client.registry.get(model).info.number == 120


def test_a_broadcaster_that_does_not_answer_is_left_to_the_io_thread_and_gets_one_version(
    stopped: BroadcasterProcess, exchanged: list[bool]
) -> None:
    with clients.connect(stopped.url) as client:
        publisher = client.publisher("policy")
        wait_until(lambda: publisher.publish(b"weights").number > 0 and exchanged[-1], "it is connected")
        before = client.registry.model("policy").newest
        for pid in stopped.pids:
            os.kill(pid, signal.SIGSTOP)
        with pytest.raises(clients.RequestTimeout):
            publisher.publish(b"late", timeout=2 * PATIENCE, upload_id=b"0123456789abcdef")
        assert exchanged[-1] is False
        for pid in stopped.pids:
            os.kill(pid, signal.SIGCONT)
        late = publisher.publish(b"late", upload_id=b"0123456789abcdef")
        assert late.number == (before or 0) + 1
        assert publisher.publish(b"next").number == late.number + 1


def test_it_finds_a_broadcaster_that_was_restarted(own: BroadcasterProcess, exchanged: list[bool]) -> None:
    with clients.connect(own.url) as client:
        publisher = client.publisher("policy")
        wait_until(lambda: publisher.publish(b"weights").number > 0 and exchanged[-1], "it is connected")
        last = publisher.publish(b"weights").number
        own.restart()
        assert publisher.publish(b"after").number > last
        wait_until(lambda: publisher.publish(b"weights").number > 0 and exchanged[-1], "it is connected again")


def test_what_was_given_up_does_not_come_behind_what_is_newer(own: BroadcasterProcess, exchanged: list[bool]) -> None:
    with clients.connect(own.url) as client:
        publisher = client.publisher("policy")
        wait_until(lambda: publisher.publish(b"weights").number > 0 and exchanged[-1], "it is connected")
        own.kill()
        with pytest.raises(clients.RequestTimeout):
            publisher.publish(b"nobody heard of it", timeout=3 * PATIENCE)
        own.start()
        assert publisher.publish(b"newest").number > 0 and not exchanged[-1], "it goes behind what may lie in the queue"
        wait_until(lambda: publisher.publish(b"newest").number > 0 and exchanged[-1], "it is connected again")
        payloads = [bytes(client.registry.get("policy", info.number).read()) for info in client.registry.versions("policy")]
        assert payloads[-1] == b"newest" and payloads.count(b"nobody heard of it") <= 1


def test_closing_the_client_ends_who_waits_in_it(stopped: BroadcasterProcess, exchanged: list[bool]) -> None:
    client = clients.connect(stopped.url)
    publisher = client.publisher("policy")
    wait_until(lambda: publisher.publish(b"weights").number > 0 and exchanged[-1], "it is connected")
    for pid in stopped.pids:
        os.kill(pid, signal.SIGSTOP)
    ended: list[BaseException] = []

    def learn() -> None:
        try:
            publisher.publish(b"weights")
        except clients.BroadcasterError as error:
            ended.append(error)

    thread = threading.Thread(target=learn)
    thread.start()
    wait_until(lambda: client._driver.lane._lock.locked() or bool(ended), "it waits")
    begun = time.monotonic()
    client.close()
    thread.join(10)
    assert time.monotonic() - begun < 5 and isinstance(ended[0], clients.Closed)


def test_ctrl_c_while_it_waits_does_not_stand_in_the_way_of_the_next_one(
    own: BroadcasterProcess, exchanged: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    with clients.connect(own.url) as client:
        publisher = client.publisher("policy")
        wait_until(lambda: publisher.publish(b"weights").number > 0 and exchanged[-1], "it is connected")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):

            def interrupted(*_: object) -> bool:
                raise KeyboardInterrupt

            patch.setattr(WholeUpload, "receive", interrupted)
            publisher.publish(b"weights")
        assert publisher.publish(b"the next one", timeout=5).size == 12
        assert bytes(client.registry.get("policy").read()) == b"the next one"
