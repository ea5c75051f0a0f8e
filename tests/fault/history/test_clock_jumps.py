"""The wall clock jumps by hours and years: nothing is deleted, order is kept, numbers go on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import clients
from tests.fault.history.checker import check
from tests.fault.history.conductor import OPTIONS, Run, cast
from tests.fault.history.parties import Part
from tests.fault.history.schedule import BROADCASTER, Fault, Kind
from tests.fault.history.skewed import LIBRARY, Skewed
from tests.fault.history.test_mixed_load import BOUNDS
from tests.fault.real.forwarder import Forwarder

HOUR, YEAR = 3600.0, 365 * 86400.0
JUMPS = {"two hours on": 2 * HOUR, "two hours back": -2 * HOUR, "to 1970": -time.time(), "to 2040": 16 * YEAR, "back again": 0.0}
CLOCK = "clock"
KINDS: list[Kind] = [(jump, CLOCK, 0.0) for jump in JUMPS] + [("kill", BROADCASTER, 0.0)] * 2
WAYS = ["asked", pytest.param("library", marks=pytest.mark.fault_long)]


@pytest.fixture
def broadcaster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Skewed]:
    by_library = request.param == "library"
    if by_library and not LIBRARY.exists():
        pytest.skip(f"the clock of a whole process needs {LIBRARY}: apt-get install faketime")
    with Skewed(tmp_path / "broadcaster", by_library=by_library, options=("--expiry", "60")) as process:
        yield process


def by_the_clock(broadcaster: Skewed) -> float:
    """The time that the broadcaster believes it is, as a new model shows."""
    with clients.connect(broadcaster.url) as client:
        return client.registry.create(f"m{time.monotonic_ns()}").creation_timestamp / 1e9


@pytest.mark.parametrize("broadcaster", WAYS, indirect=True)
def test_nothing_is_deleted_and_numbers_go_on_whatever_time_it_is(broadcaster: Skewed) -> None:
    """Versions expire after a minute, and no minute passes."""
    with clients.connect(broadcaster.url) as client, client.subscriber("policy") as subscriber:
        publisher, registry = client.publisher("policy"), client.registry
        kept = [publisher.publish(b"kept", archived=True).number]
        for jump in JUMPS.values():
            broadcaster.jump(jump)
            now = time.time() + jump
            assert abs(by_the_clock(broadcaster) - max(0.0, now)) < 60, "this test is about a clock that jumps"
            kept += [publisher.publish(b"kept", archived=len(kept) % 3 == 0).number for _ in range(2)]
            assert subscriber.wait(timeout=10, newer_than=kept[-2]).version.number == kept[-1]
            assert [info.number for info in registry.versions("policy")] == kept == sorted(set(kept))


@pytest.mark.fault_long
@pytest.mark.parametrize("broadcaster", WAYS, indirect=True)
def test_a_broadcaster_that_starts_in_the_past_goes_on_with_its_numbers(broadcaster: Skewed) -> None:
    with clients.connect(broadcaster.url) as client, client.subscriber("policy") as subscriber:
        numbers, epochs = [0], [0.0]
        for jump in (-2 * HOUR, 16 * YEAR, -time.time()):
            broadcaster.jump(jump)
            broadcaster.restart(kill=True)
            numbers.append(client.publisher("policy").publish(b"weights", archived=True, timeout=20).number)
            assert subscriber.wait(timeout=20, newer_than=numbers[-2]).version.number == numbers[-1]
            epochs.append(client.registry.stats()["epoch"])
        assert numbers == sorted(set(numbers)) and epochs == sorted(set(epochs))
        assert [info.number for info in client.registry.versions("policy")] == numbers[1:]


class WrongClock(Run):
    """The mixed load of a broadcaster whose clock jumps."""

    def set_up(self, stack: contextlib.ExitStack) -> list[Part]:
        self.skewed = self.broadcaster = Skewed(self.directory / "broadcaster", options=tuple(OPTIONS))
        stack.enter_context(self.broadcaster)
        line = stack.enter_context(Forwarder(self.broadcaster.ready))
        return cast(self.broadcaster.url, line.url, self.files, self.seed)

    @property
    def kinds(self) -> list[Kind]:
        return KINDS

    def effects(self, fault: Fault) -> tuple[Callable[[], object], Callable[[], object]]:
        if fault.target == CLOCK:
            return lambda: self.skewed.jump(JUMPS[fault.kind]), lambda: None
        return super().effects(fault)


@pytest.mark.fault_long
@pytest.mark.deadline(300)
@pytest.mark.parametrize("seed", range(30, 32))
def test_a_mixed_load_does_not_mind_a_clock_that_jumps(tmp_path: Path, seed: int) -> None:
    history = WrongClock(tmp_path, seed, seconds=40, pace=1.0).play()
    found = check(history, BOUNDS)
    assert not found, "\n".join([f"seed {seed}: {len(found)} breaches", *found[:40]])
