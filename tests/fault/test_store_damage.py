"""A damaged, swapped, planted or missing blob is found, never served, and costs nothing but itself."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from broadcaster.protocol.errors import (
    DirectoryUnusable,
    StoreCorrupt,
    StoreUnavailable,
    UnknownVersion,
)
from broadcaster.store import Archive, failpoints, verify
from broadcaster.store.values import CHUNK
from tests.fault.archives import NOW, blob_of, fail, flip, keep, payload, read_all, reopen

DATA = payload(2 * CHUNK + 100, 1)


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
    archive: Archive, folder: Path, plant: Callable[[Path, Path], None]
) -> None:
    secret = folder / "secret"
    secret.write_bytes(DATA)  # even the right bytes: it is not our file
    version = keep(archive, "policy", 1, DATA)
    blob_of(archive, version).unlink()
    plant(blob_of(archive, version), secret)
    with pytest.raises(StoreCorrupt):
        archive.read(version, 0, 10)
    assert secret.read_bytes() == DATA


@pytest.mark.parametrize("place", ["blobs", "manifests", "staging", "trash", "lock", "index.sqlite3", "floors.log"])
def test_a_symbolic_link_in_place_of_our_own_refuses_the_directory(archive: Archive, folder: Path, place: str) -> None:
    keep(archive, "policy", 1, DATA)
    archive.close()
    elsewhere = folder / "elsewhere"
    (archive.directory / place).rename(elsewhere)
    (archive.directory / place).symlink_to(elsewhere)
    with pytest.raises(DirectoryUnusable, match=place.split(".")[0] if place != "lock" else "cannot be used"):
        Archive.open(archive.directory, now_ms=NOW)


def test_a_linked_shelf_or_model_directory_is_not_followed(archive: Archive, folder: Path) -> None:
    version = keep(archive, "policy", 1, DATA)
    shelf = blob_of(archive, version).parent
    shelf.rename(folder / "shelf")
    shelf.symlink_to(folder / "shelf")
    with pytest.raises(StoreCorrupt):
        archive.read(version, 0, 10)
    with pytest.raises(StoreCorrupt):
        keep(archive, "policy", 1, DATA)


# --- reads that never wait ------------------------------------------------------------------------------------------


def test_what_the_page_cache_has_is_read_without_waiting_and_verified(archive_on_disk: Archive) -> None:
    archive = archive_on_disk
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
