"""A disk that fails, or an archive that is damaged, under a broadcaster that serves: what clients get; it mends by itself."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from broadcaster.catalog import Retention
from broadcaster.server.core import Core, CoreOptions
from broadcaster.store import failpoints, verify
from tests.bare_peer import BarePeer, Said, digest, wait_until
from tests.broadcaster_process import BroadcasterProcess
from tests.integration.commands import command

LARGE = bytes(range(256)) * 8192
"""2 MiB."""


@pytest.fixture(autouse=True)
def nothing_armed() -> Iterator[None]:
    yield
    failpoints.arm(None)


def serve(tmp_path: Path, work: Callable[[BarePeer], Any], **settings: Any) -> Any:
    """What `work` returns while a core of this process serves the archive in `tmp_path`."""
    options = {"host": "127.0.0.1", "upload_port": 0, "push_port": 0, "data_port": 0, "advertise": None, "max_payload": 1 << 30}
    directories = {"archive_dir": tmp_path / "archive", "slot_dir": tmp_path / "slots"}
    core = Core(CoreOptions(**(options | directories | {"retention": Retention()} | settings)))
    thread = threading.Thread(target=core.run)
    thread.start()
    try:
        with BarePeer(core.endpoints) as peer:
            return work(peer)
    finally:
        core.loop.stop()
        thread.join()
        core.close()


def retryable(said: Said) -> None:
    assert (said.kind, said.code) == ("error", "store-unavailable"), said


def blobs(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "archive" / "blobs").rglob("*") if path.is_file()]


def damage(path: Path, at: int = 7) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))


# --- a disk that fails --------------------------------------------------------------------------------------------------


def test_the_live_path_goes_on_while_the_archive_is_read_only_and_it_comes_back_by_itself(tmp_path: Path) -> None:
    broken = threading.Event()

    def fail(name: str) -> None:
        if name == "sync" and broken.is_set():
            raise OSError(errno.EIO, "injected")

    def work(peer: BarePeer) -> None:
        assert peer.publish("policy", b"one", archived=True).kind == "done"
        assert peer.publish("policy", b"two").kind == "done"
        failpoints.arm(fail)
        broken.set()
        upload_id = os.urandom(16)
        failed = peer.publish("policy", b"three", archived=True, upload_id=upload_id)
        retryable(failed)
        assert failed.fields["facts"]["number"] == 3, "it was announced: the error says as what"
        assert peer.stats()["archive_read_only"] == 1
        for payload in (b"small", LARGE):
            refused = peer.publish("policy", payload, archived=True)
            retryable(refused)
            assert "number" not in refused.fields["facts"], "refused before anything was announced"
        for number in range(4, 10):
            done = peer.publish("policy", b"live %d" % number)
            assert done.kind == "done" and done.fields["version"]["number"] == number
        assert peer.read("policy", 1) == b"one" and peer.read("policy", 3) == b"three"
        broken.clear()
        wait_until(lambda: peer.stats()["archive_read_only"] == 0, "a probe passes, and nobody did anything")
        done = peer.publish("policy", b"three", archived=True, upload_id=upload_id)
        assert done.kind == "done" and done.fields["version"]["number"] == 3 and done.fields["version"]["archived"]
        assert peer.publish("policy", LARGE, archived=True).fields["version"]["number"] == 10

    serve(tmp_path, work)
    assert verify(tmp_path / "archive").problems == []
    assert serve(tmp_path, lambda peer: peer.numbers("policy")) == [1, 3, 10]


# --- an archive that is damaged -----------------------------------------------------------------------------------------


def test_damage_is_store_corrupt_on_the_wire_and_the_same_payload_published_again_heals_it(tmp_path: Path) -> None:
    def publish(peer: BarePeer) -> None:
        assert peer.publish("policy", LARGE, archived=True).kind == "done"
        assert peer.publish("policy", b"other", archived=True).kind == "done"

    serve(tmp_path, publish)
    damage(max(blobs(tmp_path), key=lambda path: path.stat().st_size))

    def find_and_heal(peer: BarePeer) -> None:
        for _ in range(2):
            said = peer.ask("read", model_id="policy", number=1, offset=0, length=100)
            assert said.code == "store-corrupt" and "policy version 1" in said.message
        stats = peer.stats()
        assert (stats["store_corrupt"], stats["quarantined"]) == (1, 1)
        assert peer.numbers("policy") == [1, 2] and peer.read("policy", 2) == b"other"
        assert peer.publish("elsewhere", LARGE, archived=True).kind == "done"
        assert peer.read("policy", 1) == LARGE and peer.stats()["quarantined"] == 0

    serve(tmp_path, find_and_heal)
    assert verify(tmp_path / "archive").problems == []


def test_the_scrub_finds_damage_and_what_is_still_in_memory_mends_it(tmp_path: Path) -> None:
    def work(peer: BarePeer) -> None:
        assert peer.publish("policy", LARGE, archived=True).kind == "done"
        wait_until(lambda: peer.stats()["scrub_last_complete"], "a whole pass")
        assert peer.stats()["store_corrupt"] == 0
        damage(*blobs(tmp_path))
        wait_until(lambda: peer.stats()["store_healed"], "found by the scrub, and archived again from memory")
        stats = peer.stats()
        assert (stats["store_corrupt"], stats["quarantined"]) == (1, 0) and stats["scrub_bytes"] >= 2 * len(LARGE)
        assert peer.read("policy", 1) == LARGE

    serve(tmp_path, work, scrub_rate=1 << 30, scrub_period=0.05)
    assert verify(tmp_path / "archive").problems == []
    assert serve(tmp_path, lambda peer: peer.read("policy", 1)) == LARGE


def test_a_broadcaster_stops_in_the_middle_of_a_scrub(tmp_path: Path) -> None:
    def publish(peer: BarePeer) -> None:
        assert peer.publish("policy", LARGE, archived=True).kind == "done"

    serve(tmp_path, publish)
    options = ["--scrub-period", "0.01", "--scrub-rate", "100KiB"]
    with BroadcasterProcess(tmp_path / "life", archive_dir=tmp_path / "archive", options=options) as process:
        with BarePeer(process.ready) as peer:
            wait_until(lambda: peer.stats()["scrub_bytes"], "the scrub is under way")
            assert peer.stats()["scrub_last_complete"] == 0
        assert process.stop() == 0
    assert process.log().count('"level": "error"') == 0


# --- backups ------------------------------------------------------------------------------------------------------------


class Learner(threading.Thread):
    """Publishes archived and transient versions in turns, and remembers what was acknowledged."""

    def __init__(self, process: BroadcasterProcess, model: str, enough: threading.Event) -> None:
        super().__init__(name=model)
        self.model = model
        self.archived: dict[int, bytes] = {}
        self.highest = 0
        self._ready = process.ready
        self._enough = enough

    def run(self) -> None:
        with BarePeer(self._ready) as peer:
            while not self._enough.is_set():
                payload = f"{self.model} {self.highest}".encode() * 200
                done = peer.publish(self.model, payload, archived=self.highest % 3 != 2)
                assert done.kind == "done", done
                version = done.fields["version"]
                self.highest = version["number"]
                if version.get("archived"):
                    self.archived[self.highest] = payload


def test_a_backup_beside_four_learners_comes_back_whole_and_no_number_is_used_again(tmp_path: Path) -> None:
    backup, new, enough = tmp_path / "backup", tmp_path / "new", threading.Event()
    with BroadcasterProcess(tmp_path / "life") as process:
        learners = [Learner(process, f"model-{number}", enough) for number in range(4)]
        late = Learner(process, "made-since", enough)
        for learner in learners:
            learner.start()
        try:
            wait_until(lambda: all(len(learner.archived) >= 5 for learner in learners), "all learners publish")
            before = {learner.model: dict(learner.archived) for learner in learners}
            done = command("backup", process.archive_dir, backup)
            assert done.returncode == 0, done
            late.start()
            highest = {learner.model: learner.highest for learner in learners}
            wait_until(lambda: all(one.highest > highest[one.model] for one in learners), "and go on", seconds=40)
            wait_until(lambda: len(late.archived) >= 2, "a model is made after the backup")
        finally:
            enough.set()
            for learner in (*learners, late):
                if learner.ident is not None:
                    learner.join()
        process.kill()
    assert command("restore", backup, new).returncode == 0
    with BroadcasterProcess(tmp_path / "next", archive_dir=new) as process, BarePeer(process.ready) as peer:
        for learner in learners:
            found = peer.numbers(learner.model)
            assert set(found) >= before[learner.model].keys()
            for number in found:
                if number in learner.archived:
                    assert digest(peer.read(learner.model, number)) == digest(learner.archived[number])
        for learner in (*learners, late):
            done = peer.publish(learner.model, b"after", archived=True)
            assert done.fields["version"]["number"] > learner.highest, "never a number that was used"
    assert verify(new).problems == []
