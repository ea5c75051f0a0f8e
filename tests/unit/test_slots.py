"""Slots: real files in shared memory, never handed out while somebody reads them, never left behind."""

from __future__ import annotations

import fcntl
import mmap
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from broadcaster.protocol.errors import DirectoryUnusable, NoSpace, StoreUnavailable
from broadcaster.protocol.limits import INLINE
from broadcaster.protocol.slot import HEADER, SlotHeader, parse_slot_header
from broadcaster.slots import Inline, Slot, SlotPool, file_system_of, is_memory, open_slot_directory, sweep_abandoned
from broadcaster.slots.pool import LOST

MEMORY = Path("/dev/shm")
MIB = 1 << 20
SIZE = 3 * MIB
"""Takes a slot of 4 MiB."""

LEASE = """
import fcntl, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
print("leased", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def directory() -> Generator[Path, None, None]:
    if not os.access(MEMORY, os.W_OK):
        pytest.skip("there is no writable /dev/shm here")
    path = Path(tempfile.mkdtemp(prefix="slots-under-test-", dir=MEMORY))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def pool(directory: Path) -> Generator[SlotPool, None, None]:
    made = SlotPool(directory, budget=64 * MIB)
    yield made
    made.close()
    assert [path.name for path in directory.glob("slot-*")] == [], "close() unlinks every slot"


class Frame:
    """A queued frame: done when it was sent."""

    def __init__(self) -> None:
        self.done = False


class Lease:
    """Another process that holds a lease on a slot."""

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-S", "-c", LEASE, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None and self.process.stdout.readline() == "leased\n"

    def end(self, *, kill: bool = False) -> None:
        if kill:
            self.process.kill()
        self.process.communicate(timeout=10)


def granted(pool: SlotPool, size: int = SIZE) -> Slot:
    slot = pool.grant(size)
    assert isinstance(slot, Slot)
    return slot


def header_of(slot: Slot) -> SlotHeader | None:
    return parse_slot_header(slot.path.read_bytes()[:HEADER])


def seal(slot: Slot, number: int = 7) -> SlotHeader:
    header = SlotHeader(1, number, len(slot.view), bytes(16), slot.generation, "lab/policy")
    slot.seal(header)
    return header


# --- granting ------------------------------------------------------------------------------------------------------


def test_a_small_payload_has_no_file(pool: SlotPool, directory: Path) -> None:
    for size in (0, INLINE):
        place = pool.grant(size)
        assert isinstance(place, Inline) and len(place.view) == size and place.charge == pool.charge(size)
        place.seal(SlotHeader(1, 1, size, bytes(16), 0, "lab/policy"))
        place.lend(Frame())
        pool.release(place)
    assert list(directory.iterdir()) == [] and pool.bytes == 0


def test_a_slot_is_a_real_file_of_its_whole_size(pool: SlotPool) -> None:
    slot = granted(pool, INLINE + 1)
    status = slot.path.stat()
    assert status.st_size == slot.charge == pool.charge(INLINE + 1) == pool.bytes == HEADER + 2 * MIB
    assert status.st_blocks * 512 >= status.st_size, "a sparse file would kill its writer on a full file system"
    assert len(slot.view) == INLINE + 1


def test_what_is_written_is_what_others_read(pool: SlotPool) -> None:
    slot = granted(pool)
    slot.view[:] = b"w" * SIZE
    assert header_of(slot) is None, "the header stays empty until the payload is whole"
    header = seal(slot)
    assert header_of(slot) == header
    assert slot.path.read_bytes()[HEADER : HEADER + SIZE] == b"w" * SIZE


def test_a_released_slot_comes_round_with_its_header_emptied(pool: SlotPool) -> None:
    slot = granted(pool)
    first = seal(slot)
    pool.release(slot)
    assert header_of(slot) is None, "nobody may take a new lease on what left"
    again = granted(pool, SIZE - 5)
    assert again is slot and len(again.view) == SIZE - 5
    assert again.generation == first.generation + 1 and header_of(again) is None


def test_a_granted_slot_is_not_granted_again(pool: SlotPool) -> None:
    first, second = granted(pool), granted(pool)
    assert first is not second and first.path != second.path
    assert (pool.used_slots, pool.free_slots) == (2, 0)
    seal(first)
    assert granted(pool) not in (first, second)
    pool.release(second)
    assert (pool.used_slots, pool.free_slots) == (2, 1)


@pytest.mark.parametrize(("first", "second", "same"), [(8, 8, True), (9, 8, True), (10, 8, True), (12, 8, False), (8, 9, False)])
def test_a_slot_that_fits_well_is_used_again(pool: SlotPool, first: int, second: int, *, same: bool) -> None:
    slot = granted(pool, first * MIB)
    pool.release(slot)
    assert (granted(pool, second * MIB) is slot) == same


def test_the_tightest_slot_is_taken(pool: SlotPool) -> None:
    slots = [granted(pool, size * MIB) for size in (20, 18, 16)]
    for slot in slots:
        pool.release(slot)
    assert granted(pool, 16 * MIB) is slots[2]
    assert granted(pool, 16 * MIB) is slots[1]


# --- who reads -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kill", [False, True])
def test_a_leased_slot_is_not_granted_until_its_reader_lets_go(pool: SlotPool, *, kill: bool) -> None:
    slot = granted(pool)
    seal(slot)
    lease = Lease(slot.path)
    pool.release(slot)
    other = granted(pool)
    assert other is not slot
    lease.end(kill=kill)
    assert granted(pool) is slot


def test_a_slot_cannot_be_leased_while_it_is_written(pool: SlotPool) -> None:
    slot = granted(pool)
    reader = os.open(slot.path, os.O_RDONLY)
    try:
        with pytest.raises(BlockingIOError):
            fcntl.flock(reader, fcntl.LOCK_SH | fcntl.LOCK_NB)
        seal(slot)
        fcntl.flock(reader, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(reader)


def test_queued_frames_keep_a_slot(pool: SlotPool) -> None:
    slot, frames = granted(pool), [Frame() for _ in range(200)]
    seal(slot)
    for frame in frames:
        slot.lend(frame)
        frame.done = frame is not frames[3]
    pool.release(slot)
    assert slot.busy() and granted(pool) is not slot
    frames[3].done = True
    assert not slot.busy() and granted(pool) is slot


def test_a_job_keeps_a_slot(pool: SlotPool) -> None:
    slot = granted(pool)
    seal(slot)
    slot.jobs += 1
    pool.release(slot)
    assert granted(pool) is not slot
    slot.jobs -= 1
    assert granted(pool) is slot


# --- pinned: left, and still read ----------------------------------------------------------------------------------


def test_a_slot_that_left_and_is_read_is_pinned_until_a_look_finds_it_free(pool: SlotPool) -> None:
    slot = granted(pool)
    seal(slot)
    lease = Lease(slot.path)
    assert pool.release(slot) == 0
    assert (pool.pinned_slots, pool.pinned_bytes, pool.free_slots, pool.used_slots) == (1, slot.charge, 0, 0)
    assert not pool.survey() and pool.pinned_slots == 1
    lease.end()
    assert pool.survey()
    assert (pool.pinned_slots, pool.pinned_bytes, pool.free_slots) == (0, 0, 1)


def test_nobody_can_lease_a_slot_that_waits_for_a_grant(pool: SlotPool) -> None:
    slot = granted(pool)
    seal(slot)
    pool.release(slot)
    reader = os.open(slot.path, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(reader, fcntl.LOCK_SH | fcntl.LOCK_NB)
    os.close(reader)


def test_the_longest_held_slots_are_unlinked_past_the_readers_share_and_watched(directory: Path) -> None:
    pool = SlotPool(directory, budget=64 * MIB, pinned_share=0.125)
    slots = [granted(pool) for _ in range(3)]
    leases = []
    for slot in slots:
        seal(slot)
        leases.append(Lease(slot.path))
    assert [pool.release(slot) for slot in slots] == [0, 1, 1], "8 MiB are theirs, a header more is over it"
    assert [slot.path.exists() for slot in slots] == [False, False, True]
    assert pool.pinned_bytes == slots[2].charge == pool.bytes
    assert (pool.lost_slots, pool.lost_bytes) == (2, 2 * slots[0].charge)
    leases[1].end(kill=True)
    assert pool.survey() and pool.lost_slots == 1, "its memory is back"
    leases[2].end()
    assert granted(pool) is slots[2], "one that was not unlinked comes round"
    leases[0].end()
    assert pool.survey() and (pool.lost_slots, pool.lost_bytes) == (0, 0)
    pool.close()


def test_a_reader_that_let_go_costs_no_slot_when_the_limit_is_reached(directory: Path) -> None:
    pool = SlotPool(directory, budget=64 * MIB, pinned_share=0.125)
    first, second = granted(pool), granted(pool)
    frames = [Frame(), Frame()]
    for slot, frame in zip((first, second), frames, strict=True):
        slot.lend(frame)
    pool.release(first)
    frames[0].done = True
    assert pool.release(second) == 0
    assert first.path.exists() and second.path.exists() and (pool.free_slots, pool.pinned_slots) == (1, 1)
    pool.close()


def test_lost_slots_are_watched_up_to_a_number(directory: Path) -> None:
    pool = SlotPool(directory, budget=1 << 30, pinned_share=0.0)
    for _ in range(LOST + 3):
        slot = granted(pool, INLINE + 1)
        slot.lend(Frame())
        pool.release(slot)
    assert (pool.lost_slots, pool.lost_bytes, pool.bytes) == (LOST, LOST * slot.charge, 0)
    pool.close()


class Watched(Frame):
    """A frame that is not done yet, and counts who asks."""

    asked = 0

    @property
    def done(self) -> bool:
        Watched.asked += 1
        return False

    @done.setter
    def done(self, done: bool) -> None:
        assert not done


def test_a_grant_looks_at_a_handful_of_pinned_slots_only(directory: Path) -> None:
    pool = SlotPool(directory, budget=256 * MIB)
    slots = [granted(pool, INLINE + 1) for _ in range(30)]
    for slot in slots:
        slot.lend(Watched())
        pool.release(slot)
    before, pinned = Watched.asked, pool.pinned_slots
    granted(pool, INLINE + 1)
    assert pinned == 30 and 0 < Watched.asked - before <= 8
    pool.close()


def test_a_withdrawn_slot_is_unlinked_and_its_writer_writes_for_nobody(pool: SlotPool) -> None:
    slot = granted(pool)
    with slot.path.open("r+b") as file:
        writer = mmap.mmap(file.fileno(), HEADER + SIZE)
    path = slot.path
    pool.withdraw(slot)
    assert not path.exists() and pool.bytes == 0 and pool.used_slots == 0
    other = granted(pool)
    other.view[:] = bytes(SIZE)
    writer[HEADER:] = b"w" * SIZE
    assert bytes(other.view) == bytes(SIZE) and other.path != path
    writer.close()


# --- ahead of time -------------------------------------------------------------------------------------------------


def test_the_slot_that_the_next_payload_would_wait_for_is_made_ahead(pool: SlotPool) -> None:
    assert pool.spare() is None, "nobody needed one yet"
    first = granted(pool)
    job = pool.spare()
    assert job is not None and pool.spare() is None, "one at a time"
    assert pool.bytes == 2 * first.charge, "its room is taken from now on"
    made = job()
    pool.keep(made)
    assert (pool.bytes, pool.free_slots) == (2 * first.charge, 1)
    assert pool.spare() is None
    assert granted(pool) is made and bytes(made.view) == bytes(SIZE)
    assert pool.spare() is not None


def test_a_slot_made_ahead_has_every_page_in_place(pool: SlotPool, directory: Path) -> None:
    slot = Slot(directory / "slot-1-0123abcd", 64 * MIB, warm=True)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    sum(slot.view[::4096])
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 1000
    slot.close()


def test_no_slot_is_made_ahead_that_does_not_fit(directory: Path) -> None:
    pool = SlotPool(directory, budget=10 * MIB)
    granted(pool)
    granted(pool)
    assert pool.spare() is None
    pool.close()


def test_a_slot_made_ahead_is_let_go_when_a_payload_needed_its_room_meanwhile(directory: Path) -> None:
    pool = SlotPool(directory, budget=16 * MIB)
    granted(pool)
    job = pool.spare()
    assert job is not None
    made = job()
    while pool.bytes <= pool.budget:
        granted(pool)
    pool.keep(made)
    assert pool.bytes <= pool.budget and pool.free_slots == 0 and not made.path.exists()
    pool.close()


def test_a_slot_that_could_not_be_made_ahead_takes_no_room(directory: Path) -> None:
    pool = SlotPool(directory, budget=64 * MIB)
    slot = granted(pool)
    assert pool.spare() is not None
    pool.keep(OSError("no"))
    assert pool.bytes == slot.charge and granted(pool) is not slot
    pool.close()


def test_a_slot_that_is_being_made_is_unlinked_at_the_end(directory: Path) -> None:
    pool = SlotPool(directory, budget=64 * MIB)
    granted(pool)
    job = pool.spare()
    assert job is not None
    job()
    pool.close()
    assert list(directory.iterdir()) == []


# --- room ----------------------------------------------------------------------------------------------------------


def test_free_slots_of_other_sizes_make_room_oldest_first(directory: Path) -> None:
    pool = SlotPool(directory, budget=20 * MIB)
    slots = [granted(pool, size * MIB) for size in (4, 6, 8)]
    slots[0].jobs += 1
    for slot in slots:
        pool.release(slot)
    granted(pool, 12 * MIB)
    assert [slot.path.exists() for slot in slots] == [True, False, False], "one that is read stays"
    assert pool.bytes == 2 * HEADER + 16 * MIB
    pool.close()


def test_a_reader_keeps_the_memory_of_an_unlinked_slot(directory: Path) -> None:
    pool = SlotPool(directory, budget=8 * MIB)
    slot = granted(pool)
    slot.view[:4] = b"held"
    view = slot.view[:4]
    seal(slot)
    pool.release(slot)
    granted(pool, 8 * MIB)
    assert not slot.path.exists() and bytes(view) == b"held"
    pool.close()


def test_a_full_file_system_is_no_space_and_leaves_nothing(directory: Path) -> None:
    small = directory / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "slots", str(small)]
    if os.getuid() != 0 or shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("no small tmpfs can be mounted here")
    try:
        pool = SlotPool(small, budget=64 * MIB)
        first = granted(pool)
        with pytest.raises(NoSpace, match="no space for 4194304 bytes in the slot directory"):
            pool.grant(SIZE)
        assert [path.name for path in small.iterdir()] == [first.path.name] and pool.bytes == first.charge
        pool.release(first)
        assert granted(pool) is first, "what is there goes on serving"
        pool.close()
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_directory_that_is_gone_is_an_error_of_its_own_and_works_once_it_is_back(directory: Path) -> None:
    pool = SlotPool(directory / "gone", budget=8 * MIB)
    with pytest.raises(StoreUnavailable, match="making a slot failed in the slot directory .*gone: No such file") as refused:
        pool.grant(SIZE)
    assert refused.value.retryable and pool.bytes == 0
    (directory / "gone").mkdir()
    slot = granted(pool)
    assert slot.reachable
    shutil.rmtree(directory / "gone")
    assert not slot.reachable
    pool.close()


@pytest.mark.parametrize("umask", [0o000, 0o077, 0o777])
def test_the_mode_of_a_slot_is_not_the_umasks_to_say(pool: SlotPool, umask: int) -> None:
    before = os.umask(umask)
    try:
        assert granted(pool).path.stat().st_mode & 0o7777 == 0o660
    finally:
        os.umask(before)


def test_pages_are_real_where_there_is_no_fallocate(pool: SlotPool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate")
    status = granted(pool).path.stat()
    assert status.st_size == HEADER + 4 * MIB and status.st_blocks * 512 >= status.st_size


# --- what it is on -------------------------------------------------------------------------------------------------

MOUNTS = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
25 24 0:23 / /dev/shm rw,relatime shared:4 - tmpfs tmpfs rw,size=24684092k
27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard
31 27 0:30 / /mnt/with\\040space rw - xfs /dev/vdb rw
40 31 0:31 / /mnt/with\\040space rw - ramfs none rw
not a mount
"""


@pytest.mark.parametrize(
    ("path", "kind", "memory"),
    [
        ("/dev/shm/broadcaster", "tmpfs", True),
        ("/dev/shmem", "ext4", False),
        ("/", "ext4", False),
        ("/mnt/with space/slots", "ramfs", True),
    ],
)
def test_the_file_system_of_a_directory_is_known(tmp_path: Path, path: str, kind: str, *, memory: bool) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTS)
    assert file_system_of(Path(path), tmp_path / "mountinfo") == kind and is_memory(kind) == memory


def test_where_the_file_system_cannot_be_known_nothing_is_said_of_it(tmp_path: Path) -> None:
    assert file_system_of(tmp_path, tmp_path / "none") is None and is_memory(None)


def test_shared_memory_is_memory(directory: Path) -> None:
    if sys.platform == "linux":
        assert file_system_of(directory) == "tmpfs"


# --- the directory -------------------------------------------------------------------------------------------------


def test_the_directory_is_made_private_and_locked(directory: Path) -> None:
    lock = open_slot_directory(directory / "a" / "b")
    assert (directory / "a" / "b").stat().st_mode & 0o777 == 0o700
    assert not os.get_inheritable(lock)
    with pytest.raises(DirectoryUnusable, match="in use by another broadcaster"):
        open_slot_directory(directory / "a" / "b")
    os.close(lock)
    os.close(open_slot_directory(directory / "a" / "b"))


def test_what_an_earlier_broadcaster_left_is_swept_and_nothing_else(directory: Path) -> None:
    for name in ("slot-1-0123abcd", "slot-99-ffffffff", "slot-x-0123abcd", "token", "slot-1-0123abcd.txt"):
        (directory / name).touch()
    os.close(open_slot_directory(directory))
    assert {path.name for path in directory.iterdir()} == {"lock", "slot-x-0123abcd", "token", "slot-1-0123abcd.txt"}


def test_a_symlink_is_not_followed(directory: Path) -> None:
    victim = directory / "victim"
    victim.write_text("mine")
    inside = directory / "inside"
    inside.mkdir()
    (inside / "lock").symlink_to(victim)
    with pytest.raises(DirectoryUnusable, match="cannot be used"):
        open_slot_directory(inside)
    (inside / "slot-1-0123abcd").symlink_to(victim)
    with pytest.raises(FileExistsError):
        Slot(inside / "slot-1-0123abcd", 2 * MIB)
    (inside / "lock").unlink()
    os.close(open_slot_directory(inside))
    assert victim.read_text() == "mine" and not (inside / "slot-1-0123abcd").is_symlink()


def test_the_directory_of_another_user_is_not_used(directory: Path) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can give a directory away")
    os.chown(directory, 12345, 12345)
    with pytest.raises(DirectoryUnusable, match="it belongs to another user"):
        open_slot_directory(directory)
    sweep_abandoned(directory.parent, directory.name)
    assert directory.exists()


def test_a_file_is_no_directory(directory: Path) -> None:
    (directory / "file").touch()
    with pytest.raises(DirectoryUnusable) as refused:
        open_slot_directory(directory / "file")
    assert refused.value.facts["key"] == "slot-dir"


def test_directories_of_killed_broadcasters_are_swept(directory: Path) -> None:
    names = ("ours-dead", "ours-alive", "ours-new", "others-dead", "ours-file")
    for name in names[:4]:
        (directory / name).mkdir()
        (directory / name / "slot-1-0123abcd").touch()
    (directory / "ours-file").touch()
    lock = open_slot_directory(directory / "ours-alive")
    for name in names:
        if name != "ours-new":
            os.utime(directory / name, (time.time() - 3600,) * 2)
    sweep_abandoned(directory, "ours-")
    assert {path.name for path in directory.iterdir()} == set(names) - {"ours-dead"}
    os.close(lock)
