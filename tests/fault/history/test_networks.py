"""A learner and actors on another host, behind a line that is cut in one direction or both, resets connections, delays and
loses: every invariant holds, and all are at the newest version soon after it heals."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.broadcaster_process import BroadcasterProcess
from tests.fault.history.checker import check
from tests.fault.history.conductor import NO_SLOTS, OPTIONS, Run
from tests.fault.history.parties import Part
from tests.fault.history.schedule import LINE, Fault, Kind
from tests.fault.history.test_mixed_load import BOUNDS
from tests.fault.history.wire import FAR, NEAR, TO_FAR, TO_NEAR, CannotHave, Weather, Wire

SMALL, MIDDLE = (100, 3_000, 60_000), (100, 70_000, 300_000, 1 << 20)
ROUGH = Weather(delay=0.025, jitter=0.010, lost=0.01, doubled=0.01)
PARTITIONS: list[Kind] = [("partition both", LINE, 4.0), ("partition to-far", LINE, 4.0), ("partition to-near", LINE, 4.0)]
RESETS: list[Kind] = [("reset", LINE, 0.0)] * 2
WEATHER: list[Kind] = [("rough", LINE, 5.0)]


class Near(BroadcasterProcess):
    """A broadcaster at the near end of a wire."""

    def __init__(self, directory: Path, wire: Wire) -> None:
        self._wire = wire
        super().__init__(directory, options=["--host", wire.address(NEAR), "--insecure", *OPTIONS])

    def command(self) -> list[str]:
        return [*self._wire.inside(NEAR), *super().command()]


class FarRun(Run):
    """Most parties are at the far end."""

    def __init__(self, directory: Path, wire: Wire, seed: int, seconds: float, pace: float, kinds: list[Kind]) -> None:
        super().__init__(directory, seed, seconds, pace)
        self._wire = wire
        self._kinds = kinds

    def set_up(self, stack: contextlib.ExitStack) -> list[Part]:
        self.broadcaster = stack.enter_context(Near(self.directory / "broadcaster", self._wire))
        stack.callback(self._wire.heal)
        rng = random.Random(self.seed)

        def part(role: str, number: int, *models: str, slot_dir: str | None = NO_SLOTS, **more: object) -> Part:
            about = {"slot_dir": slot_dir} | more
            seed, url = rng.randrange(1 << 30), self.broadcaster.url
            return Part(role, f"{role}-{number}", url, str(self.files), seed, models, **about)  # type: ignore[arg-type]

        return [
            part("learner", 1, "fast", "mixed", slot_dir=None, sizes=SMALL, archived=0.2),
            part("learner", 2, "mixed", sizes=MIDDLE, archived=0.3),
            part("actor", 1, "mixed", slot_dir=None),
            part("actor", 2, "mixed", delivery="chunks"),
            part("actor", 3, "mixed", delivery="chunks", every=True),
            part("actor", 4, "fast", delivery="chunks"),
            part("keeper", 1, "fast", "mixed"),
        ]

    def command(self, part: Part) -> list[str]:
        return [*self._wire.inside(NEAR if part.slot_dir is None else FAR), *part.command()]

    @property
    def kinds(self) -> list[Kind]:
        return self._kinds

    def effects(self, fault: Fault) -> tuple[Callable[[], object], Callable[[], object]]:
        match fault.kind:
            case "partition both":
                return self._wire.cut, self._wire.heal
            case "partition to-far":
                return lambda: self._wire.cut(TO_FAR), self._wire.heal
            case "partition to-near":
                return lambda: self._wire.cut(TO_NEAR), self._wire.heal
            case "rough":
                return lambda: self._wire.weather(ROUGH), self._wire.heal
            case "reset":
                return self._wire.reset, lambda: None
        return super().effects(fault)


@pytest.fixture
def wire() -> Iterator[Wire]:
    try:
        made = Wire(seed=1)
    except CannotHave as why:
        pytest.skip(f"two network namespaces and a line between them cannot be had here: {why}")
    with made:
        yield made


def run(directory: Path, wire: Wire, seed: int, seconds: float, pace: float, kinds: list[Kind]) -> None:
    history = FarRun(directory, wire, seed, seconds, pace, kinds).play()
    published = len([one for one in history.named("publish") if one.ok])
    print(f"{published} published, {len(history.deliveries)} delivered")
    found = check(history, BOUNDS)
    assert not found, "\n".join([f"seed {seed}: {len(found)} breaches", *found[:40]])
    assert published > 10 and len(history.deliveries) > 10


@pytest.mark.deadline(150)
def test_everything_holds_behind_a_line_that_is_cut_and_reset(tmp_path: Path, wire: Wire) -> None:
    run(tmp_path, wire, seed=1, seconds=4, pace=2.0, kinds=[("partition both", LINE, 2.0), *RESETS])


@pytest.mark.fault_long
@pytest.mark.deadline(300)
@pytest.mark.parametrize("seed", range(20, 23))
@pytest.mark.parametrize(
    "kinds", [PARTITIONS, RESETS, WEATHER, PARTITIONS + RESETS + WEATHER], ids=["cuts", "resets", "rough", "all"]
)
def test_everything_holds_behind_a_bad_line(tmp_path: Path, wire: Wire, kinds: list[Kind], seed: int) -> None:
    run(tmp_path, wire, seed, seconds=40, pace=0.6, kinds=kinds)


@pytest.mark.fault_long
@pytest.mark.deadline(300)
@pytest.mark.parametrize("lasts", [10.0, 20.0, 40.0])
@pytest.mark.parametrize("direction", ["both", "to-far", "to-near"])
def test_all_are_at_the_newest_soon_after_a_long_partition(tmp_path: Path, wire: Wire, direction: str, lasts: float) -> None:
    """The run ends with the partition: what is left of its five seconds is all there is to notice, connect and repair."""

    class OnePartition(FarRun):
        def faults(self) -> list[Fault]:
            return [Fault(2.0, f"partition {direction}", LINE, lasts)]

    history = OnePartition(tmp_path, wire, 1, 2.0 + lasts, 1.0, []).play()
    assert check(history, BOUNDS) == []
