"""`broadcaster drain` and `healthcheck`: what a container's life is steered by, asked of a real broadcaster."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from clients import connect
from tests.bare_peer import BarePeer, wait_until
from tests.broadcaster_process import BroadcasterProcess
from tests.integration.commands import command, refused


@pytest.fixture(scope="module")
def broadcaster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BroadcasterProcess]:
    with BroadcasterProcess(tmp_path_factory.mktemp("broadcaster"), http=True) as process:
        yield process


def test_what_is_quiet_is_drained_though_a_learner_holds_its_next_slot(broadcaster: BroadcasterProcess) -> None:
    with connect(broadcaster.url) as client:
        publisher = client.publisher("quiet")
        for _ in range(3):
            publisher.publish(np.zeros(1 << 18, np.float32))
        wait_until(lambda: client.registry.stats()["memory_uploads"] > 0, "a slot is granted ahead")
        done = command("drain", "--quiet", "0.3", "--timeout", "20", "--json", url=broadcaster.url)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["drained"] is True


def test_draining_ends_with_5_while_versions_are_published(broadcaster: BroadcasterProcess) -> None:
    over = threading.Event()
    with connect(broadcaster.url) as client:
        publisher = client.publisher("busy")

        def publish() -> None:
            while not over.wait(0.05):
                publisher.publish(b"weights")

        learner = threading.Thread(target=publish)
        learner.start()
        try:
            said = refused(command("drain", "--quiet", "0.5", "--timeout", "1.5", url=broadcaster.url), 5)
        finally:
            over.set()
            learner.join()
    assert "draining" in said and "still published" in said


def test_an_upload_on_its_way_is_waited_for(broadcaster: BroadcasterProcess) -> None:
    payload, upload_id = bytes(4 << 20), os.urandom(16)
    with BarePeer(broadcaster.ready) as peer:
        peer.say("begin", upload_id, model_id="slow", size=len(payload))
        assert peer.heard().kind == "credit"
        peer.chunk(upload_id, payload, 0)
        said = refused(command("drain", "--quiet", "0", "--timeout", "1", url=broadcaster.url), 5)
    assert "uploads=1" in said


def test_who_is_ready_says_so(broadcaster: BroadcasterProcess) -> None:
    done = command("healthcheck", "--http-url", broadcaster.ready["http"])
    assert (done.returncode, done.stdout) == (0, "ready\n"), done.stderr


def test_a_core_that_does_not_answer_is_not_ready(broadcaster: BroadcasterProcess) -> None:
    core = broadcaster.pids[1]
    os.kill(core, signal.SIGSTOP)
    try:
        done = command("healthcheck", "--http-url", broadcaster.ready["http"])
    finally:
        os.kill(core, signal.SIGCONT)
    assert (done.returncode, done.stdout) == (1, "not ready\n"), done.stderr
    assert done.stderr.startswith("core: ")
    healthcheck = "healthcheck", "--http-url", broadcaster.ready["http"]
    wait_until(lambda: command(*healthcheck).returncode == 0, "it is ready again")


def test_the_checks_are_named(broadcaster: BroadcasterProcess) -> None:
    done = command("healthcheck", "--http-url", broadcaster.ready["http"], "--json")
    found = json.loads(done.stdout)
    assert found["ready"] is True and {"core", "archive"} <= {check["name"] for check in found["checks"]}


def test_the_ready_file_says_where_to_ask(broadcaster: BroadcasterProcess, tmp_path: Path) -> None:
    config = tmp_path / "broadcaster.toml"
    config.write_text(f'ready_file = "{broadcaster.ready_file}"\n')
    assert command("healthcheck", "--config", config).stdout == "ready\n"


def test_without_http_the_data_channel_is_asked(broadcaster: BroadcasterProcess, tmp_path: Path) -> None:
    config = tmp_path / "broadcaster.toml"
    config.write_text('http_port = "off"\n')
    assert command("healthcheck", "--config", config, url=broadcaster.url).stdout == "ready\n"


def test_nobody_at_the_port_is_3() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        refused(command("healthcheck", "--http-url", f"http://127.0.0.1:{free.getsockname()[1]}"), 3)


def test_a_stopped_broadcaster_is_not_waited_for_long() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        refused(command("healthcheck", "--http-url", f"http://127.0.0.1:{silent.getsockname()[1]}", "--timeout", "0.3"), 5)


def test_an_address_that_is_none_is_wrong_usage() -> None:
    refused(command("healthcheck", "--http-url", "ftp://here"), 2)
