"""Leases on hand-made slot files: what is read is the announced version, or there is a reason why not."""

from __future__ import annotations

import fcntl
import gc
import os
import resource
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from broadcaster.protocol.slot import HEADER
from clients.buffers import view_of_array
from clients.slots import leases as module
from clients.slots.directory import SlotDirectory, SlotsUnusable
from clients.slots.leases import Leases
from tests.slot_files import TOKEN, SlotFiles, version_of

SIZE = 100_000
EPOCH = 5


def payload_of(number: int, size: int = SIZE) -> bytes:
    return (number.to_bytes(4, "big") * (size // 4 + 1))[:size]


class Desk:
    """A directory, leases on what lies in it, and slot 1 with version 7 in its third generation."""

    def __init__(self, path: Path, *, kept: int = module.KEPT) -> None:
        self.files = SlotFiles(path / "slots", epoch=EPOCH)
        self.version = version_of(7, payload_of(7))
        self.name = self.files.put(1, 3, self.version, payload_of(7))
        self.file = self.files.path / self.name
        self.leases = Leases(SlotDirectory(str(self.files.path), TOKEN), kept)

    def lease(self, number: int = 7, *, serial: int = 1, generation: int = 3) -> np.ndarray:
        return self.leases.lease(self.files.name(serial), generation, EPOCH, version_of(number, payload_of(number)))

    def put(self, number: int, *, serial: int = 1, generation: int) -> None:
        self.files.put(serial, generation, version_of(number, payload_of(number)), payload_of(number))

    def why(self, *, passing: bool) -> str:
        """Why version 7 cannot be leased; no lease is left behind."""
        with pytest.raises(SlotsUnusable) as told:
            self.lease()
        assert told.value.passing is passing, told.value
        return str(told.value)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


# --- a lease -------------------------------------------------------------------------------------------------------


def test_a_lease_gives_the_payload_where_it_lies_and_read_only(desk: Desk) -> None:
    root = desk.lease()
    assert root.tobytes() == payload_of(7) and not root.flags.writeable
    with pytest.raises(ValueError, match="WRITEABLE"):
        root.flags.writeable = True
    assert desk.files.leased(1)


def test_the_lease_is_gone_when_the_last_view_is_and_not_before(desk: Desk) -> None:
    root = desk.lease()
    view = root[4096:8192].view(np.uint32).reshape(32, 32)[::2]
    window = view_of_array(root)[5:9]
    del root
    gc.collect()
    assert desk.files.leased(1)
    del view
    gc.collect()
    assert desk.files.leased(1) and bytes(window) == payload_of(7)[5:9]
    del window
    gc.collect()
    assert not desk.files.leased(1)


def test_torch_views_keep_the_lease(desk: Desk) -> None:
    torch = pytest.importorskip("torch")
    from clients.codec.torch import unlock

    tensor = torch.from_numpy(unlock(desk.lease())[:4000].view(np.int32))[7:]
    gc.collect()
    assert desk.files.leased(1) and tensor[0].item() == int.from_bytes(payload_of(7)[28:32], "little")
    del tensor
    gc.collect()
    assert not desk.files.leased(1)


def test_a_slot_that_comes_round_is_mapped_once(desk: Desk) -> None:
    places = set()
    for generation in range(3, 13):
        desk.put(generation, generation=generation)
        root = desk.lease(generation, generation=generation)
        assert root.tobytes() == payload_of(generation)
        places.add(root.ctypes.data)
        del root
    assert len(places) == 1 and desk.leases.kept == [desk.name]


def test_in_the_steady_state_a_lease_faults_nothing(desk: Desk) -> None:
    desk.lease().max()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        desk.lease()[::4096].max()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before < 50, "less than one for each version"


def test_two_leases_of_one_version_are_two(desk: Desk) -> None:
    first, second = desk.lease(), desk.lease()
    assert first.ctypes.data == second.ctypes.data
    del first
    gc.collect()
    assert desk.files.leased(1)
    del second
    gc.collect()
    assert not desk.files.leased(1)


def test_leases_leave_no_descriptor_behind(desk: Desk) -> None:
    desk.lease()
    before = descriptors()
    for _ in range(20):
        desk.lease()
        with pytest.raises(SlotsUnusable):
            desk.lease(8)
        with pytest.raises(SlotsUnusable):
            desk.lease(serial=9)
    assert descriptors() == before


# --- what is not there ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "other",
    [
        {"number": 8},
        {"digest": "0" * 32},
        {"digest": "no hex at all"},
        {"size": SIZE - 1},
        {"model_id": "another"},
        {"namespace": "lab"},
    ],
    ids=str,
)
def test_another_version_in_the_slot_is_not_leased(desk: Desk, other: dict[str, object]) -> None:
    with pytest.raises(SlotsUnusable, match="does not hold version . of .* any more") as told:
        desk.leases.lease(desk.name, 3, EPOCH, replace(desk.version, **other))
    assert told.value.passing and not desk.files.leased(1)


@pytest.mark.parametrize(("generation", "epoch"), [(4, EPOCH), (2, EPOCH), (3, EPOCH + 1)])
def test_another_generation_or_epoch_is_not_leased(desk: Desk, generation: int, epoch: int) -> None:
    with pytest.raises(SlotsUnusable, match="any more") as told:
        desk.leases.lease(desk.name, generation, epoch, desk.version)
    assert told.value.passing and not desk.files.leased(1)


def test_an_emptied_header_is_no_version(desk: Desk) -> None:
    desk.lease()
    with open(desk.file, "r+b") as file:
        file.write(bytes(64))
    assert "any more" in desk.why(passing=True)


def test_a_slot_that_is_being_written_to_is_not_leased(desk: Desk) -> None:
    with open(desk.file, "r+b") as writer:
        fcntl.flock(writer, fcntl.LOCK_EX)
        assert "is being written to" in desk.why(passing=True)
    assert desk.lease().tobytes() == payload_of(7)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize("left", [0, HEADER - 1, HEADER, HEADER + SIZE - 1])
def test_a_slot_that_was_shortened_is_not_read(desk: Desk, left: int, mapped: bool) -> None:
    if mapped:
        desk.lease()
    os.truncate(desk.file, left)
    assert f"{left} bytes" in desk.why(passing=False)


@pytest.mark.parametrize("mapped", [False, True])
def test_an_unlinked_slot_is_not_there_and_its_mapping_is_dropped(desk: Desk, mapped: bool) -> None:
    kept = desk.lease() if mapped else None
    desk.file.unlink()
    assert "No such file" in desk.why(passing=True)
    desk.leases.sweep(1000.0)
    assert desk.leases.kept == []
    assert kept is None or kept.tobytes() == payload_of(7)


def test_a_slot_that_was_swapped_for_another_file_is_read_as_what_it_is_now(desk: Desk, tmp_path: Path) -> None:
    kept = desk.lease()
    stranger = SlotFiles(tmp_path / "stranger", epoch=EPOCH)
    stranger.put(1, 3, version_of(8, payload_of(8)), payload_of(8))
    os.replace(stranger.path / desk.name, desk.file)
    assert "any more" in desk.why(passing=True)
    assert desk.lease(8).tobytes() == payload_of(8) and kept.tobytes() == payload_of(7)


def test_a_symbolic_link_is_not_followed(desk: Desk) -> None:
    desk.file.rename(desk.files.path / "elsewhere")
    desk.file.symlink_to(desk.files.path / "elsewhere")
    assert "cannot be opened" in desk.why(passing=False)


def test_a_fifo_is_no_slot_and_nothing_waits_for_its_writer(desk: Desk) -> None:
    desk.file.unlink()
    os.mkfifo(desk.file)
    assert "is not the slot" in desk.why(passing=False)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give files away")
def test_a_slot_of_another_user_is_not_read(desk: Desk) -> None:
    os.chown(desk.file, 1234, -1)
    assert "of user 1234" in desk.why(passing=False)


@pytest.mark.parametrize("name", ["token", "../slots/slot-1-0123abcd", "slot-1-0123abcd/", "", "slot-1-0123abcd\n"])
def test_what_is_no_name_of_a_slot_is_not_opened(desk: Desk, name: str) -> None:
    with pytest.raises(SlotsUnusable, match="is no name of a slot"):
        desk.leases.lease(name, 3, EPOCH, desk.version)


_FORBIDDEN = """
import os, sys
from clients.slots.directory import SlotDirectory, SlotsUnusable
from clients.slots.leases import Leases
from tests.slot_files import TOKEN, version_of
path, name = sys.argv[1:]
directory = SlotDirectory(path, TOKEN)
os.setgroups([]); os.setgid(1234); os.setuid(1234)
try:
    Leases(directory).lease(name, 3, 5, version_of(7, b"x" * 100_000))
except SlotsUnusable as told:
    print(told, told.passing)
"""


@pytest.mark.skipif(os.getuid() != 0, reason="root may read everything: the test becomes another user")
def test_a_slot_that_may_not_be_read_is_told_and_will_not_pass(desk: Desk) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _FORBIDDEN, str(desk.files.path), desk.name],
        cwd=Path(__file__).parent.parent.parent,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.stdout.strip() == f"{desk.name} cannot be opened: Permission denied False", done.stderr


# --- mappings that are kept ----------------------------------------------------------------------------------------


def test_the_mappings_used_last_are_kept(tmp_path: Path) -> None:
    desk = Desk(tmp_path, kept=3)
    for serial in (1, 2, 3, 1, 4):
        desk.put(serial, serial=serial, generation=1)
        assert desk.lease(serial, serial=serial, generation=1).tobytes() == payload_of(serial)
    assert desk.leases.kept == [desk.files.name(serial) for serial in (3, 1, 4)]


def test_a_mapping_that_is_not_kept_any_more_stays_under_its_views(tmp_path: Path) -> None:
    desk = Desk(tmp_path, kept=1)
    views = []
    for serial in range(1, 9):
        desk.put(serial, serial=serial, generation=1)
        views.append(desk.lease(serial, serial=serial, generation=1)[16:])
        gc.collect()
    assert [view.tobytes() for view in views] == [payload_of(serial)[16:] for serial in range(1, 9)]
    assert all(desk.files.leased(serial) for serial in range(1, 9))


def test_the_memory_of_unlinked_slots_is_let_go_with_the_next_mapping_or_sweep(desk: Desk) -> None:
    desk.lease()
    desk.put(2, serial=2, generation=1)
    desk.lease(2, serial=2, generation=1)
    desk.file.unlink()
    desk.put(3, serial=3, generation=1)
    desk.lease(3, serial=3, generation=1)
    assert desk.leases.kept == [desk.files.name(2), desk.files.name(3)]
    desk.leases.sweep(1000.0)
    (desk.files.path / desk.files.name(2)).unlink()
    desk.leases.sweep(1000.0 + module.SWEEP / 2)
    assert len(desk.leases.kept) == 2, "not each time"
    desk.leases.sweep(1000.0 + module.SWEEP)
    assert desk.leases.kept == [desk.files.name(3)]


# --- processes -----------------------------------------------------------------------------------------------------


def test_a_forked_child_keeps_the_lease_and_its_end_does_not_end_the_parents(desk: Desk) -> None:
    root = desk.lease()
    ready, told = os.pipe()
    wait, let = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(let)  # Else it would wait for itself, should the parent end first.
            del root
            gc.collect()  # The child's finalizer closes the child's descriptor, and unlocks nothing.
            os.write(told, b"1" if desk.files.leased(1) else b"0")
            os.read(wait, 1)
        finally:
            os._exit(0)
    assert os.read(ready, 1) == b"1", "the parent's lease is over"
    os.write(let, b"x")
    os.waitpid(pid, 0)
    assert desk.files.leased(1)
    del root
    gc.collect()
    assert not desk.files.leased(1)
    for fd in (ready, told, wait, let):
        os.close(fd)


def test_a_lease_that_only_a_forked_child_has_left_holds_until_it_dies(desk: Desk) -> None:
    root = desk.lease()
    wait, let = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(let)
        os.read(wait, 1)
        os._exit(0)
    del root
    gc.collect()
    assert desk.files.leased(1)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert not desk.files.leased(1)
    for fd in (wait, let):
        os.close(fd)
