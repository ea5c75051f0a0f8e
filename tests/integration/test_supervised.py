"""A core that dies lives again at the same place, and its clients go on."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import clients
from tests.bare_peer import wait_until
from tests.broadcaster_process import BroadcasterProcess


def kill_core(process: BroadcasterProcess) -> None:
    """Returns when another core serves."""
    supervisor, core = json.loads(process.ready_file.read_text())["pids"][:2]
    os.kill(core, signal.SIGKILL)

    def serves_again() -> bool:
        try:
            found = json.loads(process.ready_file.read_text())
        except FileNotFoundError:
            return False
        assert found["pids"][0] == supervisor and {name: found[name] for name in process._ports} == {
            name: process.ready[name] for name in process._ports
        }
        return bool(found["pids"][1] != core)

    wait_until(serves_again, "another core serves where the first one did")


def test_a_core_that_is_killed_serves_again_and_clients_go_on(own: BroadcasterProcess) -> None:
    with clients.connect(own.url) as learner, clients.connect(own.url) as actor:
        publisher, subscriber = learner.publisher("policy"), actor.subscriber("policy")
        publisher.publish(b"archived", archived=True)
        number = publisher.publish(b"transient").number
        assert subscriber.wait(timeout=20, newer_than=number - 1).version.number == number
        kill_core(own)
        after = publisher.publish(b"after")
        assert after.number > number
        assert subscriber.wait(timeout=20, newer_than=number).payload == b"after"
        assert bytes(learner.registry.get("policy", 1).read()) == b"archived"


def test_it_is_logged_who_died_and_how(tmp_path: Path) -> None:
    with BroadcasterProcess(tmp_path) as process:
        kill_core(process)
        died = [event for event in map(json.loads, process.log().splitlines()) if event["logger"] == "broadcaster.supervisor"]
    assert [(event["message"], event["part"]) for event in died] == [
        ("died and is started again", "core"),
        ("serves again", "core"),
    ]
    assert died[0]["how"] == "signal 9"
