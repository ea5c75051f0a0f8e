"""Files and directories: to a payload, and back to disk."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest

from broadcaster.protocol.errors import AlreadyExists, InvalidPayload
from broadcaster.protocol.version import DIRECTORY, OPAQUE, TENSORS
from clients.codec import PIECE, files, plan
from tests.conformance.weights import copied


def make_tree(root: Path, *, order: int = 1) -> Path:
    rng = np.random.default_rng(0)
    contents = {
        "model.bin": rng.bytes(2 * PIECE + 3),
        "a/b/deep.txt": b"deep",
        "a-b": b"",
        "a/run.sh": b"#!/bin/sh\n",
        "ü/" + "long" * 60 + ".txt": b"long name",
        "exact": bytes(512),
    }
    for name, content in list(contents.items())[::order]:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / "a/run.sh").chmod(0o700)
    (root / "empty").mkdir()
    return root


def contents_of(root: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")}


@pytest.mark.parametrize("size", [0, 1, PIECE, 3 * PIECE + 1])
def test_a_file_is_opaque_and_streamed_as_it_is(tmp_path, size):
    path = tmp_path / "policy.bin"
    path.write_bytes(np.random.default_rng(1).bytes(size))
    made = plan(path)
    assert (made.content_type, made.size, made.metadata) == (OPAQUE, size, {"name": "policy.bin"})
    assert copied(made).tobytes() == path.read_bytes()


def test_a_directory_is_packed_the_same_whatever_made_it(tmp_path):
    first, second = make_tree(tmp_path / "one"), make_tree(tmp_path / "two", order=-1)
    os.utime(second / "a-b", (1, 1))
    (second / "a-b").chmod(0o600)
    payloads = [copied(plan(path)) for path in (first, second)]
    assert payloads[0].tobytes() == payloads[1].tobytes()
    assert plan(first).content_type == DIRECTORY
    with tarfile.open(fileobj=io.BytesIO(payloads[0].tobytes())) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == sorted(member.name for member in members)
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in members} == {(0, 0, 0, "", "")}
    assert {m.name: m.mode for m in members if m.name in ("a", "a/run.sh", "a-b")} == {
        "a": 0o755,
        "a/run.sh": 0o755,
        "a-b": 0o644,
    }


def test_a_directory_comes_back_as_it_was(tmp_path):
    source = make_tree(tmp_path / "source")
    target = tmp_path / "target"
    assert files.write(copied(plan(source)), DIRECTORY, target) == target
    assert contents_of(target) == contents_of(source)
    assert os.access(target / "a/run.sh", os.X_OK) and not os.access(target / "model.bin", os.X_OK)
    assert list(tmp_path.glob(".*")) == []


def test_an_empty_directory_is_fine(tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    files.write(copied(plan(tmp_path / "source")), DIRECTORY, tmp_path / "target")
    assert contents_of(tmp_path / "target") == {}


def test_links_and_special_files_are_refused_by_name(tmp_path):
    (tmp_path / "d/inner").mkdir(parents=True)
    link = tmp_path / "d/inner/link"
    for target in ("/etc/passwd", ".", "nowhere"):
        link.symlink_to(target)
        with pytest.raises(InvalidPayload, match="inner/link: a symbolic link"):
            plan(tmp_path / "d")
        link.unlink()
    os.mkfifo(tmp_path / "d/pipe")
    for path in (tmp_path / "d", tmp_path / "d/pipe"):
        with pytest.raises(InvalidPayload, match="pipe: a special file"):
            plan(path)
    with pytest.raises(InvalidPayload, match="absent: No such file"):
        plan(tmp_path / "absent")


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    with open(os.fsencode(tmp_path) + b"/\xff", "wb"):
        pass
    with pytest.raises(InvalidPayload, match=r"udcff: its name is not UTF-8"):
        plan(tmp_path)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize(
    ("change", "told"), [(b"longer than before", "grew"), (b"s", "shrank"), (None, "No such file"), ("pipe", "no longer a file")]
)
def test_a_file_that_changes_after_it_was_planned_is_refused(tmp_path, inside, change, told):
    path = tmp_path / "d/file"
    path.parent.mkdir()
    path.write_bytes(b"before")
    made = plan(path.parent if inside else path)
    path.unlink()
    if change == "pipe":
        os.mkfifo(path)
    elif change is not None:
        path.write_bytes(change)
    with pytest.raises(InvalidPayload, match=told):
        copied(made)


def test_a_file_that_becomes_a_link_inside_a_directory_is_not_followed(tmp_path):
    (tmp_path / "d").mkdir()
    (tmp_path / "d/file").write_bytes(b"before")
    (tmp_path / "secret").write_bytes(b"secret")
    made = plan(tmp_path / "d")
    (tmp_path / "d/file").unlink()
    (tmp_path / "d/file").symlink_to(tmp_path / "secret")
    with pytest.raises(InvalidPayload, match="file: "):
        copied(made)


@pytest.mark.parametrize("content_type", [OPAQUE, TENSORS])
@pytest.mark.parametrize("fsync", [False, True])
def test_a_payload_is_written_to_a_file_in_one_step(tmp_path, content_type, fsync):
    path = tmp_path / "out.bin"
    for payload in (b"first", b"", np.arange(10, dtype=np.uint8), memoryview(b"last")):
        assert files.write(payload, content_type, path, fsync=fsync) == path
        assert path.read_bytes() == bytes(payload)
    with open(path, "rb") as reader:
        files.write(b"other", content_type, path, fsync=fsync)
        assert reader.read() == b"last"  # who reads the old one goes on reading it
    assert [found.name for found in tmp_path.iterdir()] == ["out.bin"]


def test_a_write_that_fails_leaves_nothing_and_keeps_what_was_there(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/kept").write_bytes(b"kept")
    with pytest.raises(OSError):
        files.write(b"x", OPAQUE, tmp_path / "out")
    with pytest.raises(AlreadyExists, match="not empty"):
        files.write(bytes(1024), DIRECTORY, tmp_path / "out")
    (tmp_path / "file").write_bytes(b"file")
    with pytest.raises(AlreadyExists):
        files.write(bytes(1024), DIRECTORY, tmp_path / "file")
    assert contents_of(tmp_path) == {"out": None, "out/kept": b"kept", "file": b"file"}


def member(name: str, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in more.items():
        setattr(info, key, value)
    return info


HOSTILE = {
    "absolute": [member("/tmp/escape")],
    "parent": [member("../escape")],
    "parent inside": [member("a/../../escape")],
    "symbolic link": [member("link", tarfile.SYMTYPE, linkname="/etc")],
    "hard link": [member("link", tarfile.LNKTYPE, linkname="../outside")],
    "device": [member("null", tarfile.CHRTYPE, devmajor=1, devminor=3)],
    "pipe": [member("pipe", tarfile.FIFOTYPE)],
    "twice": [member("a"), member("./a")],
    "file as directory": [member("a"), member("a/b")],
    "longer than it is": [member("a", size=10_000)],
    "a name with NUL": [member("a", pax_headers={"path": "a\0b"})],
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_tar_is_refused_and_leaves_nothing(tmp_path, case):
    raw = b"".join(info.tobuf(tarfile.PAX_FORMAT) for info in HOSTILE[case]) + bytes(1024)
    inner = tmp_path / "inner"
    inner.mkdir()
    with pytest.raises(InvalidPayload):
        files.write(raw, DIRECTORY, inner / "target")
    assert contents_of(tmp_path) == {"inner": None}
    assert not Path("/tmp/escape").exists()


@pytest.mark.parametrize("seed", range(30))
def test_a_damaged_tar_is_refused_or_unpacked_inside_its_directory(tmp_path, seed):
    rng = np.random.default_rng(seed)
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.txt").write_bytes(b"a" * 700)
    (source / "d").mkdir()
    (source / "d/b").write_bytes(b"b")
    raw = copied(plan(source)).copy()
    for _ in range(int(rng.integers(1, 4))):
        raw[int(rng.integers(len(raw)))] = rng.integers(256)
    inner = tmp_path / "inner"
    inner.mkdir()
    try:
        files.write(raw, DIRECTORY, inner / "target")
    except InvalidPayload:
        assert list(inner.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir()} == {"source", "inner"}
