"""The web process: what it tells of a real broadcaster, and that neither brings the other down."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

import clients
from tests.bare_peer import wait_until
from tests.broadcaster_process import BroadcasterProcess


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BroadcasterProcess]:
    with BroadcasterProcess(tmp_path_factory.mktemp("web") / "broadcaster", http=True) as process:
        yield process


@pytest.fixture
def web(served: BroadcasterProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served.ready["http"], timeout=10) as client:
        yield client


def samples(web: httpx.Client) -> dict[str, float]:
    lines = web.get("/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def test_it_is_alive_and_ready_and_each_check_has_its_name_and_latency(web: httpx.Client) -> None:
    assert web.get("/livez").text == "ok\n"
    for path in ("/readyz", "/health"):
        said = web.get(path)
        assert said.status_code == 200 and said.json()["ready"] is True
        assert [check["name"] for check in said.json()["checks"]] == ["core", "archive", "memory", "loop", "disk", "web"]
        assert all(check["ok"] and check["latency_ms"] >= 0 for check in said.json()["checks"])


def test_metrics_are_what_the_core_counts(served: BroadcasterProcess, web: httpx.Client) -> None:
    with clients.connect(served.url) as client:
        client.publisher("policy").publish(b"weights")
        wait_until(
            lambda: samples(web)["broadcaster_publishes_total"] >= 1, "a look at the core is a quarter of a second old at most"
        )
        counted = samples(web)
        assert counted["broadcaster_publishes_total"] == client.registry.stats()["publishes"]
        assert counted["broadcaster_up"] == 1.0 and counted["broadcaster_models"] >= 1


def test_a_stopped_core_is_not_ready_within_two_seconds_and_is_again_afterwards(
    served: BroadcasterProcess, web: httpx.Client
) -> None:
    core = served.pids[1]
    os.kill(core, signal.SIGSTOP)
    try:
        stopped = time.monotonic()
        while (said := web.get("/readyz")).status_code == 200:
            assert time.monotonic() < stopped + 2
        assert said.status_code == 503 and time.monotonic() < stopped + 2
        assert said.json()["checks"][0]["name"] == "core" and not said.json()["checks"][0]["ok"]
        assert web.get("/livez").status_code == 200 and "broadcaster_up 0.0" in web.get("/metrics").text
    finally:
        os.kill(core, signal.SIGCONT)
    wait_until(lambda: web.get("/readyz").status_code == 200, "it is ready again")


def test_whoever_is_killed_the_other_goes_on(tmp_path: Path) -> None:
    with BroadcasterProcess(tmp_path, http=True) as process, clients.connect(process.url) as client:
        publisher = client.publisher("policy")
        publisher.publish(b"weights")
        _, core, web = json.loads(process.ready_file.read_text())["pids"]
        os.kill(web, signal.SIGKILL)
        assert publisher.publish(b"weights").number == 2
        wait_until(
            lambda: process.ready_file.exists() and web not in json.loads(process.ready_file.read_text())["pids"], "web again"
        )
        found = json.loads(process.ready_file.read_text())
        assert found["pids"][1] == core and found["http"] == process.ready["http"]
        os.kill(core, signal.SIGKILL)
        assert httpx.get(found["http"] + "/livez").status_code == 200
        wait_until(lambda: httpx.get(found["http"] + "/readyz", timeout=10).status_code == 200, "the core is found again")
        assert publisher.publish(b"weights").number > 2


def test_a_port_in_use_is_named(served: BroadcasterProcess, tmp_path: Path) -> None:
    port = served.ready["http"].rpartition(":")[2]
    process = BroadcasterProcess(tmp_path, options=["--http-port", port], http=True)
    try:
        with pytest.raises(AssertionError, match=f"http-port.*{port}.*in use"):
            process.start()
    finally:
        process.close()
