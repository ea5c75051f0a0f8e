"""Terms in the archive: larger each time, one publisher's for ever, whatever is lost beside them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broadcaster.protocol.errors import StoreUnavailable
from broadcaster.protocol.version import ModelInfo
from broadcaster.store import Archive, floors, rebuild_index
from broadcaster.store.floors import Floors
from broadcaster.store.folders import Folder

NOW = 1_700_000_000_000
KEY = ("default", "policy")
ONE, OTHER = bytes(16), bytes(15) + b"\1"


def test_each_publisher_gets_a_larger_term_and_the_same_again_while_it_holds_it(tmp_path: Path) -> None:
    with Archive.open(tmp_path, now_ms=NOW) as archive:
        assert [archive.take_term(*KEY, who) for who in (ONE, ONE, OTHER, OTHER, ONE)] == [1, 1, 2, 2, 3]
        assert archive.take_term("default", "other", ONE) == 1
        assert archive.take_term("lab", "policy", ONE) == 1
        assert archive.load().terms == {KEY: 3, ("default", "other"): 1, ("lab", "policy"): 1}


def test_only_the_holder_or_an_operator_gives_a_term_up_and_the_next_is_larger(tmp_path: Path) -> None:
    with Archive.open(tmp_path, now_ms=NOW) as archive:
        assert archive.give_up_term(*KEY, None) is None
        archive.take_term(*KEY, ONE)
        assert archive.give_up_term(*KEY, OTHER) is None and archive.load().terms == {KEY: 1}
        assert archive.give_up_term(*KEY, ONE) == 1 and archive.load().terms == {}
        assert archive.give_up_term(*KEY, ONE) is None
        assert archive.take_term(*KEY, ONE) == 2
        assert archive.give_up_term(*KEY, None) == 2
    with Archive.open(tmp_path, now_ms=NOW) as archive:
        assert archive.load().terms == {}
        assert archive.take_term(*KEY, OTHER) == 3


@pytest.mark.parametrize("lost", ["nothing", "index.sqlite3", "the model", "the index, rebuilt"])
def test_a_term_outlives_restarts_the_index_and_the_model(tmp_path: Path, lost: str) -> None:
    with Archive.open(tmp_path, now_ms=NOW) as archive:
        archive.set_model(ModelInfo(namespace="default", model_id="policy"))
        archive.take_term(*KEY, ONE)
        archive.take_term(*KEY, OTHER)
        if lost == "the model":
            archive.delete_model(*KEY)
    if lost == "the index, rebuilt":
        rebuild_index(tmp_path)
    (tmp_path / lost).unlink(missing_ok=True)
    with Archive.open(tmp_path, now_ms=NOW) as archive:
        assert archive.load().terms == {KEY: 2}
        assert archive.take_term(*KEY, OTHER) == 2
        assert archive.take_term(*KEY, ONE) == 3


def test_when_the_file_of_terms_is_lost_they_go_on_far_above_and_nobody_holds_one(tmp_path: Path) -> None:
    with Archive.open(tmp_path, now_ms=NOW) as archive:
        archive.reserve_numbers([(*KEY, 10)])
        for _ in range(3):
            last = archive.take_term(*KEY, os.urandom(16))
        held = archive.take_term(*KEY, ONE)
    (tmp_path / "floors.log").unlink()
    with Archive.open(tmp_path, now_ms=NOW) as archive:
        assert archive.load().terms == {}
        again = archive.take_term(*KEY, ONE)
        assert again > held > last
    with Archive.open(tmp_path, now_ms=NOW) as archive:
        assert archive.load().terms == {KEY: again}
        assert archive.take_term("default", "another", ONE) > held


def test_terms_stay_when_the_file_is_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floors, "COMPACT_AT", 2_000)
    with Folder.open(tmp_path) as root, root.folder("staging") as staging:
        log = Floors(root, staging)
        for number in range(1, 300):
            assert log.take_term(KEY, number.to_bytes(16, "big")) == number
            assert (tmp_path / "floors.log").stat().st_size < 2_200
        log.close()
        log = Floors(root, staging)
        assert log.held == {KEY: 299}
        log.close()


def test_a_term_that_was_not_made_durable_is_not_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_fd: int) -> None:
        raise OSError(5, "Input/output error")

    with Archive.open(tmp_path, now_ms=NOW) as archive:
        archive.take_term(*KEY, ONE)
        with monkeypatch.context() as patch:
            patch.setattr(floors, "sync", failing)
            with pytest.raises(StoreUnavailable):
                archive.take_term(*KEY, OTHER)
        assert archive.load().terms == {KEY: 1}
        archive.probe()
        assert archive.take_term(*KEY, OTHER) == 2


def test_a_damaged_record_of_a_term_costs_itself_only() -> None:
    found = [(floors.TERM, *KEY, number, bytes([number]) * 16) for number in range(1, 4)]
    pieces = [floors.encode(record) for record in found]
    assert list(floors.decode(b"".join(pieces))) == found
    pieces[1] = pieces[1][:20] + b"\0" + pieces[1][21:]
    assert list(floors.decode(b"".join(pieces))) == [found[0], found[2]]
