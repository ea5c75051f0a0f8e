"""The main job, run for real: a broadcaster, a learner and actors, each its own process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

FIGURES = {
    "mean_return",
    "versions",
    "seconds",
    "publish_to_visible_ms_p50",
    "publish_to_visible_ms_p99",
    "lag_versions_p50",
    "lag_versions_p99",
    "samples_dropped",
    "episodes",
    "solved",
    "best_version",
    "figure",
    "fetch",
}

for library in ("gymnasium", "matplotlib"):
    pytest.importorskip(library, reason=f"{library} is not installed")


def start(directory: Path, *options: str) -> subprocess.Popen[str]:
    """The demo in a process group of its own, as a terminal would start it."""
    return subprocess.Popen(
        [sys.executable, "-m", "broadcaster", "demo", "--json", "--out", str(directory / "out"), *options],
        cwd=directory,
        env={**os.environ, "DEMO_UNDER_TEST": str(directory)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def processes_of(directory: Path) -> list[int]:
    """Live processes of this run: they inherited its mark."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (
                f"DEMO_UNDER_TEST={directory}\0".encode() in (path / "environ").read_bytes()
                and (path / "stat").read_text().split()[2] != "Z"
            ):
                found.append(int(path.name))
        except OSError:
            continue  # It has just ended.
    return found


def until(what: str, condition: Callable[[], object], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo that is training: every process is there and versions are coming."""
    process = start(tmp_path, "--seconds", "50", "--actors", "2", "--seed", "5")
    try:
        until("the actors run", lambda: len(processes_of(tmp_path)) >= 5 or process.poll() is not None)
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        yield process
    finally:
        for pid in processes_of(tmp_path):
            os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=10)


def test_the_main_job_trains_and_says_how_it_went(tmp_path: Path) -> None:
    process = start(tmp_path, "--seconds", "40")
    out, err = process.communicate(timeout=58)
    assert process.returncode == 0, err
    result = json.loads(out)
    assert set(result) >= FIGURES
    assert result["versions"] > 10 and result["episodes"] > 100
    assert result["solved"] or result["mean_return"] > 60, "it learns, even on a machine that is busy"
    assert result["publish_to_visible_ms_p50"] > 0
    assert Path(result["figure"]).read_bytes().startswith(b"\x89PNG")
    assert processes_of(tmp_path) == []


def test_the_command_it_prints_fetches_the_best_version(tmp_path: Path) -> None:
    process = start(tmp_path, "--seconds", "4", "--actors", "1")
    out, err = process.communicate(timeout=40)
    assert process.returncode == 0, err
    result = json.loads(out)
    ready = tmp_path / "ready.json"
    ports = [text for channel in ("upload", "push", "data") for text in (f"--{channel}-port", "0")] + ["--http-port", "off"]
    serve = subprocess.Popen(
        [*_as_typed(result["serve"]), *ports, "--ready-file", str(ready)], stderr=subprocess.DEVNULL, cwd=tmp_path
    )
    try:
        until("the archive is served", ready.exists)
        environment = {**os.environ, "BROADCASTER_URL": json.loads(ready.read_text())["data"]}
        subprocess.run(_as_typed(result["fetch"]), check=True, cwd=tmp_path, env=environment, capture_output=True, timeout=20)
    finally:
        serve.terminate()
        serve.wait(10)
    fetched = Path(result["directory"]) / f"policy-{result['best_version']}.safetensors"
    assert fetched.stat().st_size == result["best_size"]


def _as_typed(command: str) -> list[str]:
    """The printed command, run with this interpreter wherever the console script lies."""
    return (
        [sys.executable, "-m", *command.split()[:1], *command.split()[1:]]
        if command.startswith("broadcaster")
        else command.split()
    )


@pytest.mark.parametrize("whom", ["the group", "the parent alone"])
def test_ctrl_c_ends_everything_within_two_seconds(demo: subprocess.Popen[str], tmp_path: Path, whom: str) -> None:
    began = time.monotonic()
    if whom == "the group":
        os.killpg(demo.pid, signal.SIGINT)
    else:
        demo.send_signal(signal.SIGINT)
    demo.wait(10)
    took = time.monotonic() - began
    assert demo.returncode == 130
    assert processes_of(tmp_path) == []
    assert took < 2, f"it took {took:.1f} s"


def test_a_killed_parent_leaves_no_children(demo: subprocess.Popen[str], tmp_path: Path) -> None:
    demo.kill()
    until("the children are gone too", lambda: processes_of(tmp_path) == [], 5)
    assert processes_of(tmp_path) == []


def test_a_child_that_dies_ends_the_run_and_is_named(demo: subprocess.Popen[str], tmp_path: Path) -> None:
    serving = [pid for pid in processes_of(tmp_path) if b"serve" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")]
    os.kill(serving[0], signal.SIGKILL)
    _, err = demo.communicate(timeout=10)
    assert demo.returncode == 1
    assert "broadcaster ended" in err and "Traceback" not in err
    until("its core is gone too", lambda: processes_of(tmp_path) == [], 5)
