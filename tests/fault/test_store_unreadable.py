"""A disk that does not give one file: that one is named, nothing is moved, and all others are looked at, checked and copied."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from broadcaster.store import Archive, verify
from broadcaster.store.backup import backup, restore
from tests.fault.archives import NOW, blob_of, fail, flip, keep, payload

TAKEN = 1_000_000.0


class Sector:
    """A place on the disk that cannot be read: whatever file lies on it fails, when it is opened or when it is read."""

    def __init__(self, patch: pytest.MonkeyPatch, bad: Path, *, opens: bool) -> None:
        place, preadv, pread, open_ = os.stat(bad).st_ino, os.preadv, os.pread, os.open

        def check(fd: int) -> None:
            if os.fstat(fd).st_ino == place:
                fail(errno.EIO)

        def opened(*what: object, **more: object) -> int:
            fd = open_(*what, **more)  # type: ignore[arg-type]
            try:
                check(fd)
            except OSError:
                os.close(fd)
                raise
            return fd

        patch.setattr(os, "preadv", lambda fd, *rest: (check(fd), preadv(fd, *rest))[1])
        patch.setattr(os, "pread", lambda fd, *rest: (check(fd), pread(fd, *rest))[1])
        if opens:
            patch.setattr(os, "open", opened)


@pytest.fixture(params=["a payload", "a manifest"])
def bad(archive: Archive, request: pytest.FixtureRequest) -> Path:
    """One file of six versions; another version is damaged."""
    versions = [keep(archive, "policy", number, payload(1000, number)) for number in range(1, 7)]
    flip(blob_of(archive, versions[1]), 7)
    if request.param == "a payload":
        return blob_of(archive, versions[4])
    (manifest,) = archive.directory.glob("manifests/*/5.manifest")
    return manifest


@pytest.mark.parametrize("opens", [False, True], ids=["read", "open"])
def test_the_scrub_goes_on(archive: Archive, bad: Path, monkeypatch: pytest.MonkeyPatch, opens: bool) -> None:
    Sector(monkeypatch, bad, opens=opens)
    scrub = archive.scrub()
    for _ in scrub.steps():
        pass
    assert scrub.unreadable == 1 and scrub.last_complete > 0 and archive.quarantined == 1
    assert bad.exists() and archive.health.writable


@pytest.mark.parametrize("opens", [False, True], ids=["read", "open"])
def test_it_is_named_by_who_verifies_and_stays_where_it_is(
    archive: Archive, bad: Path, monkeypatch: pytest.MonkeyPatch, opens: bool
) -> None:
    archive.close()
    with monkeypatch.context() as patch:
        Sector(patch, bad, opens=opens)
        report = verify(archive.directory)
    named = "policy version 5" if "blobs" in str(bad) else "5.manifest"
    assert len(report.problems) == 2 and any(named in problem for problem in report.problems), report.problems
    assert len(report.damaged) == 1 and len(report.not_given) + len(report.unreadable) == 1
    assert bad.exists() and verify(archive.directory).not_given == []


@pytest.mark.parametrize("opens", [False, True], ids=["read", "open"])
def test_a_backup_has_all_others_and_names_it(
    archive: Archive, bad: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, opens: bool
) -> None:
    with monkeypatch.context() as patch:
        Sector(patch, bad, opens=opens)
        report = backup(archive.directory, folder / "backup", TAKEN)
    assert len(report.problems) == 2 and report.copied == 4, report.problems
    restore(folder / "backup", folder / "again", TAKEN)
    with Archive.open(folder / "again", now_ms=NOW) as again:
        assert {version.info.number for version in again.load().versions} >= {1, 3, 4, 6}
    assert backup(archive.directory, folder / "backup", TAKEN).copied == 1, "the disk answers again: what was missing is copied"
