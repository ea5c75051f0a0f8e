"""A whole run: learners, one broadcaster, actors, faults for a while, then none. Time is virtual: it jumps to what is due."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from broadcaster.protocol.errors import RequestTimeout
from tests.fault.sim.broadcaster import KEY, SmallBroadcaster, payload_sizes
from tests.fault.sim.link import NONE, Faults, connection, lossy_push, profile
from tests.fault.sim.peers import Actor, Learner

STEPS = 50_000
"""More than any run takes: a machine that sends and sends is found out."""


class World:
    """Runs everything that is due, in order of time."""

    def __init__(self, seed: int, chunk: int) -> None:
        self.random = Random(seed)
        self.leases = Random(f"leases {seed}")
        """What decides about leases: one of its own, so that the other faults of a seed stay what they are."""
        self.chunk = chunk
        self.now = 1000.0
        self.broadcaster = SmallBroadcaster(self.random, kept_events=self.random.choice([6, 30, 1000]))
        self.broadcaster.beacons.subscribed(KEY, self.now)
        self.learners: list[Learner] = []
        self.actors: list[Actor] = []
        self.restarts = 0
        self.faulty = True
        self._hostile = self.random.random() < 0.4
        """Whether the connections lose, repeat and reorder too, which TCP does not."""
        self._steps = 0

    def _faults(self) -> Faults:
        if not self.faulty:
            return NONE
        return profile(self.random) if self._hostile else connection(self.random)

    def actor(self, *, every: bool, shared: bool | None = None) -> Actor:
        """An actor on the broadcaster's host or elsewhere; None: either."""
        if shared is None:
            shared = self.leases.random() < 0.4
        actor = Actor(self.random, self.broadcaster, every=every, leases=self.leases if shared else None)
        actor.push.faults = lossy_push(self.random) if self.faulty and not self._hostile else self._faults()
        actor.out.faults, actor.back.faults = self._faults(), self._faults()
        self.actors.append(actor)
        actor.start(self.now)
        return actor

    def publish(self, size: int | None = None, *, digest: str | None = None) -> Learner:
        if size is None:
            size = self.random.choice(payload_sizes(self.chunk))
        learner = Learner(self.random, self.random.randbytes(size), digest=digest)
        learner.out.faults, learner.back.faults = self._faults(), self._faults()
        self.learners.append(learner)
        learner.start(self.now)
        return learner

    def restart(self) -> None:
        """The broadcaster is another one now; all connections are new."""
        self.restarts += 1
        for learner in self.learners:
            learner.out.cut()
            learner.back.cut()
        for actor in self.actors:
            for link in actor.links:
                link.cut()
        self.broadcaster.restart(self.now)

    def disturb(self) -> None:
        """One of the things that happen."""
        random = self.random
        match random.randrange(12):
            case 0 | 1 | 2 | 3:
                if sum(not learner.over for learner in self.learners) < 3:
                    self.publish()
            case 4 | 5 if self.learners:
                cut = random.choice(self.learners)
                cut.out.cut()
                cut.back.cut()
            case 6 | 7 if self.actors:
                for link in random.choice(self.actors).links:
                    link.cut()
            case 8 if self.learners:
                random.choice(self.learners).give_up(RequestTimeout(what="publishing", timeout=1), self.now)
            case 9:
                self.broadcaster.annotate(self.now)
            case 10 if random.random() < 0.4 and self.restarts < 3:
                self.restart()
            case _:
                self.broadcaster.beacons.subscribed(KEY, self.now)

    def heal(self) -> None:
        """From now on nothing is lost, and everything is fast."""
        self.faulty = False
        for link in [link for learner in self.learners for link in (learner.out, learner.back)]:
            link.faults = NONE
        for link in [link for actor in self.actors for link in actor.links]:
            link.faults = NONE

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> None:
        """Virtual time goes on by `seconds`, or less when `until` says so."""
        end = self.now + seconds
        while not until():
            due = [end, *(time for one in (*self.learners, *self.actors) if (time := one.deadline) is not None)]
            due += [self.broadcaster.beacons.deadline or end]
            at = min(due)
            if at >= end:
                self.now = end
                self._step()
                return
            self.now = max(self.now, at)
            self._step()

    def _step(self) -> None:
        self._steps += 1
        assert self._steps < STEPS, "this never ends"
        for learner in self.learners:
            learner.step(self.broadcaster, self.now)
        self.broadcaster.tick(self.now)
        pushed, self.broadcaster.pushed = self.broadcaster.pushed, []
        for actor in self.actors:
            for frames in pushed:
                actor.push.send(frames, self.now)
            actor.step(self.now)
        self.learners = [one for one in self.learners if not one.over or one.deadline is not None]
