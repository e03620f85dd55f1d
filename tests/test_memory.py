"""Networks with memory: applied along a trajectory as while acting, forgotten between episodes, needed where needed."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import learn
from probes import Recall
from rows import tiny

import purerl
from purerl import GRU, LSTM, MLP, PPO, ActorCritic
from purerl.layers.memory import NoMemory
from purerl.learning.sequences import SequenceBatch, apply_over_time, apply_to_transitions
from purerl.spaces import Discrete
from purerl.types import Transition


def recurrent(memory, **changes):
    network = ActorCritic(MLP((16,)), memory, **changes)
    return network, network.clone(action_space=Discrete(3))


@pytest.mark.parametrize("memory", [NoMemory(), GRU(5), LSTM(4)])
@pytest.mark.parametrize("shared", [False, True])
def test_along_a_trajectory_is_as_step_by_step(memory, shared):
    _, network = recurrent(memory, shared=shared)
    obs = jax.random.normal(jax.random.key(0), (12, 2))
    done = jnp.zeros(12, bool).at[jnp.array([3, 4, 8])].set(True)
    initial = network.initial_carry()
    params = network.init(jax.random.key(1), initial, obs[0], method="advance")
    before = jax.tree.map(lambda leaf: leaf + 0.5, initial)

    def advance(carry, obs):
        return network.apply(params, carry, obs, method="advance")

    two = [jax.tree.map(lambda *leaves: jnp.stack(leaves), *pair) for pair in ((before, initial), (obs, -obs))]
    results = apply_over_time(network, params, *two, jnp.stack([done, done]))
    carries, (distributions, values) = jax.tree.map(lambda leaf: leaf[0], results)
    carry = before
    for t in range(12):
        carry, (distribution, value) = advance(carry, obs[t])
        for got, expected in zip(jax.tree.leaves(carries), jax.tree.leaves(carry), strict=True):
            np.testing.assert_allclose(got[t], expected, atol=1e-6)
        np.testing.assert_allclose(distributions.logits[t], distribution.logits, atol=1e-6)
        np.testing.assert_allclose(values[t], value, atol=1e-6)
        carry = initial if done[t] else carry


@pytest.mark.parametrize("memory", [NoMemory(), GRU(5)])
def test_true_successors_are_valued_by_what_is_remembered_when_they_are_seen(memory):
    _, network = recurrent(memory)
    obs, beyond = jax.random.normal(jax.random.key(0), (2, 3, 12, 2))
    done = jnp.zeros((3, 12), bool).at[:, jnp.array([3, 8])].set(True)
    next_obs = jnp.where(done[..., None], beyond, jnp.roll(obs, -1, axis=1)).at[:, -1].set(beyond[:, -1])
    params = network.init(jax.random.key(1), network.initial_carry(), obs[0, 0], method="advance")
    carry = jax.tree.map(lambda leaf: jnp.stack([leaf + i for i in range(3)]), network.initial_carry())
    distribution, value, next_value = apply_to_transitions(network, params, carry, obs, next_obs, done)
    carries, (expected, expected_value) = apply_over_time(network, params, carry, obs, done)
    np.testing.assert_array_equal(distribution.logits, expected.logits)
    np.testing.assert_array_equal(value, expected_value)
    # Within an episode the successor is the next step's observation, so its value is the next step's value.
    goes_on = ~np.asarray(done)[:, :-1]
    np.testing.assert_allclose(next_value[:, :-1][goes_on], value[:, 1:][goes_on], atol=1e-6)
    for i, t in ((0, 3), (1, 8), (2, 11)):
        remembered = jax.tree.map(lambda leaf, i=i, t=t: leaf[i, t], carries)
        _, (_, there) = network.apply(params, remembered, next_obs[i, t], method="advance")
        np.testing.assert_allclose(next_value[i, t], there, atol=1e-6)


def test_batches_are_of_rollouts_where_there_is_memory_and_else_of_single_steps():
    obs, scalar = jnp.arange(24.0).reshape(2, 3, 4), jnp.arange(6.0).reshape(2, 3)
    no = jnp.zeros((2, 3), bool)
    transitions = Transition(
        obs=obs,
        action=scalar,
        reward=scalar,
        terminated=scalar == 5,
        truncated=no,
        next_obs=obs,
        extras={"raw_action": scalar + 1.0, "log_prob": scalar + 2.0},
    )
    carry = jnp.zeros((2, 7))
    whole = SequenceBatch.of(carry, transitions, obs, scalar + 3.0, scalar + 4.0, scalar + 5.0)
    assert whole.carry is carry
    for i, name in enumerate(("raw_action", "log_prob", "value", "advantage", "target")):
        np.testing.assert_array_equal(getattr(whole, name), np.arange(6.0).reshape(2, 3) + i + 1)
    single = SequenceBatch.of(((), ()), transitions, obs, scalar, scalar, scalar)
    np.testing.assert_array_equal(single.obs, np.arange(24.0).reshape(6, 1, 4))
    np.testing.assert_array_equal(single.done, [[False]] * 5 + [[True]])


@pytest.mark.parametrize("memory", [GRU(5), LSTM(4)])
def test_what_is_remembered_matters(memory):
    _, network = recurrent(memory)
    initial = network.initial_carry()
    params = network.init(jax.random.key(1), initial, jnp.ones(2), method="advance")
    one, _ = network.apply(params, initial, jnp.ones(2), method="advance")
    _, (_, fresh) = network.apply(params, initial, jnp.zeros(2), method="advance")
    _, (_, after) = network.apply(params, one, jnp.zeros(2), method="advance")
    assert abs(float(fresh - after)) > 1e-3


def test_learning_sees_what_acting_saw():
    """With a learning rate of 0 every ratio stays 1, over windows and episodes (those of 20 steps, windows of 8)."""
    algorithm = tiny("recurrent_ppo", learning_rate=0.0, normalize_observations=False)
    algorithm = dataclasses.replace(algorithm, env=purerl.make("CartPole-v1", episode_length=20))
    _, metrics = jax.jit(lambda key: purerl.train(algorithm, key, 8))(jax.random.key(0))
    np.testing.assert_allclose(metrics["approx_kl"].value, 0.0, atol=1e-9)
    assert metrics["episode_length"].count.sum() > 5


def test_episodes_begin_with_nothing_remembered():
    algorithm = tiny("recurrent_ppo", rollout_length=6)
    algorithm = dataclasses.replace(algorithm, env=purerl.make("CartPole-v1", episode_length=6))
    carry = learn(algorithm, 0, 1).experience.rollout.carry
    assert all((np.asarray(leaf) == 0.0).all() for leaf in jax.tree.leaves(carry))
    carry = learn(dataclasses.replace(algorithm, rollout_length=5), 0, 1).experience.rollout.carry
    assert all((np.asarray(leaf) != 0.0).any() for leaf in jax.tree.leaves(carry))


@pytest.mark.parametrize("name", ["recurrent_ppo", "recurrent_a2c"])
def test_only_memory_solves_a_task_that_needs_it(name):
    """The sign is shown at the first step, and asked for at the third."""
    returns = {}
    for memory in (GRU(16), NoMemory()):
        on_probe = {"num_envs": 16, "rollout_length": 12, "learning_rate": 1e-2, "normalize_observations": False}
        algorithm = tiny(name, network=ActorCritic(MLP((16,)), memory), normalize_rewards=False, **on_probe)
        algorithm = dataclasses.replace(algorithm, env=Recall())
        state = learn(algorithm, 0, 120)
        policy = algorithm.policy(state, explore=False)
        episodes = purerl.evaluate(algorithm.env, policy, jax.random.key(7), num_episodes=256)
        returns[type(memory)] = float(np.mean(episodes.episode_return))
    assert returns[GRU] > 0.95
    assert abs(returns[NoMemory]) < 0.3


def test_minibatches_are_of_whole_environments():
    network, _ = recurrent(GRU(4))
    with pytest.raises(purerl.InputError, match="num_envs = 6 environments cannot be divided into num_minibatches = 4"):
        PPO(env=purerl.make("CartPole-v1"), network=network, num_envs=6, num_minibatches=4)


def test_others_refuse_a_memory():
    network = ActorCritic(MLP((16,)), LSTM(4), squash=True)
    with pytest.raises(purerl.InputError, match="only ppo, a2c and impala take a network with memory, got LSTM"):
        purerl.SHAC(env=purerl.make("Pendulum-v1", differentiable=True), network=network)
    with pytest.raises(purerl.InputError, match="memory must be a flax module such as GRU"):
        ActorCritic(memory="gru")  # type: ignore[arg-type]
    with pytest.raises(purerl.InputError, match=r"memory_size must lie in \[1, inf\), got 0"):
        GRU(0)
