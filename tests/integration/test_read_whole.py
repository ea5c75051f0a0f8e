"""A transient version stays until it is read: for a while, within a part of the budget, at no publisher's cost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from broadcaster.broker import reading
from broadcaster.catalog import Retention
from broadcaster.slots import SlotPool
from tests.bare_peer import CHUNK, WAIT, BarePeer, Said, heard, wait_until
from tests.integration.cores import rooms, serving

SIZE = 2 * CHUNK + 5


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "HOLD", 60.0)  # A machine that is busy with other tests must not end a hold.


def payload(number: int) -> bytes:
    return bytes([number]) * SIZE


def publish(peer: BarePeer, numbers: range) -> None:
    for number in numbers:
        said = peer.publish("policy", payload(number))
        assert said.kind == "done" and said.fields["version"]["number"] == number, said


def part(peer: BarePeer, number: int, offset: int) -> Said:
    return peer.ask("read", model_id="policy", number=number, offset=offset, length=CHUNK)


def test_a_version_that_is_being_read_is_read_whole_though_newer_ones_push_it_out(tmp_path: Path) -> None:
    with serving(tmp_path, retention=Retention(keep_large=2)) as (_, peer):
        publish(peer, range(1, 3))
        read = part(peer, 1, 0).payload or b""
        publish(peer, range(3, 9))
        assert peer.numbers("policy") == [1, 8]
        for offset in (CHUNK, 2 * CHUNK):
            read += part(peer, 1, offset).payload or b""
        assert read == payload(1)
        assert part(peer, 2, 0).code == "version-evicted"


@pytest.mark.parametrize("archived", [False, True])
@pytest.mark.parametrize(("offset", "length"), [(0, 4 * CHUNK), (CHUNK, 2 * CHUNK), (7, CHUNK + 1), (2 * CHUNK, 4 * CHUNK)])
def test_a_longer_read_is_answered_chunk_by_chunk(tmp_path: Path, archived: bool, offset: int, length: int) -> None:
    with serving(tmp_path) as (_, peer):
        payload = os.urandom(SIZE + CHUNK)
        assert peer.publish("policy", payload, archived=archived).kind == "done"
        said = [peer.ask("read", model_id="policy", number=1, offset=offset, length=length)]
        wanted = payload[offset : offset + length]
        while sum(len(one.payload or b"") for one in said) < len(wanted):
            said.append(heard(peer.data, "the next chunk", WAIT, envelope=1))
        pieces = sorted(range(0, len(wanted), CHUNK))
        assert sorted(len(one.payload or b"") for one in said) == sorted(len(wanted[at : at + CHUNK]) for at in pieces)
        assert {one.fields["request_id"] for one in said} == {said[0].fields["request_id"]}
        assert {bytes(one.payload or b"") for one in said} == {wanted[at : at + CHUNK] for at in pieces}


def test_a_reader_that_went_away_keeps_nothing_for_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "HOLD", 0.2)
    with serving(tmp_path, retention=Retention(keep_large=2)) as (core, peer):
        publish(peer, range(1, 3))
        assert part(peer, 1, 0).payload
        publish(peer, range(3, 5))
        wait_until(lambda: rooms(core).catalog.pinned_bytes == 0, "the hold is over")
        publish(peer, range(5, 6))
        assert peer.numbers("policy") == [4, 5] and part(peer, 1, CHUNK).code == "version-evicted"


def test_what_is_being_read_gives_way_to_what_is_published(tmp_path: Path) -> None:
    slot = SlotPool.charge(SIZE)
    with serving(tmp_path, retention=Retention(budget=40 * slot, keep_large=100)) as (_, peer):
        publish(peer, range(1, 31))
        for number in range(1, 11):
            assert part(peer, number, 0).payload
        assert peer.numbers("policy") == list(range(1, 31))
        publish(peer, range(31, 48))
        held = [number for number in peer.numbers("policy") if number <= 10]
        assert held == [1, 2, 3, 4, 5], "an eighth of the budget, and the first to ask"
    with serving(tmp_path / "small", retention=Retention(budget=16 * slot, keep_large=100)) as (_, peer):
        publish(peer, range(1, 15))
        for number in (1, 2):
            assert part(peer, number, 0).payload
        big = bytes(14 * slot - (1 << 20))  # Beside the newest it fits, beside what is read it does not.
        assert peer.publish("policy", big).kind == "done", "readers do not refuse a publisher anything"
        assert part(peer, 1, CHUNK).code == part(peer, 2, CHUNK).code == "version-evicted"


def test_a_version_that_is_deleted_while_it_is_read_is_gone(tmp_path: Path) -> None:
    with serving(tmp_path, retention=Retention(keep_large=3)) as (_, peer):
        publish(peer, range(1, 4))
        assert part(peer, 1, 0).payload
        peer.ask("delete-version", model_id="policy", number=1)
        assert part(peer, 1, CHUNK).code == "version-deleted"
        publish(peer, range(4, 9))
        assert peer.numbers("policy") == [6, 7, 8]
