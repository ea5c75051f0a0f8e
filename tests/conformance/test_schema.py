"""The index's schemas and the manifests' fields: up and down without a loss, and older files beside newer ones."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broadcaster.protocol.errors import DirectoryUnusable, StoreCorrupt
from broadcaster.protocol.ranges import Ranges, bounded, covers, merged, pack, unpack
from broadcaster.protocol.version import ModelInfo
from broadcaster.store import Archive, Loaded, manifests, metadata, rebuild_index, sqlite
from broadcaster.store.metadata import SCHEMAS, downgrade
from broadcaster.store.values import ArchivedModel
from tests.fault.archives import NOW, describe, keep, payload, read_all

KEY = ("default", "policy")
FIRST, SECOND = payload(70_000, 1), payload(70_001, 2)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive.open(tmp_path / "archive", now_ms=NOW, spare=0) as archive:
        yield archive


def fill(archive: Archive) -> None:
    """A model of which everything is said that can be, and four deleted versions of six."""
    said = {"user_data": {"a": "b"}, "tags": {"team": "red"}, "description": "What it is for.\n"}
    archive.set_model(ModelInfo(namespace=KEY[0], model_id=KEY[1], creation_timestamp=3, **said))  # type: ignore[arg-type]
    for number in range(1, 7):
        keep(archive, "policy", number, FIRST, description=f"number {number}", pinned=number == 6)
    archive.set_aliases(*KEY, {"champion": 2})
    archive.set_retention(*KEY, {"keep_last": 3, "metric": "return", "share": 0.5, "dry": True, "age": None})
    archive.set_description(*KEY, None, "What it is for, said better")
    archive.set_description(*KEY, 2, "the champion")
    archive.set_pinned(*KEY, 2, pinned=True)
    archive.set_pinned(*KEY, 6, pinned=False)
    archive.delete_versions(*KEY, [3, 1])
    archive.delete_version(*KEY, 4)


def facts(loaded: Loaded) -> tuple[object, ...]:
    return loaded.models, loaded.versions, loaded.floors, loaded.tombstones


def filled(archive: Archive) -> Loaded:
    fill(archive)
    loaded = archive.load()
    (model,) = loaded.models
    assert model.description == "What it is for, said better"
    assert model.retention == {"keep_last": 3, "metric": "return", "share": 0.5, "dry": True, "age": None}
    assert loaded.tombstones == {KEY: ((1, 1), (3, 4))}
    said = [(version.info.number, version.info.description, version.info.pinned) for version in loaded.versions]
    assert said == [(2, "the champion", True), (5, "number 5", False), (6, "number 6", False)]
    return loaded


# --- over restarts, rebuilds and schemas -----------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["restart", "rebuild", "lost index", "0001", "base", "0001 base 0001"])
def test_descriptions_pins_retention_and_tombstones_outlive(how: str, archive: Archive) -> None:
    before = filled(archive)
    archive.close()
    if how == "rebuild":
        rebuild_index(archive.directory)
    elif how == "lost index":
        (archive.directory / "index.sqlite3").unlink()
    for schema in how.split() if how[0] in "0b" else []:
        downgrade(archive.directory / "index.sqlite3", schema)
        assert schema_of(archive.directory) == (None if schema == "base" else schema)
    with Archive.open(archive.directory, now_ms=NOW) as again:
        assert facts(again.load()) == facts(before)
        assert not again.load().notes
    assert schema_of(archive.directory) == SCHEMAS[-1]


def schema_of(directory: Path) -> str | None:
    raw, schema = sqlite.open_durable(directory / "index.sqlite3", SCHEMAS)
    raw.close()
    return schema


def test_a_damaged_manifest_of_a_model_is_written_anew_with_all_that_was_said(archive: Archive) -> None:
    before = filled(archive)
    archive.close()
    (manifest,) = archive.directory.glob("manifests/*/model.manifest")
    manifest.write_bytes(b"nothing")
    with Archive.open(archive.directory, now_ms=NOW) as again:
        assert facts(again.load()) == facts(before) and again.load().notes
    rebuild_index(archive.directory)
    with Archive.open(archive.directory, now_ms=NOW) as again:
        assert facts(again.load()) == facts(before)


def test_an_older_copy_of_the_index_does_not_bring_a_deleted_version_back(archive: Archive) -> None:
    # Both versions are the same bytes: the blob is still there when the first one is gone, so nothing but a tombstone tells.
    keep(archive, "policy", 1, FIRST)
    keep(archive, "policy", 2, FIRST)
    archive.close()
    copy = (archive.directory / "index.sqlite3").read_bytes()
    with Archive.open(archive.directory, now_ms=NOW) as archive:
        archive.delete_version(*KEY, 1)
    (archive.directory / "index.sqlite3").write_bytes(copy)
    with Archive.open(archive.directory, now_ms=NOW) as archive:
        loaded = archive.load()
        assert [version.info.number for version in loaded.versions] == [2] and loaded.tombstones == {KEY: ((1, 1),)}
        assert read_all(archive, loaded.versions[0]) == FIRST


def test_a_program_of_the_schema_before_refuses_and_touches_nothing(archive: Archive, monkeypatch: pytest.MonkeyPatch) -> None:
    before = filled(archive)
    archive.close()
    files = {path: path.read_bytes() for path in archive.directory.rglob("*") if path.is_file() and path.name != "lock"}
    with monkeypatch.context() as older:
        older.setattr(metadata, "SCHEMAS", ("0001",))
        with pytest.raises(DirectoryUnusable, match="schema 0002, newer than 0001: upgrade the program"):
            Archive.open(archive.directory, now_ms=NOW)
    assert files == {path: path.read_bytes() for path in archive.directory.rglob("*") if path.is_file() and path.name != "lock"}
    with Archive.open(archive.directory, now_ms=NOW) as again:
        assert facts(again.load()) == facts(before)


def test_what_an_older_program_wrote_after_a_downgrade_is_taken_over(archive: Archive) -> None:
    # It steps over the fields that it does not know, and leaves them out of what it writes.
    before = filled(archive)
    archive.close()
    downgrade(archive.directory / "index.sqlite3", "0001")
    (path,) = archive.directory.glob("manifests/*/5.manifest")
    fields = manifests._unseal(path.read_bytes(), manifests.VERSION, "here")
    for unknown in ("description", "pinned"):
        del fields[unknown]
    path.write_bytes(manifests._seal(manifests.VERSION, fields | {"tags": {"by": "the older one"}}))
    with Archive.open(archive.directory, now_ms=NOW) as again:
        second, fifth, sixth = again.load().versions
    assert (second, sixth) == (before.versions[0], before.versions[2])
    assert fifth.info == replace(before.versions[1].info, description="", tags={"by": "the older one"})


# --- manifests -----------------------------------------------------------------------------------------------------


def test_manifests_of_before_still_read(archive: Archive) -> None:
    version = keep(archive, "policy", 1, FIRST)
    model = ArchivedModel(info=ModelInfo(namespace="default", model_id="policy", user_data={"a": "b"}))
    fields = manifests._unseal(manifests.encode_version(version), manifests.VERSION, "here")
    old = {name: value for name, value in fields.items() if name not in ("description", "pinned")}
    assert manifests.decode_version(manifests._seal(manifests.VERSION, old), "here") == version
    fields = manifests._unseal(manifests.encode_model(model), manifests.MODEL, "here")
    old = {name: value for name, value in fields.items() if name not in ("description", "retention", "tombstones")}
    assert manifests.decode_model(manifests._seal(manifests.MODEL, old), "here") == model


@pytest.mark.parametrize(
    "wrong",
    [
        {"description": 5},
        {"retention": {"keep": [1]}},
        {"retention": 1},
        *({"tombstones": steps} for steps in ([1], [0, 1], [5, -1], [5, 0, 1, 0], ["1", 2], [1 << 62, 1 << 62], [True, 1], {})),
    ],
)
def test_a_manifest_with_a_wrong_field_is_corrupt(wrong: dict[str, object]) -> None:
    model = ArchivedModel(info=ModelInfo(namespace="default", model_id="policy"), tombstones=((3, 9),))
    fields = manifests._unseal(manifests.encode_model(model), manifests.MODEL, "here")
    assert manifests.decode_model(manifests._seal(manifests.MODEL, fields), "here") == model
    with pytest.raises(StoreCorrupt, match=next(iter(wrong))):
        manifests.decode_model(manifests._seal(manifests.MODEL, fields | wrong), "here")


def test_a_version_that_is_archived_keeps_what_was_said_of_it_before(archive: Archive) -> None:
    info = describe("policy", 1, SECOND, description="good", pinned=True)
    archive.keep(None, SECOND, info, bytes(16))
    assert archive.load().versions[0].info == replace(info, archived=True, sha256=archive.load().versions[0].sha256)


# --- tombstones ----------------------------------------------------------------------------------------------------

numbers = st.sets(st.integers(1, 60), max_size=40)


@given(st.lists(numbers, max_size=5))
def test_deleted_numbers_are_kept_in_as_few_ranges_as_there_can_be(deletions: list[set[int]]) -> None:
    ranges: Ranges = ()
    for deleted in deletions:
        ranges = merged(ranges, deleted)
    gone = set().union(*deletions)
    assert {number for number in range(70) if covers(ranges, number)} == gone
    assert all(later[0] > earlier[1] + 1 for earlier, later in zip(ranges, ranges[1:], strict=False))
    assert unpack(pack(ranges)) == ranges


@given(numbers, numbers, st.integers(1, 8))
def test_too_many_ranges_join_and_never_over_what_is_archived(gone: set[int], archived: set[int], most: int) -> None:
    there = sorted(archived - gone)
    ranges = bounded(merged((), gone), there, most)
    assert all(covers(ranges, number) for number in gone) and not any(covers(ranges, number) for number in there)
    assert len(ranges) <= max(most, len(there) + 1)
    assert unpack(pack(ranges)) == ranges


def test_deleting_every_other_of_many_versions_takes_little_room(archive: Archive) -> None:
    small = payload(10, 1)
    for number in range(1, 41):
        keep(archive, "policy", number, small)
    (manifest,) = archive.directory.glob("manifests/*/model.manifest")
    before = manifest.stat().st_size
    archive.delete_versions(*KEY, list(range(1, 41, 2)))
    assert archive.load().tombstones == {KEY: tuple((number, number) for number in range(1, 41, 2))}
    assert manifest.stat().st_size - before <= 2 * 20 + 2
    archive.delete_versions(*KEY, [number for number in range(2, 41, 2) if number != 10])
    assert archive.load().tombstones == {KEY: ((1, 9), (11, 40))}


def test_a_model_made_again_after_its_deletion_has_no_tombstones(archive: Archive) -> None:
    fill(archive)
    archive.delete_model(*KEY)
    keep(archive, "policy", 7, SECOND)
    assert archive.load().tombstones == {} and archive.load().floors[KEY] == 7
    archive.close()
    shutil.rmtree(archive.directory / "trash")
    rebuild_index(archive.directory)
    with Archive.open(archive.directory, now_ms=NOW) as again:
        assert again.load().tombstones == {} and [version.info.number for version in again.load().versions] == [7]
