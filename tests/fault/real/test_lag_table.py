"""The lag table over the half minute after which an actor that says nothing is forgotten."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from clients import connect
from tests.bare_peer import wait_until
from tests.broadcaster_process import ROOT, BroadcasterProcess

ACTOR = """
import sys
from clients import connect
with connect(sys.argv[1], name=sys.argv[2]) as client:
    for snapshot in client.subscriber("policy"):
        pass
"""
NAMES = ("lives", "stopped", "killed")


@pytest.mark.fault_long
@pytest.mark.deadline(180)
def test_actors_that_are_stopped_or_killed_lag_for_half_a_minute_and_are_forgotten_then(tmp_path: Path) -> None:
    with BroadcasterProcess(tmp_path / "broadcaster") as broadcaster, connect(broadcaster.url) as client:
        line = [sys.executable, "-c", ACTOR, broadcaster.url]
        actors = {name: subprocess.Popen([*line, name], cwd=ROOT) for name in NAMES}
        try:
            publisher = client.publisher("policy")
            publisher.wait(publisher.publish({"a": np.zeros(10)}), applied_by=3, timeout=30)
            silent = time.monotonic()
            actors["stopped"].send_signal(signal.SIGSTOP)
            actors["killed"].kill()
            worst = 0
            while time.monotonic() < silent + 25:  # Publishing goes on meanwhile, and who lives applies all of it.
                version = publisher.publish({"a": np.zeros(10)})
                publisher.wait(version, applied_by=1, timeout=10)
                found = {one.name: one for one in client.registry.subscribers("policy")}
                worst = max(worst, found["stopped"].lag, found["killed"].lag)
            assert set(found) == set(NAMES), "25 s of silence are not enough"
            assert found["stopped"].lag == found["killed"].lag == worst == version.number - 1
            assert found["stopped"].lag_ms > 20_000 and found["lives"].lag <= 1
            wait_until(lambda: {one.name for one in client.registry.subscribers("policy")} == {"lives"}, "they are forgotten")
            assert 29 < time.monotonic() - silent + 0.2 < 45
            actors["stopped"].send_signal(signal.SIGCONT)
            publisher.wait(version, applied_by=2, timeout=15)
        finally:
            for actor in actors.values():
                if actor.poll() is None:
                    os.kill(actor.pid, signal.SIGCONT)
                    actor.kill()
                actor.wait()
