"""Where episodes end and begin, what is remembered across, and that evaluation counts each episode once."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from probes import Counter, endless

from purerl import InputError, rollout, struct
from purerl.spaces import Box
from purerl.types import Policy, TimeStep


def count_calls(key, carry, obs):
    """A policy whose memory is how often it acted in this episode."""
    return jnp.int32(0), carry + 1, {"carry": carry}


POLICY = Policy(Partial(count_calls), jnp.int32(0))


def collect(env, num_envs, length, seed=0, state=None):
    reset_key, key = jax.random.split(jax.random.key(seed))
    if state is None:
        timesteps = jax.vmap(env.reset)(jax.random.split(reset_key, num_envs))
        state = jax.vmap(lambda timestep: rollout.begin(timestep, POLICY.carry))(timesteps)
    return jax.jit(lambda state, key: rollout.collect(env, POLICY, state, key, length))(state, key)


def test_transitions_and_episode_ends():
    state, transitions, metrics = collect(Counter(length=3), num_envs=2, length=8)
    obs, next_obs = np.asarray(transitions.obs[..., 0]), np.asarray(transitions.next_obs[..., 0])
    # The successor is the true one, also at an end; otherwise it is what comes next.
    np.testing.assert_array_equal(next_obs, obs + 1)
    done = np.asarray(transitions.done)
    np.testing.assert_array_equal(done, [[False, False, True, False, False, True, False, False]] * 2)
    np.testing.assert_array_equal(obs[:, 1:][~done[:, :-1]], next_obs[:, :-1][~done[:, :-1]])
    # Memory and counters begin anew together with the environment.
    np.testing.assert_array_equal(transitions.extras["carry"], [[0, 1, 2, 0, 1, 2, 0, 1]] * 2)
    np.testing.assert_array_equal(state.episode_length, [2, 2])
    np.testing.assert_array_equal(state.episode_return, [2.0, 2.0])
    chex.assert_trees_all_equal(
        jax.tree.map(float, (metrics["episode_return"].total, metrics["episode_return"].count)), (12.0, 4.0)
    )


def test_episodes_go_on_across_collections():
    env = Counter(length=10)
    state, _, _ = collect(env, num_envs=2, length=8)
    _, transitions, metrics = collect(env, num_envs=2, length=4, state=state)
    np.testing.assert_array_equal(transitions.terminated, [[False, True, False, False]] * 2)
    assert float(metrics["episode_return"].value) == 10.0


@pytest.mark.parametrize("length", [1, 3])
def test_no_two_episodes_begin_in_the_same_start_state(length):
    env, starts, state = Counter(length=length), [], None
    for seed in range(2):
        state, transitions, _ = collect(env, num_envs=8, length=15, seed=seed, state=state)
        starts.append(np.asarray(transitions.obs[..., 0])[np.asarray(transitions.extras["carry"]) == 0])
    starts = np.concatenate(starts)
    assert len(starts) == 8 * 30 // length
    assert len(np.unique(starts)) == len(starts)


@struct.dataclass
class ShortOrLong:
    """Episodes of one step or of nine, with equal probability, decided at the start."""

    observation_space = Box((1,))
    action_space = Box((1,))

    def reset(self, key):
        left = jnp.where(jax.random.bernoulli(key), 1, 9)
        return TimeStep(left, jnp.float32(left)[None], jnp.float32(0.0), jnp.bool_(False), jnp.bool_(False))

    def step(self, key, state, action):
        return TimeStep(state - 1, jnp.float32(state - 1)[None], jnp.float32(1.0), state <= 1, jnp.bool_(False))


def test_short_episodes_are_as_frequent_as_they_are_drawn():
    """A start state that serves twice is one that was free, and those of short episodes are."""
    timesteps = jax.vmap(ShortOrLong().reset)(jax.random.split(jax.random.key(0), 8))
    state = jax.vmap(lambda timestep: rollout.begin(timestep, POLICY.carry))(timesteps)

    @jax.jit
    def share(state, keys):
        def body(state, key):
            state, seen, _ = rollout.collect(ShortOrLong(), POLICY, state, key, 5)
            first = seen.extras["carry"] == 0
            return state, (jnp.sum(first), jnp.sum(first & (seen.obs[..., 0] == 1.0)))

        begun, short = jax.lax.scan(body, state, keys)[1]
        return jnp.sum(short) / jnp.sum(begun)

    # 16,000 episodes: a standard error of 0.004.
    np.testing.assert_allclose(share(state, jax.random.split(jax.random.key(1), 2000)), 0.5, atol=0.013)


@struct.dataclass
class Chain:
    """x' = x + action, reward x'; ends after three steps at a place where the reset's gradient would be infinite."""

    scale: float = 1.0

    @property
    def observation_space(self):
        return Box((1,))

    @property
    def action_space(self):
        return Box((1,))

    def reset(self, key):
        # d sqrt(x) / dx at 0 is infinite: a dead branch that could poison the live one.
        x = jnp.sqrt(self.scale - 1.0) + 1.0
        return TimeStep((x, jnp.int32(0)), x[None], jnp.float32(0.0), jnp.bool_(False), jnp.bool_(False))

    def step(self, key, state, action):
        x, steps = state[0] + self.scale * action[0], state[1] + 1
        return TimeStep((x, steps), x[None], x, steps >= 3, jnp.bool_(False))


def test_gradients_flow_through_steps_but_never_through_a_reset():
    def total_reward(gain, length):
        policy = Policy(Partial(lambda gain, key, carry, obs: (gain[None], carry, {}), gain))
        env = Chain(scale=jnp.float32(1.0))
        timestep = TimeStep(
            (jnp.float32(1.0), jnp.int32(0)), jnp.ones(1), jnp.float32(0.0), jnp.bool_(False), jnp.bool_(False)
        )
        state = jax.tree.map(lambda leaf: leaf[None], rollout.begin(timestep, ()))
        _, transitions, _ = rollout.collect(env, policy, state, jax.random.key(0), length)
        return jnp.sum(transitions.reward)

    # Within an episode dx_t/dgain = t, so three steps give 1 + 2 + 3; after the reset it starts again from 1.
    assert float(jax.grad(total_reward)(jnp.float32(0.5), 3)) == 6.0
    assert float(jax.grad(total_reward)(jnp.float32(0.5), 5)) == 6.0 + 1.0 + 2.0


def test_a_gradient_in_the_environments_parameters_is_not_poisoned_by_the_reset():
    def total_reward(scale):
        policy = Policy(Partial(lambda key, carry, obs: (jnp.ones(1), carry, {})))
        timestep = TimeStep(
            (jnp.float32(1.0), jnp.int32(0)), jnp.ones(1), jnp.float32(0.0), jnp.bool_(False), jnp.bool_(False)
        )
        state = jax.tree.map(lambda leaf: leaf[None], rollout.begin(timestep, ()))
        _, transitions, _ = rollout.collect(Chain(scale), policy, state, jax.random.key(0), 4)
        return jnp.sum(transitions.reward)

    assert float(jax.grad(total_reward)(jnp.float32(1.0))) == 6.0 + 1.0


@struct.dataclass
class Lifespan:
    """Episodes of 1 to 50 steps, reward 1 each: short ones end first and would be over-counted by a fixed budget."""

    observation_space = Box((1,))
    action_space = Box((1,))

    def reset(self, key):
        left = jax.random.randint(key, (), 1, 51)
        return TimeStep(left, jnp.zeros(1), jnp.float32(0.0), jnp.bool_(False), jnp.bool_(False))

    def step(self, key, state, action):
        return TimeStep(state - 1, jnp.zeros(1), jnp.float32(1.0), state <= 1, jnp.bool_(False))


def test_evaluation_counts_every_episode_once():
    episodes = jax.jit(lambda key: rollout.evaluate(Lifespan(), POLICY, key, num_episodes=2000))(jax.random.key(0))
    assert episodes.finished.all()
    np.testing.assert_array_equal(episodes.episode_return, episodes.episode_length)
    np.testing.assert_allclose(np.mean(episodes.episode_return), 25.5, atol=1.0)
    assert set(np.unique(episodes.episode_length)) == set(range(1, 51))


def test_evaluation_gives_up_on_endless_episodes_and_says_so():
    for bad in ({"max_steps": 10**10}, {"max_steps": 0}, {"max_steps": 1e5}, {"num_episodes": 0}):
        with pytest.raises(InputError, match=next(iter(bad))):
            rollout.evaluate(endless(), POLICY, jax.random.key(0), **({"num_episodes": 2} | bad))
    episodes = rollout.evaluate(endless(limit=1_000_000), POLICY, jax.random.key(0), num_episodes=2, max_steps=5)
    np.testing.assert_array_equal(episodes.finished, [False, False])
    np.testing.assert_array_equal(episodes.episode_length, [5, 5])
