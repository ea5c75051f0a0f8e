"""What the Cogment front keeps over restarts, under a small memory and of a damaged disk, row by row: as the Cogment Model
Registry does, or better."""

from __future__ import annotations

import hashlib
import os
import signal
from pathlib import Path

import pytest

from tests.bare_peer import wait_until
from tests.cogment.front import Front, Registry, refused
from tests.fault.archives import flip

PREFIX = "COGMENT_MODEL_REGISTRY_"
LARGE = (2 << 20) - (8 << 10)
"""Bytes: with the header of a slot just under what one takes in memory."""


def with_cache(directory: Path, **variables: str) -> Front:
    """One that was started with the original's variables."""
    environment = {f"{PREFIX}VERSION_CACHE_{name.upper()}": value for name, value in variables.items()}
    return Front(directory / "broadcaster", environment=environment)


# --- restart -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kill", [False, True], ids=["stopped", "killed"])
def test_after_a_restart_what_was_archived_is_there_and_no_number_comes_again(own: Front, kill: bool) -> None:
    names = ("policy", "policy-v2", "123")  # The last two were lost by the original.
    with Registry(own.address) as registry:
        for name in names:
            registry.make(name, called=name)
            for number, archived in ((1, True), (2, False), (3, True), (4, False)):
                assert (
                    registry.create(name, b"%d" % number, archived=archived, user_data={"n": str(number)}).version_number
                    == number
                )
        registry.make("transient")
        registry.create("transient", b"weights")
        kept = {name: [registry.infos(name, number)[0][0] for number in (1, 3)] for name in names}
    own.restart(kill=kill)
    with Registry(own.address) as registry:
        assert registry.models()[0] == [("123", {"called": "123"}), ("policy", {"called": "policy"}),
                                        ("policy-v2", {"called": "policy-v2"}), ("transient", {})]  # fmt: skip
        for name in names:
            assert registry.data(name, 1) == b"1"  # Asking for an old one first used to make it the latest.
            assert registry.infos(name)[0] == kept[name]
            assert (registry.data(name), registry.data(name, -2)) == (b"3", b"1")
            with refused("NOT_FOUND"):
                registry.data(name, -3)
            assert registry.create(name, b"after", archived=True).version_number > 4
            assert registry.data(name, 3) == b"3"
        with refused("NOT_FOUND"):
            registry.data("transient")
        assert registry.create("transient", b"after").version_number > 1


def test_a_question_before_the_core_is_ready_waits_for_it(own: Front) -> None:
    """The front outlives the core."""
    with Registry(own.address) as registry:
        registry.make("policy")
        registry.create("policy", b"weights", archived=True)
        os.kill(own.pids[1], signal.SIGKILL)
        assert registry.data("policy") == b"weights"
        assert registry.create("policy", b"after").version_number > 1


# --- memory --------------------------------------------------------------------------------------------------------


def test_the_budget_alone_says_how_many_large_versions_stay_and_the_newest_always_does(tmp_path: Path) -> None:
    with with_cache(tmp_path, max_size=str(32 << 20)) as front, Registry(front.address) as registry:
        for name in ("policy", "value"):
            registry.make(name)
        registry.create("value", b"v" * LARGE)
        for number in range(1, 21):
            registry.create("policy", b"p" * LARGE)
            there = registry.numbers("policy")
            assert there == list(range(there[0], number + 1)), "the oldest leave, and no more than must"
        # Sixteen would fit, one of them is the other model's, and room for one that comes.
        assert 12 <= len(there) <= 15
        assert registry.data("policy") == b"p" * LARGE
        assert registry.data("value") == b"v" * LARGE, "the newest of another model"


def test_a_version_over_the_budget_is_refused_and_what_was_there_stays(tmp_path: Path) -> None:
    with with_cache(tmp_path, max_size=str(4 << 20)) as front, Registry(front.address) as registry:
        registry.make("policy")
        registry.create("policy", b"weights")
        with refused("RESOURCE_EXHAUSTED"):
            registry.create("policy", b"x" * (2 << 20), b"x" * (2 << 20), b"x")
        assert (registry.numbers("policy"), registry.data("policy")) == ([1], b"weights")
        assert registry.create("policy", b"weights").version_number == 2


def test_minus_n_counts_what_is_left_and_a_number_that_left_is_not_found(tmp_path: Path) -> None:
    with with_cache(tmp_path, max_items="1") as front, Registry(front.address) as registry:
        registry.make("policy")
        for number, archived in ((1, True), (2, False), (3, False)):
            registry.create("policy", b"%d" % number, archived=archived)
        wait_until(lambda: registry.numbers("policy") == [1, 3], "version 2 leaves")
        assert [registry.data("policy", number) for number in (-1, -2)] == [b"3", b"1"]
        for number in (2, -3):
            with refused("NOT_FOUND"):
                registry.data("policy", number)
            with refused("NOT_FOUND"):
                registry.infos("policy", number)


def test_the_newest_never_expires_and_an_older_one_does(tmp_path: Path) -> None:
    with with_cache(tmp_path, expiration="100ms") as front, Registry(front.address) as registry:
        registry.make("policy")
        for data in (b"1", b"2"):
            registry.create("policy", data)
        wait_until(lambda: registry.numbers("policy") == [2], "version 1 expires")
        assert registry.data("policy") == b"2"


# --- disk ----------------------------------------------------------------------------------------------------------


def test_damaged_data_is_data_loss_and_nothing_else_suffers(own: Front) -> None:
    data = bytes(range(256)) * 1000
    with Registry(own.address) as registry:
        registry.make("policy")
        registry.create("policy", data, archived=True)
        registry.create("policy", b"another", archived=True)
    own.stop()
    sha256 = hashlib.sha256(data).hexdigest()
    flip(own.archive_dir / "blobs" / sha256[:2] / sha256[2:], 1000)
    own.start()
    with Registry(own.address) as registry:
        with refused("DATA_LOSS"):
            registry.data("policy", 1)
        assert registry.numbers("policy") == [1, 2]
        assert registry.data("policy", 2) == b"another"


def test_chunks_of_a_reply_stay_below_what_a_client_takes_whatever_is_set(tmp_path: Path) -> None:
    environment = {f"{PREFIX}SENT_MODEL_VERSION_DATA_CHUNK_SIZE": str(5 << 20)}
    with Front(tmp_path / "broadcaster", environment=environment) as front, Registry(front.address) as registry:
        registry.make("policy")
        registry.create("policy", *[b"x" * (2 << 20)] * 4)
        assert [len(chunk) for chunk in registry.chunks("policy")] == [3 << 20, 3 << 20, 2 << 20]
