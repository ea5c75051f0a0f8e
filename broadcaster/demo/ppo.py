"""Proximal policy optimisation, with every gradient written by hand.

The samples come from actors that are some versions behind, so the ratio is taken against the log-probability that the acting
policy itself had given to its action (each sample carries it), and not against the learner's newest weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from broadcaster.demo.policy import Array, Weights, backward, forward, log_probabilities, values


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The numbers of the algorithm; the defaults solve CartPole-v1."""

    discount: float = 0.99
    trace: float = 0.95
    """The lambda of generalised advantage estimation."""
    clip: float = 0.2
    entropy: float = 0.0
    value_weight: float = 0.5
    epochs: int = 6
    minibatch: int = 256
    learning_rate: float = 1e-3
    gradient_norm: float = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """Samples to learn from, one row each."""

    observations: Array
    actions: npt.NDArray[np.uint8]
    behaviour: Array
    """Log-probability of the action under the policy version that acted."""
    advantages: Array
    returns: Array

    def __len__(self) -> int:
        return len(self.actions)

    @classmethod
    def joined(cls, parts: list[Batch]) -> Batch:
        """All rows of `parts`, which are at least one, in order."""
        columns = ("observations", "actions", "behaviour", "advantages", "returns")
        return cls(**{column: np.concatenate([getattr(part, column) for part in parts]) for column in columns})

    def take(self, rows: npt.NDArray[np.intp] | npt.NDArray[np.bool_]) -> Batch:
        """The given rows alone."""
        return Batch(
            observations=self.observations[rows],
            actions=self.actions[rows],
            behaviour=self.behaviour[rows],
            advantages=self.advantages[rows],
            returns=self.returns[rows],
        )


def advantages_and_returns(
    weights: Weights,
    observations: Array,
    following: Array,
    terminated: npt.NDArray[np.bool_],
    ended: npt.NDArray[np.bool_],
    tuning: Tuning,
) -> tuple[Array, Array]:
    """Generalised advantage estimates of a rollout, and the returns that the critic should have said: (steps, envs) each.

    `observations` and `following` are (steps, envs, OBSERVATION); `terminated` says that the pole fell, `ended` that the episode
    ended for any reason: one cut off by the time limit still has the value of what follows. The reward of each step is 1.
    """
    steps, envs, width = observations.shape
    now = values(weights, observations.reshape(-1, width)).reshape(steps, envs)
    then = values(weights, following.reshape(-1, width)).reshape(steps, envs)
    surprise = 1.0 + tuning.discount * np.where(terminated, 0.0, then).astype(now.dtype) - now
    advantages = np.empty_like(now)
    running = np.zeros(envs, now.dtype)
    for step in reversed(range(steps)):
        running = surprise[step] + tuning.discount * tuning.trace * running * ~ended[step]
        advantages[step] = running
    return advantages, advantages + now


def gradients(weights: Weights, batch: Batch, tuning: Tuning) -> tuple[float, dict[str, Array]]:
    """The loss of `batch` and its gradient for every weight; the advantages are used as they are given."""
    rows, count = np.arange(len(batch)), len(batch)
    actor = forward(weights, "actor", batch.observations)
    logs = log_probabilities(actor[-1])
    probabilities = np.exp(logs)
    ratio = np.exp(logs[rows, batch.actions] - batch.behaviour)
    free, clipped = ratio * batch.advantages, np.clip(ratio, 1 - tuning.clip, 1 + tuning.clip) * batch.advantages
    entropy = -(probabilities * logs).sum(axis=1)

    # d/d logit of log p(action) is onehot - p; where the clipped term is the smaller one, it is constant and pulls nowhere.
    pull = np.where(free <= clipped, free, 0).astype(ratio.dtype)
    towards = -probabilities * pull[:, None]
    towards[rows, batch.actions] += pull
    spread = -probabilities * (logs + entropy[:, None])
    actor_gradients = backward(weights, "actor", actor, -(towards + tuning.entropy * spread) / count)

    critic = forward(weights, "critic", batch.observations)
    error = critic[-1][:, 0] - batch.returns
    critic_gradients = backward(weights, "critic", critic, (2 * tuning.value_weight / count) * error[:, None])

    loss = -np.minimum(free, clipped).mean() - tuning.entropy * entropy.mean() + tuning.value_weight * (error * error).mean()
    return float(loss), actor_gradients | critic_gradients


@dataclass(slots=True)
class Adam:
    """The optimizer's memory: first and second moments of each weight's gradient."""

    steps: int = 0
    first: dict[str, Array] = field(default_factory=dict)
    second: dict[str, Array] = field(default_factory=dict)

    def apply(self, weights: dict[str, Array], found: dict[str, Array], rate: float, norm: float) -> None:
        """Moves `weights` in place, after scaling the gradients `found` so that their joint length is at most `norm`."""
        self.steps += 1
        length = float(np.sqrt(sum(float(np.vdot(gradient, gradient)) for gradient in found.values())))
        scale = min(1.0, norm / (length + 1e-8))
        rate *= (1 - 0.999**self.steps) ** 0.5 / (1 - 0.9**self.steps)
        for name, gradient in found.items():
            gradient *= scale
            first = self.first.setdefault(name, np.zeros_like(gradient))
            second = self.second.setdefault(name, np.zeros_like(gradient))
            first += 0.1 * (gradient - first)
            second += 0.001 * (gradient * gradient - second)
            weights[name] -= rate * first / (np.sqrt(second) + 1e-7)


def improve(weights: dict[str, Array], adam: Adam, batch: Batch, tuning: Tuning, rng: np.random.Generator) -> None:
    """One update: several passes over `batch` in shuffled minibatches; `weights` change in place."""
    for _ in range(tuning.epochs):
        order = rng.permutation(len(batch))
        for start in range(0, len(order), tuning.minibatch):
            part = batch.take(order[start : start + tuning.minibatch])
            advantages = part.advantages
            part.advantages[:] = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
            _, found = gradients(weights, part, tuning)
            adam.apply(weights, found, tuning.learning_rate, tuning.gradient_norm)
