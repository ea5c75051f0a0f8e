"""What the learner learns from and what it has learned: segments in, weights out. Nothing here does any I/O.

Every sample names the policy version that made it. Those that are more than `MAX_LAG` versions old are dropped and counted; the
age of the others is corrected for by their own log-probabilities (ppo.py).
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np

from broadcaster.demo.policy import OBSERVATION, Array, initial_weights
from broadcaster.demo.ppo import Adam, Batch, Tuning, advantages_and_returns, improve
from broadcaster.demo.samples import Segment

SMALLEST_BATCH = 512
"""Samples of one update, at least."""
PER_ACTOR = 128
"""Samples of one update for each actor: with a fixed batch, what many actors have on the way would be many versions old."""
MAX_LAG = 8
"""Versions that a sample may be behind the newest one when it arrives."""
EPISODES = 100
"""Episodes whose mean return says how good the policy is."""


@dataclass(slots=True)
class News:
    """What has happened since the last report."""

    versions: int = 0
    used: int = 0
    dropped: int = 0
    returns: list[float] = field(default_factory=list)
    lags: dict[int, Counter[int]] = field(default_factory=dict)


class Training:
    """The weights, the samples for their next update, and the returns of the newest episodes."""

    def __init__(self, seed: int, actors: int, tuning: Tuning) -> None:
        self._rng = np.random.default_rng(seed)
        self._tuning = tuning
        self._batch_size = max(SMALLEST_BATCH, PER_ACTOR * actors)
        self._adam = Adam()
        self._parts: list[Batch] = []
        self._returns: deque[float] = deque(maxlen=EPISODES)
        self.weights: dict[str, Array] = initial_weights(self._rng)
        self.samples = 0
        self.news = News()

    @property
    def mean_return(self) -> float:
        """Of the last 100 episodes, or as many as there have been; 0 before the first."""
        return float(np.mean(self._returns)) if self._returns else 0.0

    @property
    def is_known(self) -> bool:
        """Whether the mean return stands on 100 episodes."""
        return len(self._returns) == EPISODES

    def take(self, segment: Segment, newest: int) -> None:
        """Keeps the samples that are young enough, and counts the others. `newest` is the number of the newest version."""
        behind = newest - segment.versions
        lags = self.news.lags.setdefault(segment.actor, Counter())
        lags.update(behind.tolist())
        self._returns.extend(segment.returns)
        self.news.returns.extend(segment.returns)
        # Versions only grow within a segment, so what is too old is its beginning.
        fresh = segment.since(int(np.count_nonzero(behind > MAX_LAG)))
        self.news.dropped += segment.actions.size - fresh.actions.size
        self.news.used += fresh.actions.size
        if fresh.actions.size:
            self._parts.append(self._batch(fresh))

    @property
    def has_batch(self) -> bool:
        return sum(len(part) for part in self._parts) >= self._batch_size

    def update(self) -> None:
        """One update of the weights from all that was taken since the last."""
        batch = Batch.joined(self._parts)
        self._parts.clear()
        self.samples += len(batch)
        improve(self.weights, self._adam, batch, self._tuning, self._rng)

    def _batch(self, segment: Segment) -> Batch:
        advantages, returns = advantages_and_returns(
            self.weights, segment.observations, segment.following, segment.terminated, segment.ended, self._tuning
        )
        return Batch(
            observations=segment.observations.reshape(-1, OBSERVATION),
            actions=segment.actions.ravel(),
            behaviour=segment.behaviour.ravel(),
            advantages=advantages.ravel(),
            returns=returns.ravel(),
        )
