"""Experience: scaled rewards, running statistics and what a replay is given, against NumPy."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from probes import Fork, Probe, _timestep

from purerl import rollout, struct
from purerl.experience.collection import Experience, ExperienceState
from purerl.math import running_statistics
from purerl.replay import Replay
from purerl.types import Policy

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


EXPERIENCE = Experience(
    env=Uneven(),
    num_envs=4,
    rollout_length=8,
    normalize_observations=True,
    reward_scale=0.5,
    normalize_rewards=True,
    gamma=GAMMA,
)
POLICY = Policy(Partial(lambda key, carry, obs: (jnp.int32(0), carry + 1, {})), jnp.int32(0))
collect = jax.jit(Experience.collect)


def collected(experience, num_batches):
    """States before, between and after so many batches, and the batches; no time axis is cut from one to the next."""
    states, batches = [experience.init(jax.random.key(0), POLICY.carry)], []
    for i in range(num_batches):
        state, transitions, _ = collect(experience, states[-1], POLICY, jax.random.key(i))
        states.append(state)
        batches.append(transitions)
    return states, batches


def raw(experience, states, num_batches):
    """The same batches, by hand and with the environment's own rewards."""
    flight, batches = states[0].rollout, []
    for i in range(num_batches):
        flight, transitions, _ = rollout.collect(experience.env, POLICY, flight, jax.random.key(i), 8)
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
    states, batches = collected(EXPERIENCE, 3)
    own = raw(EXPERIENCE, states, 3)
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
    states, batches = collected(EXPERIENCE, 3)
    assert float(states[0].obs_stats.count) == 0
    for i in range(3):
        obs = np.concatenate([np.ravel(batch.obs) for batch in batches[: i + 1]])
        assert float(states[i + 1].obs_stats.count) == len(obs)
        np.testing.assert_allclose(states[i + 1].obs_stats.mean, [obs.mean()], rtol=1e-4)
        np.testing.assert_allclose(states[i + 1].obs_stats.var, [obs.var()], rtol=1e-4)
    # What a policy made of the state before tells it saw is what learning sees through that state's statistics.
    state = states[1]

    def act(key, carry, obs):
        return jnp.int32(0), carry, {"seen": EXPERIENCE.preprocess(state, obs)}

    after, transitions, _ = collect(EXPERIENCE, state, Policy(Partial(act), jnp.int32(0)), jax.random.key(5))
    seen = transitions.extras["seen"]
    np.testing.assert_allclose(seen, EXPERIENCE.preprocess(state, transitions.obs), rtol=1e-5)
    assert np.abs(seen - EXPERIENCE.preprocess(after, transitions.obs)).max() > 1e-3


def test_without_normalising_there_are_no_statistics_and_rewards_are_only_scaled():
    experience = dataclasses.replace(EXPERIENCE, normalize_observations=False, normalize_rewards=False)
    states, batches = collected(experience, 2)
    for state in states:
        assert (state.obs_stats, state.return_stats, state.discounted_return) == (None, None, None)
    for batch, own in zip(batches, raw(experience, states, 2), strict=True):
        np.testing.assert_array_equal(batch.reward, 0.5 * own.reward)
        chex.assert_trees_all_equal(struct.replace(batch, reward=own.reward), own)


def test_episodes_are_told_in_the_environments_own_rewards_and_memory_begins_anew():
    state = EXPERIENCE.init(jax.random.key(0), POLICY.carry)
    first = np.asarray(state.rollout.timestep.state[0])
    # As long as the first two episodes of each environment.
    experience = dataclasses.replace(EXPERIENCE, rollout_length=6)
    after, transitions, episodes = collect(experience, state, POLICY, jax.random.key(1))
    second = np.asarray(transitions.obs[:, 3, 0])
    assert float(episodes["episode_length"].value) == 3.0
    # Rewards are (now - 5) for the three steps after a start.
    np.testing.assert_allclose(episodes["episode_return"].value, np.mean([3 * first - 9, 3 * second - 9]), rtol=1e-5)
    np.testing.assert_array_equal(after.rollout.carry, 0)


# With a replay behind it


def tell(key, carry, obs):
    """Random, and tells what it did before scaling."""
    raw = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
    return Fork(True).action_space.from_unit(raw), carry, {"unit_action": raw}


def keep_quiet(key, carry, obs):
    return tell(key, carry, obs)[0], carry, {}


RING = Replay(capacity=320, num_envs=4, rollout_length=8)
FORKS = Experience(Fork(True), num_envs=4, rollout_length=8, normalize_observations=True)
collect_into = jax.jit(Experience.collect_into)
warm_up = jax.jit(Experience.warm_up, static_argnames="num_rollouts")


def warmed_up(act=tell, experience=FORKS, num_rollouts=2):
    return warm_up(experience, RING, Policy(Partial(act)), num_rollouts=num_rollouts, key=jax.random.key(0))


def written(replay):
    """Observations and actions of a replay's state in the order of writing, of environment after environment."""
    rows = int(replay.size)
    return [np.asarray(jnp.swapaxes(leaf[:rows], 0, 1)) for leaf in (replay.obs, replay.action)]


@pytest.mark.parametrize("act", [tell, keep_quiet])
def test_the_replay_holds_actions_between_bounds_of_1_where_the_policy_gives_them(act):
    _, replay = warmed_up(act)
    obs, action = written(replay)
    assert action.shape == (4, 16, 2)
    taken = Fork().scale(action) if act is tell else action
    followed = np.abs(obs[:, :-1, 0]) < 5  # by a step of the same episode, whose observation tells the action
    assert followed.sum() == 4 * (15 - 3)
    np.testing.assert_allclose(obs[:, 1:, 1:][followed], taken[:, :-1][followed], atol=1e-6)


def test_statistics_count_the_warm_up():
    state, replay = warmed_up()
    state, replay, _ = collect_into(FORKS, RING, state, replay, Policy(Partial(tell)), jax.random.key(1))
    obs = written(replay)[0].reshape(-1, 3)
    assert float(state.obs_stats.count) == len(obs) == 4 * 8 * 3
    np.testing.assert_allclose(state.obs_stats.mean, obs.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.obs_stats.var, obs.var(axis=0), rtol=1e-4)


def test_a_replay_holds_scaled_rewards():
    scaled = dataclasses.replace(FORKS, reward_scale=0.5)
    one, half = warmed_up(num_rollouts=1)[1], warmed_up(experience=scaled, num_rollouts=1)[1]
    assert np.abs(one.outcome[..., 0]).max() > 1.0
    np.testing.assert_array_equal(half.outcome[..., 0], 0.5 * one.outcome[..., 0])


def test_a_warm_up_equals_collecting_by_hand():
    policy = Policy(Partial(tell))
    reset_key, warmup_key = jax.random.split(jax.random.key(0))
    timestep = jax.vmap(FORKS.env.reset)(jax.random.split(reset_key, 4))
    flight = jax.vmap(lambda timestep: rollout.begin(timestep, ()))(timestep)
    state = ExperienceState(flight, running_statistics.init((3,)), None, None, ())
    replay, episodes = RING.init(jnp.zeros(3), jnp.zeros(2)), {}
    for key in jax.random.split(warmup_key, 2):
        state, replay, episodes = collect_into(FORKS, RING, state, replay, policy, key)
    assert int(replay.size) == int(replay.position) == 16
    assert float(episodes["episode_length"].value) == 5.0
    chex.assert_trees_all_close(warmed_up(), (state, replay), rtol=1e-6)
