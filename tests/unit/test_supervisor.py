"""The supervisor with parts that are small programs: what it starts again, what ends it, and what it leaves behind."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent

PROGRAM = """
import json, os, signal, sys, time
from pathlib import Path
from broadcaster.supervisor import Part, Supervisor

home = Path(sys.argv[1])

def changed(told, pids):
    aside = home / "aside"
    aside.write_text(json.dumps({"told": told, "pids": pids}))
    aside.rename(home / "state")

def serve(name, tell, told):
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(0))
    tell({"life": told.get(name, {}).get("life", 0) + 1, "knows": sorted(told)})
    while True:
        signal.pause()
"""


class Supervised:
    """A supervisor in a process of its own; `parts` is Python that makes the list."""

    def __init__(self, home: Path, parts: str) -> None:
        self.home = home
        program = PROGRAM + textwrap.dedent(f"\nsys.exit(Supervisor([{parts}], changed).run())\n")
        self.process = subprocess.Popen([sys.executable, "-c", program, str(home)], cwd=ROOT, start_new_session=True)

    @property
    def state(self) -> dict[str, object]:
        try:
            found: dict[str, object] = json.loads((self.home / "state").read_text())
        except FileNotFoundError:
            return {"told": None, "pids": []}
        return found

    def wait_for(self, serves: Callable[[dict[str, object]], bool], what: str) -> dict[str, object]:
        deadline = time.monotonic() + 20
        while not serves(self.state):
            assert time.monotonic() < deadline and self.process.poll() is None, f"{what}: {self.state}"
            time.sleep(0.005)
        return self.state


SERVE = 'Part("{0}", lambda tell, told: serve("{0}", tell, told))'
CORE, WEB = SERVE.format("core"), SERVE.format("web")


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[[str], Supervised]]:
    started: list[Supervised] = []

    def start(parts: str) -> Supervised:
        started.append(Supervised(tmp_path, parts))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait()


def pids_of(state: dict[str, object]) -> list[int]:
    pids = state["pids"]
    assert isinstance(pids, list)
    return pids


def lives(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_parts_start_in_order_and_know_what_was_told_before(supervise: Callable[[str], Supervised]) -> None:
    running = supervise(f"{CORE}, {WEB}")
    state = running.wait_for(lambda state: state["told"] is not None, "both serve")
    assert state["told"] == {"core": {"life": 1, "knows": []}, "web": {"life": 1, "knows": ["core"]}}
    assert pids_of(state)[0] == running.process.pid and len(set(pids_of(state))) == 3


@pytest.mark.parametrize("victim", [1, 2])
def test_one_that_is_killed_lives_again_and_the_other_goes_on(supervise: Callable[[str], Supervised], victim: int) -> None:
    running = supervise(f"{CORE}, {WEB}")
    before = pids_of(running.wait_for(lambda state: state["told"] is not None, "both serve"))
    os.kill(before[victim], signal.SIGKILL)
    after = running.wait_for(lambda state: state["told"] is not None and state["pids"] != before, "both serve again")
    assert [old == new for old, new in zip(before, pids_of(after), strict=True)] == [index != victim for index in range(3)]
    told = after["told"]
    assert isinstance(told, dict) and [told[name]["life"] for name in ("core", "web")] == [1 + (victim == 1), 1 + (victim == 2)]


def test_one_that_dies_again_and_again_is_started_less_often(supervise: Callable[[str], Supervised]) -> None:
    running = supervise(f"{CORE}")
    begun = time.monotonic()
    for life in range(1, 5):
        state = running.wait_for(
            lambda state, life=life: isinstance(state["told"], dict) and state["told"]["core"]["life"] == life,  # type: ignore[misc]
            f"life {life}",
        )
        os.kill(pids_of(state)[1], signal.SIGKILL)
    assert time.monotonic() - begun >= 0.4 + 0.8, "the third and the fourth life begin after pauses"


def test_one_that_never_served_ends_everything_with_its_code(supervise: Callable[[str], Supervised]) -> None:
    running = supervise(f'{CORE}, Part("web", lambda tell, told: 7)')
    assert running.process.wait(20) == 7
    assert running.state["told"] is None


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda number: number.name)
def test_a_signal_ends_all_parts(supervise: Callable[[str], Supervised], number: signal.Signals) -> None:
    handlers = "[signal.signal(n, lambda *_: sys.exit(0)) for n in (signal.SIGINT, signal.SIGHUP)]"
    part = f'Part("core", lambda tell, told: ({handlers}, serve("core", tell, told)))'
    running = supervise(part)
    pids = pids_of(running.wait_for(lambda state: state["told"] is not None, "it serves"))
    running.process.send_signal(number)
    assert running.process.wait(20) == 0 and not any(map(lives, pids))


def test_the_second_signal_kills_parts_that_do_not_end(supervise: Callable[[str], Supervised]) -> None:
    running = supervise(
        'Part("core", lambda tell, told: (signal.signal(signal.SIGTERM, signal.SIG_IGN), tell({}), time.sleep(60)))'
    )
    pids = pids_of(running.wait_for(lambda state: state["told"] is not None, "it serves"))
    running.process.send_signal(signal.SIGTERM)
    running.process.send_signal(signal.SIGINT)
    assert running.process.wait(20) in (128 + signal.SIGTERM, 128 + signal.SIGINT)
    deadline = time.monotonic() + 10
    while any(map(lives, pids)):
        assert time.monotonic() < deadline, pids
        time.sleep(0.005)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent has died")
def test_parts_end_when_their_supervisor_is_killed(supervise: Callable[[str], Supervised]) -> None:
    running = supervise(f"{CORE}, {WEB}")
    pids = pids_of(running.wait_for(lambda state: state["told"] is not None, "both serve"))
    running.process.kill()
    running.process.wait()
    deadline = time.monotonic() + 20
    while any(map(lives, pids)):
        assert time.monotonic() < deadline, pids
        time.sleep(0.005)
