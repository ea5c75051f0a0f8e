"""Damage on the disk is found, never served, and costs only what was damaged; a failing disk costs no acknowledged version."""

from __future__ import annotations

import errno
import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broadcaster.protocol.errors import (
    DirectoryUnusable,
    NoSpace,
    StoreCorrupt,
    StoreError,
    StoreUnavailable,
    UnknownVersion,
)
from broadcaster.store import Archive, ArchivedVersion, failpoints, rebuild_index, verify
from broadcaster.store.values import CHUNK
from tests.fault.archives import ACTIONS, NOW, describe, forked, keep, payload, read_all, state_of

DATA = payload(2 * CHUNK + 100, 1)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive.open(tmp_path / "archive", now_ms=NOW, spare=0) as archive:
        yield archive


@pytest.fixture(autouse=True)
def nothing_armed() -> Iterator[None]:
    yield
    failpoints.arm(None)


def blob_of(archive: Archive, version: ArchivedVersion) -> Path:
    return archive.directory / "blobs" / version.sha256[:2] / version.sha256[2:]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def reopen(archive: Archive) -> Archive:
    archive.close()
    return Archive.open(archive.directory, now_ms=NOW, spare=0)


# --- blobs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, CHUNK - 1, CHUNK, 2 * CHUNK + 99])
def test_a_flipped_bit_is_never_served_and_the_error_names_the_chunk(archive: Archive, at: int) -> None:
    version, other = keep(archive, "policy", 1, DATA), keep(archive, "policy", 2, payload(10, 2))
    flip(blob_of(archive, version), at)
    with pytest.raises(StoreCorrupt, match=f"policy version 1.*chunk {at // CHUNK} is damaged") as found:
        read_all(archive, version)
    assert (found.value.model_id, found.value.number, found.value.chunk) == ("policy", 1, at // CHUNK)
    with reopen(archive) as archive:
        for offset in (0, CHUNK, 2 * CHUNK):  # no part of it, not even after a restart
            with pytest.raises(StoreCorrupt, match="found damaged before"):
                archive.read(version, offset, 10)
        assert read_all(archive, other) == payload(10, 2)
        assert [path.name for path in (archive.directory / "quarantine").iterdir()] == [version.sha256]


@pytest.mark.parametrize("size", [0, 1, CHUNK, 2 * CHUNK + 99])
def test_a_truncated_blob_is_never_served(archive: Archive, size: int) -> None:
    version = keep(archive, "policy", 1, DATA)
    os.truncate(blob_of(archive, version), size)
    with pytest.raises(StoreCorrupt):
        read_all(archive, version)
    with pytest.raises(StoreCorrupt, match="before"):
        archive.read(version, 0, 10)


def test_a_missing_blob_is_damage_and_a_deleted_version_is_gone(archive: Archive) -> None:
    version = keep(archive, "policy", 1, DATA)
    blob_of(archive, version).unlink()
    with pytest.raises(StoreCorrupt, match="missing"):
        archive.read(version, 0, 10)
    archive.delete_version("default", "policy", 1)
    with pytest.raises(UnknownVersion):
        archive.read(version, 0, 10)


def test_two_swapped_blobs_are_both_refused(archive: Archive) -> None:
    first, second = keep(archive, "policy", 1, payload(500, 1)), keep(archive, "policy", 2, payload(500, 2))
    one, two = blob_of(archive, first), blob_of(archive, second)
    held = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(held)
    for version in (first, second):
        with pytest.raises(StoreCorrupt):
            archive.read(version, 0, 10)


def test_keeping_the_payload_again_heals_a_damaged_blob(archive: Archive) -> None:
    version = keep(archive, "policy", 1, DATA)
    flip(blob_of(archive, version), 7)
    with pytest.raises(StoreCorrupt):
        read_all(archive, version)
    assert keep(archive, "policy", 1, DATA) == version
    assert read_all(archive, version) == DATA
    flip(blob_of(archive, version), 7)  # not read since, so nobody knows
    other = keep(archive, "other", 1, DATA)
    assert read_all(archive, other) == read_all(archive, version) == DATA
    assert not list((archive.directory / "quarantine").iterdir())


def test_a_read_that_meets_damage_while_it_is_healed_gets_the_healed_bytes(archive: Archive) -> None:
    version = keep(archive, "policy", 1, DATA)
    flip(blob_of(archive, version), 7)

    def heal(name: str) -> None:
        if name == "read":
            failpoints.arm(None)
            keep(archive, "other", 1, DATA)

    failpoints.arm(heal)
    assert read_all(archive, version) == DATA
    assert not list((archive.directory / "quarantine").iterdir())


def test_verify_finds_all_damage_and_lets_a_right_blob_out_of_quarantine(archive: Archive) -> None:
    versions = [keep(archive, "policy", number, payload(CHUNK + number, number)) for number in range(1, 5)]
    archive.close()
    assert verify(archive.directory).problems == []
    flip(blob_of(archive, versions[0]), CHUNK)
    blob_of(archive, versions[1]).unlink()
    os.truncate(blob_of(archive, versions[2]), 5)
    report = verify(archive.directory)
    assert [problem.split(":")[0] for problem in sorted(report.problems)] == [f"default/policy version {n}" for n in (1, 2, 3)]
    assert report.versions == 4 and "chunk 1" in sorted(report.problems)[0]
    flip(archive.directory / "quarantine" / versions[0].sha256, CHUNK)  # as if a backup had been restored
    assert verify(archive.directory).restored == [versions[0].sha256]
    with Archive.open(archive.directory, now_ms=NOW) as again:
        assert read_all(again, versions[0]) == payload(CHUNK + 1, 1)


def test_a_disk_that_does_not_answer_a_read_is_no_damage(archive: Archive) -> None:
    version = keep(archive, "policy", 1, DATA)
    failpoints.arm(lambda name: fail(errno.EIO) if name == "read" else None)
    with pytest.raises(StoreUnavailable, match="policy version 1"):
        read_all(archive, version)
    failpoints.arm(None)
    assert read_all(archive, version) == DATA
    assert archive.health.writable


# --- what was planted -----------------------------------------------------------------------------------------------------


def plant_link(path: Path, secret: Path) -> None:
    path.symlink_to(secret)


def plant_fifo(path: Path, _secret: Path) -> None:
    os.mkfifo(path)


def plant_directory(path: Path, _secret: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("plant", [plant_link, plant_fifo, plant_directory])
def test_what_is_planted_in_place_of_a_blob_is_not_opened(
    archive: Archive, tmp_path: Path, plant: Callable[[Path, Path], None]
) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(DATA)  # even the right bytes: it is not our file
    version = keep(archive, "policy", 1, DATA)
    blob_of(archive, version).unlink()
    plant(blob_of(archive, version), secret)
    with pytest.raises(StoreCorrupt):
        archive.read(version, 0, 10)
    assert secret.read_bytes() == DATA


@pytest.mark.parametrize("place", ["blobs", "manifests", "staging", "trash", "lock", "index.sqlite3", "floors.log"])
def test_a_symbolic_link_in_place_of_our_own_refuses_the_directory(archive: Archive, tmp_path: Path, place: str) -> None:
    keep(archive, "policy", 1, DATA)
    archive.close()
    elsewhere = tmp_path / "elsewhere"
    (archive.directory / place).rename(elsewhere)
    (archive.directory / place).symlink_to(elsewhere)
    with pytest.raises(DirectoryUnusable, match=place.split(".")[0] if place != "lock" else "cannot be used"):
        Archive.open(archive.directory, now_ms=NOW)


def test_a_linked_shelf_or_model_directory_is_not_followed(archive: Archive, tmp_path: Path) -> None:
    version = keep(archive, "policy", 1, DATA)
    shelf = blob_of(archive, version).parent
    shelf.rename(tmp_path / "shelf")
    shelf.symlink_to(tmp_path / "shelf")
    with pytest.raises(StoreCorrupt):
        archive.read(version, 0, 10)
    with pytest.raises(StoreCorrupt):
        keep(archive, "policy", 1, DATA)


# --- the index and the manifests ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_index_is_made_anew_from_the_files(archive: Archive, seed: int) -> None:
    for number in range(1, 6):
        keep(archive, "policy", number, payload(100, number))
    archive.set_tags("default", "policy", 2, {"good": "yes"})
    before = archive.load()
    archive.close()
    index = archive.directory / "index.sqlite3"
    data = bytearray(index.read_bytes())
    chance = random.Random(seed)
    page = chance.randrange(len(data) // 4096) * 4096
    data[page : page + 4096] = chance.randbytes(4096)
    index.write_bytes(data)
    with Archive.open(archive.directory, now_ms=NOW) as archive:
        after = archive.load()
    assert state_of(after) == state_of(before) and after.floors == before.floors


def test_a_damaged_or_lost_manifest_is_written_anew_from_the_index(archive: Archive) -> None:
    versions = [keep(archive, "policy", number, payload(100, number)) for number in (1, 2)]
    archive.close()
    (folder,) = (archive.directory / "manifests").iterdir()
    flip(folder / "1.manifest", 50)
    (folder / "2.manifest").unlink()
    (folder / "model.manifest").write_bytes(b"")
    with Archive.open(archive.directory, now_ms=NOW) as again:
        loaded = again.load()
        assert loaded.versions == versions and len(loaded.notes) >= 3
    rebuild_index(archive.directory)
    with Archive.open(archive.directory, now_ms=NOW) as again:
        assert again.load().versions == versions and again.load().notes == []


def test_a_manifest_that_nobody_can_read_keeps_its_blob_and_its_number(archive: Archive) -> None:
    keep(archive, "policy", 1, payload(100, 1))
    lost = keep(archive, "policy", 2, payload(100, 2))
    archive.close()
    (folder,) = (archive.directory / "manifests").iterdir()
    flip(folder / "2.manifest", 50)
    for name in ("index.sqlite3", "floors.log"):
        (archive.directory / name).unlink()
    with Archive.open(archive.directory, now_ms=NOW) as again:
        loaded = again.load()
        assert [version.info.number for version in loaded.versions] == [1]
        assert loaded.floors == {("default", "policy"): 2}
        assert any("checksum" in note for note in loaded.notes)
        assert blob_of(archive, lost).exists()


def test_a_manifest_of_a_newer_program_refuses_the_directory(archive: Archive) -> None:
    from broadcaster.store import manifests

    keep(archive, "policy", 1, payload(100, 1))
    archive.close()
    (folder,) = (archive.directory / "manifests").iterdir()
    body = bytearray((folder / "1.manifest").read_bytes()[:-16])
    body[5] = manifests.FORMAT + 1
    (folder / "1.manifest").write_bytes(bytes(body) + manifests.xxhash.xxh3_128_digest(body))
    with pytest.raises(DirectoryUnusable, match="newer"):
        Archive.open(archive.directory, now_ms=NOW)


# --- a disk that fails -----------------------------------------------------------------------------------------------------


def fail(number: int) -> None:
    raise OSError(number, os.strerror(number))


def fail_at(point: int, number: int) -> list[str]:
    """The step number `point` fails from now on; the list grows by the names of all steps met."""
    met: list[str] = []

    def hook(name: str) -> None:
        met.append(name)
        if len(met) == point:
            fail(number)

    failpoints.arm(hook)
    return met


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC, errno.EMFILE])
def test_an_error_at_any_step_of_keeping_is_typed_and_loses_nothing(tmp_path: Path, number: int) -> None:
    with Archive.open(tmp_path / "archive", now_ms=NOW, spare=0) as archive:
        before = keep(archive, "policy", 1, payload(100, 1))
        point, met, failed = 0, [""], True
        while failed:
            point += 1
            data = payload(100, 100 + point)
            met = fail_at(point, number)
            try:
                keep(archive, "policy", 1 + point, data)
                failed = False
            except (StoreError, NoSpace):
                pass
            failpoints.arm(None)
            if failed and met[point - 1] == "sync":
                assert not archive.health.writable, "a failed sync is final until a probe passes"
                with pytest.raises(StoreUnavailable):
                    keep(archive, "policy", 1 + point, data)
            assert read_all(archive, before) == payload(100, 1)
            assert archive.probe().writable
            version = keep(archive, "policy", 1 + point, data)
            assert read_all(archive, version) == data
        assert point > 15
        assert not list((archive.directory / "staging").iterdir())
        archive.close()
        assert verify(archive.directory).problems == []
    with Archive.open(archive.directory, now_ms=NOW) as again:
        assert len(again.load().versions) == point + 1 and not again.load().notes


def test_an_error_at_any_step_of_deleting_leaves_all_or_nothing(tmp_path: Path) -> None:
    with Archive.open(tmp_path / "archive", now_ms=NOW, spare=0) as archive:
        point, failed = 0, True
        while failed:
            point += 1
            keep(archive, "policy", point, payload(100, point))
            fail_at(point, errno.EIO)
            try:
                archive.delete_version("default", "policy", point)
                failed = False
            except StoreError:
                pass
            failpoints.arm(None)
            assert archive.probe().writable
            if archive.load().versions:
                archive.delete_version("default", "policy", point)
            assert archive.load().versions == [] and not list(archive.directory.glob("blobs/*/*"))
            assert not list((archive.directory / "trash").iterdir())
        assert point > 8


def test_a_probe_fails_while_the_disk_does_and_passes_when_it_works(archive: Archive) -> None:
    failpoints.arm(lambda name: fail(errno.EIO) if name == "sync" else None)
    with pytest.raises(StoreUnavailable):
        keep(archive, "policy", 1, DATA)
    assert not archive.probe().writable and "EIO" not in archive.health.reason and archive.health.reason
    failpoints.arm(None)
    assert archive.probe().writable
    assert read_all(archive, keep(archive, "policy", 1, DATA)) == DATA


def test_a_reservation_of_numbers_that_failed_is_not_taken_for_done_later(archive: Archive) -> None:
    failpoints.arm(lambda name: fail(errno.EIO) if name == "index" else None)
    with pytest.raises(StoreUnavailable):
        archive.reserve_numbers([("default", "policy", 100)])
    failpoints.arm(None)
    archive.probe()
    archive.reserve_numbers([("default", "policy", 100)])
    archive.close()
    (archive.directory / "floors.log").unlink()
    with Archive.open(archive.directory, now_ms=NOW) as again:
        assert again.load().floors == {("default", "policy"): 100}


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("calls", "error", "when"),
    [("fdatasync", "EIO", "2"), ("fdatasync", "EIO", "5"), ("pwrite64", "EIO", "20"), ("pwrite64", "ENOSPC", "9..12")],
)
def test_an_error_inside_the_index_costs_no_acknowledged_version(archive: Archive, calls: str, error: str, when: str) -> None:
    archive.close()

    def job(say: Callable[[bytes], None]) -> None:
        with Archive.open(archive.directory, now_ms=NOW, spare=0) as own:
            engine = own._index._engine
            say(b"r")
            os.read(start, 1)
            for number in range(1, 7):
                for attempt in range(9):
                    try:
                        keep(own, "policy", number, payload(100, number))
                        say(b"a")
                        break
                    except (StoreUnavailable, NoSpace):
                        assert attempt < 8
                        say(b"x" if own._index._engine is not engine else b"?")  # it must have been opened anew
                        engine = own._index._engine
                        own.probe()

    start, go = os.pipe()
    with forked(job) as child:
        assert child.listen() == b"r"
        # Counted on the index's log alone.
        path = str(archive.directory / "index.sqlite3-wal")
        inject = f"inject={calls}:error={error}:when={when}"
        command = ["strace", "-qq", "-o", os.devnull, "-p", str(child.pid), "-P", path, "-e", f"trace={calls}", "-e", inject]
        tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        until = time.monotonic() + 10
        while "TracerPid:\t0\n" in Path(f"/proc/{child.pid}/status").read_text():
            if tracer.poll() is not None:
                pytest.skip("strace cannot attach")
            assert time.monotonic() < until
        os.write(go, b"g")
        child.finish()
        tracer.wait(timeout=10)
    os.close(start)
    os.close(go)
    assert not child.killed
    assert b"?" not in child.heard, "after an error the index must have been closed and opened"
    assert child.acked == 6 and b"x" in child.heard, "the error must have met the index, and all must be kept in the end"
    with Archive.open(archive.directory, now_ms=NOW) as again:
        assert len(again.load().versions) == 6 and not again.load().notes
        for version in again.load().versions:
            assert read_all(again, version) == payload(100, version.info.number)


def test_every_file_is_flushed_before_it_is_renamed_and_both_directories_after(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Common file systems hide a missing flush of a directory; the order of the calls does not.
    flushed: set[tuple[int, int]] = set()
    due: set[tuple[int, int]] = set()
    renames = 0
    fsync, rename = os.fsync, os.rename

    def identity(fd: int) -> tuple[int, int]:
        status = os.fstat(fd)
        return status.st_dev, status.st_ino

    def recorded_fsync(fd: int) -> None:
        fsync(fd)
        flushed.add(identity(fd))
        due.discard(identity(fd))

    def recorded_rename(source: str, target: str, *, src_dir_fd: int, dst_dir_fd: int) -> None:
        nonlocal renames
        status = os.stat(source, dir_fd=src_dir_fd)
        into_place = identity(src_dir_fd) == staging
        assert not into_place or (status.st_dev, status.st_ino) in flushed, f"{target} was not flushed before"
        rename(source, target, src_dir_fd=src_dir_fd, dst_dir_fd=dst_dir_fd)
        due.update([identity(dst_dir_fd)] if into_place else [identity(src_dir_fd), identity(dst_dir_fd)])
        renames += 1

    status = (archive.directory / "staging").stat()
    staging = (status.st_dev, status.st_ino)
    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "rename", recorded_rename)
    for name, action in ACTIONS:
        action(archive)
        assert not due, f"{name}: a directory was not flushed after a rename in it"
    assert renames > 12


# --- a disk that is full -------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("a small disk needs root, to mount it")
    mount = tmp_path / "small"
    mount.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(mount)], capture_output=True).returncode:
        pytest.skip("a small disk needs the right to mount")
    try:
        yield mount
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_full_disk_refuses_with_a_number_keeps_serving_and_recovers(small_disk: Path) -> None:
    with Archive.open(small_disk / "archive", now_ms=NOW, spare=2 << 20) as archive:
        kept = keep(archive, "policy", 1, payload(2 << 20, 1))
        with pytest.raises(NoSpace, match=str(5 << 20)):  # 2 + 5 and the 2 to spare are over 8
            archive.reserve(5 << 20)
        with pytest.raises(NoSpace):
            keep(archive, "policy", 2, payload(6 << 20, 2))
        assert archive.health.writable and not list((archive.directory / "staging").iterdir())
        archive.set_tags("default", "policy", 1, {"still": "writable"})
        assert read_all(archive, kept) == payload(2 << 20, 1)
        archive.delete_version("default", "policy", 1)
        assert read_all(archive, keep(archive, "policy", 2, payload(3 << 20, 2))) == payload(3 << 20, 2)


def test_a_disk_without_a_byte_left_refuses_and_loses_nothing(small_disk: Path) -> None:
    with Archive.open(small_disk / "archive", now_ms=NOW, spare=0) as archive:
        kept = [keep(archive, "policy", number, payload(1000, number)) for number in (1, 2)]
        filler = small_disk / "filler"
        with open(filler, "wb", buffering=0) as file, pytest.raises(OSError):
            while True:
                assert file.write(bytes(4096)) == 4096
        for number in range(3, 10):
            data = payload(1, number)
            with pytest.raises((NoSpace, StoreUnavailable)):
                archive.keep(None, data, describe("policy", number, data, user_data={"x": "y" * 9000}), bytes(16))
        assert [read_all(archive, version) for version in kept] == [payload(1000, number) for number in (1, 2)]
        filler.unlink()
        assert archive.probe().writable
        assert read_all(archive, keep(archive, "policy", 30, DATA)) == DATA
    with Archive.open(small_disk / "archive", now_ms=NOW, spare=0) as archive:
        assert [version.info.number for version in archive.load().versions] == [1, 2, 30]


def test_a_read_only_directory_is_refused(small_disk: Path) -> None:
    Archive.open(small_disk / "archive", now_ms=NOW, spare=0).close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(DirectoryUnusable, match="[Rr]ead-only"):
        Archive.open(small_disk / "archive", now_ms=NOW)


# --- reads that never wait ------------------------------------------------------------------------------------------


def test_what_the_page_cache_has_is_read_without_waiting_and_verified(archive: Archive) -> None:
    version = keep(archive, "policy", 1, DATA)
    assert archive.read_cached(version, 0, CHUNK) is None, "nothing is opened for it"
    assert read_all(archive, version) == DATA
    if archive.read_cached(version, 0, CHUNK) is None:
        pytest.skip("RWF_NOWAIT is missing here: the file system or the kernel cannot tell what is cached")
    assert archive.read_cached(version, 0, CHUNK) == DATA[:CHUNK]
    assert archive.read_cached(version, 5, 10) == DATA[5:15]
    assert archive.read_cached(version, len(DATA) - 3, CHUNK) is None, (
        "a range that ends behind the payload is the other's to cut"
    )
    flip(blob_of(archive, version), CHUNK + 7)
    assert archive.read_cached(version, 0, CHUNK) == DATA[:CHUNK]
    assert archive.read_cached(version, CHUNK, 10) is None, "damage is never served, and named by the other read"
    with pytest.raises(StoreCorrupt, match="chunk 1 is damaged"):
        archive.read(version, CHUNK, 10)
    assert archive.read_cached(version, 0, 10) is None, "no part of a condemned blob"
