"""The policy: two small networks of tanh layers as a flat dict of arrays, with the backward pass written out.

`actor.*` gives the logits of the actions, `critic.*` the value of an observation. A weight has the shape (inputs, outputs),
a bias (outputs,). The functions take whatever dtype the weights have: float32 in the demo, float64 in the tests.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.floating]
Weights = Mapping[str, Array]

OBSERVATION = 4
ACTIONS = 2
HIDDEN = 64
LAYERS = ("fc1", "fc2", "out")


def initial_weights(rng: np.random.Generator, hidden: int = HIDDEN) -> dict[str, Array]:
    """Fresh float32 weights: orthogonal matrices, biases of zero, and a last actor layer so small that it prefers no action."""
    weights: dict[str, Array] = {}
    for network, outputs, last_gain in (("actor", ACTIONS, 0.01), ("critic", 1, 1.0)):
        shapes = ((OBSERVATION, hidden), (hidden, hidden), (hidden, outputs))
        for layer, shape, gain in zip(LAYERS, shapes, (2**0.5, 2**0.5, last_gain), strict=True):
            weights[f"{network}.{layer}.weight"] = (gain * _orthogonal(rng, shape)).astype(np.float32)
            weights[f"{network}.{layer}.bias"] = np.zeros(shape[1], np.float32)
    return weights


def forward(weights: Weights, network: str, x: Array) -> list[Array]:
    """The activations of every layer for a batch `x` (n, inputs): the input first, the output (n, outputs) last."""
    activations = [x]
    for layer in LAYERS:
        x = x @ weights[f"{network}.{layer}.weight"]
        x += weights[f"{network}.{layer}.bias"]
        if layer != "out":
            np.tanh(x, out=x)
        activations.append(x)
    return activations


def backward(weights: Weights, network: str, activations: list[Array], gradient: Array) -> dict[str, Array]:
    """The gradient of every weight of `network`, given that of its output, with the `activations` that `forward` returned."""
    gradients: dict[str, Array] = {}
    for depth in reversed(range(len(LAYERS))):
        name = f"{network}.{LAYERS[depth]}"
        below = activations[depth]
        gradients[f"{name}.weight"] = below.T @ gradient
        gradients[f"{name}.bias"] = gradient.sum(axis=0)
        if depth > 0:
            # The derivative of tanh in terms of its own output.
            gradient = (gradient @ weights[f"{name}.weight"].T) * (1 - below * below)
    return gradients


def log_probabilities(logits: Array) -> Array:
    """log softmax of (n, ACTIONS) logits."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def values(weights: Weights, observations: Array) -> Array:
    """What the critic expects of each observation: (n,)."""
    return forward(weights, "critic", observations)[-1][:, 0]


def act(weights: Weights, observations: Array, rng: np.random.Generator) -> tuple[npt.NDArray[np.uint8], Array]:
    """An action drawn for each observation (n, OBSERVATION), and the log-probability with which it was drawn: (n,), (n,)."""
    logs = log_probabilities(forward(weights, "actor", observations)[-1])
    actions = (rng.random(len(logs)) >= np.exp(logs[:, 0])).astype(np.uint8)
    return actions, logs[np.arange(len(logs)), actions]


def _orthogonal(rng: np.random.Generator, shape: tuple[int, int]) -> Array:
    tall = rng.standard_normal((max(shape), min(shape)))
    q, r = np.linalg.qr(tall)
    q *= np.sign(np.diag(r))
    return q if shape[0] >= shape[1] else q.T
