"""The README's programs, pasted: they run as they stand there, but for the address."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broadcaster_process import BroadcasterProcess

README = (Path(__file__).parents[2] / "README.md").read_text()
LEARNER, ACTOR, REGISTRY = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def pasted(program: str, url: str, directory: Path) -> subprocess.Popen[str]:
    program = program.replace("tcp://localhost:5552", url).replace("time.sleep(0.1)", "time.sleep(0.01)")
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={"BROADCASTER_URL": url, "PYTHONPATH": str(Path(__file__).parents[2])},
    )


def outcome(process: subprocess.Popen[str]) -> str:
    out, err = process.communicate(timeout=50)
    assert process.returncode == 0, err
    return out


@pytest.fixture
def broadcaster(tmp_path: Path) -> Iterator[BroadcasterProcess]:
    with BroadcasterProcess(tmp_path / "broadcaster") as process:
        yield process


def test_the_learner_the_actor_and_the_registry_run_as_they_are_pasted(broadcaster: BroadcasterProcess, tmp_path: Path) -> None:
    actor = pasted(ACTOR, broadcaster.url, tmp_path)
    learner = pasted(LEARNER, broadcaster.url, tmp_path)
    assert "published 100" in outcome(learner)
    assert "acting with version" in outcome(actor)
    outcome(pasted("from clients import connect\n" + REGISTRY, broadcaster.url, tmp_path))
    assert (tmp_path / "policy.safetensors").stat().st_size > 0


def test_the_readme_is_short_enough_to_be_read() -> None:
    assert len(README.splitlines()) < 200
    for path in re.findall(r"\]\((docs/[\w.-]+|benchmarks/[\w.-]+)\)", README):
        assert (Path(__file__).parents[2] / path).is_file(), path
