"""DQN's own promises: the loss, the target network, exploration, priorities, how often it learns, what is rejected."""

import math
from functools import partial

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from test_collector import Fork
from test_contract import ALGORITHMS, bits, network_of

import purerl
from purerl import CNN, DQN, InputError, LinearDecay, QNetwork, struct
from purerl.value_heads import ExpectedValue

init = jax.jit(DQN.init)
step = jax.jit(DQN.step)
update = jax.jit(DQN._update)
loss_of = jax.jit(DQN._loss)
sample = jax.jit(
    lambda algorithm, state, key: algorithm._replay(state.iteration).sample(
        state.collector.replay, key, algorithm.batch_size, algorithm.gamma
    )
)
MANY = 128


def dqn(name="dqn", **changes):
    """4 environments of 8 steps, 64 random steps; few of its pieces shape the program, so few programs are compiled."""
    return ALGORITHMS[name].make(Fork(), **({"batch_size": MANY, "gamma": 0.9} | changes))


def shake(params, seed):
    """Parameters that are all different and not small."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(0.3 * rng.normal(size=leaf.shape), leaf.dtype), params)


def begin(algorithm, seed=0):
    """A state with a filled replay, whose network and target network differ."""
    state = init(algorithm, jax.random.key(seed))
    return struct.replace(state, params=shake(state.params, 1), target_params=shake(state.params, 2))


def view(state, obs):
    """What the network sees of observations ``[num, 2]``: the standardisation, in NumPy."""
    mean, var = np.asarray(state.collector.obs_stats.mean), np.asarray(state.collector.obs_stats.var)
    return np.float32(np.clip((obs - mean) / np.sqrt(var + 1e-8), -10.0, 10.0))


@partial(jax.jit, static_argnums=0)
@partial(jax.vmap, in_axes=(None, None, 0))
def values(network, params, obs):
    """``[num, num_actions]``."""
    return network.apply(params, obs)[:, 0]


def errors(algorithm, state, batch):
    """TD errors ``[batch_size]``, sample by sample, by the rules of the environment and not by what was stored."""
    env, network = Fork(), network_of(algorithm)
    obs, action = np.asarray(batch.obs), np.asarray(batch.action)
    reward, goes_on, next_obs = (np.stack(x) for x in zip(*map(env.follow, obs, action), strict=True))
    value = np.asarray(values(network, state.params, view(state, obs)))
    judge = np.asarray(values(network, state.params, view(state, next_obs)))
    target = np.asarray(values(network, state.target_params, view(state, next_obs)))
    found = []
    for i in range(len(obs)):
        best = target[i].max() if not algorithm.double else target[i][judge[i].argmax()]
        future = algorithm.gamma * best if goes_on[i] else 0.0
        found.append(reward[i] + future - value[i][action[i]])
    return np.asarray(found)


def half_square(error):
    return 0.5 * error**2


def huber(error):
    return 0.5 * error**2 if abs(error) <= 1.0 else abs(error) - 0.5


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize(("head", "cost"), [(ExpectedValue(None), half_square), (ExpectedValue(), huber)])
def test_loss_against_a_slow_reference(double, head, cost):
    state = begin(dqn())
    algorithm = dqn(double=double)
    algorithm = struct.replace(algorithm, network=algorithm.network.clone(head=head))
    batch = sample(dqn(), state, jax.random.key(3))
    ending = np.abs(batch.obs[:, 0]) == 5
    assert (ending & (batch.obs[:, 0] > 0)).any(), "the task terminates"
    assert (ending & (batch.obs[:, 0] < 0) & (batch.weight == 1)).any(), "a time limit, whose successor counts"
    weight = np.asarray(batch.weight) * np.random.default_rng(0).uniform(0.2, 1.0, MANY)
    weight = np.float32(weight)
    error = errors(algorithm, state, batch)
    assert (np.abs(error) > 1.0).any()
    assert (np.abs(error) < 1.0).any()
    expected = np.mean([w * cost(e) for w, e in zip(weight, error, strict=True)])
    loss, (priority, metrics) = loss_of(
        algorithm, state.params, state, struct.replace(batch, weight=weight), jax.random.key(0)
    )
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"].value, expected, rtol=1e-5)
    kept = weight > 0
    np.testing.assert_allclose(np.asarray(priority)[kept], np.abs(error)[kept], rtol=1e-3, atol=1e-5)
