"""Actors on the broadcaster's host: versions are views of its slots, and whatever is wrong with those, the weights are right."""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broadcaster.protocol.slot import HEADER, parse_slot_header
from clients import Client, InvalidRequest, RequestTimeout, Snapshot, Subscriber, VersionEvicted, connect
from tests.broadcaster_process import ROOT, BroadcasterProcess

COUNT = 100_000
ROOT_ONLY = pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")


@pytest.fixture(scope="module")
def broadcaster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BroadcasterProcess]:
    with BroadcasterProcess(tmp_path_factory.mktemp("broadcaster")) as process:
        yield process


@pytest.fixture
def own(tmp_path: Path) -> Iterator[BroadcasterProcess]:
    """One for a test that does something to it."""
    with BroadcasterProcess(tmp_path) as process:
        yield process


@pytest.fixture(scope="module")
def harmed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BroadcasterProcess]:
    """One whose slots are harmed. Each belongs to a version that nothing evicts, so it is not used again."""
    with BroadcasterProcess(tmp_path_factory.mktemp("harmed")) as process:
        yield process


@pytest.fixture
def client(broadcaster: BroadcasterProcess) -> Iterator[Client]:
    with connect(broadcaster.url) as client:
        yield client


@pytest.fixture
def model() -> str:
    """A name that no other test has."""
    return "m" + os.urandom(8).hex()


def weights(stamp: int, count: int = COUNT) -> dict[str, np.ndarray]:
    return {"w": np.full(count, stamp, np.float32)}


def stamp_of(snapshot: Snapshot) -> int:
    """The number that is everywhere in a version."""
    array = snapshot.tensors["w"]
    assert not array.flags.writeable and snapshot.payload.readonly
    assert array.min() == array.max(), "torn"
    return int(array[0])


def publish(client: Client, model: str, *stamps: int) -> None:
    publisher = client.publisher(model)
    for stamp in stamps:
        assert publisher.publish(weights(stamp)).number == stamp


def gets(subscriber: Subscriber, number: int) -> Snapshot:
    snapshot = subscriber.wait(newer_than=number - 1, timeout=20)
    assert snapshot.version.number == stamp_of(snapshot) == number
    return snapshot


def eventually(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "this never came true"
        time.sleep(0.005)


def slot_with(process: BroadcasterProcess, model: str, number: int = 1) -> Path:
    """The slot whose header names this version."""
    for path in filter(Path.is_file, sorted(process.slot_dir.glob("slot-*"))):
        header = parse_slot_header(path.read_bytes()[:HEADER])
        if header is not None and (header.name, header.number) == (f"default/{model}", number):
            return path
    raise AssertionError(f"version {number} of {model} is in no slot")


def leased(path: Path) -> bool:
    """Whether somebody holds a lease, or writes."""
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


# --- versions come under leases ------------------------------------------------------------------------------------


def test_an_actor_on_the_host_views_each_version_where_it_lies(client: Client, model: str) -> None:
    subscriber = client.subscriber(model)
    for number in range(1, 13):
        publish(client, model, number)
        gets(subscriber, number)
    stats = subscriber.stats()
    assert (stats.delivery, stats.reason, stats.bytes, stats.repaired) == ("shared", None, 0, 0)
    assert stats.leases == stats.versions == 12 and stats.lease_failures == 0


def test_a_late_joiner_leases_the_newest_version(client: Client, model: str) -> None:
    publish(client, model, 1, 2, 3)
    subscriber = client.subscriber(model)
    gets(subscriber, 3)
    assert subscriber.stats().leases == 1 and subscriber.stats().bytes == 0


def test_a_lease_is_gone_at_once_with_the_snapshot(broadcaster: BroadcasterProcess, client: Client, model: str) -> None:
    publish(client, model, 1)
    path = slot_with(broadcaster, model)
    subscriber = client.subscriber(model)
    view = gets(subscriber, 1).tensors["w"][5:]
    publish(client, model, 2)
    newest = gets(subscriber, 2)
    assert leased(path), "a view of it lives"
    del view
    gc.collect()
    assert not leased(path)
    subscriber.close()
    path = slot_with(broadcaster, model, 2)
    assert leased(path) and stamp_of(newest) == 2
    del newest
    eventually(lambda: gc.collect() is not None and not leased(path))


def test_snapshots_that_are_kept_stay_as_they_are(client: Client, model: str) -> None:
    subscriber, kept = client.subscriber(model), []
    for number in range(1, 41):
        publish(client, model, number)
        snapshot = gets(subscriber, number)
        if number <= 20:
            kept.append(snapshot)
    assert [stamp_of(snapshot) for snapshot in kept] == list(range(1, 21))


def test_in_the_steady_state_an_actor_faults_nothing(client: Client, model: str) -> None:
    subscriber, publisher = client.subscriber(model), client.publisher(model)
    size = 4 << 20
    faults = []
    for number in range(1, 61):
        publisher.publish(weights(number, size))
        snapshot = subscriber.wait(newer_than=number - 1, timeout=20)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        assert int(snapshot.tensors["w"][:: 1 << 10].max()) == number
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    assert sum(faults[30:]) / 30 < 100, f"{faults} for 4,096 pages each"


def test_one_client_serves_both_kinds_of_subscribers_at_once(client: Client, model: str) -> None:
    shared, chunks, verified = (
        client.subscriber(model),
        client.subscriber(model, delivery="chunks"),
        client.subscriber(model, delivery="shared", verify=True),
    )
    for number in range(1, 9):
        publish(client, model, number)
        for subscriber in (shared, chunks, verified):
            gets(subscriber, number)
    assert (shared.stats().delivery, chunks.stats().delivery, verified.stats().delivery) == ("shared", "chunks", "shared")
    assert chunks.stats().reason is None and chunks.stats().leases == 0 and shared.stats().bytes == 0
    chunks.close()
    publish(client, model, 9)
    gets(shared, 9)
    gets(client.subscriber(model, delivery="chunks"), 9)


def test_every_takes_its_lease_when_it_yields_and_names_what_is_gone(client: Client, model: str) -> None:
    publish(client, model, 1)
    subscriber = client.subscriber(model, every=True)
    gets(subscriber, 1)
    publish(client, model, *range(2, 31))
    gets(subscriber, 30)
    before, found, gone = subscriber.stats().leases, [], []
    every = subscriber.every()
    while not found or found[-1] < 30:
        try:
            found.append(stamp_of(next(every)))
        except VersionEvicted as error:
            gone.append(error.number)
    assert sorted(found + gone) == list(range(1, 31)) and found[-8:] == list(range(23, 31))
    assert subscriber.stats().leases - before >= 7 and gone


def test_a_module_attached_to_a_version_keeps_it_until_the_next(client: Client, model: str) -> None:
    torch = pytest.importorskip("torch")
    actor = torch.nn.Linear(300, 300).eval()
    publisher, subscriber = client.publisher(model), client.subscriber(model)

    def given(value: float) -> dict[str, np.ndarray]:
        return {"weight": np.full((300, 300), value, np.float32), "bias": np.zeros(300, np.float32)}

    assert subscriber.attach(actor) is None
    publisher.publish(given(1))
    subscriber.wait(timeout=20)
    snapshot = subscriber.attach(actor)
    assert snapshot is not None and snapshot.version.number == 1 and subscriber.attach(actor) is None
    del snapshot
    for value in range(2, 25):
        publisher.publish(given(value))
    eventually(lambda: (latest := subscriber.latest()) is not None and latest.version.number == 24)
    assert actor.weight.min() == actor.weight.max() == 1
    assert subscriber.attach(actor) is not None
    assert actor(torch.ones(1, 300))[0, 0].item() == 300 * 24
    assert subscriber.stats().delivery == "shared"


# --- several processes ---------------------------------------------------------------------------------------------

_ACTOR = """
import sys
from clients import connect
url, model, last, keep = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4] == "keep"
with connect(url) as client:
    subscriber = client.subscriber(model, every=True)
    client.publisher(model + "-ready").publish(b"")
    seen, kept = [], []
    for snapshot in subscriber.every():
        array = snapshot.tensors["w"]
        assert array.min() == array.max() == snapshot.version.number
        seen.append(snapshot.version.number)
        kept += [snapshot] if keep else []
        if seen[-1] == last:
            break
    print(seen == list(range(1, last + 1)), subscriber.stats().delivery, subscriber.stats().bytes, flush=True)
    sys.stdin.read(1)
"""


class Actors:
    """Processes that follow a model from the beginning to version `last`."""

    def __init__(self, client: Client, url: str, model: str, count: int, last: int, *, keep: bool = False) -> None:
        command = [sys.executable, "-c", _ACTOR, url, model, str(last), "keep" if keep else "let go"]
        self.processes = [
            subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
        ]
        ready = client.subscriber(model + "-ready")
        ready.wait(newer_than=count - 1, timeout=50)

    def said(self) -> list[str]:
        return [process.stdout.readline().strip() for process in self.processes if process.stdout is not None]

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.communicate(timeout=20)


@pytest.mark.parametrize("count", [1, 4])
def test_actors_of_their_own_processes_see_every_version(
    broadcaster: BroadcasterProcess, client: Client, model: str, count: int
) -> None:
    actors = Actors(client, broadcaster.url, model, count, 8)
    try:
        publish(client, model, *range(1, 9))
        assert actors.said() == ["True shared 0"] * count
    finally:
        actors.end()


def test_the_leases_of_a_killed_actor_are_gone(broadcaster: BroadcasterProcess, client: Client, model: str) -> None:
    actors = Actors(client, broadcaster.url, model, 1, 1, keep=True)
    try:
        publish(client, model, 1)
        assert actors.said() == ["True shared 0"]
        path = slot_with(broadcaster, model)
        assert leased(path)
        os.kill(actors.processes[0].pid, signal.SIGKILL)
        actors.processes[0].wait(20)
        assert not leased(path)
    finally:
        actors.end()


def test_a_forked_child_has_what_its_parent_had_whatever_is_published(client: Client, model: str) -> None:
    publish(client, model, 1)
    subscriber = client.subscriber(model)
    snapshot = gets(subscriber, 1)
    go, let = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            os.close(let)
            os.read(go, 1)
            code = 0 if stamp_of(snapshot) == 1 else 2
        finally:
            os._exit(code)
    del snapshot
    publish(client, model, *range(2, 30))
    gets(subscriber, 29)
    os.write(let, b"x")
    assert os.waitpid(pid, 0)[1] == 0
    for fd in (go, let):
        os.close(fd)


# --- broken surroundings -------------------------------------------------------------------------------------------


def missing(path: Path, process: BroadcasterProcess) -> str:
    return "No such file"


def file(path: Path, process: BroadcasterProcess) -> str:
    path.write_bytes(b"")
    return "Not a directory"


def empty(path: Path, process: BroadcasterProcess) -> str:
    path.mkdir()
    return "token cannot be read"


def another(path: Path, process: BroadcasterProcess) -> str:
    path.mkdir()
    (path / "token").write_text("0" * 32)
    return "is not this broadcaster's"


@pytest.mark.parametrize("make", [missing, file, empty, another])
def test_without_the_slot_directory_versions_come_in_chunks_and_the_stats_say_why(
    broadcaster: BroadcasterProcess, client: Client, model: str, tmp_path: Path, make: Any
) -> None:
    why = make(tmp_path / "slots", broadcaster)
    with connect(broadcaster.url, slot_dir=str(tmp_path / "slots")) as elsewhere:
        subscriber = elsewhere.subscriber(model)
        for number in range(1, 4):
            publish(client, model, number)
            gets(subscriber, number)
        stats = subscriber.stats()
        assert stats.delivery == "chunks" and why in str(stats.reason) and stats.leases == 0
        with pytest.raises(InvalidRequest, match="delivery: 'shared' cannot be had: .*" + why):
            elsewhere.subscriber(model, delivery="shared")
        with pytest.raises(InvalidRequest, match="'fast' is none of auto, shared, chunks"):
            elsewhere.subscriber(model, delivery="fast")  # type: ignore[arg-type]


def swapped(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(bytes(path.stat().st_size))
    os.chmod(other, 0o660)
    os.replace(other, path)


def linked(path: Path) -> None:
    path.rename(path.with_name("other"))
    path.symlink_to("other")


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def foreign(path: Path) -> None:
    os.chown(path, 1234, -1)


@pytest.mark.parametrize("verify", [False, True])
@pytest.mark.parametrize(
    ("harm", "why", "lasts"),
    [
        (swapped, "does not hold version 1 of", False),
        (Path.unlink, "No such file", False),
        (linked, "symbolic link", True),
        (fifo, "is not the slot", True),
        pytest.param(foreign, "of user 1234", True, marks=ROOT_ONLY),
    ],
)
def test_a_slot_that_is_another_file_leads_to_the_right_weights(
    harmed: BroadcasterProcess, model: str, harm: Any, why: str, lasts: bool, verify: bool
) -> None:
    with connect(harmed.url) as client:
        publish(client, model, 1)
        harm(slot_with(harmed, model))
        auto = client.subscriber(model, verify=verify)
        forced = client.subscriber(model, verify=verify, delivery="shared")
        for subscriber, delivery in ((auto, "chunks" if lasts else "reads"), (forced, "reads")):
            gets(subscriber, 1)
            stats = subscriber.stats()
            assert (stats.delivery, stats.lease_failures, stats.repaired) == (delivery, 1, 1)
            assert why in str(stats.reason)
        publish(client, model, 2)
        gets(auto, 2)
        gets(forced, 2)
        assert auto.stats().delivery == ("chunks" if lasts else "shared") and forced.stats().delivery == "shared"


def test_bytes_that_were_changed_after_the_commit_are_seen_by_who_verifies(harmed: BroadcasterProcess, model: str) -> None:
    with connect(harmed.url) as client:
        publish(client, model, 1)
        with slot_with(harmed, model).open("r+b") as slot:
            slot.seek(HEADER + 200_000)
            was = slot.read(4)
            slot.seek(HEADER + 200_000)
            slot.write(b"evil")
            slot.flush()
            careful = client.subscriber(model, verify=True)
            with pytest.raises(RequestTimeout):
                careful.wait(timeout=1.5)
            assert careful.latest() is None and "other bytes than were committed" in str(careful.stats().reason)
            slot.seek(HEADER + 200_000)
            slot.write(was)
        gets(careful, 1)  # Read again, and right.
        publish(client, model, 2)
        gets(careful, 2)
        assert careful.stats().delivery == "shared"


@ROOT_ONLY
def test_who_gave_slots_up_has_them_again_after_a_restart(own: BroadcasterProcess, model: str) -> None:
    with connect(own.url) as client:
        publish(client, model, 1)
        foreign(slot_with(own, model))
        subscriber = client.subscriber(model)
        gets(subscriber, 1)
        assert subscriber.stats().delivery == "chunks"
        own.restart()
        number = client.publisher(model).publish(weights(5)).number
        assert stamp_of(subscriber.wait(newer_than=number - 1, timeout=20)) == 5
        eventually(lambda: subscriber.stats().delivery == "shared")  # Once the new broadcaster's welcome has come.
        number = client.publisher(model).publish(weights(6)).number
        assert stamp_of(subscriber.wait(newer_than=number - 1, timeout=20)) == 6
        stats = subscriber.stats()
        assert stats.leases > 0 and (stats.delivery, stats.reason) == ("shared", None)


def test_an_actor_that_shares_goes_on_after_a_restart(own: BroadcasterProcess, model: str) -> None:
    with connect(own.url) as client:
        publish(client, model, 1, 2)
        subscriber = client.subscriber(model)
        kept = gets(subscriber, 2)
        own.restart()
        for stamp in (7, 8, 9):
            number = client.publisher(model).publish(weights(stamp)).number
            assert stamp_of(subscriber.wait(newer_than=number - 1, timeout=20)) == stamp
        assert subscriber.stats().delivery == "shared" and subscriber.stats().leases >= 2
        assert stamp_of(kept) == 2
