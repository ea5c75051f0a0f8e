"""An actor: a process that acts in several CartPoles with the newest policy and sends every step it made to the learner.

It looks for a newer version before each step and takes it at once; each step carries the number of the version that chose
its actions. It never waits for a version after the first.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import zmq

from broadcaster.demo import MODEL
from broadcaster.demo.policy import OBSERVATION, act
from broadcaster.demo.reports import ActorReport, Reporter
from broadcaster.demo.samples import SampleSender, Segment
from clients import connect

ENVS = 8
"""Environments of one actor: one call of the policy serves them all."""
STEPS = 16
"""Steps of a segment."""
REPORT_EVERY = 0.2
"""Seconds."""


class NewestPolicy:
    """The policy that the actor acts with, and how long each version took to get here."""

    def __init__(self, subscriber: Any) -> None:
        self._subscriber = subscriber
        # Not timed: the first version may have been published before this actor was there to see it.
        self._snapshot = subscriber.wait(timeout=30)
        self._visible_ms: list[float] = []

    @property
    def version(self) -> int:
        return int(self._snapshot.version.number)

    @property
    def weights(self) -> Any:
        """Read-only views of the published tensors: nothing is copied here."""
        return self._snapshot.tensors

    def refresh(self) -> None:
        """Takes the newest version if there is a newer one; never blocks."""
        newest = self._subscriber.latest()
        if newest is not None and newest.version.number != self.version:
            self._snapshot = newest
            # The learner stamped the version on this host, so both ends are read from one clock. This is the moment at which it
            # was handed out, not the earlier one at which it could have been: a busy actor's own delay counts.
            self._visible_ms.append((time.time_ns() - newest.version.creation_timestamp) / 1e6)

    def take_visible_ms(self) -> list[float]:
        """The latencies noted since the last call."""
        noted, self._visible_ms = self._visible_ms, []
        return noted


class Stage:
    """The actor's environments, each in some episode."""

    def __init__(self, seed: int) -> None:
        self._envs = [gymnasium.make("CartPole-v1") for _ in range(ENVS)]
        self._observations = np.zeros((ENVS, OBSERVATION), np.float32)
        for index, env in enumerate(self._envs):
            self._observations[index], _ = env.reset(seed=seed * ENVS + index)
        self._returns = np.zeros(ENVS)

    def play(self, actor: int, policy: NewestPolicy, rng: np.random.Generator) -> Segment:
        """The next `STEPS` steps of every environment, each with the newest policy there is."""
        segment = Segment.empty(actor, STEPS, ENVS)
        for step in range(STEPS):
            policy.refresh()
            segment.versions[step] = policy.version
            segment.observations[step] = self._observations
            segment.actions[step], segment.behaviour[step] = act(policy.weights, self._observations, rng)
            self._step(segment, step)
        return segment

    def _step(self, segment: Segment, step: int) -> None:
        for index, env in enumerate(self._envs):
            observation, reward, terminated, truncated, _ = env.step(int(segment.actions[step, index]))
            segment.following[step, index] = observation
            segment.terminated[step, index] = terminated
            segment.ended[step, index] = terminated or truncated
            self._returns[index] += float(reward)
            if terminated or truncated:
                segment.returns.append(float(self._returns[index]))
                self._returns[index] = 0
                observation, _ = env.reset()
            self._observations[index] = observation


def _act_for_ever(
    actor: int,
    policy: NewestPolicy,
    stage: Stage,
    sender: SampleSender,
    report: Callable[[ActorReport], None],
    rng: np.random.Generator,
) -> None:
    reported = time.monotonic()
    while True:
        segment = stage.play(actor, policy, rng)
        while not sender.has_room(milliseconds=1):
            policy.refresh()
        sender.send(segment)
        if time.monotonic() - reported > REPORT_EVERY:
            reported = time.monotonic()
            report(ActorReport(actor=actor, version=policy.version, visible_ms=policy.take_visible_ms()))


def main() -> None:
    """Acts until it is ended from outside."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--samples", required=True)
    parser.add_argument("--reports", required=True)
    parser.add_argument("--index", type=int, required=True)
    parser.add_argument("--seed", type=int, required=True)
    given = parser.parse_args()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
    with connect(given.url, name=f"actor-{given.index}") as client:
        policy = NewestPolicy(client.subscriber(MODEL))
        stage = Stage(given.seed * 1000 + given.index)
        sender, reporter = SampleSender(context, given.samples), Reporter(context, given.reports)
        rng = np.random.default_rng([given.seed, given.index])
        _act_for_ever(given.index, policy, stage, sender, reporter.send, rng)


if __name__ == "__main__":
    main()
