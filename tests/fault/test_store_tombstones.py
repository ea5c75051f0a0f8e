"""What was deleted stays deleted: after an older index, a rebuilt one, and files that are put back where they were."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadcaster.protocol.ranges import Ranges, bounded, covers, merged, without
from broadcaster.protocol.version import ModelInfo
from broadcaster.store import Archive, Loaded, rebuild_index
from broadcaster.store import deletions as deletions_file
from broadcaster.store.deletions import Deletions, Ended
from broadcaster.store.folders import Folder
from tests.fault.archives import NOW, keep, payload, read_all

ALPHA = ("default", "alpha")
FIRST, SECOND = payload(70_000, 1), payload(70_001, 2)


def made(model_id: str = "alpha", created: int = 5) -> ModelInfo:
    return ModelInfo(namespace="default", model_id=model_id, creation_timestamp=created)


def filled(directory: Path) -> None:
    """Versions 1 to 4 of alpha; 1 and 3 have the same bytes."""
    with Archive.open(directory, now_ms=NOW) as archive:
        archive.set_model(made())
        for number, data in enumerate((FIRST, SECOND, FIRST, SECOND), 1):
            keep(archive, "alpha", number, data)


def loaded(directory: Path) -> Loaded:
    with Archive.open(directory, now_ms=NOW) as archive:
        found = archive.load()
        for version in found.versions:
            assert read_all(archive, version) in (bytes(FIRST), bytes(SECOND))
        return found


def numbers(found: Loaded, model_id: str = "alpha") -> list[int]:
    return [version.info.number for version in found.versions if version.info.model_id == model_id]


def reopened(directory: Path) -> Loaded:
    return loaded(directory)


def rebuilt(directory: Path) -> Loaded:
    rebuild_index(directory)
    return loaded(directory)


LATER = pytest.mark.parametrize("later", [reopened, rebuilt])


def put_back(copy: Path, directory: Path, *names: str) -> None:
    """The files of these folders as they were, beside what is there now."""
    for name in names:
        shutil.copytree(copy / name, directory / name, dirs_exist_ok=True)


@LATER
def test_a_manifest_and_a_blob_that_are_put_back_do_not_bring_a_deleted_version_back(
    folder: Path, later: Callable[[Path], Loaded]
) -> None:
    directory, copy = folder / "archive", folder / "copy"
    filled(directory)
    shutil.copytree(directory, copy)
    with Archive.open(directory, now_ms=NOW) as archive:
        archive.delete_versions(*ALPHA, [1, 2])
    model = next((copy / "manifests").iterdir()).name
    for number in (1, 2):
        shutil.copy(copy / "manifests" / model / f"{number}.manifest", directory / "manifests" / model)
    put_back(copy, directory, "blobs")
    found = later(directory)
    assert numbers(found) == [3, 4] and found.tombstones == {ALPHA: ((1, 2),)}
    assert later is rebuilt or any("was deleted" in note for note in found.notes)
    assert sorted(path.name for path in (directory / "manifests" / model).iterdir()) == [
        "3.manifest",
        "4.manifest",
        "model.manifest",
    ]
    assert numbers(loaded(directory)) == [3, 4]


def test_an_older_index_does_not_bring_a_deleted_version_back(folder: Path) -> None:
    directory, copy = folder / "archive", folder / "copy"
    filled(directory)
    shutil.copytree(directory, copy)
    with Archive.open(directory, now_ms=NOW) as archive:
        archive.delete_version(*ALPHA, 4)
    shutil.copy(copy / "index.sqlite3", directory)
    put_back(copy, directory, "blobs")
    found = loaded(directory)
    assert numbers(found) == [1, 2, 3] and found.tombstones == {ALPHA: ((4, 4),)}
    assert found.floors[ALPHA] >= 4


@LATER
def test_a_model_that_was_deleted_and_is_put_back_is_not_there(folder: Path, later: Callable[[Path], Loaded]) -> None:
    directory, copy = folder / "archive", folder / "copy"
    filled(directory)
    shutil.copytree(directory, copy)
    with Archive.open(directory, now_ms=NOW) as archive:
        archive.delete_model(*ALPHA)
    put_back(copy, directory, "manifests", "blobs")
    found = later(directory)
    assert found.models == [] and found.versions == [] and found.ended == {ALPHA: 4}
    assert not list((directory / "manifests").iterdir()) and not list((directory / "blobs").glob("*/*"))


def test_an_older_index_does_not_bring_a_deleted_model_back(folder: Path) -> None:
    directory, copy = folder / "archive", folder / "copy"
    filled(directory)
    shutil.copytree(directory, copy)
    with Archive.open(directory, now_ms=NOW) as archive:
        archive.delete_model(*ALPHA)
    shutil.copy(copy / "index.sqlite3", directory)
    put_back(copy, directory, "blobs")
    found = loaded(directory)
    assert found.models == [] and found.versions == []


@LATER
@pytest.mark.parametrize("created", [5, 9])
def test_a_model_that_is_made_again_stays_and_the_old_one_does_not_mix_into_it(
    folder: Path, later: Callable[[Path], Loaded], created: int
) -> None:
    directory, copy = folder / "archive", folder / "copy"
    filled(directory)
    shutil.copytree(directory, copy)
    with Archive.open(directory, now_ms=NOW) as archive:
        archive.delete_model(*ALPHA)
        archive.set_model(made(created=created))
    assert [model.model_id for model in loaded(directory).models] == ["alpha"], "even with the creation time of the old one"
    with Archive.open(directory, now_ms=NOW) as archive:
        keep(archive, "alpha", 7, FIRST)
    for number in (1, 2):
        model = next((copy / "manifests").iterdir()).name
        shutil.copy(copy / "manifests" / model / f"{number}.manifest", directory / "manifests" / model)
    put_back(copy, directory, "blobs")
    found = later(directory)
    assert numbers(found) == [7] and found.ended == {ALPHA: 4}
    with Archive.open(directory, now_ms=NOW) as archive:
        archive.delete_version(*ALPHA, 7)
    assert [model.model_id for model in loaded(directory).models] == ["alpha"]


def test_a_model_that_is_deleted_twice_goes_twice(folder: Path) -> None:
    directory = folder / "archive"
    for number in (1, 2):
        with Archive.open(directory, now_ms=NOW) as archive:
            archive.set_model(made())
            keep(archive, "alpha", number, FIRST)
            archive.delete_model(*ALPHA)
        found = loaded(directory)
        assert (found.models, found.versions, found.ended) == ([], [], {ALPHA: number})


def test_uploads_whose_versions_were_deleted_are_known_after_a_restart(folder: Path) -> None:
    directory = folder / "archive"
    filled(directory)
    with Archive.open(directory, now_ms=NOW) as archive:
        archive.delete_versions(*ALPHA, [2, 4])
    assert loaded(directory).deleted_uploads == {bytes([2]) * 16: (ALPHA, 2), bytes([4]) * 16: (ALPHA, 4)}
    with Archive.open(directory, now_ms=NOW) as archive:
        archive.delete_model(*ALPHA)
    assert loaded(directory).deleted_uploads == {bytes([n]) * 16: (ALPHA, n) for n in (2, 4, 1, 3)}


def test_only_the_newest_deleted_uploads_are_kept_and_the_file_does_not_grow_for_ever(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletions_file, "KEPT", 5)
    monkeypatch.setattr(deletions_file, "COMPACT_AT", 2000)
    root, staging = Folder.open(folder), Folder.open(folder / "staging")
    log = Deletions(root, staging)
    log.end(ALPHA, Ended(3, 77), [(3, bytes(16))])
    for number in range(1, 200):
        log.add(ALPHA, [(number, number.to_bytes(16, "big"))])
    log.close()
    assert (folder / deletions_file.DELETIONS).stat().st_size < 3000
    again = Deletions(root, staging)
    assert [number for _, number in again.uploads.values()] == [195, 196, 197, 198, 199]
    assert again.models == {ALPHA: Ended(3, 77)}
    again.begin_again(ALPHA)
    again.begin_again(ALPHA)
    again.close()
    assert Deletions(root, staging).models == {ALPHA: Ended(3, 0)}
    root.close(), staging.close()


def test_a_version_that_is_archived_late_is_not_taken_for_one_that_was_deleted(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # With too many ranges, numbers between them join them, and one may be a transient version, archived after all.
    monkeypatch.setattr(bounded, "__defaults__", (1,))
    directory = folder / "archive"
    filled(directory)
    with Archive.open(directory, now_ms=NOW) as archive:
        for number in (6, 8):
            keep(archive, "alpha", number, FIRST)
        archive.delete_versions(*ALPHA, [6, 8])
        assert archive.load().tombstones == {ALPHA: ((6, 8),)}
        keep(archive, "alpha", 7, SECOND)
        assert archive.load().tombstones == {ALPHA: ((6, 6), (8, 8))}
    assert numbers(loaded(directory)) == [1, 2, 3, 4, 7]


RANGES = st.sets(st.integers(1, 40)).map(lambda found: merged((), found))


@given(RANGES, st.integers(1, 40))
def test_a_number_leaves_its_range_alone(ranges: Ranges, number: int) -> None:
    left = without(ranges, number)
    assert [n for n in range(50) if covers(left, n)] == [n for n in range(50) if covers(ranges, n) and n != number]
    assert merged(left, []) == left
