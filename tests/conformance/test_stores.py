"""What an archive promises while nothing goes wrong, and over restarts."""

from __future__ import annotations

import math
import os
import shutil
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from broadcaster.protocol.errors import (
    AlreadyExists,
    Busy,
    Closed,
    DirectoryUnusable,
    InvalidRequest,
    SizeMismatch,
    StoreCorrupt,
    UnknownModel,
    UnknownVersion,
)
from broadcaster.protocol.names import PATTERN
from broadcaster.protocol.version import ModelInfo, VersionInfo
from broadcaster.store import Archive, ArchivedVersion, Worker, floors, manifests, rebuild_index, sqlite
from broadcaster.store.buffers import BufferPool
from broadcaster.store.floors import Floors
from broadcaster.store.folders import Folder
from broadcaster.store.metadata import SCHEMAS, downgrade
from broadcaster.store.values import CHUNK, chunk_count
from tests.fault.archives import NOW, describe, keep, payload, read_all, state_of


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    with Archive.open(tmp_path / "archive", now_ms=NOW, spare=0) as archive:
        yield archive


def reopened(archive: Archive, now_ms: int = NOW) -> Archive:
    archive.close()
    return Archive.open(archive.directory, now_ms=now_ms, spare=0)


# --- versions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 70_000, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK])
def test_what_is_kept_reads_back_the_same_after_a_restart(archive: Archive, size: int) -> None:
    data = payload(size, size)
    version = keep(archive, "policy", 1, data, metrics={"nan": math.nan, "inf": math.inf}, tags={"a": "b"})
    assert version.info.archived and version.info.sha256 == version.sha256
    assert read_all(archive, version) == data
    with reopened(archive) as archive:
        (loaded,) = archive.load().versions
        assert math.isnan(loaded.info.metrics["nan"]) and math.isinf(loaded.info.metrics["inf"])
        same = {"info": replace(version.info, metrics={}), "epoch": NOW}
        assert replace(loaded, info=replace(loaded.info, metrics={})) == replace(version, **same)
        assert read_all(archive, loaded) == data
        assert archive.load().models[0].newest == 1 and archive.load().models[0].versions == 1


@given(offset=st.integers(0, 3 * CHUNK), length=st.integers(0, CHUNK))
def test_every_range_reads_as_the_same_bytes_of_the_payload(
    shared: tuple[Archive, ArchivedVersion, memoryview], offset: int, length: int
) -> None:
    archive, version, data = shared
    offset = min(offset, len(data))
    found = archive.read(version, offset, length)
    assert found.readonly and found == data[offset : offset + length]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Archive, ArchivedVersion, memoryview]]:
    data = payload(2 * CHUNK + 12_345, 5)
    with Archive.open(tmp_path_factory.mktemp("shared") / "archive", now_ms=NOW, spare=0) as archive:
        yield archive, keep(archive, "policy", 1, data), data


@pytest.mark.parametrize(("offset", "length"), [(-1, 5), (0, -1), (0, CHUNK + 1), (2 * CHUNK + 12_346, 0)])
def test_a_range_outside_the_payload_is_refused(
    shared: tuple[Archive, ArchivedVersion, memoryview], offset: int, length: int
) -> None:
    with pytest.raises(InvalidRequest):
        shared[0].read(shared[1], offset, length)


def test_keeping_the_same_again_gives_the_same_answer(archive: Archive) -> None:
    data = payload(5_000, 1)
    first = keep(archive, "policy", 1, data)
    assert archive.keep(archive.reserve(5_000), data, describe("policy", 1, data), b"another id here!") == first
    with pytest.raises(AlreadyExists):
        keep(archive, "policy", 1, payload(5_000, 2))
    assert len(archive.load().versions) == 1
    assert not list((archive.directory / "staging").iterdir())


def test_a_payload_that_is_not_what_was_declared_is_not_kept(archive: Archive) -> None:
    data = payload(5_000, 1)
    with pytest.raises(StoreCorrupt, match="digest"):
        archive.keep(None, payload(5_000, 2), describe("policy", 1, data), bytes(16))
    with pytest.raises(SizeMismatch):
        archive.keep(None, data[:-1], describe("policy", 1, data), bytes(16))
    with pytest.raises(SizeMismatch):
        archive.keep(archive.reserve(10), data, describe("policy", 1, data), bytes(16))
    assert archive.load().versions == []
    assert not list(archive.directory.glob("blobs/*/*")) and not list((archive.directory / "staging").iterdir())


def test_equal_payloads_share_one_blob_until_the_last_is_deleted(archive: Archive) -> None:
    data = payload(70_000, 1)
    first, second = keep(archive, "policy", 1, data), keep(archive, "other", 1, data)
    assert len(list(archive.directory.glob("blobs/*/*"))) == 1
    archive.delete_version("default", "policy", 1)
    assert read_all(archive, second) == data
    archive.delete_model("default", "other")
    assert not list(archive.directory.glob("blobs/*/*"))
    for gone in (first, second):
        with pytest.raises(UnknownVersion):
            archive.read(gone, 0, 10)


def test_a_read_that_has_begun_keeps_its_bytes_when_others_follow(archive: Archive) -> None:
    data = payload(40 * CHUNK, 3)
    version = keep(archive, "policy", 1, data)
    held = [archive.read(version, index * CHUNK, CHUNK) for index in range(40)]
    archive.delete_version("default", "policy", 1)
    assert all(view == data[index * CHUNK : (index + 1) * CHUNK] for index, view in enumerate(held))


def test_a_buffer_is_lent_again_only_when_nobody_sees_it() -> None:
    pool = BufferPool(2, 100)
    view = pool.take(100)
    part = view[3:10].toreadonly()
    base = id(view.obj)
    assert id(pool.take(50).obj) != base
    del view
    assert {id(pool.take(50).obj) for _ in range(4)}.isdisjoint({base})
    del part
    assert id(pool.take(50).obj) == base


def test_several_threads_read_at_once(archive: Archive) -> None:
    data = payload(8 * CHUNK, 4)
    version = keep(archive, "policy", 1, data)
    wrong: list[object] = []

    def read() -> None:
        wrong.extend(round_ for round_ in range(10) if read_all(archive, version) != data)

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not wrong


# --- models, tags, metrics ------------------------------------------------------------------------------------------


def test_what_is_said_of_models_and_versions_survives_a_restart_and_a_rebuild(archive: Archive) -> None:
    archive.set_model(ModelInfo(namespace="default", model_id="policy", user_data={"é": "ü"}, creation_timestamp=3))
    version = keep(archive, "policy", 1, payload(10, 1))
    archive.set_aliases("default", "policy", {"champion": 1})
    archive.set_tags("default", "policy", None, {"team": "red"})
    archive.set_tags("default", "policy", 1, {"good": "yes"})
    assert archive.add_metrics("default", "policy", 1, {"eval": 2.0}).info.metrics == {"return": 1.5, "eval": 2.0}
    before = archive.load()
    archive.close()
    for how in ("restart", "rebuild"):
        if how == "rebuild":
            rebuild_index(archive.directory)
        with Archive.open(archive.directory, now_ms=NOW) as again:
            loaded = again.load()
        assert (loaded.models, loaded.versions, loaded.floors) == (before.models, before.versions, before.floors), how
    (model,) = loaded.models
    assert model.user_data == {"é": "ü"} and model.tags == {"team": "red"} and model.aliases == {"champion": 1}
    assert loaded.versions[0].info.tags == {"good": "yes"} and loaded.versions[0].upload_id == version.upload_id


def test_asking_for_what_is_not_there_says_so(archive: Archive) -> None:
    with pytest.raises(UnknownModel):
        archive.delete_model("default", "policy")
    with pytest.raises(UnknownModel):
        archive.set_aliases("default", "policy", {})
    with pytest.raises(UnknownVersion):
        archive.delete_version("default", "policy", 1)
    with pytest.raises(UnknownVersion):
        archive.add_metrics("default", "policy", 1, {})


def test_the_same_model_name_in_two_namespaces_is_two_models(archive: Archive) -> None:
    data = payload(10, 1)
    keep(archive, "policy", 1, data)
    archive.keep(None, data, replace(describe("policy", 1, data), namespace="lab"), bytes(16))
    archive.delete_model("default", "policy")
    assert [version.info.namespace for version in archive.load().versions] == ["lab"]


# --- numbers --------------------------------------------------------------------------------------------------------


def test_floors_survive_restart_deletion_and_the_loss_of_the_index(archive: Archive) -> None:
    archive.reserve_numbers([("default", "policy", 512), ("default", "other", 7)])
    keep(archive, "third", 40, payload(10, 1))
    archive.delete_model("default", "third")
    archive.close()
    for lost in ("nothing", "index.sqlite3", "floors.log"):
        (archive.directory / lost).unlink(missing_ok=True)
        with Archive.open(archive.directory, now_ms=NOW) as again:
            floors = again.load().floors
        assert floors == {("default", "policy"): 512, ("default", "other"): 7, ("default", "third"): 40}, lost


def test_a_floor_never_goes_down_by_reserving_less(archive: Archive) -> None:
    archive.reserve_numbers([("default", "policy", 512)])
    archive.reserve_numbers([("default", "policy", 100)])
    with reopened(archive) as archive:
        assert archive.load().floors == {("default", "policy"): 512}


def test_a_clean_stop_gives_unused_numbers_back_but_never_used_ones(archive: Archive) -> None:
    archive.reserve_numbers([("default", "policy", 512)])
    keep(archive, "policy", 9, payload(10, 1))
    archive.release_numbers([("default", "policy", 20)])
    with reopened(archive) as archive:
        assert archive.load().floors == {("default", "policy"): 20}
        archive.release_numbers([("default", "policy", 3)])
        assert archive.load().floors == {("default", "policy"): 9}
    with reopened(archive) as archive:
        assert archive.load().floors == {("default", "policy"): 9}


def test_epochs_only_grow_whatever_the_clock_and_the_index_do(archive: Archive) -> None:
    assert archive.load().epoch == NOW
    archive = reopened(archive, now_ms=5)
    assert archive.epoch == NOW + 1
    archive.close()
    (archive.directory / "index.sqlite3").unlink()
    with reopened(archive, now_ms=5) as archive:
        assert archive.epoch == NOW + 2
    with reopened(archive, now_ms=2 * NOW) as archive:
        assert archive.epoch == 2 * NOW


# --- the directory and the index -------------------------------------------------------------------------------------


def test_a_second_archive_on_the_same_directory_is_refused(archive: Archive) -> None:
    with pytest.raises(DirectoryUnusable, match=f"in use by another broadcaster .pid {os.getpid()}") as refusal:
        Archive.open(archive.directory, now_ms=NOW)
    assert str(archive.directory) in str(refusal.value)
    with pytest.raises(DirectoryUnusable):
        rebuild_index(archive.directory)
    keep(archive, "policy", 1, payload(10, 1))


def test_everything_is_readable_by_its_owner_alone(archive: Archive) -> None:
    keep(archive, "policy", 1, payload(10, 1))
    for path in archive.directory.rglob("*"):
        assert path.stat().st_mode & 0o777 == (0o700 if path.is_dir() else 0o600), path


def test_a_path_that_is_no_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DirectoryUnusable, match="file"):
        Archive.open(tmp_path / "file", now_ms=NOW)


def test_a_closed_archive_says_so(archive: Archive) -> None:
    version = keep(archive, "policy", 1, payload(10, 1))
    archive.close()
    archive.close()
    assert not archive.health.writable
    for call in (lambda: archive.load(), lambda: archive.read(version, 0, 1), lambda: archive.reserve(1)):
        with pytest.raises(Closed):
            call()


def test_the_index_is_opened_so_that_a_commit_is_durable(tmp_path: Path) -> None:
    raw, found = sqlite.open_durable(tmp_path / "index.sqlite3", SCHEMAS)
    pragmas = {name: raw.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "journal_mode", "locking_mode")}
    raw.close()
    assert found is None and pragmas == {"synchronous": 2, "journal_mode": "wal", "locking_mode": "exclusive"}


def test_an_index_of_a_newer_program_is_refused_and_not_touched(archive: Archive) -> None:
    keep(archive, "policy", 1, payload(10, 1))
    archive.close()
    index = archive.directory / "index.sqlite3"
    raw, found = sqlite.open_durable(index, SCHEMAS)
    assert found == SCHEMAS[-1]
    raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
    before = {path: path.read_bytes() for path in archive.directory.rglob("*") if path.is_file() and path.name != "lock"}
    with pytest.raises(DirectoryUnusable, match="schema 9999, newer"):
        Archive.open(archive.directory, now_ms=NOW)
    assert before == {path: path.read_bytes() for path in archive.directory.rglob("*") if path.is_file() and path.name != "lock"}


def test_the_schema_goes_down_and_up_again_and_nothing_is_lost(archive: Archive) -> None:
    keep(archive, "policy", 1, payload(10, 1))
    archive.reserve_numbers([("default", "policy", 50)])
    before = archive.load()
    archive.close()
    downgrade(archive.directory / "index.sqlite3", "base")
    with Archive.open(archive.directory, now_ms=NOW) as again:
        loaded = again.load()
    assert (loaded.models, loaded.versions, loaded.floors) == (before.models, before.versions, before.floors)


def test_the_known_schemas_are_the_migrations_there_are() -> None:
    folder = Path(manifests.__file__).parent / "migrations" / "versions"
    assert SCHEMAS == tuple(sorted(path.name[1:5] for path in folder.glob("v[0-9]*.py")))


def test_an_older_copy_of_the_index_catches_up_with_the_files(archive: Archive) -> None:
    keep(archive, "policy", 1, payload(10, 1))
    keep(archive, "policy", 2, payload(11, 2))
    archive.close()
    index = archive.directory / "index.sqlite3"
    copy = index.read_bytes()
    with Archive.open(archive.directory, now_ms=NOW) as archive:
        keep(archive, "policy", 3, payload(12, 3))
        archive.set_tags("default", "policy", 2, {"new": "tag"})
        archive.delete_version("default", "policy", 1)
        newest = state_of(archive.load())
    index.write_bytes(copy)
    with Archive.open(archive.directory, now_ms=NOW) as archive:
        assert state_of(archive.load()) == newest


def test_a_copied_directory_is_the_same_archive(archive: Archive, tmp_path: Path) -> None:
    data = payload(70_000, 1)
    version = keep(archive, "policy", 1, data)
    archive.close()
    shutil.copytree(archive.directory, tmp_path / "copy")
    with Archive.open(tmp_path / "copy", now_ms=NOW) as copy:
        assert copy.load().versions == [version]
        assert read_all(copy, version) == data


# --- files that carry their own check ---------------------------------------------------------------------------------

names = st.from_regex(PATTERN, fullmatch=True).filter(str.isascii)
texts = st.dictionaries(st.text(max_size=20), st.text(max_size=20), max_size=4)
sizes = st.integers(0, 1 << 25)
numbers = st.integers(1, (1 << 63) - 1)


@st.composite
def archived(draw: st.DrawFn) -> ArchivedVersion:
    size = draw(sizes)
    count = 16 * chunk_count(size)
    info = VersionInfo(
        namespace=draw(names),
        model_id=draw(names),
        number=draw(numbers),
        size=size,
        digest=draw(st.binary(min_size=16, max_size=16)).hex(),
        sha256=draw(st.binary(min_size=32, max_size=32)).hex(),
        archived=True,
        creation_timestamp=draw(st.integers(0, 1 << 62)),
        content_type=draw(st.text(max_size=30)),
        user_data=draw(texts),
        metrics=draw(st.dictionaries(st.text(max_size=10), st.floats(allow_nan=False), max_size=3)),
        tags=draw(texts),
    )
    digests = draw(st.binary(min_size=count, max_size=count))
    return ArchivedVersion(info=info, upload_id=draw(st.binary(max_size=16)), epoch=draw(numbers), chunk_digests=digests)


@given(archived(), st.data())
def test_a_manifest_reads_back_the_same_and_no_damage_goes_unseen(version: ArchivedVersion, data: st.DataObject) -> None:
    sealed = manifests.encode_version(version)
    assert manifests.decode_version(sealed, "here") == version
    at, bit = data.draw(st.integers(0, len(sealed) - 1)), data.draw(st.integers(0, 7))
    flipped = bytearray(sealed)
    flipped[at] ^= 1 << bit
    for damaged in (bytes(flipped), sealed[:at], sealed + b"x"):
        with pytest.raises(StoreCorrupt):
            manifests.decode_version(damaged, "here")
    with pytest.raises(StoreCorrupt):
        manifests.decode_model(sealed, "here")


@given(st.binary(max_size=200), st.booleans())
def test_hostile_manifests_are_corrupt_and_nothing_else(body: bytes, sealed: bool) -> None:
    head = manifests._HEAD.pack(manifests.MAGIC, manifests.FORMAT, manifests.VERSION) + body
    with pytest.raises(StoreCorrupt):
        manifests.decode_version(head + xxhash.xxh3_128_digest(head) if sealed else body, "here")


records = st.lists(st.tuples(st.just("raise"), names, names, numbers), max_size=8)


@given(records, st.data())
def test_a_torn_or_damaged_floor_record_costs_itself_only(found: list[floors.Record], data: st.DataObject) -> None:
    pieces = [floors.encode(record) for record in found]
    whole = b"".join(pieces)
    assert list(floors.decode(whole)) == found
    keep_bytes = data.draw(st.integers(0, len(whole)))
    torn = list(floors.decode(whole[:keep_bytes]))
    assert torn == found[: len(torn)] and len(torn) >= len(found) - 1 - sum(
        keep_bytes <= sum(map(len, pieces[:index])) for index in range(len(pieces))
    )
    if found:
        hit = data.draw(st.integers(0, len(found) - 1))
        pieces[hit] = b"\0" * data.draw(st.integers(0, len(pieces[hit]))) + data.draw(st.binary(max_size=40))
        assert [record for record in floors.decode(b"".join(pieces)) if record in found] == found[:hit] + found[hit + 1 :]


def test_the_floor_file_is_written_anew_before_it_grows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "COMPACT_AT", 2_000)
    with Folder.open(tmp_path) as root, root.folder("staging") as staging:
        log = Floors(root, staging)
        for number in range(1, 300):
            log.raise_to([("default", "policy", number)])
            assert (tmp_path / "floors.log").stat().st_size < 2_200
        log.close()
        log = Floors(root, staging)
        assert log.ceilings == {("default", "policy"): 299}
        log.close()


# --- the worker --------------------------------------------------------------------------------------------------------


class Results:
    """What a worker's jobs came to, in order, and a way to wait for them."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self._changed = threading.Condition()

    def add(self, result: object) -> None:
        with self._changed:
            self.seen.append(result)
            self._changed.notify_all()

    def wait(self, count: int) -> list[object]:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.seen) >= count, timeout=20)
            return self.seen


def test_a_worker_runs_jobs_in_order_and_hands_errors_on() -> None:
    worker, results = Worker("archive"), Results()
    for number in range(20):
        worker.submit(lambda number=number: 60 // (number - 10), results.add)  # type: ignore[misc]
    found = results.wait(20)
    assert isinstance(found[10], ZeroDivisionError)
    assert [*found[:10], *found[11:]] == [60 // (number - 10) for number in range(20) if number != 10]
    assert worker.close()


def test_a_full_worker_is_busy_and_a_closed_one_refuses_what_waits() -> None:
    worker, results = Worker("archive", capacity=2), Results()
    started, go = threading.Event(), threading.Event()
    worker.submit(lambda: (started.set(), go.wait(20))[1], results.add)
    assert started.wait(20)
    worker.submit(lambda: "never", results.add)
    worker.submit(lambda: "never", results.add)
    with pytest.raises(Busy):
        worker.submit(lambda: "never", results.add)
    assert not worker.close(timeout=0)
    with pytest.raises(Closed):
        worker.submit(lambda: "never", results.add)
    go.set()
    assert worker.close(timeout=20)
    found = results.wait(3)
    assert found[0] is True and all(isinstance(result, Closed) for result in found[1:])
    assert len(found) == 3


def test_a_caller_that_fails_in_its_own_answer_does_not_stop_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[object] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: reported.append(args.exc_type))
    worker, results = Worker("archive"), Results()
    worker.submit(lambda: 1, lambda _: 1 // 0)  # type: ignore[arg-type,return-value]
    worker.submit(lambda: 2, results.add)
    assert results.wait(1) == [2] and reported == [ZeroDivisionError]
    assert worker.close()
