"""Environments so small that the right answer is known.

Each isolates one thing an agent must get right; if a probe fails, CartPole will not say why.
"""

import jax
import jax.numpy as jnp
import numpy as np

from purerl import struct
from purerl.spaces import Box, Discrete
from purerl.types import TimeStep


def _timestep(state, obs, reward=0.0, terminated=False, truncated=False):
    return TimeStep(
        state=state,
        obs=jnp.asarray(obs, jnp.float32).reshape(1),
        reward=jnp.asarray(reward, jnp.float32),
        terminated=jnp.asarray(terminated),
        truncated=jnp.asarray(truncated),
    )


@struct.dataclass
class Probe:
    """Common spaces; not an environment. Two actions, or everything between them."""

    continuous: bool = struct.field(default=False, static=True)

    @property
    def observation_space(self):
        return Box((1,), -1.0, 1.0)

    @property
    def action_space(self):
        return Box((1,), -1.0, 1.0) if self.continuous else Discrete(2)

    def signed(self, action):
        """-1 for the one, 1 for the other."""
        return action[0] if self.continuous else 2.0 * action - 1.0


@struct.dataclass
class Line(Probe):
    """An observation that moves by `drift`, and a reward of ``(obs_weight + action_weight * action) * obs``.

    Several probes in one: only numbers tell them apart, so that an algorithm compiles once for all of them.
    """

    random_sign: bool = False  # whether the first observation is +1 or -1 instead of `start`
    start: float = 0.0
    drift: float = 0.0
    obs_weight: float = 1.0
    action_weight: float = 0.0
    length: int = 1  # steps after which the task ends
    limit: int = 1_000_000  # steps after which we stop looking

    def reset(self, key):
        sign = 2.0 * jax.random.bernoulli(key).astype(jnp.float32) - 1.0
        obs = jnp.where(self.random_sign, sign, self.start)
        return _timestep((obs, jnp.int32(0)), obs)

    def step(self, key, state, action):
        obs, steps = state
        reward = (self.obs_weight + self.action_weight * self.signed(action)) * obs
        obs, steps = obs + self.drift, steps + 1
        ended = steps >= self.length
        return _timestep((obs, steps), obs, reward, ended, (steps >= self.limit) & ~ended)


def obs_reward(*, continuous=False):
    """One step; the reward equals the observation, +1 or -1. V(obs) = obs."""
    return Line(continuous, random_sign=True)


def delay(*, continuous=False):
    """Two steps, from 0 to 1; reward 1 at the second. V(0) = gamma, V(1) = 1."""
    return Line(continuous, drift=1.0, length=2)


def action_times_obs(*, continuous=False):
    """One step; the reward is the product of the action (-1 to 1) and the observation (+-1)."""
    return Line(continuous, random_sign=True, obs_weight=0.0, action_weight=1.0)


def endless(*, continuous=False, limit=3):
    """Reward 1 for ever, looked at for `limit` steps at a time. V = 1 / (1 - gamma), whatever the limit."""
    return Line(continuous, start=1.0, length=2**30, limit=limit)


@struct.dataclass
class Numbered:
    """A probe whose observations -1, 0 and 1 are the numbers 0, 1 and 2."""

    env: Line

    @property
    def observation_space(self):
        return Discrete(3)

    @property
    def action_space(self):
        return self.env.action_space

    def reset(self, key):
        return self.look(self.env.reset(key))

    def step(self, key, state, action):
        return self.look(self.env.step(key, state, action))

    def look(self, timestep):
        return struct.replace(timestep, obs=timestep.obs[0].astype(jnp.int32) + 1)


@struct.dataclass
class Target(Probe):
    """One step; the continuous action in [-2, 2] should equal the observation (+-1)."""

    @property
    def action_space(self):
        return Box((1,), -2.0, 2.0)

    def reset(self, key):
        obs = 2.0 * jax.random.bernoulli(key).astype(jnp.float32) - 1.0
        return _timestep(obs, obs)

    def step(self, key, state, action):
        return _timestep(state, state, reward=-((action[0] - state) ** 2), terminated=True)


@struct.dataclass
class Recall(Probe):
    """Three steps; the reward is the product of the last action (-1 or 1) and the first observation (+-1).

    The other observations are 0, so that without memory nothing above 0 can be expected.
    """

    def reset(self, key):
        sign = 2.0 * jax.random.bernoulli(key).astype(jnp.float32) - 1.0
        return _timestep((sign, jnp.int32(0)), sign)

    def step(self, key, state, action):
        sign, now = state
        last = now == 2
        return _timestep((sign, now + 1), 0.0, reward=jnp.where(last, sign * self.signed(action), 0.0), terminated=last)


@struct.dataclass
class Counter(Probe):
    """State and observation count the steps since a random start in [0, 1e6); terminates after `length` steps."""

    length: int = 3

    def reset(self, key):
        start = jax.random.randint(key, (), 0, 1_000_000)
        return _timestep((start, start), start)

    def step(self, key, state, action):
        start, now = state
        return _timestep((start, now + 1), now + 1, reward=1.0, terminated=now + 1 - start >= self.length)


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
