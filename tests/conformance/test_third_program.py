"""A program written from docs/protocol.md alone, against a real broadcaster, and against our own clients."""

from __future__ import annotations

import hashlib
import os
import queue
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import xxhash

import clients
from tests.broadcaster_process import ROOT, BroadcasterProcess

PROGRAM = ROOT / "examples" / "bare_protocol.py"
WAIT = 20.0
SMALL, LARGE = 1000, (3 << 20) + 77
"""Bytes: one that travels in its message, one of four chunks."""


@pytest.fixture(scope="module")
def broadcaster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BroadcasterProcess]:
    with BroadcasterProcess(tmp_path_factory.mktemp("third") / "broadcaster") as process:
        yield process


@pytest.fixture
def model(request: pytest.FixtureRequest) -> str:
    """A model of this test's own."""
    return hashlib.sha256(request.node.name.encode()).hexdigest()[:20]


def payload(size: int) -> bytes:
    return random.Random(size).randbytes(size)


class Bare:
    """Runs the program."""

    def __init__(self, broadcaster: BroadcasterProcess) -> None:
        self._environment = os.environ | {"BROADCASTER_URL": broadcaster.url}

    def start(self, *arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, str(PROGRAM), *map(str, arguments)]
        return subprocess.Popen(
            command, env=self._environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )

    def run(self, *arguments: object) -> tuple[int, str, str]:
        """Exit code and what it said."""
        process = self.start(*arguments)
        out, err = process.communicate(timeout=WAIT)
        return process.returncode, out.strip(), err.strip()

    def publish(self, path: Path, model: str, data: bytes, *options: str) -> tuple[int, str]:
        """(number, digest) that it printed."""
        path.write_bytes(data)
        code, out, err = self.run("publish", path, model, *options)
        assert code == 0, err
        number, size, digest = out.split()
        assert int(size) == len(data)
        return int(number), digest

    def fetch(self, path: Path, model: str, number: int) -> bytes:
        code, _, err = self.run("fetch", model, number, path)
        assert code == 0, err
        return path.read_bytes()


class Following:
    """The program's `subscribe`, and the lines that it prints."""

    def __init__(self, bare: Bare, model: str) -> None:
        self._process = bare.start("subscribe", model)
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)

    def next(self) -> tuple[int, int, str, int]:
        """(number, size, digest, chunks that came pushed) of the next version that it prints."""
        number, size, digest, pushed = self._lines.get(timeout=WAIT).split()
        return int(number), int(size), digest, int(pushed)

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def bare(broadcaster: BroadcasterProcess) -> Bare:
    return Bare(broadcaster)


@pytest.fixture
def following(bare: Bare, model: str) -> Iterator[Following]:
    follower = Following(bare, model)
    yield follower
    follower.close()


@pytest.fixture
def client(broadcaster: BroadcasterProcess) -> Iterator[clients.Client]:
    with clients.connect(broadcaster.url) as connected:
        yield connected


Publishing = Callable[[bytes], int]


def test_it_imports_nothing_of_ours() -> None:
    text = PROGRAM.read_text()
    assert "import broadcaster" not in text and "from broadcaster" not in text
    assert "import clients" not in text and "from clients" not in text


@pytest.mark.parametrize("size", [0, 1, SMALL, 64 << 10, (64 << 10) + 1, 1 << 20, LARGE, (40 << 20) + 1])
def test_what_it_publishes_it_fetches_again(bare: Bare, model: str, tmp_path: Path, size: int) -> None:
    data = payload(size)
    number, digest = bare.publish(tmp_path / "in", model, data)
    assert (number, digest) == (1, xxhash.xxh3_128_hexdigest(data))
    assert bare.fetch(tmp_path / "out", model, -1) == data


@pytest.mark.parametrize("options", [("sha256",), ("archived",), ("archived", "sha256")])
@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_it_publishes_archived_and_with_either_digest(
    bare: Bare, client: clients.Client, model: str, tmp_path: Path, size: int, options: tuple[str, ...]
) -> None:
    data = payload(size)
    number, _ = bare.publish(tmp_path / "in", model, data, *options)
    version = client.registry.get(model, number).info
    assert version.archived == ("archived" in options)
    assert "sha256" not in options or version.sha256 == hashlib.sha256(data).hexdigest()
    assert bare.fetch(tmp_path / "out", model, number) == data


def test_it_follows_a_model_from_before_there_is_one(bare: Bare, model: str, following: Following, tmp_path: Path) -> None:
    small, large = payload(SMALL), payload(LARGE)
    bare.publish(tmp_path / "in", model, small)
    assert following.next()[:3] == (1, SMALL, xxhash.xxh3_128_hexdigest(small))
    bare.publish(tmp_path / "in", model, large)
    assert following.next() == (2, LARGE, xxhash.xxh3_128_hexdigest(large), 4), "every chunk came while the upload ran"


def test_it_comes_late_and_reads_what_is_there(bare: Bare, model: str, tmp_path: Path) -> None:
    data = payload(LARGE)
    bare.publish(tmp_path / "in", model, data)
    late = Following(bare, model)
    try:
        assert late.next() == (1, LARGE, xxhash.xxh3_128_hexdigest(data), 0)
    finally:
        late.close()


def test_what_our_client_publishes_it_receives(client: clients.Client, model: str, following: Following) -> None:
    publisher = client.publisher(model)
    for elements in (100, 500_000):
        info = publisher.publish({"w": np.arange(elements, dtype=np.float64)})
        assert following.next()[:3] == (info.number, info.size, info.digest)


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_what_it_publishes_our_client_receives(bare: Bare, client: clients.Client, model: str, tmp_path: Path, size: int) -> None:
    subscriber = client.subscriber(model)
    data = payload(size)
    bare.publish(tmp_path / "in", model, data)
    assert bytes(subscriber.wait(timeout=WAIT).payload) == data


def test_a_refusal_reaches_it_with_code_and_sentence(bare: Bare, model: str, tmp_path: Path) -> None:
    code, _, err = bare.run("fetch", model, 7)
    assert code == 1 and err.startswith("unknown-model: ")
    (tmp_path / "in").write_bytes(b"x")
    code, _, err = bare.run("publish", tmp_path / "in", "no/name")
    assert code == 1 and err.startswith("invalid-name: ")


def test_it_lives_through_a_restart(tmp_path: Path, model: str) -> None:
    """A broadcaster of its own: the others share theirs."""
    with BroadcasterProcess(tmp_path / "broadcaster") as broadcaster:
        bare = Bare(broadcaster)
        following = Following(bare, model)
        try:
            assert bare.publish(tmp_path / "in", model, payload(LARGE), "archived")[0] == following.next()[0] == 1
            broadcaster.restart(kill=True)
            number, digest = bare.publish(tmp_path / "in", model, payload(SMALL))
            assert number > 1
            assert following.next()[:3] == (number, SMALL, digest)
        finally:
            following.close()
