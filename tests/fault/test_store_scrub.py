"""Damage that nobody reads is found by the scrub, set aside, told once, healed by the same payload; a failing disk is probed."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import threading
import time
from pathlib import Path

import pytest

from broadcaster.catalog import Catalog, Retention
from broadcaster.protocol.errors import NoSpace, StoreCorrupt, StoreError, StoreUnavailable, UnknownVersion
from broadcaster.store import Archive, ArchivedVersion, failpoints
from broadcaster.store.quarantine import Damage
from broadcaster.store.scrub import PROGRESS
from broadcaster.store.upkeep import Upkeep
from broadcaster.store.values import CHUNK
from tests.bare_peer import wait_until
from tests.fault.archives import NOW, keep, payload, read_all

DATA = payload(2 * CHUNK + 100, 1)


@pytest.fixture
def told(archive: Archive) -> list[Damage]:
    """What is told of damage."""
    found: list[Damage] = []
    archive.tell_damage(found.append)
    return found


def blob_of(archive: Archive, version: ArchivedVersion) -> Path:
    return archive.directory / "blobs" / version.sha256[:2] / version.sha256[2:]


def manifest_of(archive: Archive, number: int) -> Path:
    (found,) = archive.directory.glob(f"manifests/*/{number}.manifest")
    return found


def quarantined(archive: Archive) -> list[str]:
    return sorted(path.name for path in (archive.directory / "quarantine").iterdir())


def flip(path: Path, at: int) -> None:
    """One bit, and not even the times of the file tell."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def scrub(archive: Archive) -> int:
    """A whole pass; how many bytes of payloads it read."""
    whole = archive.scrub()
    for _ in whole.steps():
        pass
    return whole.bytes_read


# --- found --------------------------------------------------------------------------------------------------------------


def test_the_scrub_finds_a_flipped_bit_that_nobody_read(archive: Archive, told: list[Damage]) -> None:
    version, other = keep(archive, "policy", 1, DATA), keep(archive, "policy", 2, payload(10, 2))
    assert scrub(archive) == len(DATA) + 10 and not told
    flip(blob_of(archive, version), CHUNK + 7)
    scrub(archive)
    scrub(archive)
    assert [damage.sha256 for damage in told] == [version.sha256], "told once"
    assert quarantined(archive) == [version.sha256] and archive.quarantined == 1
    with pytest.raises(StoreCorrupt, match="policy version 1"):
        archive.read(version, 0, 10)
    assert read_all(archive, other) == payload(10, 2)
    archive.close()
    with Archive.open(archive.directory, now_ms=NOW) as again:
        assert any(version.sha256 in note for note in again.load().notes)
        assert [found.info.number for found in again.load().versions] == [1, 2], "it is damaged, not unknown"
        with pytest.raises(StoreCorrupt, match="policy version 1"):
            again.read(version, 0, 10)


def test_a_truncated_a_swapped_and_a_missing_blob_are_found(archive: Archive, told: list[Damage]) -> None:
    versions = [keep(archive, "policy", number, payload(500, number)) for number in (1, 2, 3, 4)]
    os.truncate(blob_of(archive, versions[0]), 499)
    blob_of(archive, versions[1]).write_bytes(bytes(payload(500, 9)))
    blob_of(archive, versions[2]).unlink()
    scrub(archive)
    assert {damage.sha256 for damage in told} == {version.sha256 for version in versions[:3]}
    for version in versions[:3]:
        with pytest.raises(StoreCorrupt):
            archive.read(version, 0, 10)
    assert read_all(archive, versions[3]) == payload(500, 4)


def test_damage_found_by_a_read_is_told_once_however_often_it_is_read(archive: Archive, told: list[Damage]) -> None:
    version, gone = keep(archive, "policy", 1, DATA), keep(archive, "policy", 2, payload(10, 2))
    flip(blob_of(archive, version), 7)
    blob_of(archive, gone).unlink()
    for _ in range(3):
        for damaged in (version, gone):
            with pytest.raises(StoreCorrupt):
                archive.read(damaged, 0, 10)
    assert [damage.sha256 for damage in told] == [version.sha256, gone.sha256]


def test_a_damaged_manifest_is_written_anew_while_the_archive_runs(archive: Archive, told: list[Damage]) -> None:
    keep(archive, "policy", 1, DATA)
    before = manifest_of(archive, 1).read_bytes()
    flip(manifest_of(archive, 1), 40)
    scrub(archive)
    assert manifest_of(archive, 1).read_bytes() == before
    assert len(told) == 1 and told[0].sha256 is None and "policy version 1" in told[0].what
    archive.close()
    with Archive.open(archive.directory, now_ms=NOW) as again:
        assert not again.load().notes


# --- healed -------------------------------------------------------------------------------------------------------------


def test_the_same_payload_under_another_number_heals_what_lies_in_quarantine(archive: Archive) -> None:
    version = keep(archive, "policy", 1, DATA)
    flip(blob_of(archive, version), 7)
    scrub(archive)
    other = keep(archive, "policy", 2, DATA)
    assert read_all(archive, version) == read_all(archive, other) == DATA
    assert archive.quarantined == 0 and not quarantined(archive)


def test_what_was_put_right_by_hand_is_served_again_after_the_next_pass(archive: Archive) -> None:
    version, other = keep(archive, "policy", 1, DATA), keep(archive, "policy", 2, payload(10, 2))
    flip(blob_of(archive, version), 7)
    blob_of(archive, other).unlink()
    scrub(archive)
    assert archive.quarantined == 2
    flip(archive.directory / "quarantine" / version.sha256, 7)  # the very bit, as if a backup had been restored
    blob_of(archive, other).write_bytes(bytes(payload(10, 2)))
    scrub(archive)
    assert read_all(archive, version) == DATA and read_all(archive, other) == payload(10, 2)
    assert archive.quarantined == 0 and not quarantined(archive)


def test_a_blob_healed_while_the_scrub_read_the_damaged_one_stays(archive: Archive, told: list[Damage]) -> None:
    version = keep(archive, "policy", 1, DATA)
    flip(blob_of(archive, version), 7)
    steps = archive.scrub().steps()
    while next(steps) != CHUNK:
        pass
    keep(archive, "other", 1, DATA)
    for _ in steps:
        pass
    assert read_all(archive, version) == DATA and not told


def test_a_start_between_the_healing_and_the_end_of_quarantine_serves(archive: Archive) -> None:
    version = keep(archive, "policy", 1, DATA)
    archive.close()
    damaged = bytearray(DATA)
    damaged[7] ^= 1
    (archive.directory / "quarantine" / version.sha256).write_bytes(damaged)
    with Archive.open(archive.directory, now_ms=NOW) as again:
        assert read_all(again, version) == DATA and not again.load().notes
        assert not quarantined(again)


# --- gentle -------------------------------------------------------------------------------------------------------------


def test_the_scrub_takes_no_lock_while_it_reads(archive: Archive) -> None:
    version = keep(archive, "policy", 1, DATA)
    steps, passed = archive.scrub().steps(), 0
    for number in range(2, 12):  # wherever it is, others can write
        passed += next(steps, None) is not None
        writer = threading.Thread(target=keep, args=(archive, "policy", number, payload(1, number)))
        writer.start()
        writer.join(20)
        assert not writer.is_alive()
    assert passed > 3 and read_all(archive, version) == DATA
    archive.delete_version("default", "policy", 1)
    for _ in steps:
        pass


def cached_pages(path: Path) -> int:
    """How many pages of a file the page cache holds. Asking with a read that does not wait would begin to read them."""
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        place = ctypes.c_char.from_buffer(mapped)
        found = (ctypes.c_ubyte * -(-len(mapped) // mmap.PAGESIZE))()
        libc = ctypes.CDLL(None, use_errno=True)
        code = libc.mincore(ctypes.c_void_p(ctypes.addressof(place)), ctypes.c_size_t(len(mapped)), found)
        del place
    assert code == 0, os.strerror(ctypes.get_errno())
    return sum(one & 1 for one in found)


def test_the_scrub_neither_fills_the_page_cache_nor_empties_it(archive_on_disk: Archive) -> None:
    archive = archive_on_disk
    hot, cold = keep(archive, "policy", 1, DATA), keep(archive, "policy", 2, payload(2 * CHUNK, 2))
    fd = os.open(blob_of(archive, cold), os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    if cached_pages(blob_of(archive, cold)):
        pytest.skip("this file system keeps everything in memory")
    assert read_all(archive, hot) == DATA
    pages = cached_pages(blob_of(archive, hot))
    assert scrub(archive) == len(DATA) + 2 * CHUNK
    assert cached_pages(blob_of(archive, hot)) == pages, "what readers want stays"
    assert cached_pages(blob_of(archive, cold)) == 0, "what nobody reads does not come"


def test_the_scrub_goes_on_where_an_earlier_life_left_it(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("broadcaster.store.scrub._SAVED", 0.0)
    versions = [keep(archive, "policy", number, payload(100, number)) for number in range(1, 30)]
    first = archive.scrub()
    for _ in first.steps():
        if first.bytes_read >= 1500:
            break
    assert first.last_complete == 0 and json.loads((archive.directory / PROGRESS).read_text())["done"]
    flip(blob_of(archive, max(versions, key=lambda one: one.sha256)), 7)
    second = archive.scrub()
    for _ in second.steps():
        pass
    assert 1000 < second.bytes_read < 1700, "the rest, and the shelf that was not finished"
    assert archive.quarantined == 1 and time.time() - archive.scrub().last_complete < 60
    (archive.directory / PROGRESS).write_text("{")
    assert scrub(archive) == 2900, "nothing hangs on what it remembers: it begins anew, and reads the quarantine too"


def test_a_disk_that_does_not_answer_the_scrub_is_no_damage(archive: Archive, told: list[Damage]) -> None:
    version = keep(archive, "policy", 1, DATA)
    failpoints.arm(lambda name: fail(errno.EIO) if name == "scrub" else None)
    whole = archive.scrub()
    for _ in whole.steps():
        pass
    failpoints.arm(None)
    assert whole.unreadable == 1 and not told and archive.health.writable
    assert read_all(archive, version) == DATA


# --- a disk that fails, and works again ---------------------------------------------------------------------------------


def fail(number: int) -> None:
    raise OSError(number, os.strerror(number))


class Watched:
    """An upkeep thread, and what it said."""

    def __init__(self, archive: Archive, **settings: float) -> None:
        self.said: list[tuple[str, bool]] = []
        facts = {"rate": 1 << 30, "period": 3600.0, "probe": 0.01} | settings
        self.upkeep = Upkeep(archive, lambda sentence, good: self.said.append((sentence, good)), **facts)  # type: ignore[arg-type]

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.upkeep.close()


def test_a_failed_flush_turns_the_archive_read_only_until_a_probe_passes_by_itself(archive: Archive) -> None:
    broken = threading.Event()
    broken.set()
    kept = keep(archive, "policy", 1, DATA)
    with Watched(archive) as watched:
        failpoints.arm(lambda name: fail(errno.EIO) if name == "sync" and broken.is_set() else None)
        with pytest.raises(StoreUnavailable):
            keep(archive, "policy", 2, payload(10, 2))
        for _ in range(3):
            with pytest.raises(StoreUnavailable) as refused:
                archive.require_writable()
            assert refused.value.retryable
        assert read_all(archive, kept) == DATA, "reads go on"
        wait_until(lambda: watched.said, "the operator is told")
        assert not archive.health.writable
        broken.clear()
        wait_until(lambda: archive.health.writable, "it works again, and nobody did anything")
        wait_until(lambda: len(watched.said) == 2, "the operator is told that too")
        assert [good for _, good in watched.said] == [False, True], "each once"
        assert read_all(archive, keep(archive, "policy", 2, payload(10, 2))) == payload(10, 2)


def test_no_file_is_flushed_again_after_its_flush_failed(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel may have dropped what it could not write, and says so once: a second flush of the same file would lie.
    failed: list[tuple[int, int]] = []
    calls: list[str] = []
    target = 0
    again: list[str] = []
    fsync, number = os.fsync, 1

    def flush(fd: int) -> None:
        status = os.fstat(fd)
        identity = (status.st_dev, status.st_ino)
        path = os.readlink(f"/proc/self/fd/{fd}")
        if identity in failed and not os.path.isdir(path):
            again.append(path)
        if len(calls) == target:
            failed.append(identity)
            held.append(os.dup(fd))  # so that no other file gets its inode
            calls.append(path)
            raise OSError(errno.EIO, "injected")
        calls.append(path)
        fsync(fd)

    held: list[int] = []
    monkeypatch.setattr(os, "fsync", flush)
    try:
        for point in range(12):
            calls, target = [], point
            for _ in range(3):
                number += 1
                try:
                    keep(archive, "policy", number, payload(100, number))
                except StoreError:
                    assert not archive.health.writable
                    archive.probe()
                archive.probe()
        assert len(failed) == 12 and not again
    finally:
        for fd in held:
            os.close(fd)


def test_an_index_whose_disk_fails_turns_the_archive_read_only_too(archive: Archive) -> None:
    keep(archive, "policy", 1, DATA)
    archive._index.transaction = _unavailable  # type: ignore[method-assign]  # what SQLite says of a dead disk
    try:
        with pytest.raises(StoreUnavailable):
            archive.set_tags("default", "policy", 1, {"a": "b"})
    finally:
        del archive._index.transaction
    assert not archive.health.writable
    assert archive.probe().writable
    archive.set_tags("default", "policy", 1, {"a": "b"})


def _unavailable() -> object:
    raise StoreUnavailable(operation="using the index", where="here", reason="disk I/O error", hint="Check the disk.")


def test_a_full_disk_is_said_and_is_over_when_there_is_space(archive: Archive) -> None:
    failpoints.arm(lambda name: fail(errno.ENOSPC) if name == "allocate" else None)
    for _ in range(3):
        with pytest.raises(NoSpace):
            archive.reserve(100)
    assert archive.health.writable, "reads, deletions and small writes go on"
    failpoints.arm(None)
    assert read_all(archive, keep(archive, "policy", 1, DATA)) == DATA


def test_a_probe_that_was_left_lying_does_not_keep_the_archive_read_only(archive: Archive) -> None:
    failpoints.arm(lambda name: fail(errno.EIO) if name == "sync" else None)
    with pytest.raises(StoreUnavailable):
        keep(archive, "policy", 1, DATA)
    failpoints.arm(None)
    (archive.directory / "staging" / f"probe-{os.getpid()}").touch()
    assert archive.probe().writable


def test_the_upkeep_scrubs_again_and_again_and_stops_at_once(archive: Archive) -> None:
    keep(archive, "policy", 1, DATA)
    with Watched(archive, period=0.01) as watched:
        wait_until(lambda: watched.upkeep.scrub_bytes > 5 * len(DATA), "several passes")
        assert watched.upkeep.scrub_last_complete > 0
    slow = Watched(archive, period=0.01, rate=100_000)  # the first chunk takes 10 s
    wait_until(lambda: slow.upkeep.scrub_bytes, "the first step")
    began = time.monotonic()
    assert slow.upkeep.close() and time.monotonic() - began < 2


def test_an_upkeep_without_a_rate_never_reads(archive: Archive) -> None:
    keep(archive, "policy", 1, DATA)
    with Watched(archive, period=0.001, rate=0) as watched:
        broken = iter([errno.EIO])
        failpoints.arm(lambda name: fail(next(broken, 0) or errno.EIO) if name == "write" else None)
        with pytest.raises(StoreUnavailable):
            keep(archive, "policy", 2, payload(10, 2))
        failpoints.arm(None)
        wait_until(lambda: archive.health.writable, "it looks after the disk all the same")
        assert watched.upkeep.scrub_bytes == 0


def test_an_upkeep_outlives_its_archive_quietly(archive: Archive) -> None:
    keep(archive, "policy", 1, DATA)
    with Watched(archive, period=0.001, rate=1 << 30) as watched:
        wait_until(lambda: watched.upkeep.scrub_bytes, "it works")
        archive.close()
    assert not watched.said


# --- damage that a start finds ------------------------------------------------------------------------------------------


def test_a_version_whose_manifest_and_blob_are_both_damaged_is_not_forgotten(archive: Archive) -> None:
    for number in (1, 2):
        version = keep(archive, "policy", number, payload(100, number))
        blob_of(archive, version).unlink()
    flip(manifest_of(archive, 1), 40)
    os.utime(manifest_of(archive, 1))  # A start reads what looks new.
    manifest_of(archive, 2).unlink()  # as a deletion leaves it that an older index does not know
    archive.close()
    for _ in range(2):
        with Archive.open(archive.directory, now_ms=NOW) as again:
            loaded = again.load()
            assert [found.info.number for found in loaded.versions] == [1]
            with pytest.raises(StoreCorrupt):
                again.read(loaded.versions[0], 0, 10)


def test_a_lost_manifest_of_a_payload_in_quarantine_is_written_anew(archive: Archive) -> None:
    version = keep(archive, "policy", 1, DATA)
    flip(blob_of(archive, version), 7)
    scrub(archive)
    manifest_of(archive, 1).unlink()
    archive.close()
    with Archive.open(archive.directory, now_ms=NOW) as again:
        (found,) = again.load().versions
        with pytest.raises(StoreCorrupt):
            again.read(found, 0, 10)
        keep(again, "policy", 2, DATA)
        assert read_all(again, found) == DATA


def test_a_version_of_which_only_an_unreadable_manifest_is_left_is_damaged_and_not_unknown(archive: Archive) -> None:
    keep(archive, "policy", 1, DATA)
    lost = keep(archive, "policy", 2, payload(100, 2))
    flip(manifest_of(archive, 2), 40)
    archive.close()
    (archive.directory / "index.sqlite3").unlink()
    for _ in range(2):
        with Archive.open(archive.directory, now_ms=NOW) as again:
            loaded = again.load()
            assert loaded.lost == {("default", "policy"): {2}}
            assert [found.info.number for found in loaded.versions] == [1]
            assert blob_of(again, lost).exists()
            catalog = Catalog(Retention())
            catalog.create(("default", "policy"), 0)
            catalog.load(loaded.versions[0].info, bytes(16))
            catalog.load_lost(*next(iter(loaded.lost.items())))
            with pytest.raises(StoreCorrupt, match="version 2"):
                catalog.find(("default", "policy"), 2)
            assert catalog.find(("default", "policy"), -1).info.number == 1
            with pytest.raises(UnknownVersion):
                catalog.find(("default", "policy"), 3)
    flip(manifest_of(archive, 2), 40)  # the very bit, as if a backup had been restored
    with Archive.open(archive.directory, now_ms=NOW) as again:
        assert again.load().lost == {} and read_all(again, again.load().versions[1]) == payload(100, 2)
