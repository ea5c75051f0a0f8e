"""The table of checks: planted surroundings, and what the doctor says of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broadcaster.cli.checks import Finding, KeyFile, Level, Place, Surroundings, examine

GiB, MiB = 1 << 30, 1 << 20

GOOD = Surroundings(
    version="1.0.0",
    python=(3, 11, 9),
    packages={"pyzmq": "27.0.0", "starlette": "0.50.0"},
    libzmq="4.3.5",
    curve=True,
    sqlite="3.45.0",
    archive=Place(Path("/data"), file_system="ext4", size=100 * GiB, free=50 * GiB, flush=0.002),
    slots=Place(Path("/dev/shm/b"), file_system="tmpfs", size=2 * GiB, free=2 * GiB),
    budget=GiB,
    descriptors=(1024, 65536),
    memory=16 * GiB,
    memory_limit=4 * GiB,
    ports={"data": ("127.0.0.1", 5552, "free"), "http": ("127.0.0.1", 5553, "free")},
    keys=(
        KeyFile(Path("/data/keys"), 0o700, ours=True, directory=True, secret=False),
        KeyFile(Path("/data/keys/broadcaster"), 0o600, ours=True),
    ),
)


def found(check: str, **changes: Any) -> Finding:
    """What the check says when the good surroundings are changed so; all other checks still find them good."""
    findings = {finding.check: finding for finding in examine(replace(GOOD, **changes))}
    return findings[check]


def test_good_surroundings_have_no_fault() -> None:
    assert [finding for finding in examine(GOOD) if finding.level is not Level.OK or finding.remedy] == []


ARCHIVE, SLOTS = GOOD.archive, GOOD.slots
LOOSE = (KeyFile(Path("/data/keys/broadcaster"), 0o644, ours=True),)

FAULTS: dict[str, tuple[str, Level, dict[str, Any], str]] = {  # what is wrong: check, level, change, word of the remedy
    "an old Python": ("python", Level.PROBLEM, {"python": (3, 10, 1)}, "3.11"),
    "a missing library": ("packages", Level.PROBLEM, {"packages": {"starlette": None}}, "[server]"),
    "an old libzmq": ("libzmq", Level.PROBLEM, {"libzmq": "4.2.5"}, "4.3"),
    "no CURVE": ("curve", Level.PROBLEM, {"curve": False}, "wheel"),
    "an archive that cannot be written": (
        "archive",
        Level.PROBLEM,
        {"archive": replace(ARCHIVE, trouble="no file can be made")},
        "chown",
    ),
    "an archive in memory": ("archive", Level.WARNING, {"archive": replace(ARCHIVE, file_system="tmpfs")}, "/data"),
    "an archive in a container's layer": (
        "archive",
        Level.WARNING,
        {"archive": replace(ARCHIVE, file_system="overlay")},
        "volume",
    ),
    "an archive over a network": ("archive", Level.WARNING, {"archive": replace(ARCHIVE, file_system="nfs4")}, "local"),
    "a disk that is nearly full": ("disk", Level.WARNING, {"archive": replace(ARCHIVE, free=500 * MiB)}, "retention"),
    "a full disk": ("disk", Level.PROBLEM, {"archive": replace(ARCHIVE, free=1 * MiB)}, "prune"),
    "a slow disk": ("flush", Level.WARNING, {"archive": replace(ARCHIVE, flush=0.25)}, "faster"),
    "a disk that lies": ("flush", Level.WARNING, {"archive": replace(ARCHIVE, flush=1e-6)}, "power"),
    "no index": ("sqlite", Level.PROBLEM, {"archive": replace(ARCHIVE, index="journal_mode is delete")}, "file system"),
    "another user's slots": ("slots", Level.PROBLEM, {"slots": replace(SLOTS, foreign=True)}, "--slot-dir"),
    "slots on a disk": ("slots", Level.WARNING, {"slots": replace(SLOTS, file_system="ext4")}, "/dev/shm"),
    "docker's 64 MiB": ("slot-memory", Level.WARNING, {"slots": replace(SLOTS, size=64 * MiB)}, "--shm-size"),
    "a container smaller than the budget": ("memory", Level.PROBLEM, {"memory_limit": 512 * MiB}, "--memory-budget"),
    "a container as large as the budget": ("memory", Level.WARNING, {"memory_limit": GiB + MiB}, "--memory-budget"),
    "a machine smaller than the budget": ("memory", Level.PROBLEM, {"memory_limit": None, "memory": 512 * MiB}, "limit"),
    "few descriptors": ("descriptors", Level.WARNING, {"descriptors": (1024, 1024)}, "nofile"),
    "a port that is taken": ("ports", Level.PROBLEM, {"ports": {"data": ("127.0.0.1", 5552, "taken")}}, "--data-port"),
    "a port below 1024": ("ports", Level.PROBLEM, {"ports": {"http": ("127.0.0.1", 80, "forbidden")}}, "1023"),
    "a key that others read": ("keys", Level.PROBLEM, {"keys": LOOSE}, "chmod 0600 /data/keys/broadcaster"),
    "a directory of keys that others write": (
        "keys",
        Level.PROBLEM,
        {"keys": (KeyFile(Path("/data/keys"), 0o777, ours=True, directory=True, secret=False),)},
        "chmod 0700 /data/keys",
    ),
    "a book of keys that others write": (
        "keys",
        Level.PROBLEM,
        {"keys": (KeyFile(Path("/data/keys/keys.toml"), 0o664, ours=True, secret=False),)},
        "chmod 0600 /data/keys/keys.toml",
    ),
    "another user's key": ("keys", Level.WARNING, {"keys": (KeyFile(Path("/k"), 0o600, ours=False),)}, "chown"),
    "a name that nobody knows": ("advertise", Level.WARNING, {"unknown_name": "sidecar.invalid"}, "--advertise"),
    "fewer descriptors than connections": ("descriptors", Level.WARNING, {"connections": 1 << 20}, "--max-connections"),
    "an open door": ("access", Level.WARNING, {"open_to": ("0.0.0.0",)}, "--insecure"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_with_what_to_do_about_it(fault: str) -> None:
    check, level, changes, word = FAULTS[fault]
    finding = found(check, **changes)
    assert finding.level is level, finding
    assert word in finding.remedy, finding


def test_every_check_has_a_planted_fault() -> None:
    assert {finding.check for finding in examine(GOOD)} == {check for check, *_ in FAULTS.values()}


def test_what_is_no_secret_may_be_read() -> None:
    book = KeyFile(Path("/data/keys/keys.toml"), 0o644, ours=True, secret=False)
    assert found("keys", keys=(book,)).level is Level.OK


def test_a_broadcaster_that_serves_on_its_ports_is_no_fault() -> None:
    assert found("ports", ports={"data": ("127.0.0.1", 5552, "broadcaster")}).level is Level.OK


def test_what_is_not_known_is_no_problem() -> None:
    unknown = replace(SLOTS, file_system=None, size=0)
    assert found("slots", slots=unknown).level is found("slot-memory", slots=unknown).level is Level.OK
    assert found("memory", memory=0, memory_limit=None).level is Level.OK
