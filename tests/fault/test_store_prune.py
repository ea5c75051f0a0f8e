"""The archive is killed while it prunes: no more goes than was named, what went stays gone, and going on ends the same."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from broadcaster.protocol.version import ModelInfo
from broadcaster.store import Archive, Loaded, rebuild_index, verify
from tests.fault.archives import NOW, at_point, forked, keep, payload, read_all

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
]

ALPHA, BETA = ("default", "alpha"), ("default", "beta")
BYTES = {number: payload(70_000, number // 2) for number in range(1, 11)}
"""2 and 3 have the same, 4 and 5, and so on."""
FIRST, SECOND = [1, 2, 4, 6, 7], [9, 10]
"""What is deleted: part of a blob's versions, and all of them."""


@pytest.fixture(scope="module")
def filled(shared_folder: Path) -> Path:
    directory = shared_folder / "filled"
    with Archive.open(directory, now_ms=NOW) as archive:
        for model_id in ("alpha", "beta"):
            archive.set_model(ModelInfo(namespace="default", model_id=model_id, creation_timestamp=5))
        for number, data in BYTES.items():
            keep(archive, "alpha", number, data)
        for number in (20, 21):
            archive.keep(None, BYTES[1], keep(archive, "beta", number, BYTES[1]).info, bytes([number]) * 16)
    return directory


def prune(directory: Path, ack: Callable[[], None]) -> None:
    """Pins, deletes and deletes a whole model; acknowledges each step."""
    with Archive.open(directory, now_ms=NOW) as archive:
        ack()
        archive.set_pinned(*ALPHA, 8, pinned=True)
        ack()
        archive.delete_versions(*ALPHA, FIRST)
        ack()
        archive.delete_versions(*ALPHA, SECOND)
        ack()
        archive.delete_model(*BETA)
        ack()


def numbers(loaded: Loaded, model: tuple[str, str]) -> set[int]:
    return {one.info.number for one in loaded.versions if (one.info.namespace, one.info.model_id) == model}


def check(directory: Path, acked: int) -> None:
    """After a life that ended behind `acked` steps."""
    with Archive.open(directory, now_ms=NOW) as archive:
        loaded = archive.load()
        assert not loaded.notes
        for version in loaded.versions:
            if version.info.model_id == "alpha":
                assert read_all(archive, version) == BYTES[version.info.number]
    gone = set(BYTES) - numbers(loaded, ALPHA)
    assert gone <= set(FIRST) | (set(SECOND) if acked >= 3 else set()), "nothing goes that was not named"
    assert gone >= (set(FIRST) if acked >= 3 else set()) | (set(SECOND) if acked >= 4 else set())
    pinned = [version.info.number for version in loaded.versions if version.info.pinned]
    assert pinned == [8] if acked >= 2 else pinned in ([], [8])
    assert numbers(loaded, BETA) == {20, 21} if acked < 4 else acked == 4 or numbers(loaded, BETA) == set()
    uploads = {bytes([number % 256]) * 16: (ALPHA, number) for number in gone}
    assert {upload: came for upload, came in loaded.deleted_uploads.items() if came[0] == ALPHA} == uploads
    assert {n for first, last in loaded.tombstones.get(ALPHA, ()) for n in range(first, last + 1)} == gone
    assert verify(directory).problems == [] and not [*(directory / "trash").iterdir(), *(directory / "staging").iterdir()]
    rebuild_index(directory)
    with Archive.open(directory, now_ms=NOW) as archive:
        again = archive.load()
        assert (numbers(again, ALPHA), again.tombstones) == (numbers(loaded, ALPHA), loaded.tombstones)
        left = sorted(numbers(again, ALPHA) & set(FIRST + SECOND))
        if left:
            archive.delete_versions(*ALPHA, left)
        assert numbers(archive.load(), ALPHA) == {3, 5, 8}, "going on ends the same"


def killed_life(filled: Path, directory: Path, point: int) -> bool:
    shutil.copytree(filled, directory)

    def job(say: Callable[[bytes], None]) -> None:
        at_point(point, lambda: os.kill(os.getpid(), signal.SIGKILL))
        prune(directory, lambda: say(b"a"))

    with forked(job) as child:
        child.finish()
    check(directory, child.acked)
    shutil.rmtree(directory)
    assert child.killed or child.acked == 5
    return child.killed


def test_a_kill_while_pruning_deletes_no_more_than_was_named(folder: Path, filled: Path) -> None:
    points = range(1, 1000, 13)  # The long test below takes them all.
    last = next(point for point in points if not killed_life(filled, folder / str(point), point))
    assert last > 60, "the sweep must have met the whole life"


@pytest.mark.fault_long
@pytest.mark.deadline(300)
def test_a_kill_anywhere_while_pruning_deletes_no_more_than_was_named(folder: Path, filled: Path) -> None:
    point = 1
    while killed_life(filled, folder / str(point), point):
        point += 1
    assert point > 60
