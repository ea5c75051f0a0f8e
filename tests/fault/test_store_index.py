"""Damage to the index, the manifests and the floors costs no version and no number: each is made anew from the others."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from broadcaster.protocol.errors import DirectoryUnusable
from broadcaster.store import Archive, failpoints, rebuild_index
from tests.fault.archives import NOW, blob_of, flip, forked, keep, payload, read_all, state_of

POLICY, GONE = ("default", "policy"), ("default", "gone")
INDEX, WAL, FLOORS, DELETIONS = "index.sqlite3", "index.sqlite3-wal", "floors.log", "deletions.log"
DATA = {number: payload(1000, number // 2) for number in range(1, 10)}
"""2 and 3, 4 and 5, ... are the same bytes, and one blob."""


# --- one of them is lost, damaged or older ----------------------------------------------------------------------------


def lived(directory: Path) -> None:
    """An archive that was killed after a life, and beside it `older`, a copy made in the middle of that life."""
    with Archive.open(directory, now_ms=NOW, spare=0) as archive:
        for number in range(1, 6):
            keep(archive, "policy", number, DATA[number])
        keep(archive, "gone", 7, DATA[4])
        archive.reserve_numbers([(*POLICY, 100)])
        archive.delete_version(*POLICY, 2)
    shutil.copytree(directory, directory.with_name("older"))

    def job(_say: Callable[[bytes], None]) -> None:
        archive = Archive.open(directory, now_ms=NOW, spare=0)
        for number in range(6, 10):
            keep(archive, "policy", number, DATA[number])
        archive.delete_version(*POLICY, 4)
        archive.delete_model(*GONE)
        archive.reserve_numbers([(*POLICY, 300)])
        os._exit(0)  # its log is not checkpointed

    with forked(job) as child:
        child.finish()
    assert (directory / WAL).stat().st_size > 0


def lose(*names: str) -> Callable[[Path, Path], None]:
    def damage(directory: Path, _older: Path) -> None:
        for name in names:
            (directory / name).unlink()

    return damage


def restore(*names: str) -> Callable[[Path, Path], None]:
    def damage(directory: Path, older: Path) -> None:
        for name in names:
            if (older / name).exists():
                shutil.copy2(older / name, directory / name)
            else:
                (directory / name).unlink()

    return damage


def rewrite(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path, Path], None]:
    def damage(directory: Path, _older: Path) -> None:
        (directory / name).write_bytes(change((directory / name).read_bytes()))

    return damage


def scrambled(data: bytes) -> bytes:
    """With the second half of it random."""
    return data[: len(data) // 2] + random.Random(len(data)).randbytes(len(data) - len(data) // 2)


DAMAGES = {
    "the index is lost": lose(INDEX, WAL),
    "the index is lost, not its log": lose(INDEX),
    "the log of the index is lost": lose(WAL),
    "the log of the index is cut short": rewrite(WAL, lambda data: data[: len(data) // 2]),
    "the log of the index is damaged": rewrite(WAL, scrambled),
    "the index is empty": rewrite(INDEX, lambda _: b""),
    "the index is cut short": rewrite(INDEX, lambda data: data[:5000]),
    "the index is no database": rewrite(INDEX, lambda data: b"x" * len(data)),
    "the index is an older one": restore(INDEX, WAL),
    "the floors are lost": lose(FLOORS),
    "the floors are older": restore(FLOORS),
    "the floors are empty": rewrite(FLOORS, lambda _: b""),
    "the floors are cut short": rewrite(FLOORS, lambda data: data[: len(data) // 2]),
    "the deletions are lost": lose(DELETIONS),
    "the deletions are older": restore(DELETIONS),
    "the deletions are damaged": rewrite(DELETIONS, lambda data: bytes(byte ^ 1 for byte in data)),
    "the floors are damaged": rewrite(FLOORS, lambda data: bytes(byte ^ 1 for byte in data)),
}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize(
    "rebuilt", [False, pytest.param(True, marks=pytest.mark.fault_long)], ids=["at the start", "by rebuild-index"]
)
@pytest.mark.parametrize("damage", DAMAGES)
def test_no_version_comes_back_or_is_lost_and_no_number_is_used_again(folder: Path, damage: str, rebuilt: bool) -> None:
    directory = folder / "archive"
    lived(directory)
    DAMAGES[damage](directory, folder / "older")
    if rebuilt and FLOORS in [path.name for path in directory.iterdir()]:
        rebuild_index(directory)
    with Archive.open(directory, now_ms=NOW, spare=0) as archive:
        loaded = archive.load()
        assert [version.info.number for version in loaded.versions] == [1, 3, 5, 6, 7, 8, 9]
        for version in loaded.versions:
            assert read_all(archive, version) == DATA[version.info.number]
        assert [model.model_id for model in loaded.models] == ["policy"]
        assert loaded.floors[POLICY] >= 300 and loaded.floors[GONE] >= 7
        shelved = {path.parent.name + path.name for path in (directory / "blobs").glob("*/*")}
        assert shelved == {version.sha256 for version in loaded.versions}


def test_a_deletion_that_was_cut_short_takes_no_blob_of_another_version_along_when_the_index_is_lost(archive: Archive) -> None:
    for number in (2, 3):
        keep(archive, "policy", number, DATA[2])
    failpoints.arm(lambda name: os._exit(0) if name == "tombstone-durable" else None)
    with forked(lambda _say: archive.delete_version(*POLICY, 2)) as child:
        child.finish()
    failpoints.arm(None)
    archive.close()
    (archive.directory / INDEX).unlink()
    rebuild_index(archive.directory)
    with Archive.open(archive.directory, now_ms=NOW) as again:
        (version,) = again.load().versions
        assert version.info.number == 3 and read_all(again, version) == DATA[3]


# --- damage inside them --------------------------------------------------------------------------------------------------


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


def test_two_swapped_manifests_are_both_refused_and_written_anew(archive: Archive) -> None:
    versions = [
        keep(archive, model, number, payload(100, number)) for model, number in (("policy", 1), ("policy", 2), ("other", 1))
    ]
    archive.close()
    first, second = ((archive.directory / "manifests").glob(f"*/{number}.manifest") for number in (1, 2))
    one, two = next(first), next(second)
    held = one.read_bytes()
    one.write_bytes(two.read_bytes())
    two.write_bytes(held)
    with Archive.open(archive.directory, now_ms=NOW) as again:
        loaded = again.load()
        assert sorted(map(str, loaded.versions)) == sorted(map(str, versions)) and len(loaded.notes) >= 2
        for version in loaded.versions:
            assert read_all(again, version) == payload(100, version.info.number)
