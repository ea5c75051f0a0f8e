"""One side of a comparison: who sends, who stands in the middle, who reads; its rounds, and what they took."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.processes import Broadcaster, Child, Failed, Group, Member
from benchmarks.usage import GIB, Cpu, cpu_of

MODEL = "policy"


@dataclass
class Arm:
    """A round publishes once and ends when every reader has said that it has the payload of that round."""

    sender: Child
    middle: list[int]
    readers: Sequence[Child | Member]
    wishes: dict[str, Any] = field(default_factory=dict)
    announces: bool = False
    """Whether readers must be told of another size, and say that they heard it."""
    pauses: bool = False
    """Whether readers that wait are at work: they are stopped while it is not their turn."""
    latency: list[float] = field(default_factory=list)
    copied: list[float] = field(default_factory=list)
    blocked: list[float] = field(default_factory=list)
    """Milliseconds of each counted round: until the last reader had it; until the sender's memory was free; until it went on."""
    delivery: str = ""
    _before: list[Cpu] = field(default_factory=list)

    def resize(self, size: int) -> None:
        """Makes ready for payloads of this size. Nothing was measured so far."""
        self.latency, self.copied, self.blocked = [], [], []
        self.wake()
        if "do" in self.wishes:
            self.sender.ask(do="prepare", size=size)
            self.wishes["size"] = size
        else:
            self.sender.ask(size=size)
        if self.announces:
            for reader in self.readers:
                reader.read()
        self.rest()

    def round(self, number: int) -> None:
        """Publishes once and waits for all. Raises Failed when a reader got something else."""
        self.wake()
        said = self.sender.ask(number=number, **self.wishes)
        heard = self.hear(said)
        self.rest()
        if any(one["stamp"] != number for one in heard):
            raise Failed(f"round {number}: the readers have {sorted({one['stamp'] for one in heard})}")
        self.latency.append((max(one["at"] for one in heard) - said["start"]) / 1e6)
        self.copied.append(said["copied"] / 1e6)
        self.blocked.append(said.get("done", said["copied"]) / 1e6)
        self.delivery = heard[0].get("delivery", "")

    def hear(self, said: dict[str, Any]) -> list[dict[str, Any]]:
        """What each reader says of a round, of which the sender said `said`."""
        return said["heard"] if "heard" in said else [reader.read() for reader in self.readers]

    def rest(self) -> None:
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._signal(signal.SIGCONT)

    def _signal(self, number: int) -> None:
        if self.pauses:
            for reader in self.readers:
                reader.signal(number)

    def _cpu(self) -> list[Cpu]:
        return [cpu_of([self.sender.pid]), cpu_of(self.middle), cpu_of(reader.pid for reader in self.readers)]

    def count_from_here(self) -> None:
        """What was measured so far was the warm-up."""
        for values in (self.latency, self.copied, self.blocked):
            values.clear()
        self._before = self._cpu()

    def cpu_per_gib(self, size: int) -> dict[str, Any]:
        """Seconds of processor time for each GiB that reached an actor: all, and learner / middle / actors."""
        delivered = size * len(self.readers) * len(self.latency) / GIB
        used = [after - before for after, before in zip(self._cpu(), self._before, strict=True)]
        names = ("learner", "middle", "actors")
        parts = {name: one.parts(delivered) for name, one in zip(names, used, strict=True)}
        return {"all": sum(one.total for one in used) / delivered, **parts}

    def cores_busy(self) -> float:
        """Processors that were at work on average while a version was on its way."""
        used = sum((after - before).total for after, before in zip(self._cpu(), self._before, strict=True))
        return used / (sum(self.latency) / 1e3)


def ours(group: Group, broadcaster: Broadcaster, actors: int, model: str = MODEL, *, remote: bool = False) -> Arm:
    """A learner and actors that have the newest version each time. `remote`: in chunks over TCP, as if they were on other hosts;
    else through slots."""
    learner = group.start("benchmarks.learner", broadcaster.url, model, *(["--remote"] if remote else []))
    learner.up()
    delivery = "chunks" if remote else "auto"
    following = group.herd(actors, "benchmarks.actor", "newest", broadcaster.url, model, "--delivery", delivery)
    return Arm(learner, broadcaster.pids, following, {"do": "publish"})


def require(arm: Arm, delivery: str) -> None:
    """Raises Failed when the readers got their versions in another way than the question is about."""
    if arm.delivery != delivery:
        raise Failed(f"the actors were served by {arm.delivery!r}, and {delivery!r} is what this is about")
