"""Payloads that come piece by piece: into a granted slot, or out of this process's memory where there is none."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator

import pytest

import clients
from broadcaster.protocol.errors import BudgetExceeded, InvalidName, InvalidRequest, PayloadTooLarge, SizeMismatch
from broadcaster.protocol.version import VersionInfo
from clients import Client
from clients._driver import futures
from clients._inflow import Inflow
from tests.bare_peer import wait_until
from tests.broadcaster_process import BroadcasterProcess

MIB = 1 << 20
SIZES = [0, 1, 65_536, 65_537, MIB, MIB + 1, 9 * MIB + 5]
NOW = 1_700_000_000_000_000_000


def payload(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.fixture(params=["slots", "chunks"])
def client(request: pytest.FixtureRequest, shared: BroadcasterProcess) -> Iterator[Client]:
    nowhere = None if request.param == "slots" else "/nonexistent"
    with clients.connect(shared.url, slot_dir=nowhere) as client:
        yield client


def begin(client: Client, model: str, size: int, **more: object) -> Inflow:
    """One that is ready to be written to."""
    inflow = Inflow(client._driver, "default", model, size, **more)  # type: ignore[arg-type]
    futures.wait(inflow.opened, "a slot", 10)
    inflow.prepare()
    return inflow


def commit(inflow: Inflow, timeout: float = 20.0) -> VersionInfo:
    return futures.wait(inflow.commit(creation_timestamp=NOW, timeout=timeout), "a commit", timeout)


def pour(client: Client, model: str, data: bytes, step: int = MIB // 3, **more: object) -> VersionInfo:
    inflow = begin(client, model, len(data), **more)
    for start in range(0, len(data), step):
        inflow.write(data[start : start + step])
    return commit(inflow)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("archived", [False, True])
def test_what_is_poured_in_is_the_version(client: Client, model: str, size: int, archived: bool) -> None:
    data = payload(size)
    version = pour(client, model, data, archived=archived, user_data={"a": "b"}, content_type="x/y")
    assert (version.size, version.archived, version.creation_timestamp) == (size, archived, NOW)
    assert (version.user_data, version.content_type) == ({"a": "b"}, "x/y")
    assert bytes(client.registry.get(model).read()) == data


@pytest.mark.parametrize("size", SIZES)
def test_a_byte_too_many_or_too_few_makes_no_version(client: Client, model: str, size: int) -> None:
    inflow = begin(client, model, size)
    with pytest.raises(SizeMismatch):
        inflow.write(payload(size + 1))
    if size:
        inflow.write(payload(size)[1:])
        with pytest.raises(SizeMismatch):
            inflow.commit(creation_timestamp=NOW, timeout=5)
    inflow.discard()
    inflow.discard()
    wait_until(lambda: client.registry.stats()["uploads"] == 0, "it was given up")
    assert pour(client, model, b"next").number == 1


def test_several_of_one_model_do_not_wait_for_each_other(client: Client, model: str) -> None:
    inflows = [begin(client, model, 200_000) for _ in range(4)]
    for inflow in inflows:
        inflow.write(bytes(200_000))
    assert [commit(inflow).number for inflow in reversed(inflows)] == [1, 2, 3, 4]


def test_what_has_no_room_is_told_before_a_byte_is_written(client: Client, model: str) -> None:
    with pytest.raises((BudgetExceeded, PayloadTooLarge)):
        inflow = begin(client, model, 2 << 30)
        until = time.monotonic() + 10
        while time.monotonic() < until:  # Without a slot it is heard while it is written.
            inflow.write(b"")
            time.sleep(0.01)


def test_what_is_wrong_is_told_at_once(client: Client, model: str) -> None:
    with pytest.raises(InvalidName):
        Inflow(client._driver, "default", "a/b", 1)
    with pytest.raises(InvalidRequest):
        Inflow(client._driver, "default", model, 1, user_data={"k": "v" * 20_000})
    inflow = begin(client, model, 1)
    inflow.write(b"1")
    commit(inflow)
    with pytest.raises(InvalidRequest, match="committed already"):
        inflow.commit(creation_timestamp=NOW, timeout=5)


@pytest.mark.parametrize("slot_dir", [None, "/nonexistent"])
def test_a_core_that_dies_in_the_middle_gets_all_of_it_when_it_is_back(own: BroadcasterProcess, slot_dir: str | None) -> None:
    data = payload(9 * MIB)
    with clients.connect(own.url, slot_dir=slot_dir) as client:
        inflow = begin(client, "policy", len(data))
        inflow.write(data[: 5 * MIB])
        os.kill(own.pids[1], signal.SIGKILL)
        inflow.write(data[5 * MIB :])
        version = commit(inflow, timeout=30)
        assert bytes(client.registry.get("policy", version.number).read()) == data
