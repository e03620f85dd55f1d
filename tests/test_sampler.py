"""What on-policy algorithms learn from: rewards as learning sees them, and statistics, against NumPy."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import Partial
from probes import Probe, _timestep

from purerl import rollout, sampler, struct
from purerl.sampler import init_sampler
from purerl.types import Policy
from purerl.views import view

GAMMA = 0.9


@struct.dataclass
class Uneven(Probe):
    """Observation and reward count the steps since a random start; ends after three steps, one way or the other."""

    def reset(self, key):
        start = jax.random.randint(key, (), 0, 10)
        return _timestep((start, start), start)

    def step(self, key, state, action):
        start, now = state
        now, over = now + 1, now + 1 - start >= 3
        even = start % 2 == 0
        return _timestep((start, now), now, reward=now - 5.0, terminated=over & even, truncated=over & ~even)


@struct.dataclass
class Sampling:
    """Of an algorithm, what the sampler asks for."""

    env: Uneven
    gamma: float
    reward_scale: float
    num_envs: int = struct.field(static=True)
    rollout_length: int = struct.field(static=True)
    normalize_observations: bool = struct.field(static=True)
    normalize_rewards: bool = struct.field(static=True)

    def init(self, key, carry):
        return init_sampler(self, key, carry, normalize_rewards=self.normalize_rewards)


SAMPLER = Sampling(
    env=Uneven(),
    gamma=GAMMA,
    reward_scale=0.5,
    num_envs=4,
    rollout_length=8,
    normalize_observations=True,
    normalize_rewards=True,
)
POLICY = Policy(Partial(lambda key, carry, obs: (jnp.int32(0), carry + 1, {})), jnp.int32(0))
collect = jax.jit(sampler.collect)


def collected(sampler, num_batches):
    """States before, between and after so many batches, and the batches; no time axis is cut from one to the next."""
    states, batches = [sampler.init(jax.random.key(0), POLICY.carry)], []
    for i in range(num_batches):
        state, transitions, _ = collect(sampler, states[-1], POLICY, jax.random.key(i))
        states.append(state)
        batches.append(transitions)
    return states, batches


def raw(sampler, states, num_batches):
    """The same batches, by hand and with the environment's own rewards."""
    flight, batches = states[0].rollout, []
    for i in range(num_batches):
        flight, transitions, _ = rollout.collect(sampler.env, POLICY, flight, jax.random.key(i), 8)
        batches.append(transitions)
    chex.assert_trees_all_equal(flight, states[-1].rollout)
    return batches


def reference_returns(reward, done):
    """Running discounted returns ``[num_envs, time]``, which begin anew with each episode."""
    returns, running = np.zeros(reward.shape), np.zeros(len(reward))
    for t in range(reward.shape[1]):
        running = GAMMA * running + reward[:, t]
        returns[:, t] = running
        running = np.where(done[:, t], 0.0, running)
    return returns, running


def test_rewards_are_divided_by_the_deviation_of_all_returns_so_far():
    states, batches = collected(SAMPLER, 3)
    own = raw(SAMPLER, states, 3)
    reward, done = (np.concatenate([getattr(b, name) for b in own], axis=1) for name in ("reward", "done"))
    assert any(np.asarray(b.truncated).any() for b in own)
    returns, running = reference_returns(0.5 * reward, done)
    for i, batch in enumerate(batches):
        so_far = returns[:, : 8 * (i + 1)]
        np.testing.assert_allclose(states[i + 1].return_stats.var, so_far.var(), rtol=1e-4)
        expected = 0.5 * reward[:, 8 * i : 8 * (i + 1)] / so_far.std()
        np.testing.assert_allclose(batch.reward, expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(states[-1].discounted_return, running, rtol=1e-4, atol=1e-5)


def test_statistics_are_those_of_all_observations_and_of_earlier_batches_only_while_acting():
    states, batches = collected(SAMPLER, 3)
    assert float(states[0].obs_stats.count) == 0
    for i in range(3):
        obs = np.concatenate([np.ravel(batch.obs) for batch in batches[: i + 1]])
        assert float(states[i + 1].obs_stats.count) == len(obs)
        np.testing.assert_allclose(states[i + 1].obs_stats.mean, [obs.mean()], rtol=1e-4)
        np.testing.assert_allclose(states[i + 1].obs_stats.var, [obs.var()], rtol=1e-4)
    # What a policy made of the state before tells it saw is what learning sees through that state's statistics.
    state, space = states[1], SAMPLER.env.observation_space

    def act(key, carry, obs):
        return jnp.int32(0), carry, {"seen": view(space, state.obs_stats, obs)}

    after, transitions, _ = collect(SAMPLER, state, Policy(Partial(act), jnp.int32(0)), jax.random.key(5))
    seen = transitions.extras["seen"]
    np.testing.assert_allclose(seen, view(space, state.obs_stats, transitions.obs), rtol=1e-5)
    assert np.abs(seen - view(space, after.obs_stats, transitions.obs)).max() > 1e-3


def test_without_normalising_there_are_no_statistics_and_rewards_are_only_scaled():
    sampler = dataclasses.replace(SAMPLER, normalize_observations=False, normalize_rewards=False)
    states, batches = collected(sampler, 2)
    for state in states:
        assert (state.obs_stats, state.return_stats, state.discounted_return) == (None, None, None)
    for batch, own in zip(batches, raw(sampler, states, 2), strict=True):
        np.testing.assert_array_equal(batch.reward, 0.5 * own.reward)
        chex.assert_trees_all_equal(struct.replace(batch, reward=own.reward), own)


def test_episodes_are_told_in_the_environments_own_rewards_and_memory_begins_anew():
    state = SAMPLER.init(jax.random.key(0), POLICY.carry)
    first = np.asarray(state.rollout.timestep.state[0])
    # As long as the first two episodes of each environment.
    sampler = dataclasses.replace(SAMPLER, rollout_length=6)
    after, transitions, episodes = collect(sampler, state, POLICY, jax.random.key(1))
    second = np.asarray(transitions.obs[:, 3, 0])
    assert float(episodes["episode_length"].value) == 3.0
    # Rewards are (now - 5) for the three steps after a start.
    np.testing.assert_allclose(episodes["episode_return"].value, np.mean([3 * first - 9, 3 * second - 9]), rtol=1e-5)
    np.testing.assert_array_equal(after.rollout.carry, 0)
