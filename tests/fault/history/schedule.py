"""Which faults a run has, and when: all of it made from a seed, so that a run can be had again."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

BROADCASTER, LINE, DISK = "broadcaster", "line", "disk"
Kind = tuple[str, str, float]
"""(kind, target, seconds at most); no target: one of the parties."""


@dataclass(frozen=True, slots=True)
class Fault:
    """`kind` happens to `target`, `at` seconds after the load began, for `lasts` seconds (0: in one moment)."""

    at: float
    kind: str
    target: str
    lasts: float = 0.0

    @property
    def over(self) -> float:
        return self.at + self.lasts

    def __str__(self) -> str:
        return f"{self.at:6.2f} s  {self.kind} {self.target}" + (f" for {self.lasts:.2f} s" if self.lasts else "")


def schedule(seed: int, seconds: float, pace: float, parties: Sequence[str], every: Sequence[Kind]) -> list[Fault]:
    """About `pace` faults a second from the first second on, all over after `seconds`. Each kind comes once before any twice."""
    rng = random.Random(seed)
    kinds: list[Kind] = []
    busy: dict[str, float] = {}
    faults: list[Fault] = []
    at = 1.0
    while at < seconds:
        kinds = kinds or rng.sample(every, len(every))
        kind, whom, most = kinds.pop()
        target, lasts = whom or rng.choice(parties), most * rng.uniform(0.3, 1.0)
        if busy.get(target, 0.0) <= at and at + lasts <= seconds:
            busy[target] = at + lasts + 0.2
            faults.append(Fault(round(at, 3), kind, target, round(lasts, 3)))
        else:
            kinds.insert(0, (kind, whom, most))  # It comes later.
        at += rng.expovariate(pace)
    return faults


KINDS: list[Kind] = [
    ("kill", BROADCASTER, 0.0),
    ("kill core", BROADCASTER, 0.0),
    ("kill web", BROADCASTER, 0.0),
    ("stop", BROADCASTER, 1.5),
    ("kill", "", 0.0),
    ("kill", "", 0.0),
    ("stop", "", 4.0),
    ("stop", "", 4.0),
    ("cut", LINE, 0.0),
    ("cut", LINE, 0.0),
    ("hold upload down", LINE, 2.0),
    ("hold upload up", LINE, 2.0),
    ("hold data down", LINE, 2.0),
    ("hold push down", LINE, 2.0),
]
FILL: Kind = ("fill", DISK, 3.0)
