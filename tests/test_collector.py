"""What off-policy algorithms learn from, on an environment whose every step can be told from observation and action."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from probes import Probe

from purerl import normalize, rollout, struct
from purerl.collector import Collector, CollectorState
from purerl.replay import Replay
from purerl.spaces import Box, Discrete
from purerl.types import Policy, TimeStep

GAMMA = 0.9


@struct.dataclass
class Fork(Probe):
    """Five steps, then the end: the task's own, or a time limit.

    Observed are which step comes next (1 to 5, negative where a time limit ends the episode) and the last action, in
    the environment's units. The reward counts the steps and the action.
    """

    length: int = 5

    @property
    def observation_space(self):
        return Box((3,) if self.continuous else (2,), -10.0, 10.0)

    @property
    def action_space(self):
        return Box((2,), (-3.0, 0.0), (1.0, 4.0)) if self.continuous else Discrete(3)

    def reset(self, key):
        return self.look(2.0 * jax.random.bernoulli(key) - 1.0, jnp.zeros(self.action_space.shape))

    def step(self, key, state, action):
        over = jnp.abs(state) == self.length
        onward = self.look(state + jnp.sign(state), action)
        reward = 0.5 * state + 0.3 * jnp.sum(action)
        return struct.replace(onward, reward=reward, terminated=over & (state > 0), truncated=over & (state < 0))

    def look(self, state, action):
        obs = jnp.concatenate([state[None], jnp.ravel(action).astype(jnp.float32)])
        no = jnp.zeros((), bool)
        return TimeStep(state, obs, jnp.float32(0.0), terminated=no, truncated=no)

    def follow(self, obs, action):
        """``(reward, whether the task goes on, successor)`` of one step, in NumPy."""
        state, action = obs[0], np.atleast_1d(action)
        successor = np.concatenate([[state + np.sign(state)], action])
        return 0.5 * state + 0.3 * action.sum(), state != self.length, successor

    def scale(self, raw):
        """From [-1, 1] to the environment's units, in NumPy."""
        low, high = np.float32([-3.0, 0.0]), np.float32([1.0, 4.0])
        return low + 0.5 * (raw + 1.0) * (high - low)


def tell(key, carry, obs):
    """Random, and tells what it did before scaling."""
    raw = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)
    return Fork(True).action_space.from_unit(raw), carry, {"raw_action": raw}


def keep_quiet(key, carry, obs):
    return tell(key, carry, obs)[0], carry, {}


RING = Replay(capacity=320, num_envs=4, rollout_length=8)
COLLECTOR = Collector(Fork(True), RING, normalize_observations=True)
collect = jax.jit(Collector.collect)
init = jax.jit(Collector.init, static_argnames="num_rollouts")


def begin(act=tell, collector=COLLECTOR, num_rollouts=2):
    return init(collector, jax.random.key(0), Policy(Partial(act)), jnp.zeros(2), num_rollouts=num_rollouts)


def written(state):
    """Observations and actions in the order of writing, of environment after environment."""
    rows = int(state.replay.size)
    return [np.asarray(jnp.swapaxes(leaf[:rows], 0, 1)) for leaf in (state.replay.obs, state.replay.action)]


@pytest.mark.parametrize("act", [tell, keep_quiet])
def test_the_replay_holds_raw_actions_where_the_policy_tells_them(act):
    state = begin(act)
    obs, action = written(state)
    assert action.shape == (4, 16, 2)
    taken = Fork().scale(action) if act is tell else action
    followed = np.abs(obs[:, :-1, 0]) < 5  # by a step of the same episode, whose observation tells the action
    assert followed.sum() == 4 * (15 - 3)
    np.testing.assert_allclose(obs[:, 1:, 1:][followed], taken[:, :-1][followed], atol=1e-6)


def test_statistics_are_those_of_all_observations_and_count_the_warm_up():
    state = begin()
    state, _ = collect(COLLECTOR, state, Policy(Partial(tell)), jax.random.key(1))
    obs = written(state)[0].reshape(-1, 3)
    assert float(state.obs_stats.count) == len(obs) == 4 * 8 * 3
    np.testing.assert_allclose(state.obs_stats.mean, obs.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.obs_stats.var, obs.var(axis=0), rtol=1e-4)


def test_without_normalising_there_are_no_statistics():
    collector = struct.replace(COLLECTOR, normalize_observations=False)
    assert begin(collector=collector, num_rollouts=1).obs_stats is None


def test_the_start_equals_collecting_by_hand():
    policy = Policy(Partial(tell))
    reset_key, warmup_key = jax.random.split(jax.random.key(0))
    timestep = jax.vmap(COLLECTOR.env.reset)(jax.random.split(reset_key, 4))
    flight = jax.vmap(lambda timestep: rollout.begin(timestep, ()))(timestep)
    state = CollectorState(flight, RING.init(jnp.zeros(3), jnp.zeros(2)), normalize.init((3,)))
    for key in jax.random.split(warmup_key, 2):
        state, episodes = collect(COLLECTOR, state, policy, key)
    assert int(state.replay.size) == int(state.replay.position) == 16
    assert float(episodes["episode_length"].value) == 5.0
    chex.assert_trees_all_close(begin(), state, rtol=1e-6)
