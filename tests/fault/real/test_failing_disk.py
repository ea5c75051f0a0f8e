"""The archive's disk fails, is full, read-only or slow: every answer is definite, the live path goes on, and all comes back."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import pytest

import clients
from broadcaster.protocol.errors import RequestTimeout
from broadcaster.store import verify
from tests.bare_peer import BarePeer, wait_until
from tests.broadcaster_process import BroadcasterProcess
from tests.fault.disks import Disk, small_disk
from tests.fault.real.changes import CHANGES, Change, calls_of, core
from tests.fault.real.ledger import Ledger, Refused
from tests.fault.real.live import Live, archiving, p99
from tests.fault.tracing import needs_strace, threads, tracing

REFUSALS = {"store-unavailable", "no-space"}
RATIO = 1.5
"""How much slower the live path's p99 may be than the same run's without the fault."""
FLUSHES = "fsync,fdatasync"


@pytest.fixture
def broadcaster(folder: Path) -> Iterator[BroadcasterProcess]:
    """Its archive is on a disk of its own, in memory."""
    with small_disk(folder / "disk", "size=256m,nr_inodes=2000") as disk:
        with BroadcasterProcess(folder / "broadcaster", archive_dir=disk / "archive") as process:
            yield process


def writable(peer: BarePeer) -> bool:
    return bool(peer.stats()["archive_writable"])


def held_to(ledger: Ledger, broadcaster: BroadcasterProcess, folder: Path) -> None:
    """A next life must have all that was acknowledged, and no more than was asked for."""
    broadcaster.restart(kill=True)
    ledger.forget_memory()
    with BarePeer(broadcaster.ready) as peer:
        ledger.check(peer, folder)
        ledger.settle(peer)


# --- errors -------------------------------------------------------------------------------------------------------------


@needs_strace
def test_an_error_of_the_disk_refuses_a_change_and_is_got_over(broadcaster: BroadcasterProcess, folder: Path) -> None:
    sweep(broadcaster, folder, CHANGES["upload"], stride=11)


@needs_strace
@pytest.mark.fault_long
@pytest.mark.deadline(600)
@pytest.mark.parametrize("error, stride", [("EIO", 1), ("ENOSPC", 5), ("EROFS", 5)], ids=["EIO", "ENOSPC", "EROFS"])
@pytest.mark.parametrize("name", CHANGES)
def test_an_error_at_any_call_refuses_a_change_and_is_got_over(
    broadcaster: BroadcasterProcess, folder: Path, name: str, error: str, stride: int
) -> None:
    sweep(broadcaster, folder, CHANGES[name], stride, error)


def sweep(broadcaster: BroadcasterProcess, folder: Path, change: Change, stride: int, error: str = "EIO") -> None:
    """The change again and again, one of its calls failing each time; afterwards it is asked for again, and done."""
    ledger = Ledger(broadcaster.archive_dir, seed=8)
    with BarePeer(broadcaster.ready) as peer:
        change.act(ledger, peer, change.prepare(ledger, peer))  # the first is not like the others: it makes the model
        ledger.publish(peer, "live", ledger.payload(100))
    places = [place for place in calls_of(broadcaster, ledger, change, folder / "calls") if place[1].name != "write"][::stride]
    refused = 0
    with BarePeer(broadcaster.ready) as peer:
        for thread, point in places:
            number = change.prepare(ledger, peer)
            with tracing(threads(core(broadcaster))[thread], point.name, inject=f"error={error}:when={point.when}"):
                try:
                    change.act(ledger, peer, number)
                except Refused as refusal:
                    assert refusal.code in REFUSALS, f"{point}: {refusal}"
                    refused += 1
                ledger.publish(peer, "live", ledger.payload(100))
            wait_until(lambda: writable(peer), "the archive takes writes again by itself", seconds=10)
            ledger.settle(peer)
    print(f"{error}: {refused} refusals at {len(places)} calls")
    assert refused >= len(places) // 3
    held_to(ledger, broadcaster, folder)


@needs_strace
def test_a_disk_that_does_not_answer_a_read_costs_that_read_alone(broadcaster: BroadcasterProcess, folder: Path) -> None:
    ledger = Ledger(broadcaster.archive_dir, seed=9)
    with BarePeer(broadcaster.ready) as peer:
        first, second = (ledger.upload(peer, "policy", ledger.payload(2_000_000)) for _ in range(2))
    broadcaster.restart(kill=True)  # nothing is in memory now
    with BarePeer(broadcaster.ready) as peer:
        sha256 = peer.ask("get-version", model_id="policy", ref=first).fields["version"]["sha256"]
        blob = broadcaster.archive_dir / "blobs" / sha256[:2] / sha256[2:]
        reads = "pread64,preadv,preadv2"
        with tracing(core(broadcaster), reads, inject="error=EIO", path=blob, follow=True):
            said = peer.ask("read", model_id="policy", number=first, offset=0, length=1000)
            assert said.code == "store-unavailable" and "policy" in said.message, said
            assert len(peer.read("policy", second)) == 2_000_000
        assert len(peer.read("policy", first)) == 2_000_000
    held_to(ledger, broadcaster, folder)


@needs_strace
def test_a_disk_that_fails_who_looks_after_it_harms_nobody_and_is_got_over(folder: Path) -> None:
    """The scrub and the probe have a thread of their own, which no change waits for."""
    options = ["--scrub-period", "0.05", "--scrub-rate", "1GiB"]
    with BroadcasterProcess(folder / "broadcaster", options=options) as broadcaster, BarePeer(broadcaster.ready) as peer:
        ledger = Ledger(broadcaster.archive_dir, seed=14)
        for _ in range(3):
            ledger.upload(peer, "policy", ledger.payload(100_000))
        wait_until(lambda: peer.stats()["scrub_last_complete"], "a whole pass")
        with tracing(core(broadcaster), "preadv,preadv2", log=folder / "reads", follow=True) as tracer:
            for _ in range(2):  # The first may have been nearly through.
                wait_until(scrubs_again(peer), "another pass")
        (upkeep,) = (thread for thread, lines in tracer.seen().items() if any("/blobs/" in line for line in lines))
        for calls in ("preadv,preadv2,pread64", "pwrite64,fsync,rename,renameat,renameat2,unlinkat"):
            before = peer.stats()["scrub_unreadable"]
            with tracing(upkeep, calls, inject="error=EIO"):
                for _ in range(3):
                    ledger.upload(peer, "policy", ledger.payload(1000))
                if "pread" in calls:
                    wait_until(lambda before=before: peer.stats()["scrub_unreadable"] > before, "it is counted")
                assert writable(peer), "what nobody waits for closes nothing"
            wait_until(scrubs_again(peer), "another pass, now that the disk works")
        held_to(ledger, broadcaster, folder)


def scrubs_again(peer: BarePeer) -> Callable[[], bool]:
    """Tells whether a pass of the scrub was complete since now."""
    before = peer.stats()["scrub_last_complete"]
    return lambda: peer.stats()["scrub_last_complete"] > before


# --- full -----------------------------------------------------------------------------------------------------------------


@contextmanager
def no_bytes(broadcaster: BroadcasterProcess) -> Iterator[None]:
    """The disk has not one byte left."""
    filler = broadcaster.archive_dir.parent / "filler"
    with open(filler, "wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            with pytest.raises(OSError):
                while True:
                    file.write(bytes(size))
    yield
    filler.unlink()


@contextmanager
def no_inodes(broadcaster: BroadcasterProcess) -> Iterator[None]:
    """The disk has not one file left."""
    fillers = broadcaster.archive_dir.parent / "fillers"
    fillers.mkdir()
    made = []
    with pytest.raises(OSError):
        while True:
            os.close(os.open(path := fillers / str(len(made)), os.O_CREAT | os.O_WRONLY))
            made.append(path)
    yield
    for path in made:
        path.unlink()
    fillers.rmdir()


@pytest.mark.parametrize("full", [no_bytes, no_inodes], ids=["bytes", "inodes"])
def test_a_full_disk_refuses_by_name_serves_what_it_has_and_recovers(
    broadcaster: BroadcasterProcess, folder: Path, full: Callable[[BroadcasterProcess], AbstractContextManager[None]]
) -> None:
    ledger = Ledger(broadcaster.archive_dir, seed=10)
    with BarePeer(broadcaster.ready) as peer:
        number = ledger.upload(peer, "policy", ledger.payload(100_000))
        with full(broadcaster):
            for size in (100, 1_000_000):
                with pytest.raises(Refused) as refusal:
                    ledger.upload(peer, "policy", ledger.payload(size))
                assert refusal.value.code in REFUSALS
            with pytest.raises(Refused) as refusal:
                ledger.upload(peer, "another", ledger.payload(10))
            assert refusal.value.code in REFUSALS
            ledger.publish(peer, "policy", ledger.payload(1_000_000))
            assert len(peer.read("policy", number)) == 100_000
        wait_until(lambda: writable(peer), "the archive takes writes again by itself", seconds=10)
        ledger.settle(peer)
        ledger.delete(peer, "policy", number)
    held_to(ledger, broadcaster, folder)


def test_archived_uploads_fill_a_disk_to_its_reserve_and_deletions_help(folder: Path) -> None:
    with ExitStack() as life:
        disk = life.enter_context(small_disk(folder / "disk", "size=48m"))
        broadcaster = life.enter_context(BroadcasterProcess(folder / "broadcaster", archive_dir=disk / "archive"))
        ledger = Ledger(broadcaster.archive_dir, seed=11)
        with BarePeer(broadcaster.ready) as peer:
            numbers = []
            with pytest.raises(Refused) as refusal:
                while True:
                    numbers.append(ledger.upload(peer, "policy", ledger.payload(4 << 20)))
            assert refusal.value.code == "no-space" and 4 <= len(numbers) <= 12
            assert peer.publish("policy", bytes(4 << 20)).kind == "done", "the live path needs no disk"
            ledger.delete(peer, "policy", *numbers[:2])
            ledger.settle(peer)
        held_to(ledger, broadcaster, folder)


# --- read-only ------------------------------------------------------------------------------------------------------------


def test_a_disk_that_becomes_read_only_serves_what_it_has_until_it_is_mounted_again(folder: Path) -> None:
    disk = Disk.make(folder, "ext4")
    with ExitStack() as life:
        mount = life.enter_context(disk.mounted("errors=remount-ro"))
        broadcaster = life.enter_context(BroadcasterProcess(folder / "broadcaster", archive_dir=mount / "archive"))
        ledger = Ledger(broadcaster.archive_dir, seed=12)
        with BarePeer(broadcaster.ready) as peer:
            number = ledger.upload(peer, "policy", ledger.payload(100_000))
            disk.break_down()
            for _ in range(3):
                with pytest.raises(Refused) as refusal:
                    ledger.upload(peer, "policy", ledger.payload(1000))
                assert refusal.value.code in REFUSALS
            with pytest.raises(Refused) as refusal:
                ledger.delete(peer, "policy", number)
            assert refusal.value.code in REFUSALS
            assert not writable(peer) and len(peer.read("policy", number)) == 100_000
            ledger.publish(peer, "policy", ledger.payload(1_000_000))
        broadcaster.kill()
    disk.repair()
    with disk.mounted() as mount, BroadcasterProcess(folder / "broadcaster", archive_dir=mount / "archive") as broadcaster:
        ledger.forget_memory()
        with BarePeer(broadcaster.ready) as peer:
            ledger.check(peer, folder)
            ledger.settle(peer)


# --- the live path meanwhile ------------------------------------------------------------------------------------------------


Fault = Callable[[BroadcasterProcess, Path], AbstractContextManager[None]]


def at_calls(calls: str, inject: str) -> Fault:
    """At these calls of the threads that write to the archive, and of no other thread."""

    @contextmanager
    def fault(broadcaster: BroadcasterProcess, folder: Path) -> Iterator[None]:
        ledger = Ledger(broadcaster.archive_dir, seed=13)
        places = {place for place, _ in calls_of(broadcaster, ledger, CHANGES["upload"], folder / "calls")}
        with ExitStack() as tracers:
            for place in sorted(places):
                tracers.enter_context(tracing(threads(core(broadcaster))[place], calls, inject=inject))
            yield

    return fault


FAULTS: dict[str, Fault] = {
    "flushes of two seconds": at_calls(FLUSHES, "delay_enter=2000000:when=3+6"),
    "no flush succeeds": at_calls(FLUSHES, "error=EIO"),
    "no write succeeds": at_calls("pwrite64", "error=EIO"),
    "read-only": at_calls("pwrite64,openat,rename,renameat,renameat2,mkdirat,unlinkat", "error=EROFS"),
    "no byte left": lambda broadcaster, _: no_bytes(broadcaster),
    "no inode left": lambda broadcaster, _: no_inodes(broadcaster),
}


@needs_strace
@pytest.mark.fault_long
@pytest.mark.deadline(180)
@pytest.mark.parametrize("fault", FAULTS)
def test_the_live_path_is_not_slowed_by_a_failing_disk(broadcaster: BroadcasterProcess, folder: Path, fault: str) -> None:
    for attempt in range(2):
        without, during = timed(broadcaster, folder, FAULTS[fault])
        ratio = during / without
        print(f"{fault}: p99 {without * 1000:.2f} ms without it, {during * 1000:.2f} ms during it, {ratio:.2f} times as slow")
        if ratio <= RATIO:
            break
        print("measured again" if attempt == 0 else "and again")
    assert ratio <= RATIO


def timed(broadcaster: BroadcasterProcess, folder: Path, fault: Fault, rounds: int = 4) -> tuple[float, float]:
    """The live path's p99 in s, without and during the fault, with the same archived uploads asked for all the time.

    In turns, so that what else the machine does is in both.
    """
    without, during = [], []
    with Live(broadcaster.url) as live, archiving(broadcaster.ready) as archivist:
        live.warm_up()
        for _ in range(rounds):
            without += live.times(2.0)
            with fault(broadcaster, folder):
                archivist.until(lambda said: said["kind"] != "done" or said["seconds"] > 1.5)
                during += live.times(2.0)
            for said in archivist.until(lambda said: said["kind"] == "done" and said["seconds"] < 1):
                assert said["kind"] == "done" or said["code"] in REFUSALS, said
    return p99(without), p99(during)


@needs_strace
def test_a_call_that_waits_for_a_slow_disk_ends_at_its_deadline_and_publications_go_on(
    broadcaster: BroadcasterProcess, folder: Path
) -> None:
    with clients.connect(broadcaster.url) as client, Live(broadcaster.url) as live:
        publisher = client.publisher("policy")
        publisher.publish(b"first", archived=True)
        with at_calls(FLUSHES, "delay_enter=2000000")(broadcaster, folder):
            began = time.monotonic()
            with pytest.raises(RequestTimeout):
                publisher.publish(b"second", archived=True, timeout=1)
            assert time.monotonic() - began < 4, "each flush takes two seconds, and there are many"
            assert sorted(live.publish() for _ in range(20))[10] < 1
        third = publisher.publish(b"third", archived=True)
        assert client.registry.get("policy", third.number).read() == b"third"
    broadcaster.kill()
    assert verify(broadcaster.archive_dir).problems == []
