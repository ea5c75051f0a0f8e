"""What a careless user does, and what it comes to: an answer that can be acted upon, and nothing that is lost on the way."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from broadcaster.cli import main
from broadcaster.store import failpoints, migrate, verify
from clients import Client, Conflict, InvalidRequest, UnknownVersion, VersionDeleted, connect
from tests.broadcaster_process import BroadcasterProcess
from tests.integration.commands import command, refused
from tests.integration.cores import rooms, serving


@pytest.fixture
def client(shared: BroadcasterProcess) -> Iterator[Client]:
    with connect(shared.url) as connected:
        yield connected


def test_latest_is_the_newest_version_everywhere_and_no_alias(client: Client, shared: BroadcasterProcess, model: str) -> None:
    publisher, registry = client.publisher(model), client.registry
    for _ in range(2):
        publisher.publish(b"weights")
    assert registry.get(model, "latest").info.number == 2 and registry.archive(model, "latest").number == 2
    assert "2" in command("fetch", model, "latest", "--json", url=shared.url, cwd=shared.directory).stdout
    with pytest.raises(InvalidRequest, match="latest means the newest version"):
        registry.set_alias(model, "latest", 1)
    with pytest.raises(InvalidRequest, match="without an alias"):
        client.subscriber(model, alias="latest")
    assert registry.set_alias(model, "latest", None).aliases == {}, "one of before may be taken away"


def test_a_number_may_be_text_and_a_name_that_nobody_gave_is_told_as_one(client: Client, model: str) -> None:
    client.publisher(model).publish(b"weights")
    assert [client.registry.get(model, ref).info.number for ref in ("1", "-1")] == [1, 1]
    with pytest.raises(UnknownVersion, match="no version with alias champion"):
        client.registry.get(model, "champion")


@pytest.mark.parametrize("wrong", ["champion", "0", "1.0", "²", "latest"])
def test_what_is_deleted_is_named_by_its_number(wrong: str) -> None:
    said = CliRunner().invoke(main, ["delete", "policy", wrong])
    assert said.exit_code == 2 and f"{wrong!r} is no version's number" in said.output


def test_what_an_alias_is_expected_to_name_is_a_number(client: Client, model: str) -> None:
    client.publisher(model).publish(b"weights")
    for wrong in (-1, "1", True, 1.0):
        with pytest.raises(InvalidRequest, match="expect"):
            client.registry.set_alias(model, "champion", 1, expect=wrong)  # type: ignore[arg-type]
    with pytest.raises(Conflict, match="expected 1, found 0"):
        client.registry.set_alias(model, "champion", 1, expect=1)
    assert client.registry.set_alias(model, "champion", 1, expect=0).aliases == {"champion": 1}


def test_user_data_are_not_removed_by_mistake(client: Client, model: str) -> None:
    client.registry.create(model, user_data={"owner": "anna"})
    with pytest.raises(InvalidRequest, match="user_data"):
        client.registry.update(model, None, description="new")  # type: ignore[arg-type]
    assert client.registry.model(model).user_data == {"owner": "anna"}
    assert client.registry.update(model, {}).user_data == {}


def test_each_deleted_version_is_told_as_deleted_to_who_wants_every_one(client: Client, model: str) -> None:
    publisher = client.publisher(model)
    with client.subscriber(model, every=True) as subscriber:
        for number in range(1, 7):
            publisher.publish(bytes(100_000), archived=number > 3)
        subscriber.wait(newer_than=5, timeout=20)
        client.registry.delete(model, 2)
        client.registry.delete(model, 5)
        found: list[Any] = []
        every = subscriber.every()
        while found[-1:] != [6]:
            try:
                found.append(next(every).version.number)
            except VersionDeleted as gone:
                found.append(-gone.number)
    assert [abs(number) for number in found] == [1, 2, 3, 4, 5, 6] and -5 in found and -2 in found


def test_publications_are_timed_while_somebody_wants_to_know(shared: BroadcasterProcess, model: str) -> None:
    with connect(shared.url) as client:
        publisher, sizes = client.publisher(model), (10, 100_000, 3_000_000)
        with client.timing() as timings:
            for size in sizes:
                publisher.publish(bytes(size))
            publisher.publish(b"kept", archived=True)
            publisher.publish_nowait(b"later").result(20)
        publisher.publish(b"nobody asks")
    assert [one.what for one in timings] == [f"publish {model}"] * 5
    assert all(len(one.hops) == 1 and 0 < one.round_trip < 30 for one in timings)
    assert any(one.hops[0].queued for one in timings), "the one that waited for the disk"


def test_who_waits_for_acks_in_vain_alarms_nobody(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with serving(tmp_path) as (made, _), connect(made.endpoints["data"]) as client:
        number = client.publisher("policy").publish(b"weights").number
        caplog.clear()
        with pytest.raises(TimeoutError):
            client.publisher("policy").wait(number, applied_by=3, timeout=0.2)
        assert not [record for record in caplog.records if record.levelname not in ("DEBUG", "INFO")]


def test_a_version_whose_manifest_is_lost_can_be_deleted(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with serving(tmp_path) as (_, peer):
        for payload in (b"one", b"two"):
            assert peer.publish("policy", payload, archived=True).kind == "done"
    (manifest,) = archive.glob("manifests/*/1.manifest")
    manifest.write_bytes(b"nothing")
    for path in archive.glob("index.sqlite3*"):
        path.unlink()
    with serving(tmp_path) as (made, peer):
        assert peer.ask("get-version", model_id="policy", ref=1).code == "store-corrupt"
        assert peer.stats()["manifests_lost"] == 1
        assert peer.ask("delete-version", model_id="policy", number=1).kind == "deleted"
        assert peer.ask("get-version", model_id="policy", ref=1).code == "version-deleted"
        assert peer.stats()["manifests_lost"] == 0 and rooms(made).catalog.numbers(("default", "policy")) == [2]
    with serving(tmp_path) as (_, peer):
        assert peer.ask("get-version", model_id="policy", ref=1).code == "version-deleted" and peer.numbers("policy") == [2]
    report = verify(archive)
    assert report.problems == [] and report.orphans == [], "its payload is gone, too"


def test_an_archive_is_verified_while_versions_come_and_go(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with serving(tmp_path) as (_, peer):
        for number in range(1, 5):
            assert peer.publish("policy", b"%d" % number * 50_000, archived=True).kind == "done"
        deleted: list[int] = []

        def progress(done: int, total: int) -> None:
            if not deleted:  # What was read as there is not there any more, and what was not is.
                deleted.extend((1, 2, 3, 4))
                for number in deleted:
                    assert peer.ask("delete-version", model_id="policy", number=number).kind == "deleted"
                assert peer.publish("policy", b"five", archived=True).kind == "done"

        report = verify(archive, progress=progress)
        assert deleted and report.in_use and report.problems == [] and report.orphans == []
        (blob,) = (path for path in (archive / "blobs").rglob("*") if path.is_file())
        blob.write_bytes(b"evil")
        report = verify(archive)
        assert len(report.problems) == 1 and report.damaged and not report.quarantined, "told, and left where it is"
        assert blob.exists()
    assert verify(archive).quarantined and not verify(archive).in_use


def test_an_older_program_gets_its_index_back_and_a_newer_one_all_that_was_said(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    with serving(tmp_path) as (_, peer):
        assert peer.publish("policy", b"one", archived=True).kind == "done"
        assert peer.ask("describe", model_id="policy", number=1, description="the first").kind == "version"
    assert "schema 0002; this program knows 0001, 0002" in command("migrate", archive).stdout
    assert "'7' is no schema of this program: it knows 0001, 0002" in refused(command("migrate", archive, "--to", "7"), 2)
    report = migrate(archive, "0001")
    assert (report.found, report.schema, report.copy) == ("0002", "0001", "index.sqlite3.0002")
    assert (archive / "index.sqlite3.0002").stat().st_size > 0
    assert migrate(archive, None).schema == "0001" and migrate(archive, "0001").copy is None
    (archive / "index.sqlite3.0002").replace(archive / "index.sqlite3")
    assert migrate(archive, None).schema == "0002", "the copy is the index as it was"
    assert migrate(archive, "0001").schema == "0001" and migrate(archive, "0002").schema == "0002"
    migrate(archive, "0001")
    with serving(tmp_path) as (_, peer):
        assert peer.ask("get-version", model_id="policy", ref=1).fields["version"]["description"] == "the first"


def test_a_migration_that_fails_leaves_the_index_as_it_was(tmp_path: Path) -> None:
    with serving(tmp_path) as (_, peer):
        assert peer.publish("policy", b"one", archived=True).kind == "done"
    met: list[str] = []

    def fail_at(point: int) -> None:
        met.clear()

        def hook(name: str) -> None:
            met.append(name)
            if len(met) == point:
                raise OSError(5, "injected")

        failpoints.arm(hook)

    try:
        for point in range(1, 8):
            fail_at(point)
            try:
                done = migrate(tmp_path / "archive", "0001")
            except ValueError as error:
                assert "injected" in str(error)
            else:
                assert done.schema == "0001"
                break
            finally:
                failpoints.arm(None)
            assert migrate(tmp_path / "archive", None).schema == "0002", f"it failed at {met}"
        assert point > 3
    finally:
        failpoints.arm(None)
