"""What happens, as server-sent events: in order, resumed, with gaps told, and nobody waited for."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

import clients
from broadcaster.web import limits
from tests.bare_peer import wait_until
from tests.broadcaster_process import BroadcasterProcess


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BroadcasterProcess]:
    with BroadcasterProcess(tmp_path_factory.mktemp("events") / "broadcaster", http=True) as process:
        yield process


@pytest.fixture
def web(served: BroadcasterProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.ready["http"], timeout=30) as client:
        yield client


Told = tuple[str, str, dict[str, Any]]
"""(id, event, data)"""


def events(said: httpx.Response) -> Iterator[Told]:
    found: dict[str, str] = {}
    for line in said.iter_lines():
        name, _, value = line.partition(": ")
        if line == "" and "data" in found:
            yield found["id"], found["event"], json.loads(found["data"])
            found = {}
        elif name:
            found[name] = value


def listeners(web: httpx.Client) -> float:
    (told,) = [text for text in web.get("/metrics").text.splitlines() if text.startswith("broadcaster_listeners ")]
    return float(told.rpartition(" ")[2])


def until(stream: Iterator[Told], kind: str, number: int | None = None) -> list[Told]:
    """All up to the first event of this kind (and number)."""
    found = []
    for one in stream:
        found.append(one)
        if one[1] == kind and (number is None or one[2].get("number") == number):
            return found
    raise AssertionError(f"the stream ended without {kind}, after {len(found)} events")


def test_events_come_as_they_happen_in_order_and_resume_without_a_hole(served: BroadcasterProcess, web: httpx.Client) -> None:
    with clients.connect(served.url) as client:
        publisher = client.publisher("followed")
        with web.stream("GET", "/v1/events") as said:
            assert said.headers["content-type"].startswith("text/event-stream") and said.headers["cache-control"] == "no-store"
            stream = events(said)
            assert next(stream)[1] == "start"
            publisher.publish(b"one", metrics={"return": 1.5})
            begun = time.monotonic()
            seen = until(stream, "published", 1)
            assert time.monotonic() - begun < 5
        last = seen[-1][0]
        assert seen[-1][2]["version"]["metrics"] == {"return": 1.5}
        for _ in range(5):
            publisher.publish(b"more")
        client.registry.set_alias("followed", "champion", 3)
        for header, query in (({"Last-Event-ID": last}, ""), ({}, f"?after={last}"), ({"Last-Event-ID": last}, "?after=1.1")):
            with web.stream("GET", "/v1/events" + query, headers=header) as said:
                again = until(events(said), "aliased")
            assert [(kind, data.get("number")) for _, kind, data in again[1:]] == [
                *(("published", number) for number in range(2, 7)),
                ("aliased", 3),
            ]
            offsets = [data["offset"] for _, _, data in again[1:]]
            assert offsets == list(range(offsets[0], offsets[0] + 6)) and offsets[0] == int(last.partition(".")[2]) + 1


def test_the_stream_of_one_model_has_no_others(served: BroadcasterProcess, web: httpx.Client) -> None:
    with clients.connect(served.url) as client, web.stream("GET", "/v1/events?model=mine") as said:
        stream = events(said)
        next(stream)
        client.publisher("others").publish(b"x")
        client.publisher("mine").publish(b"x")
        assert {data["model_id"] for _, _, data in until(stream, "published")} == {"mine"}


def test_what_is_too_long_ago_is_a_gap(web: httpx.Client) -> None:
    for after in ("1.5", "999999999999999.0"):
        with web.stream("GET", f"/v1/events?after={after}") as said:
            stream = events(said)
            assert next(stream)[1] == "start"
            _, kind, data = next(stream)
            assert kind == "gap" and data["epoch"] > 1


def test_a_listener_hears_of_a_core_that_was_started_again(tmp_path_factory: pytest.TempPathFactory) -> None:
    with BroadcasterProcess(tmp_path_factory.mktemp("again") / "broadcaster", http=True) as process:
        with (
            clients.connect(process.url) as client,
            httpx.stream("GET", process.ready["http"] + "/v1/events", timeout=30) as said,
        ):
            stream = events(said)
            epoch = next(stream)[2]["epoch"]
            client.publisher("policy").publish(b"before")
            until(stream, "published")
            os.kill(process.pids[1], signal.SIGKILL)
            gap = until(stream, "gap")[-1]
            assert gap[2]["epoch"] > epoch
            number = client.publisher("policy").publish(b"after").number
            assert until(stream, "published", number)[-1][2]["epoch"] == gap[2]["epoch"]


def test_a_hundred_listen_and_one_more_is_told_to_wait(served: BroadcasterProcess, web: httpx.Client) -> None:
    wait_until(lambda: listeners(web) == 0, "those before have left", seconds=5)
    limit = httpx.Limits(max_connections=None)
    with httpx.Client(base_url=served.ready["http"], timeout=30, limits=limit) as many, contextlib.ExitStack() as open_ones:
        streams = []
        for _ in range(limits.LISTENERS):
            streams.append(events(open_ones.enter_context(many.stream("GET", "/v1/events"))))
            next(streams[-1])
        refused = web.get("/v1/events")
        assert refused.status_code == 429 and refused.headers["retry-after"] and refused.json()["code"] == "too-many"
        with clients.connect(served.url) as client:
            client.publisher("crowd").publish(b"x")
        for stream in streams:
            until(stream, "published")
    wait_until(lambda: listeners(web) == 0, "they have left", seconds=5)


def test_a_listener_that_reads_nothing_is_cut_and_holds_nobody_up(served: BroadcasterProcess, web: httpx.Client) -> None:
    where = urlsplit(served.ready["http"])
    with socket.socket() as line, clients.connect(served.url) as client:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        line.connect((where.hostname, where.port))
        line.sendall(b"GET /v1/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        publisher = client.publisher("flood")
        data = {f"key-{at}": "x" * 100 for at in range(100)}

        wait_until(lambda: listeners(web) == 1, "it listens")
        with web.stream("GET", "/v1/events") as said:
            stream = events(said)
            next(stream)
            for _ in range(8):
                for _ in range(200):
                    number = publisher.publish(b"x", user_data=data).number
                assert len([data for _, kind, data in until(stream, "published", number) if kind == "published"]) == 200
        assert web.get("/livez").elapsed.total_seconds() < 1
        wait_until(lambda: listeners(web) == 0, "it is cut off", seconds=limits.STALL + 10)


def test_however_many_ask_a_stopped_core_is_asked_once(served: BroadcasterProcess) -> None:
    core = served.pids[1]
    with httpx.Client(base_url=served.ready["http"], timeout=30) as web:
        wait_until(lambda: web.get("/readyz").status_code == 200, "it is ready")
        asked = httpx.get(served.ready["http"] + "/v1/stats").json()["values"]["requests"]
        os.kill(core, signal.SIGSTOP)
        try:
            wait_until(lambda: web.get("/readyz").status_code == 503, "it is not ready")
            begun = time.monotonic()
            with concurrent.futures.ThreadPoolExecutor(20) as crowd:
                for said in [crowd.submit(httpx.get, served.ready["http"] + "/readyz", timeout=30) for _ in range(60)]:
                    assert said.result().status_code == 503 and said.result().elapsed.total_seconds() < 2.5
            assert time.monotonic() - begun < 10
        finally:
            os.kill(core, signal.SIGCONT)
        wait_until(lambda: web.get("/readyz").status_code == 200, "it is ready again")
        # Each look asks again after a second of silence, and there was about one look a second.
        assert web.get("/v1/stats").json()["values"]["requests"] - asked < 60
