"""PQN's own promises: its targets, its loss, rectified Adam, exploration, any head, what is rejected."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import begin, bits, last, network_of
from probes import endless, obs_reward
from rows import ALGORITHMS, pqn, trained

import purerl
from purerl import (
    C51,
    CNN,
    MLP,
    PQN,
    ExpectedValue,
    InputError,
    LinearSchedule,
    QNetwork,
    QuantileRegression,
    RAdam,
    iterate,
)
from purerl.algorithms.pqn import TargetBatch
from purerl.types import Transition

NETWORK = QNetwork(MLP((16,), layer_norm=True))


def run(algorithm, iterations, seed=0):
    return last(iterate(algorithm, begin(algorithm, jax.random.key(seed)), iterations, every=iterations))


def q_values(algorithm, params, obs):
    """``[..., num_actions]`` of observations ``[..., 1]``."""
    flat = jnp.reshape(obs, (-1, 1))
    values = jax.vmap(lambda obs: network_of(algorithm).apply(params, obs)[:, 0])(flat)
    return np.asarray(values).reshape(*np.shape(obs)[:-1], -1)


def reference_targets(reward, next_q, terminated, truncated, gamma, lambda_):
    """One trajectory: the mixture of n-step returns that Q(lambda) is made of (Gallici et al. 2024, section 4)."""
    targets = []
    for t in range(len(reward)):
        target, so_far = 0.0, 0.0
        for n in range(1, len(reward) - t + 1):
            end = t + n - 1
            so_far += gamma ** (n - 1) * reward[end]
            n_step_return = so_far + (0.0 if terminated[end] else gamma**n * next_q[end].max())
            if terminated[end] or truncated[end] or end == len(reward) - 1:
                target += lambda_ ** (n - 1) * n_step_return
                break
            target += (1.0 - lambda_) * lambda_ ** (n - 1) * n_step_return
        targets.append(target)
    return targets


@pytest.mark.parametrize("lambda_", [0.0, 0.65, 1.0])
def test_targets_against_a_slow_reference(lambda_):
    algorithm = pqn(obs_reward(), num_envs=3, rollout_length=20, td_lambda=lambda_, gamma=0.9)
    algorithm = dataclasses.replace(algorithm, num_minibatches=1, normalize_observations=False)
    rng = np.random.default_rng(0)
    terminated = rng.random((3, 20)) < 0.15
    truncated = (rng.random((3, 20)) < 0.15) & ~terminated
    assert terminated.any()
    assert truncated.any()
    transitions = Transition(
        obs=rng.normal(size=(3, 20, 1)).astype(np.float32),
        action=rng.integers(0, 2, size=(3, 20)),
        reward=rng.normal(size=(3, 20)).astype(np.float32),
        terminated=terminated,
        truncated=truncated,
        next_obs=rng.normal(size=(3, 20, 1)).astype(np.float32),  # of a true successor: never the next row's `obs`
        extras={},
    )
    state = begin(algorithm, jax.random.key(0))
    next_q = q_values(algorithm, state.params, transitions.next_obs)
    expected = [
        reference_targets(transitions.reward[i], next_q[i], terminated[i], truncated[i], 0.9, lambda_) for i in range(3)
    ]
    batch = algorithm._estimate(state, transitions)
    np.testing.assert_allclose(batch.target, np.ravel(expected), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(batch.action, transitions.action.ravel())
    np.testing.assert_array_equal(batch.obs, transitions.obs.reshape(60, 1))


def a_batch(algorithm):
    """As many steps as one iteration collects."""
    rng = np.random.default_rng(1)
    size = algorithm.steps_per_iteration
    return TargetBatch(
        obs=jnp.asarray(rng.normal(size=(size, 1)), jnp.float32),
        action=jnp.asarray(rng.integers(0, 2, size=size)),
        target=jnp.asarray(rng.normal(size=size), jnp.float32),
    )


def test_loss_is_half_the_squared_error_of_the_actions_taken():
    algorithm = pqn(obs_reward(), network=NETWORK.clone(head=ExpectedValue(None)))
    params, batch = algorithm.init(jax.random.key(0)).params, a_batch(algorithm)
    q = q_values(algorithm, params, batch.obs)
    expected = np.mean([0.5 * (q[i, a] - batch.target[i]) ** 2 for i, a in enumerate(batch.action)])
    loss, _ = algorithm._loss(params, batch, jax.random.key(0))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_the_first_step_of_rectified_adam_is_along_the_gradient():
    """As long as it knows too little of the gradient's variance it does not divide by it; plain Adam would at once."""
    algorithm = pqn(
        obs_reward(), learning_rate=0.5, num_epochs=1, num_minibatches=1, optimizer=RAdam(max_grad_norm=0.1)
    )
    state, batch = begin(algorithm, jax.random.key(0)), a_batch(algorithm)
    params, _, metrics = algorithm._update(state, batch, jax.random.key(1))
    grads, _ = jax.grad(algorithm._loss, has_aux=True)(state.params, batch, jax.random.key(0))
    norm = optax.tree.norm(grads)
    assert norm > 0.1
    np.testing.assert_allclose(metrics["grad_norm"].value, norm, rtol=1e-4)
    expected = jax.tree.map(lambda p, g: p - 0.5 * (0.1 / norm) * g, state.params, grads)
    chex.assert_trees_all_close(params, expected, rtol=1e-4, atol=1e-6)


def test_every_epoch_uses_every_minibatch():
    algorithm = pqn(purerl.make("CartPole-v1"), num_epochs=3, num_minibatches=4)
    steps = [leaf for leaf in jax.tree.leaves(run(algorithm, 2).state.opt_state) if leaf.dtype == jnp.int32]
    assert [int(s) for s in steps] == [2 * 3 * 4]


def test_zero_learning_rate_leaves_parameters_unchanged():
    algorithm = pqn(purerl.make("CartPole-v1"), learning_rate=0.0)
    before = bits(algorithm.init(jax.random.key(0)).params)
    chex.assert_trees_all_equal(before, bits(run(algorithm, 3).state.params))


def test_learning_rate_and_epsilon_fall_linearly():
    algorithm = pqn(
        purerl.make("CartPole-v1"),
        learning_rate=LinearSchedule(1.0, 0.0, 8 * 32.0),
        epsilon=LinearSchedule(0.9, 0.1, 4 * 32.0),
    )
    metrics = [p.metrics for p in iterate(algorithm, begin(algorithm, jax.random.key(0)), 8)]
    np.testing.assert_allclose([m["learning_rate"].value for m in metrics], 1.0 - np.arange(8) / 8, rtol=1e-6)
    expected = [0.9, 0.7, 0.5, 0.3, 0.1, 0.1, 0.1, 0.1]
    np.testing.assert_allclose([m["epsilon"].value for m in metrics], expected, rtol=1e-6)


def test_epsilon_is_the_share_of_random_actions():
    algorithm = pqn(obs_reward(), epsilon=0.4)
    state, obs = begin(algorithm, jax.random.key(0)), jnp.zeros(1)
    greedy = algorithm.policy(state, explore=False)
    explore = algorithm.policy(state, explore=True)
    best = int(greedy.act(jax.random.key(0), (), obs)[0])
    keys = jax.random.split(jax.random.key(1), 4000)
    actions = jax.vmap(lambda key: explore.act(key, (), obs)[0])(keys)
    # One of two random actions is the best one; three standard deviations.
    assert abs(np.mean(actions != best) - 0.2) < 3 * np.sqrt(0.2 * 0.8 / 4000)


def test_rewards_are_scaled():
    _, _, value = trained("pqn", endless(limit=3), 200, gamma=0.8, reward_scale=0.2)
    np.testing.assert_allclose(value(1.0), 1.0, rtol=0.05)


@pytest.mark.parametrize(
    "network",
    [
        QNetwork(MLP((16,)), C51(21, -2.0, 2.0)),
        QNetwork(MLP((16,)), QuantileRegression(8)),
        QNetwork(MLP((16,), layer_norm=True), dueling=True, noisy=True),
    ],
)
def test_learns_with_every_kind_of_network(network):
    _, _, value = trained("pqn", obs_reward(), 150, network=network)
    np.testing.assert_allclose([value(1.0), value(-1.0)], [1.0, -1.0], atol=0.1)


def test_noisy_layers_explore():
    algorithm = pqn(obs_reward(), network=QNetwork(MLP((16,)), noisy=True), epsilon=0.0)
    state = begin(algorithm, jax.random.key(0))
    explore, greedy = (algorithm.policy(state, explore=e) for e in (True, False))
    keys = jax.random.split(jax.random.key(1), 100)
    actions = [jax.vmap(lambda key, p=p: p.act(key, (), jnp.ones(1))[0])(keys) for p in (explore, greedy)]
    assert [len(np.unique(a)) for a in actions] == [2, 1]


def test_the_default_network_is_normalised():
    assert PQN(env=purerl.make("CartPole-v1")).network.trunk.layer_norm
    params = ALGORITHMS["pqn"].make(obs_reward()).init(jax.random.key(0)).params["params"]
    assert "LayerNorm_0" in params["trunk"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_envs": 3, "rollout_length": 5}, "minibatches"),
        ({"num_envs": 0}, "num_envs"),
        ({"td_lambda": 1.1}, "td_lambda"),
        ({"gamma": -0.1}, "gamma"),
        ({"epsilon": 2.0}, r"epsilon must lie in \[0, 1\]"),
        ({"reward_scale": -1.0}, "reward_scale"),
        ({"env": "CartPole-v1"}, "env must be an Environment"),
        ({"env": purerl.make("Pendulum-v1")}, "pqn needs discrete actions, got .*: use sac, td3, ddpg or ppo"),
        ({"network": QNetwork(CNN())}, "CNN"),
    ],
)
def test_bad_hyper_parameters_are_one_clear_error(changes, words):
    with pytest.raises(InputError, match=words):
        PQN(**{"env": purerl.make("CartPole-v1"), **changes})
