"""Grants: a learner on the host writes into the slot itself; whatever it does then, readers get whole and right versions."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zmq

from broadcaster.catalog import Retention
from broadcaster.protocol.frames import decode_header
from broadcaster.protocol.limits import CHUNK
from broadcaster.protocol.slot import HEADER, SlotHeader, parse_slot_header
from broadcaster.server.core import Core, CoreOptions
from broadcaster.slots import file_system_of, is_memory
from tests.bare_peer import BarePeer, Said, digest, staged, wait_until
from tests.broadcaster_process import ROOT, BroadcasterProcess

MIB = 1 << 20
SIZE = 5 * MIB + 321
"""Takes a slot of 6 MiB."""


class Inside:
    """A broadcaster in this process, which starts faster than one of its own: real sockets, real slots."""

    def __init__(self, directory: Path, **changes: Any) -> None:
        self.slot_dir = Path(tempfile.mkdtemp(prefix="mb-", dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None))
        self.archive_dir = directory / "archive"
        retention = Retention(128 * MIB, keep_large=2)
        options = CoreOptions("127.0.0.1", 0, 0, 0, None, self.archive_dir, self.slot_dir, 128 * MIB, retention, None)
        self.core = Core(replace(options, **changes))
        self.ready = self.core.endpoints
        self._thread = threading.Thread(target=self.core.run)
        self._thread.start()

    def close(self) -> None:
        self.core.loop.stop()
        self._thread.join()
        self.core.close()
        left = list(self.slot_dir.glob("slot-*"))
        shutil.rmtree(self.slot_dir, ignore_errors=True)
        assert left == []


Broadcaster = Inside | BroadcasterProcess


@pytest.fixture
def broadcaster(tmp_path: Path) -> Iterator[Broadcaster]:
    made = Inside(tmp_path)
    yield made
    made.close()


@pytest.fixture
def peer(broadcaster: Broadcaster) -> Iterator[BarePeer]:
    with BarePeer(broadcaster.ready) as connected:
        yield connected


class Writer:
    """A learner on the host that does by hand what it is told: one upload, and the slot that it was granted."""

    def __init__(self, peer: BarePeer, slot_dir: Path, payload: bytes, *, model: str = "policy", **fields: Any) -> None:
        self.peer, self.slot_dir, self.payload = peer, slot_dir, payload
        self.upload_id = os.urandom(16)
        self.fields = {"model_id": model, "size": len(payload), "host_token": (slot_dir / "token").read_text()} | fields
        self.slot = ""
        self.generation = 0
        self.map: mmap.mmap | None = None

    def begin(self, **changes: Any) -> Said:
        """The answer to `begin`; a grant is mapped."""
        fields = {name: value for name, value in (self.fields | changes).items() if value is not None}
        self.peer.say("begin", self.upload_id, **fields)
        said = self.peer.heard("an answer to begin")
        if said.kind == "grant":
            self.slot, self.generation = said.fields["slot"], said.fields["generation"]
            with (self.slot_dir / self.slot).open("r+b") as file:
                self.map = mmap.mmap(file.fileno(), HEADER + len(self.payload))
        return said

    def write(self, start: int = 0, end: int | None = None, payload: bytes | None = None) -> None:
        assert self.map is not None
        end = len(self.payload) if end is None else end
        self.map[HEADER + start : HEADER + end] = (payload or self.payload)[start:end]

    def filled(self, size: int) -> None:
        self.peer.upload.send_multipart([b"filled", msgpack.packb({"upload_id": self.upload_id, "size": size})])

    def commit(self, **fields: Any) -> Said:
        self.peer.say("commit", self.upload_id, **({"digest": digest(self.payload)} | fields))
        return self.peer.outcome()

    def publish(self) -> Said:
        """All of it, as a learner should."""
        said = self.begin()
        if said.kind != "grant":
            return said
        for at in range(0, len(self.payload), 4 * MIB):
            self.write(at, min(at + 4 * MIB, len(self.payload)))
            self.filled(min(at + 4 * MIB, len(self.payload)))
        return self.commit()


@pytest.fixture
def payloads() -> Iterator[bytes]:
    rng = random.Random(5)
    return iter(lambda: rng.randbytes(SIZE), b"")


def header_of(broadcaster: Broadcaster, slot: str) -> SlotHeader | None:
    with (broadcaster.slot_dir / slot).open("rb") as file:
        return parse_slot_header(file.read(HEADER))


def events(socket: zmq.Socket[bytes]) -> list[dict[str, Any]]:
    found = []
    while socket.poll(0):
        _, kind, fields, *_ = socket.recv_multipart()
        if kind == b"event":
            found.append(msgpack.unpackb(fields))
    return found


def test_a_learner_on_the_host_writes_its_payload_into_a_slot(tmp_path: Path, payloads: Iterator[bytes]) -> None:
    with BroadcasterProcess(tmp_path / "b") as broadcaster, BarePeer(broadcaster.ready) as peer:
        assert "SLOW" not in broadcaster.log(), "shared memory is not warned of"
        written_and_announced(broadcaster, peer, next(payloads))


def written_and_announced(broadcaster: Broadcaster, peer: BarePeer, payload: bytes) -> None:
    follower = peer.subscription(broadcaster.ready["push"], b"default/policy\0e")
    wait_until(lambda: peer.stats()["subscriptions"] == 1, "the subscription is there")
    writer = Writer(peer, broadcaster.slot_dir, payload)
    assert writer.begin().kind == "grant"
    assert header_of(broadcaster, writer.slot) is None
    assert peer.stats()["memory_uploads"] >= SIZE, "a grant is in flight"
    writer.write()
    writer.filled(4 * MIB)
    said = writer.commit(user_data={"step": "7"}, metrics={"loss": 0.5}, creation_timestamp=77)
    assert said.kind == "done"
    version = said.fields["version"]
    assert (version["number"], version["digest"], version["size"]) == (1, digest(writer.payload), SIZE)
    assert (version["user_data"], version["metrics"], version["creation_timestamp"]) == ({"step": "7"}, {"loss": 0.5}, 77)
    header = header_of(broadcaster, writer.slot)
    assert header is not None
    assert header == SlotHeader(header.epoch, 1, SIZE, bytes.fromhex(version["digest"]), writer.generation, "default/policy")
    published = [event for event in wait_until(lambda: events(follower), "events") if event["event"] == "published"]
    published = published or [event for event in wait_until(lambda: events(follower), "more") if event["event"] == "published"]
    assert [(event["slot"], event["generation"], event["epoch"]) for event in published] == [
        (writer.slot, writer.generation, header.epoch)
    ]
    state = peer.ask("follow", model_id="policy").fields
    assert (state["slot"], state["generation"]) == (writer.slot, writer.generation)
    assert peer.read("policy", 1) == writer.payload


# --- what is granted -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64 << 10, 0])
def test_a_payload_that_needs_no_slot_is_not_granted_one(broadcaster: Broadcaster, peer: BarePeer, size: int) -> None:
    assert Writer(peer, broadcaster.slot_dir, bytes(size)).begin().kind == "credit"


@pytest.mark.parametrize("token", ["", "0" * 32, "\u00e9", None])
def test_who_does_not_know_the_token_sends_chunks(broadcaster: Broadcaster, peer: BarePeer, token: str | None) -> None:
    writer = Writer(peer, broadcaster.slot_dir, bytes(SIZE))
    said = writer.begin(host_token=token)
    assert (said.kind, said.fields["received"]) == ("credit", 0)
    assert peer.publish("policy", writer.payload, host_token=token).kind == "done"
    assert peer.stats()["grants"] == 0


def test_begin_again_gets_the_same_grant_while_it_holds(
    broadcaster: Broadcaster, peer: BarePeer, payloads: Iterator[bytes]
) -> None:
    writer = Writer(peer, broadcaster.slot_dir, next(payloads))
    first, second = writer.begin(request_id=b"1" * 16), writer.begin(request_id=b"2" * 16)
    assert first.kind == second.kind == "grant"
    assert first.fields | {"request_id": b"2" * 16} == second.fields
    writer.write()
    assert writer.commit().kind == "done"
    assert writer.begin().kind == "done", "and the version, once there is one"
    assert peer.numbers("policy") == [1]


def test_an_archived_version_is_granted_a_slot_once_its_disk_space_is_there(
    broadcaster: Broadcaster, peer: BarePeer, payloads: Iterator[bytes]
) -> None:
    writer = Writer(peer, broadcaster.slot_dir, next(payloads), archived=True, digest_kind="sha256")
    assert writer.begin().kind == "grant" and len(staged(broadcaster.archive_dir)) == 1
    writer.write()
    said = writer.commit(digest=hashlib.sha256(writer.payload).hexdigest())
    assert said.kind == "done" and said.fields["version"]["archived"]
    assert staged(broadcaster.archive_dir) == []
    for number in (2, 3):  # Out of memory with it: what is read then comes from the disk.
        assert Writer(peer, broadcaster.slot_dir, next(payloads)).publish().kind == "done", number
    assert peer.read("policy", 1) == writer.payload


# --- what the writer says ------------------------------------------------------------------------------------------


def test_what_was_not_said_while_it_was_filled_is_said_by_the_commit(broadcaster: Broadcaster, peer: BarePeer) -> None:
    large = random.Random(1).randbytes(50 * MIB + 1)
    writer = Writer(peer, broadcaster.slot_dir, large)
    writer.begin()
    writer.write()
    assert writer.commit().fields["version"]["digest"] == digest(large)


@pytest.mark.parametrize("kind", ["xxh3-128", "sha256"])
def test_the_digest_is_compared_with_what_is_in_the_slot(broadcaster: Broadcaster, peer: BarePeer, kind: str) -> None:
    payload = random.Random(2).randbytes(SIZE)
    writer = Writer(peer, broadcaster.slot_dir, payload, digest_kind=kind)
    writer.begin()
    writer.write(payload=payload[:-1] + bytes([payload[-1] ^ 1]))
    declared = digest(payload) if kind == "xxh3-128" else hashlib.sha256(payload).hexdigest()
    said = writer.commit(digest=declared)
    assert said.code == "digest-mismatch" and said.fields["upload_id"] == writer.upload_id
    assert peer.numbers("policy") == [] and peer.stats()["memory_uploads"] == 0
    again = Writer(peer, broadcaster.slot_dir, payload)
    again.begin()
    assert again.slot == writer.slot, "it spoke its last word: its slot may come round"


@pytest.mark.parametrize("kind", ["xxh3-128", "sha256"])
def test_what_was_computed_in_the_slot_needs_no_digest(broadcaster: Broadcaster, peer: BarePeer, kind: str) -> None:
    writer = Writer(peer, broadcaster.slot_dir, random.Random(5).randbytes(SIZE), digest_kind=kind)
    assert writer.begin().kind == "grant"
    writer.write()
    said = writer.commit(digest="")
    assert said.kind == "done" and said.fields["version"]["digest"] == digest(writer.payload)
    assert peer.read("policy", 1) == writer.payload


def test_what_the_last_begin_said_of_the_version_counts(broadcaster: Broadcaster, peer: BarePeer) -> None:
    payload, upload_id = random.Random(6).randbytes(SIZE), os.urandom(16)
    writer = Writer(peer, broadcaster.slot_dir, payload)
    writer.upload_id = upload_id
    assert writer.begin().kind == "grant"
    said = peer.publish("policy", payload, upload_id=upload_id, user_data={"step": "7"}, metrics={"loss": 0.5})
    assert said.kind == "done" and said.fields["version"]["user_data"] == {"step": "7"}
    assert said.fields["version"]["metrics"] == {"loss": 0.5}


def test_a_slot_that_was_asked_for_ahead_gives_way_to_a_payload_that_is_there(tmp_path: Path) -> None:
    broadcaster = Inside(tmp_path, retention=Retention(16 * MIB, keep_large=2))
    try:
        with BarePeer(broadcaster.ready) as one, BarePeer(broadcaster.ready) as other:
            ahead = Writer(one, broadcaster.slot_dir, bytes(9 * MIB), model="ahead")
            assert ahead.begin().kind == "grant"
            there = Writer(other, broadcaster.slot_dir, random.Random(7).randbytes(9 * MIB), model="there")
            # Not in the first moment: its writer may just have begun.
            wait_until(lambda: there.begin().kind == "grant", "the idle grant gives way")
            assert one.heard("the end of the idle grant").code == "aborted"
            there.write()
            there.filled(4 * MIB)
            refused = Writer(one, broadcaster.slot_dir, bytes(9 * MIB), model="third")
            wait_until(lambda: other.stats()["memory_uploads"] > 0, "it is being filled")
            assert refused.begin().code == "budget-exceeded", "a slot that is being filled gives way to nobody"
            assert there.commit().kind == "done"
            assert other.read("there", 1) == there.payload
    finally:
        broadcaster.close()


def test_a_commit_with_too_much_user_data_ends_the_upload(broadcaster: Broadcaster, peer: BarePeer) -> None:
    writer = Writer(peer, broadcaster.slot_dir, bytes(SIZE))
    writer.begin()
    said = writer.commit(user_data={"much": "x" * (17 << 10)})
    assert said.code == "invalid-request" and said.fields["upload_id"] == writer.upload_id
    assert peer.stats()["memory_uploads"] == 0 and peer.stats()["slots_free"] == 1


def test_strange_words_about_a_slot_are_dropped_and_never_answered(
    broadcaster: Broadcaster, peer: BarePeer, payloads: Iterator[bytes]
) -> None:
    writer = Writer(peer, broadcaster.slot_dir, next(payloads))
    writer.begin()
    writer.write()
    strangers = [{"upload_id": os.urandom(16), "size": 1}, {"upload_id": writer.upload_id, "size": SIZE + 1}]
    broken = [{"upload_id": writer.upload_id}, {"upload_id": writer.upload_id, "size": -1}, {"size": 5}, [1]]
    for fields in strangers + broken:
        peer.upload.send_multipart([b"filled", msgpack.packb(fields)])
    peer.upload.send_multipart([b"filled"])
    peer.chunk(writer.upload_id, bytes(SIZE), 0)  # Nor are chunks taken for a slot that its writer has.
    for size in (4 * MIB, MIB, 0, SIZE - 1):
        writer.filled(size)
    assert writer.commit().kind == "done", "nothing else was answered"
    stats = peer.stats()
    assert (stats["fills_dropped"], stats["bad_messages"], stats["chunks_dropped"]) == (2, 5, 1)
    assert peer.read("policy", 1) == writer.payload


def test_an_aborted_slot_comes_round_at_once(broadcaster: Broadcaster, peer: BarePeer, payloads: Iterator[bytes]) -> None:
    writer, other = (Writer(peer, broadcaster.slot_dir, next(payloads)) for _ in range(2))
    writer.begin()
    writer.write()
    writer.filled(4 * MIB)
    peer.say("abort", writer.upload_id)
    assert peer.heard().kind == "aborted"
    assert other.publish().kind == "done" and other.slot == writer.slot and other.generation == writer.generation + 1
    assert peer.read("policy", 1) == other.payload


# --- a writer without a word ---------------------------------------------------------------------------------------


def test_a_slot_that_cannot_be_used_is_withdrawn_and_the_payload_comes_in_chunks(
    broadcaster: Broadcaster, peer: BarePeer, payloads: Iterator[bytes]
) -> None:
    chunks = peer.subscription(broadcaster.ready["push"], b"default/policy\0c", b"default/policy\0e")
    wait_until(lambda: peer.stats()["subscriptions"] == 1, "the subscription is there")
    writer = Writer(peer, broadcaster.slot_dir, next(payloads), archived=True)
    writer.begin()
    writer.write(payload=bytes(SIZE))
    writer.filled(4 * MIB)
    said = writer.begin(host_token=None)
    assert (said.kind, said.fields["received"], said.fields["rewind"]) == ("credit", 0, True)
    assert not (broadcaster.slot_dir / writer.slot).exists()
    assert peer.stats()["grants_withdrawn"] == 1 and peer.stats()["memory_uploads"] < 2 * SIZE
    for index in range(-(-SIZE // MIB)):
        peer.chunk(writer.upload_id, writer.payload, index)
    writer.write(payload=b"x" * SIZE)  # The writer that woke up.
    assert writer.commit().kind == "done"
    writer.write(payload=b"y" * SIZE)
    assert peer.read("policy", 1) == writer.payload
    told = wait_until(lambda: told_of(chunks), "abandon and event")
    assert told == [("abandon", 0), ("published", 1)]


def told_of(socket: zmq.Socket[bytes]) -> list[tuple[str, int]]:
    """Of which attempt the end was told, until a version is."""
    found: list[tuple[str, int]] = []
    while socket.poll(5000):
        frames = socket.recv_multipart()
        if frames[1] == b"abandon":
            found.append(("abandon", msgpack.unpackb(frames[2])["attempt"]))
        elif frames[1] == b"event" and (event := msgpack.unpackb(frames[2]))["event"] == "published":
            return [*found, ("published", event["attempt"])]
    return found


LEARNER = """
import os, signal, sys
from pathlib import Path
from tests.bare_peer import BarePeer
from tests.fault.real.test_slot_grants import Writer
addresses, slot_dir, size = eval(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
with BarePeer(addresses) as peer:
    writer = Writer(peer, slot_dir, b"k" * size)
    writer.begin()
    writer.write(0, size // 2)
    writer.filled(size // 2)
    print(writer.slot, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Inside]:
    """One that gives up uploads without progress after 0.4 s."""
    made = Inside(tmp_path, idle_upload=0.4, retention=Retention(128 * MIB))
    yield made
    made.close()


def test_a_learner_killed_while_it_fills_leaves_nothing(hasty: Inside) -> None:
    with BarePeer(hasty.ready) as peer:
        line = [sys.executable, "-c", LEARNER, repr(hasty.ready), str(hasty.slot_dir), str(SIZE)]
        learner = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=30)
        slot = hasty.slot_dir / learner.stdout.strip()
        assert learner.returncode == -signal.SIGKILL and slot.name.startswith("slot-"), learner.stderr
        wait_until(lambda: not slot.exists(), "the slot is unlinked")
        stats = peer.stats()
        assert (stats["grants_withdrawn"], stats["memory_uploads"], stats["slot_bytes"]) == (1, 0, 0)
        assert peer.numbers("policy") == []


def test_a_writer_that_stalled_wakes_up_and_harms_nobody(hasty: Inside, payloads: Iterator[bytes]) -> None:
    with BarePeer(hasty.ready) as peer, BarePeer(hasty.ready) as other:
        stalled = Writer(peer, hasty.slot_dir, next(payloads))
        stalled.begin()
        stalled.write(0, MIB)
        stalled.filled(MIB)
        assert peer.heard("the end of its grant").code == "aborted"
        kept = []
        for number in range(1, 6):
            writer = Writer(other, hasty.slot_dir, next(payloads))
            writer.begin()
            stalled.write(payload=b"s" * SIZE)
            writer.write()
            stalled.write(payload=b"t" * SIZE)
            assert writer.slot != stalled.slot and writer.commit().kind == "done"
            stalled.write(payload=b"u" * SIZE)
            kept.append(writer.payload)
            assert [other.read("policy", at) for at in range(1, number + 1)] == kept
        said = stalled.commit()
        assert said.code == "invalid-request" and said.fields["facts"]["field"] == "upload_id"


def test_a_word_in_time_keeps_a_grant_that_nothing_is_written_to(hasty: Inside, payloads: Iterator[bytes]) -> None:
    with BarePeer(hasty.ready) as peer:
        writer = Writer(peer, hasty.slot_dir, next(payloads))
        writer.begin()
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            writer.filled(0)
            assert not peer.upload.poll(100), "the grant holds"
        writer.write()
        assert writer.commit().kind == "done"


# --- readers -------------------------------------------------------------------------------------------------------


class Leases:
    """Readers of this process: each keeps a lease as another process would (a lock belongs to an opening of a file)."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.held: dict[str, int] = {}

    def take(self, slot: str) -> None:
        fd = os.open(self.directory / slot, os.O_RDONLY | os.O_CLOEXEC)
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        self.held[slot] = fd

    def end(self, slot: str) -> None:
        os.close(self.held.pop(slot))

    def look(self, slot: str) -> bytes:
        return os.pread(self.held[slot], SIZE, HEADER)


@pytest.fixture
def leases(broadcaster: Broadcaster) -> Iterator[Leases]:
    made = Leases(broadcaster.slot_dir)
    yield made
    for slot in list(made.held):
        made.end(slot)


def test_a_slot_comes_round_when_nobody_reads_it_and_not_before(
    broadcaster: Broadcaster, peer: BarePeer, payloads: Iterator[bytes], leases: Leases
) -> None:
    used = []
    for _ in range(8):
        writer = Writer(peer, broadcaster.slot_dir, next(payloads))
        assert writer.publish().kind == "done"
        used.append(writer.slot)
    assert len(set(used)) <= 4, "two are kept, one is written, one may be made ahead"
    leases.take(used[-1])
    held = next(writer.payload for _ in [0])
    for _ in range(6):
        writer = Writer(peer, broadcaster.slot_dir, next(payloads))
        assert writer.publish().kind == "done" and writer.slot != used[-1]
    stats = peer.stats()
    assert (stats["slots_pinned"], stats["slots_unlinked"]) == (1, 0)
    assert stats["slot_bytes_pinned"] == HEADER + 6 * MIB
    assert leases.look(used[-1]) == held
    leases.end(used[-1])
    wait_until(lambda: peer.stats()["slots_pinned"] == 0, "the slot is free")
    later = []
    for _ in range(6):
        writer = Writer(peer, broadcaster.slot_dir, next(payloads))
        assert writer.publish().kind == "done"
        later.append(writer.slot)
    assert used[-1] in later


def test_readers_that_keep_too_much_stop_nobody_and_are_never_written_over(
    broadcaster: Broadcaster, peer: BarePeer, payloads: Iterator[bytes], leases: Leases
) -> None:
    kept = {}
    for _ in range(24):  # 144 MiB, of a budget of 128
        writer = Writer(peer, broadcaster.slot_dir, next(payloads))
        assert writer.publish().kind == "done"
        leases.take(writer.slot)
        kept[writer.slot] = writer.payload
        stats = peer.stats()
        assert stats["slot_bytes"] <= stats["memory_budget"] and stats["slot_bytes_pinned"] <= stats["memory_budget"] / 4
    assert len(kept) == 24
    assert stats["slots_unlinked"] == stats["slots_lost"] == 24 - 2 - stats["slots_pinned"] > 0
    assert stats["slot_bytes_lost"] == stats["slots_lost"] * (HEADER + 6 * MIB)
    for slot, payload in kept.items():
        assert leases.look(slot) == payload
        leases.end(slot)
    wait_until(lambda: peer.stats()["slot_bytes_lost"] == peer.stats()["slots_pinned"] == 0, "all are let go")


def test_what_readers_keep_is_in_the_sum_of_a_refusal(tmp_path: Path, payloads: Iterator[bytes]) -> None:
    options = ["--memory-budget", "33MiB", "--keep-large", "1"]
    with BroadcasterProcess(tmp_path / "b", options=options) as broadcaster, BarePeer(broadcaster.ready) as peer:
        first, second = (Writer(peer, broadcaster.slot_dir, next(payloads)) for _ in range(2))
        first.publish()
        lease = Leases(broadcaster.slot_dir)
        lease.take(first.slot)
        second.publish()
        said = Writer(peer, broadcaster.slot_dir, bytes(25 * MIB), model="other").begin()
        assert said.code == "budget-exceeded"
        facts = said.fields["facts"]
        assert (facts["pinned"], facts["newest"]) == (HEADER + 6 * MIB, HEADER + 6 * MIB)
        lease.end(first.slot)
        said = Writer(peer, broadcaster.slot_dir, bytes(25 * MIB), model="other").begin()
        assert said.kind == "grant", "what was let go counts at once"


# --- subscribers elsewhere -----------------------------------------------------------------------------------------


def test_chunks_of_a_granted_upload_are_pushed_while_it_is_filled(
    broadcaster: Broadcaster, peer: BarePeer, payloads: Iterator[bytes]
) -> None:
    remote = peer.subscription(broadcaster.ready["push"], b"default/policy\0c", b"default/policy\0e")
    wait_until(lambda: peer.stats()["subscriptions"] == 1, "the subscription is there")
    for _ in range(4):
        writer = Writer(peer, broadcaster.slot_dir, next(payloads))
        writer.begin()
        writer.write(0, 4 * MIB)
        writer.filled(4 * MIB)
        received = bytearray(SIZE)
        for index in range(4):  # They are here before the rest is written.
            assert index == take_chunk(remote, received)
        writer.write(4 * MIB)
        assert writer.commit().kind == "done"
        assert [take_chunk(remote, received) for _ in range(2)] == [4, 5]
        assert received == writer.payload
    assert peer.stats()["chunks_pushed"] == 4 * 6
    remote.close()
    wait_until(lambda: peer.stats()["subscriptions"] == 0, "nobody wants chunks")
    assert Writer(peer, broadcaster.slot_dir, next(payloads)).publish().kind == "done"
    assert peer.stats()["chunks_pushed"] == 4 * 6


def test_a_slot_that_a_stalled_subscriber_still_gets_chunks_from_is_not_written_over(
    broadcaster: Broadcaster, peer: BarePeer
) -> None:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    stalled = context.socket(zmq.SUB)
    stalled.rcvhwm, stalled.rcvbuf, stalled.linger = 1, 64 << 10, 0
    stalled.connect(broadcaster.ready["push"])
    for topic in (b"default/policy\0c", b"default/policy\0e"):
        stalled.subscribe(topic)
    wait_until(lambda: peer.stats()["subscriptions"] == 1, "the subscription is there")
    payload = random.Random(9).randbytes(24 * MIB)
    first = Writer(peer, broadcaster.slot_dir, payload)
    assert first.publish().kind == "done"
    assert peer.ask("delete-version", model_id="policy", number=1).kind == "deleted"
    assert peer.stats()["slots_pinned"] == 1, "this test is about frames that wait"
    second = Writer(peer, broadcaster.slot_dir, bytes(24 * MIB), model="other")
    assert second.publish().kind == "done" and second.slot != first.slot
    received = bytearray(len(payload))
    assert [take_chunk(stalled, received) for _ in range(24)] == list(range(24)) and received == payload
    stalled.close()
    context.term()
    wait_until(lambda: peer.stats()["slots_pinned"] == 0, "the slot is free")


def take_chunk(socket: zmq.Socket[bytes], into: bytearray) -> int:
    """The index of the next chunk, put into its place; events are passed over."""
    while True:
        assert socket.poll(10_000), "no chunk came"
        topic, header, data = socket.recv_multipart()
        if topic.endswith(b"c") and len(header) == 64:
            place = decode_header(header)
            into[place.offset : place.offset + place.length] = data
            return place.offset // CHUNK


# --- broken surroundings -------------------------------------------------------------------------------------------


def test_a_full_slot_directory_refuses_the_upload_and_leaks_nothing(tmp_path: Path, payloads: Iterator[bytes]) -> None:
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=40m", "slots", str(small)]
    if os.getuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no small tmpfs can be mounted here")
    try:
        broadcaster = BroadcasterProcess(tmp_path / "b", options=["--slot-dir", str(small / "s")])
        with broadcaster, BarePeer(broadcaster.ready) as peer:
            first = Writer(peer, small / "s", next(payloads))
            assert first.publish().kind == "done"
            wait_until(lambda: peer.stats()["slots_free"] == 1, "a slot is made ahead")
            fill(small / "ballast")
            for fields in ({}, {"archived": True}, {"host_token": None}):
                said = Writer(peer, small / "s", bytes(9 * MIB), **fields).begin()
                assert said.code == "no-space" and "the slot directory" in said.message and str(small) not in said.message
            stats = peer.stats()
            assert (stats["memory_uploads"], stats["slot_bytes"]) == (0, HEADER + 6 * MIB)
            assert staged(broadcaster.archive_dir) == [] and len(list((small / "s").glob("slot-*"))) == 1
            assert peer.read("policy", 1) == first.payload, "the slot that nobody needed went, the others stay"
            (small / "ballast").unlink()
            assert Writer(peer, small / "s", next(payloads)).publish().kind == "done"
    finally:
        subprocess.run(["umount", "--lazy", str(small)], check=True)  # Its slots are mapped here.


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(MIB))


def test_a_slot_directory_that_was_removed_is_an_error_and_not_an_end(
    broadcaster: Broadcaster, peer: BarePeer, payloads: Iterator[bytes]
) -> None:
    writer = Writer(peer, broadcaster.slot_dir, next(payloads))
    assert writer.publish().kind == "done"
    late = Writer(peer, broadcaster.slot_dir, next(payloads))
    assert late.begin().kind == "grant"
    peer.say("abort", late.upload_id)
    assert peer.heard().kind == "aborted"
    shutil.rmtree(broadcaster.slot_dir)
    assert peer.read("policy", 1) == writer.payload, "what is mapped stays"
    assert late.begin().kind == "credit", "nobody would find that slot"
    refused = [peer.publish("other", bytes(9 * MIB)) for _ in range(3)]
    assert [said.code for said in refused] == ["store-unavailable"] * 3
    assert "the slot directory" in refused[0].message and str(broadcaster.slot_dir) not in refused[0].message
    assert peer.publish("small", b"s").kind == "done"
    broadcaster.slot_dir.mkdir()
    assert peer.publish("other", bytes(9 * MIB)).kind == "done"


def test_a_slot_directory_on_a_disk_works_and_is_warned_of(tmp_path: Path, payloads: Iterator[bytes]) -> None:
    directory = tmp_path / "slots"
    if is_memory(file_system_of(tmp_path)):
        pytest.skip("the temporary directory is in memory here")
    broadcaster = BroadcasterProcess(tmp_path / "b", options=["--slot-dir", str(directory)])
    with broadcaster, BarePeer(broadcaster.ready) as peer:
        warned = [line for line in broadcaster.log().splitlines() if "SLOW" in line]
        assert len(warned) == 1 and str(directory) in warned[0] and "--slot-dir" in warned[0]
        assert str(file_system_of(tmp_path)) in warned[0]
        writer = Writer(peer, directory, next(payloads))
        assert writer.publish().kind == "done" and peer.read("policy", 1) == writer.payload


def test_the_next_slot_is_made_while_nothing_is_under_way(
    broadcaster: Broadcaster, peer: BarePeer, payloads: Iterator[bytes]
) -> None:
    assert Writer(peer, broadcaster.slot_dir, next(payloads)).publish().kind == "done"
    wait_until(lambda: peer.stats()["slots_free"] == 1, "a slot is ready")
    ready = {path.name for path in broadcaster.slot_dir.glob("slot-*")}
    writer = Writer(peer, broadcaster.slot_dir, next(payloads))
    writer.begin()
    assert writer.slot in ready
