"""The demo's learning: every gradient against finite differences, the advantages by hand, and what becomes of old samples."""

from __future__ import annotations

import numpy as np
import pytest

from broadcaster.demo.policy import ACTIONS, OBSERVATION, Array, act, forward, initial_weights, log_probabilities
from broadcaster.demo.ppo import Adam, Batch, Tuning, advantages_and_returns, gradients, improve
from broadcaster.demo.samples import FIELDS, Segment, decode, encode
from broadcaster.demo.training import MAX_LAG, SMALLEST_BATCH, Training
from broadcaster.protocol.errors import RemoteProtocolError


def double_weights(rng: np.random.Generator, hidden: int = 8) -> dict[str, Array]:
    """Random float64 weights and biases, large enough that no gradient is lost in rounding."""
    shapes = {name: value.shape for name, value in initial_weights(rng, hidden).items()}
    return {name: rng.standard_normal(shape) * 0.5 for name, shape in shapes.items()}


def random_batch(rng: np.random.Generator, size: int) -> Batch:
    return Batch(
        observations=rng.standard_normal((size, OBSERVATION)),
        actions=rng.integers(ACTIONS, size=size).astype(np.uint8),
        behaviour=np.log(rng.uniform(0.2, 0.9, size)),
        advantages=rng.standard_normal(size),
        returns=rng.standard_normal(size) * 3,
    )


@pytest.mark.parametrize("seed", range(4))
def test_every_gradient_is_the_slope_of_the_loss(seed: int) -> None:
    rng = np.random.default_rng(seed)
    weights, batch, tuning = double_weights(rng), random_batch(rng, 40), Tuning(entropy=0.05)
    _, found = gradients(weights, batch, tuning)
    assert found.keys() == weights.keys()
    step = 1e-6
    for name, weight in weights.items():
        for index in rng.choice(weight.size, min(weight.size, 6), replace=False):
            slopes = []
            for sign in (1, -1):
                moved = dict(weights)
                moved[name] = weight.copy()
                moved[name].flat[index] += sign * step
                slopes.append(gradients(moved, batch, tuning)[0])
            assert found[name].flat[index] == pytest.approx((slopes[0] - slopes[1]) / (2 * step), rel=1e-4, abs=1e-8), name


def test_a_sample_whose_ratio_is_clipped_pulls_the_actor_nowhere() -> None:
    rng = np.random.default_rng(0)
    weights = double_weights(rng)
    observations = rng.standard_normal((1, OBSERVATION))
    log = log_probabilities(forward(weights, "actor", observations)[-1])[0, 0]
    one = dict(observations=observations, actions=np.zeros(1, np.uint8), advantages=np.ones(1), returns=np.zeros(1))
    _, clipped = gradients(weights, Batch(behaviour=np.array([log - 1.0]), **one), Tuning())
    _, free = gradients(weights, Batch(behaviour=np.array([log]), **one), Tuning())
    assert not any(clipped[name].any() for name in clipped if name.startswith("actor."))
    assert any(free[name].any() for name in free if name.startswith("actor."))


def test_actions_are_drawn_as_often_as_their_probability_says() -> None:
    rng = np.random.default_rng(1)
    weights = double_weights(rng)
    observations = np.repeat(rng.standard_normal((1, OBSERVATION)), 20_000, axis=0)
    actions, logs = act(weights, observations, rng)
    assert set(np.unique(actions)) == {0, 1}
    for action in (0, 1):
        chosen = actions == action
        assert chosen.mean() == pytest.approx(np.exp(logs[chosen][0]), abs=0.015)


def test_advantages_stop_at_the_end_of_an_episode_and_a_time_limit_keeps_the_value_of_what_follows() -> None:
    # A critic that says 10 of everything, so that the terms can be added by hand.
    weights = {name: np.zeros_like(value) for name, value in initial_weights(np.random.default_rng(0)).items()}
    weights["critic.out.bias"][:] = 10
    observations = np.zeros((3, 3, OBSERVATION), np.float32)
    terminated, ended = np.zeros((3, 3), bool), np.zeros((3, 3), bool)
    terminated[1, 1] = ended[1, 1] = True  # the second environment's pole falls in the second step
    ended[1, 2] = True  # the third one's time is up there
    tuning = Tuning(discount=0.5, trace=0.5)
    advantages, returns = advantages_and_returns(weights, observations, observations, terminated, ended, tuning)
    on, fell = 1 + 0.5 * 10 - 10, 1 - 10
    trace = 0.25
    np.testing.assert_allclose(advantages[:, 0], [on + trace * (on + trace * on), on + trace * on, on])
    np.testing.assert_allclose(advantages[:, 1], [on + trace * fell, fell, on])
    np.testing.assert_allclose(advantages[:, 2], [on + trace * on, on, on])
    np.testing.assert_allclose(returns, advantages + 10)


def test_an_update_makes_the_better_action_likelier_and_the_critic_righter() -> None:
    rng = np.random.default_rng(2)
    weights, adam, tuning = initial_weights(rng), Adam(), Tuning()
    observations = rng.standard_normal((512, OBSERVATION)).astype(np.float32)
    right = (observations[:, 0] > 0).astype(np.uint8)
    for _ in range(20):
        actions, logs = act(weights, observations, rng)
        reward = (actions == right).astype(np.float32)
        batch = Batch(observations=observations, actions=actions, behaviour=logs, advantages=reward.copy(), returns=reward)
        improve(weights, adam, batch, tuning, rng)
    actions, _ = act(weights, observations, rng)
    assert (actions == right).mean() > 0.9
    assert forward(weights, "critic", observations)[-1].mean() == pytest.approx(0.9, abs=0.15)


def random_segment(rng: np.random.Generator, versions: list[int], envs: int = 4, actor: int = 2) -> Segment:
    segment = Segment.empty(actor, len(versions), envs)
    segment.versions[:] = versions
    for name in ("observations", "following", "behaviour"):
        getattr(segment, name)[:] = -rng.random(getattr(segment, name).shape)
    segment.actions[:] = rng.integers(ACTIONS, size=segment.actions.shape)
    segment.ended[-1] = segment.terminated[-1] = True
    segment.returns.extend([12.0, 500.0])
    return segment


def test_a_segment_comes_back_as_it_was_sent() -> None:
    sent = random_segment(np.random.default_rng(3), [7, 7, 8])
    received = decode([bytes(memoryview(frame).cast("B")) for frame in encode(sent)])
    assert (received.actor, received.returns) == (2, [12.0, 500.0])
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(received, name), getattr(sent, name))
        assert getattr(received, name).dtype == getattr(sent, name).dtype


@pytest.mark.parametrize(
    "spoil", ["no frames", "a frame less", "a frame more", "a frame too short", "not msgpack", "a field missing"]
)
def test_frames_that_are_no_segment_are_refused(spoil: str) -> None:
    frames = [bytes(memoryview(frame).cast("B")) for frame in encode(random_segment(np.random.default_rng(4), [1, 1]))]
    spoiled = {
        "no frames": [],
        "a frame less": frames[:-1],
        "a frame more": [*frames, b""],
        "a frame too short": [*frames[:-1], frames[-1][:-1]],
        "not msgpack": [b"\xc1", *frames[1:]],
        "a field missing": [b"\x80", *frames[1:]],
    }
    with pytest.raises(RemoteProtocolError, match="not a segment"):
        decode(spoiled[spoil])


def test_samples_of_too_old_a_policy_are_dropped_and_counted_and_the_others_kept() -> None:
    training = Training(seed=5, actors=4, tuning=Tuning())
    newest = 20
    oldest = newest - MAX_LAG
    training.take(random_segment(np.random.default_rng(5), [oldest - 2, oldest - 1, oldest, newest]), newest)
    assert (training.news.used, training.news.dropped) == (2 * 4, 2 * 4)
    assert training.news.lags == {2: {MAX_LAG + 2: 1, MAX_LAG + 1: 1, MAX_LAG: 1, 0: 1}}
    training.take(random_segment(np.random.default_rng(5), [oldest - 1] * 4), newest)
    assert (training.news.used, training.news.dropped) == (2 * 4, 6 * 4)
    assert training.news.returns == [12.0, 500.0] * 2, "an episode counts, whoever learns from it"


def test_an_update_waits_for_a_batch_and_uses_it_up() -> None:
    training = Training(seed=6, actors=1, tuning=Tuning())
    before = {name: value.copy() for name, value in training.weights.items()}
    assert {value.dtype for value in before.values()} == {np.dtype(np.float32)}
    rng = np.random.default_rng(6)
    for _ in range(SMALLEST_BATCH // 64):
        assert not training.has_batch
        training.take(random_segment(rng, [1] * 16), newest=1)
    assert training.has_batch
    training.update()
    assert not training.has_batch
    assert training.samples == SMALLEST_BATCH
    assert all((training.weights[name] != before[name]).any() for name in before)


def test_the_mean_return_is_known_after_a_hundred_episodes_and_forgets_older_ones() -> None:
    training = Training(seed=7, actors=1, tuning=Tuning())
    segment = random_segment(np.random.default_rng(7), [1])
    segment.returns[:] = [0.0] * 99
    training.take(segment, newest=1)
    assert not training.is_known
    segment.returns[:] = [500.0] * 50
    training.take(segment, newest=1)
    assert training.is_known
    assert training.mean_return == 250.0
