"""A disk that fails, or is full, costs no acknowledged version; every error is typed, and the archive recovers."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broadcaster.protocol.errors import (
    DirectoryUnusable,
    NoSpace,
    StoreError,
    StoreUnavailable,
)
from broadcaster.store import Archive, failpoints, verify
from broadcaster.store.values import CHUNK
from tests.fault.archives import ACTIONS, NOW, describe, fail, forked, keep, payload, read_all
from tests.fault.disks import remount, small_disk
from tests.fault.tracing import needs_strace, tracing

DATA = payload(2 * CHUNK + 100, 1)


# --- a disk that fails -----------------------------------------------------------------------------------------------------


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
def test_an_error_at_any_step_of_keeping_is_typed_and_loses_nothing(folder: Path, number: int) -> None:
    with Archive.open(folder / "archive", now_ms=NOW, spare=0) as archive:
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


def test_a_flush_that_failed_is_never_tried_again(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel may have dropped what it could not write: a second flush would say that it is there.
    fsync, number, failed = os.fsync, 0, True
    while failed:
        number += 1
        flushed: list[int] = []

        def failing(fd: int, flushed: list[int] = flushed, number: int = number) -> None:
            flushed.append(os.fstat(fd).st_ino)
            if len(flushed) == number:
                fail(errno.EIO)
            fsync(fd)

        data = payload(100, number)
        with monkeypatch.context() as disk:
            disk.setattr(os, "fsync", failing)
            try:
                keep(archive, "policy", number, data)
                failed = False
                assert len(flushed) < number, "an error of the disk was passed over"
            except StoreUnavailable:
                assert flushed[number - 1] not in flushed[number:]
                assert not archive.health.writable
        assert archive.probe().writable
        assert read_all(archive, keep(archive, "policy", number, data)) == data
    assert number > 5


def test_an_error_at_any_step_of_deleting_leaves_all_or_nothing(folder: Path) -> None:
    with Archive.open(folder / "archive", now_ms=NOW, spare=0) as archive:
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


@needs_strace
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
        log = archive.directory / "index.sqlite3-wal"
        with tracing(child.pid, calls, inject=f"error={error}:when={when}", path=log):
            os.write(go, b"g")
            child.finish()
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
def small(folder: Path) -> Iterator[Path]:
    """A tmpfs of 8 MiB."""
    with small_disk(folder / "small", "size=8m") as mount:
        yield mount


def test_a_full_disk_refuses_with_a_number_keeps_serving_and_recovers(small: Path) -> None:
    with Archive.open(small / "archive", now_ms=NOW, spare=2 << 20) as archive:
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


def test_a_disk_without_a_byte_left_refuses_and_loses_nothing(small: Path) -> None:
    with Archive.open(small / "archive", now_ms=NOW, spare=0) as archive:
        kept = [keep(archive, "policy", number, payload(1000, number)) for number in (1, 2)]
        filler = small / "filler"
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
    with Archive.open(small / "archive", now_ms=NOW, spare=0) as archive:
        assert [version.info.number for version in archive.load().versions] == [1, 2, 30]


def test_a_read_only_directory_is_refused(small: Path) -> None:
    Archive.open(small / "archive", now_ms=NOW, spare=0).close()
    remount(small, "ro")
    with pytest.raises(DirectoryUnusable, match="[Rr]ead-only"):
        Archive.open(small / "archive", now_ms=NOW)
