"""A backup taken while the archive is written to is whole, and no archive made of it uses a number again."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from broadcaster.numbers import Numbers
from broadcaster.protocol.errors import DirectoryUnusable, StoreCorrupt
from broadcaster.protocol.version import ModelInfo
from broadcaster.store import Archive, ArchivedVersion, failpoints, rebuild_index, verify
from broadcaster.store.backup import FASTEST, LEAST_STEP, backup, restore
from broadcaster.store.values import CHUNK
from tests.fault.archives import NOW, keep, payload, read_all, state_of

DATA = payload(2 * CHUNK + 100, 1)
TAKEN = 1_000_000.0
"""When backups are taken here, in s since 1970."""


@pytest.fixture
def archive(folder: Path) -> Iterator[Archive]:
    with Archive.open(folder / "archive", now_ms=NOW, spare=0) as archive:
        yield archive


def blob_of(directory: Path, version: ArchivedVersion) -> Path:
    return directory / "blobs" / version.sha256[:2] / version.sha256[2:]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def fill(archive: Archive) -> None:
    """Versions of two models, an alias, tags, a deletion, numbers in reserve."""
    for number in range(1, 6):
        keep(archive, "policy", number, payload(1000 + number, number))
    keep(archive, "value", 1, DATA)
    archive.set_aliases("default", "policy", {"champion": 2})
    archive.set_tags("default", "policy", 3, {"good": "yes"})
    archive.delete_version("default", "policy", 4)
    archive.reserve_numbers([("default", "policy", 2000), ("default", "value", 1500)])


# --- there and back -----------------------------------------------------------------------------------------------------


def test_what_comes_back_is_what_was_there_bit_for_bit(archive: Archive, folder: Path) -> None:
    fill(archive)
    report = backup(archive.directory, folder / "backup", TAKEN)  # the archive is open, and stays so
    assert (report.models, report.versions, report.copied, report.problems) == (2, 5, 5, [])
    assert verify(folder / "backup").problems == []
    before = archive.load()
    made = restore(folder / "backup", folder / "new", TAKEN)
    assert (made.versions, made.problems, made.notes) == (5, [], [])
    with Archive.open(folder / "new", now_ms=NOW) as new:
        loaded = new.load()
        assert state_of(loaded) == state_of(before) and not loaded.notes
        assert loaded.tombstones == before.tombstones and loaded.deleted_uploads == before.deleted_uploads
        assert loaded.epoch > before.epoch
        for version in loaded.versions:
            data = DATA if version.info.model_id == "value" else payload(1000 + version.info.number, version.info.number)
            assert read_all(new, version) == data
    assert verify(folder / "new").problems == []


def test_a_backup_is_brought_up_to_date_and_copies_only_what_is_new(archive: Archive, folder: Path) -> None:
    fill(archive)
    backup(archive.directory, folder / "backup", TAKEN)
    archive.delete_version("default", "policy", 1)
    archive.delete_model("default", "value")
    keep(archive, "policy", 6, payload(6, 6))
    archive.set_tags("default", "policy", 3, {"good": "no"})
    report = backup(archive.directory, folder / "backup", TAKEN + 1)
    assert (report.copied, report.copied_bytes, report.versions) == (1, 6, 4)
    assert verify(folder / "backup").orphans == []
    restore(folder / "backup", folder / "new", TAKEN)
    with Archive.open(folder / "new", now_ms=NOW) as new:
        assert state_of(new.load()) == state_of(archive.load())


def test_a_backup_taken_between_any_two_steps_of_a_writer_is_whole(archive: Archive, folder: Path) -> None:
    # The writer is stopped at every durable step of its life, and a backup is taken there: what was acknowledged is in it.
    acked: list[int] = []
    taken = 0

    def take(name: str) -> None:
        nonlocal taken
        failpoints.arm(None)
        taken += 1
        before = list(acked)
        report = backup(archive.directory, folder / "backup", TAKEN)
        assert report.problems == []
        restore(folder / "backup", folder / f"new{taken}", TAKEN)
        with Archive.open(folder / f"new{taken}", now_ms=NOW) as new:
            loaded = new.load()
            numbers = [version.info.number for version in loaded.versions]
            assert set(before) <= set(numbers), (name, before, numbers)
            for version in loaded.versions:
                assert read_all(new, version) == payload(1000, version.info.number)
            assert loaded.floors["default", "policy"] > max(numbers, default=0) if numbers else True
        failpoints.arm(hook)

    def hook(name: str) -> None:
        nonlocal steps
        steps += 1
        if steps % 29 == 0:
            take(name)

    steps = 0
    failpoints.arm(hook)
    for number in range(1, 7):
        keep(archive, "policy", number, payload(1000, number))
        acked.append(number)
        if number == 4:
            acked.remove(2)  # may be there or not from now on
            archive.delete_version("default", "policy", 2)
    failpoints.arm(None)
    assert taken > 3


def test_a_version_deleted_while_its_backup_is_taken_is_left_out(archive: Archive, folder: Path) -> None:
    fill(archive)

    def delete(name: str) -> None:
        if name == "allocate":  # the first blob is about to be copied: all manifests were
            failpoints.arm(None)
            for number in (1, 2, 3, 5):
                archive.delete_version("default", "policy", number)

    failpoints.arm(delete)
    report = backup(archive.directory, folder / "backup", TAKEN)
    assert report.problems == [] and report.dropped >= 3
    assert verify(folder / "backup").problems == []


# --- numbers ------------------------------------------------------------------------------------------------------------


def next_number(directory: Path, model: str) -> int:
    """The number that the next version of a model gets in this archive, as a broadcaster hands them out."""
    with Archive.open(directory, now_ms=NOW) as archive:
        numbers = Numbers(archive.load().floors)
        ceiling = numbers.wants(("default", model), 0.0)
        assert ceiling is not None
        archive.reserve_numbers([("default", model, ceiling)])
        numbers.reserved(("default", model), ceiling, 0.0)
        number = numbers.take(("default", model))
        assert number is not None
        return number


@pytest.mark.parametrize("seconds", [-3600, 0, 1, 3600])
def test_numbers_go_on_above_all_that_can_have_been_used_since(archive: Archive, folder: Path, seconds: int) -> None:
    fill(archive)
    backup(archive.directory, folder / "backup", TAKEN)
    report = restore(folder / "backup", folder / "new", TAKEN + seconds)
    step = max(LEAST_STEP, seconds * FASTEST)
    assert report.step == step and bool(report.notes) == (seconds < 0)
    assert next_number(folder / "new", "policy") == 2000 + step + 1, "above the numbers in reserve, not only the archived ones"
    assert next_number(folder / "new", "value") == 1500 + step + 1
    assert next_number(folder / "new", "made-since") == step + 1, "a model that was made after the backup had numbers too"


def test_numbers_go_on_where_it_is_said_but_never_below_what_is_known(archive: Archive, folder: Path) -> None:
    fill(archive)
    backup(archive.directory, folder / "backup", TAKEN)
    restore(folder / "backup", folder / "new", TAKEN, above=1700)
    assert next_number(folder / "new", "policy") == 2001
    assert next_number(folder / "new", "value") == 1701
    assert next_number(folder / "new", "made-since") == 1701


def test_the_jump_survives_the_loss_of_the_floors_or_of_the_index(archive: Archive, folder: Path) -> None:
    fill(archive)
    backup(archive.directory, folder / "backup", TAKEN)
    for lost in ("floors.log", "index.sqlite3"):
        new = folder / lost
        restore(folder / "backup", new, TAKEN)
        Archive.open(new, now_ms=NOW).close()
        (new / lost).unlink()
        if lost == "index.sqlite3":
            rebuild_index(new)
        assert next_number(new, "policy") > LEAST_STEP and next_number(new, "made-since") > LEAST_STEP


def test_a_backup_whose_floors_are_lost_knows_the_archived_numbers(archive: Archive, folder: Path) -> None:
    fill(archive)
    backup(archive.directory, folder / "backup", TAKEN)
    (folder / "backup" / "floors.log").unlink()
    restore(folder / "backup", folder / "new", TAKEN)
    assert next_number(folder / "new", "policy") == 5 + LEAST_STEP + 1


def test_a_term_given_out_since_is_not_given_out_again(archive: Archive, folder: Path) -> None:
    archive.set_model(ModelInfo(namespace="default", model_id="policy"))
    first = archive.take_term("default", "policy", bytes(16))
    backup(archive.directory, folder / "backup", TAKEN)
    later = archive.take_term("default", "policy", b"x" * 16)
    restore(folder / "backup", folder / "new", TAKEN)
    with Archive.open(folder / "new", now_ms=NOW) as new:
        assert new.load().terms == {}, "nobody holds it: who held it has to ask"
        assert new.take_term("default", "policy", b"y" * 16) > later > first


# --- damage -------------------------------------------------------------------------------------------------------------


def test_damage_in_the_archive_is_told_and_never_copied(archive: Archive, folder: Path) -> None:
    good, wrong, gone = (keep(archive, "policy", number, payload(1000, number)) for number in (1, 2, 3))
    flip(blob_of(archive.directory, wrong), 7)
    blob_of(archive.directory, gone).unlink()
    report = backup(archive.directory, folder / "backup", TAKEN)
    assert [problem.split(":")[0] for problem in sorted(report.problems)] == [f"default/policy version {n}" for n in (2, 3)]
    assert report.versions == 3 and report.blobs == 1
    made = restore(folder / "backup", folder / "new", TAKEN)
    assert len(made.problems) == 2
    with Archive.open(folder / "new", now_ms=NOW) as new:
        versions = {version.info.number: version for version in new.load().versions}
        assert read_all(new, versions[1]) == payload(1000, 1)
        for version in (wrong, gone):
            with pytest.raises(StoreCorrupt):
                new.read(versions[version.info.number], 0, 10)
        keep(new, "policy", 2_000_000_000, payload(1000, 2))
        assert read_all(new, versions[2]) == payload(1000, 2)


def test_what_an_older_backup_holds_outlives_damage_in_the_archive(archive: Archive, folder: Path) -> None:
    version = keep(archive, "policy", 1, DATA)
    backup(archive.directory, folder / "backup", TAKEN)
    flip(blob_of(archive.directory, version), 7)
    with pytest.raises(StoreCorrupt):
        read_all(archive, version)
    assert backup(archive.directory, folder / "backup", TAKEN).problems == []
    restore(folder / "backup", folder / "new", TAKEN)
    with Archive.open(folder / "new", now_ms=NOW) as new:
        assert read_all(new, version) == DATA


def test_damage_in_the_backup_is_found_by_the_restore(archive: Archive, folder: Path) -> None:
    first, second = keep(archive, "policy", 1, DATA), keep(archive, "policy", 2, payload(1000, 2))
    backup(archive.directory, folder / "backup", TAKEN)
    flip(blob_of(folder / "backup", first), CHUNK)
    report = restore(folder / "backup", folder / "new", TAKEN)
    assert len(report.problems) == 1 and "version 1" in report.problems[0]
    with Archive.open(folder / "new", now_ms=NOW) as new:
        assert read_all(new, second) == payload(1000, 2)
        with pytest.raises(StoreCorrupt):
            new.read(first, 0, 10)


def test_a_manifest_that_cannot_be_read_is_told(archive: Archive, folder: Path) -> None:
    keep(archive, "policy", 1, DATA)
    keep(archive, "policy", 2, payload(1000, 2))
    (manifest,) = archive.directory.glob("manifests/*/1.manifest")
    flip(manifest, 40)
    report = backup(archive.directory, folder / "backup", TAKEN)
    assert len(report.problems) == 1 and "1.manifest" in report.problems[0] and report.versions == 1


# --- what is refused ----------------------------------------------------------------------------------------------------


def test_nobody_serves_a_backup(archive: Archive, folder: Path) -> None:
    fill(archive)
    backup(archive.directory, folder / "backup", TAKEN)
    for use in (lambda: Archive.open(folder / "backup", now_ms=NOW), lambda: rebuild_index(folder / "backup")):
        with pytest.raises(DirectoryUnusable, match="it is a backup"):
            use()


def test_a_directory_that_holds_something_else_is_not_written_to(archive: Archive, folder: Path) -> None:
    fill(archive)
    backup(archive.directory, folder / "backup", TAKEN)
    (folder / "else").mkdir()
    (folder / "else" / "file").touch()
    with pytest.raises(DirectoryUnusable, match="not empty"):
        backup(archive.directory, folder / "else", TAKEN)
    for target in ("else", "archive", "backup"):
        with pytest.raises(DirectoryUnusable, match="not empty"):
            restore(folder / "backup", folder / target, TAKEN)
    for source in ("else", "archive", "none"):
        with pytest.raises(DirectoryUnusable, match="it is no backup"):
            restore(folder / source, folder / "new", TAKEN)
    assert not (folder / "new").exists() and not (folder / "none").exists()
    assert [path.name for path in (folder / "else").iterdir()] == ["file"]


def test_what_was_interrupted_is_not_used_and_can_be_done_again(archive: Archive, folder: Path) -> None:
    fill(archive)
    wanted = state_of(archive.load())
    met = 0

    def stop(name: str) -> None:
        nonlocal met
        met += 1
        if met == 20:
            raise KeyboardInterrupt

    failpoints.arm(stop)
    with pytest.raises(KeyboardInterrupt):
        backup(archive.directory, folder / "backup", TAKEN)
    failpoints.arm(None)
    with pytest.raises(DirectoryUnusable, match="interrupted"):
        restore(folder / "backup", folder / "new", TAKEN)
    assert json.loads((folder / "backup" / "backup.json").read_text()) == {"complete": False}
    backup(archive.directory, folder / "backup", TAKEN)
    met = 0
    failpoints.arm(stop)
    with pytest.raises(KeyboardInterrupt):
        restore(folder / "backup", folder / "new", TAKEN)
    failpoints.arm(None)
    with pytest.raises(DirectoryUnusable, match="restore into it was interrupted"):
        Archive.open(folder / "new", now_ms=NOW)
    restore(folder / "backup", folder / "new", TAKEN)
    with Archive.open(folder / "new", now_ms=NOW) as new:
        assert state_of(new.load()) == wanted


def test_a_backup_beside_four_busy_writers_holds_all_that_was_acknowledged_before_it(archive: Archive, folder: Path) -> None:
    acked: dict[str, int] = {}
    enough = threading.Event()

    def write(model: str, seed: int) -> None:
        number = 0
        while not enough.is_set() and number < 300:
            number += 1
            keep(archive, model, number, payload(3000, seed * 1000 + number))
            acked[model] = number

    writers = [threading.Thread(target=write, args=(f"model-{seed}", seed)) for seed in range(4)]
    for writer in writers:
        writer.start()
    try:
        for _ in range(3):
            before = dict(acked)
            report = backup(archive.directory, folder / "backup", TAKEN)
            assert report.problems == [] and report.versions >= sum(before.values())
    finally:
        enough.set()
        for writer in writers:
            writer.join()
    made = restore(folder / "backup", folder / "new", TAKEN)
    assert made.problems == []
    with Archive.open(folder / "new", now_ms=NOW) as new:
        loaded = new.load()
        for model, number in before.items():
            assert {one.info.number for one in loaded.versions if one.info.model_id == model} >= set(range(1, number + 1))
        for version in loaded.versions:
            seed = int(version.info.model_id[-1])
            assert read_all(new, version) == payload(3000, seed * 1000 + version.info.number)
        for model, number in acked.items():
            assert loaded.floors.get(("default", model), loaded.floors["", ""]) > number
