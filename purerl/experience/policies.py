"""Policies: from a distribution over actions, from action values, with noise, or at random.

Each acts in the environment's own units. ``extras["unit_action"]`` is a continuous action between -1 and 1, the unit of
networks and critics.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from purerl import struct
from purerl.experience.preprocessing import preprocess
from purerl.math import running_statistics
from purerl.spaces import Box, Space
from purerl.types import Array, Environment, Policy, PyTree

Statistics = running_statistics.RunningStatistics | None
Act = tuple[Array, PyTree, dict[str, Array]]


@struct.dataclass
class Actor:
    """Policy given by a network's distribution over actions; a deterministic policy is the case of a single action.

    Attributes:
        env: one of the environments it acts in.
        network: with the environment's action space filled in. ``act(carry, obs)`` returns a memory and a distribution.
    """

    env: Environment
    network: Any = struct.field(static=True)

    def policy(self, params: PyTree, obs_stats: Statistics, *, explore: bool) -> Policy:
        """Sample actions (``explore=True``) or take the mode of each distribution, in the environment's own units.

        The `extras` of a sample are ``raw_action``, as the distribution drew it, and ``log_prob``, its log-probability.

        Args:
            params: of the network; without a memory, those of the policy are enough.
            obs_stats: running statistics of observations; None unless they are normalised.
            explore: whether to sample.
        """
        act = Actor._sample if explore else Actor._mode
        # Not a bound method: that would hide the leaves of `self` where JAX does not see them.
        return Policy(Partial(act, self, params, obs_stats), self.network.initial_carry())

    def _sample(self, params: PyTree, obs_stats: Statistics, key: Array, carry: PyTree, obs: Array) -> Act:
        carry, distribution = self._distribution(params, obs_stats, carry, obs)
        raw, log_prob = distribution.sample_and_log_prob(key)
        action, extras = scale_action(self.env.action_space, distribution.action(raw))
        return action, carry, extras | {"raw_action": raw, "log_prob": log_prob}

    def _mode(self, params: PyTree, obs_stats: Statistics, key: Array, carry: PyTree, obs: Array) -> Act:
        carry, distribution = self._distribution(params, obs_stats, carry, obs)
        action, extras = scale_action(self.env.action_space, distribution.action(distribution.mode()))
        return action, carry, extras

    def _distribution(self, params: PyTree, obs_stats: Statistics, carry: PyTree, obs: Array) -> Any:
        features = preprocess(self.env.observation_space, obs_stats, obs)
        return self.network.apply(params, carry, features, method="act")


@struct.dataclass
class EpsilonGreedy:
    """Policy given by the values of discrete actions.

    Attributes:
        env: one of the environments it acts in.
        network: with the environment's action space filled in; `purerl.QNetwork`.
    """

    env: Environment
    network: Any = struct.field(static=True)

    def policy(self, params: PyTree, obs_stats: Statistics, epsilon: float | Array, *, explore: bool) -> Policy:
        """A random action with probability `epsilon`, else the greedy one (``explore=True``); or always the greedy one.

        Args:
            params: of the network.
            obs_stats: running statistics of observations; None unless they are normalised.
            epsilon: share of random actions.
            explore: whether to act at random at times, and with noise on noisy layers.
        """
        if explore:
            return Policy(Partial(EpsilonGreedy._sample, self, params, obs_stats, epsilon))
        return Policy(Partial(EpsilonGreedy._mode, self, params, obs_stats))

    def _sample(
        self, params: PyTree, obs_stats: Statistics, epsilon: float | Array, key: Array, carry: PyTree, obs: Array
    ) -> Act:
        noise_key, whether_key, action_key = jax.random.split(key, 3)
        greedy = self._greedy(params, obs_stats, obs, {"noise": noise_key})
        random = self.env.action_space.sample(action_key)
        return jnp.where(jax.random.uniform(whether_key) < epsilon, random, greedy), carry, {}

    def _mode(self, params: PyTree, obs_stats: Statistics, key: Array, carry: PyTree, obs: Array) -> Act:
        return self._greedy(params, obs_stats, obs, None), carry, {}

    def _greedy(self, params: PyTree, obs_stats: Statistics, obs: Array, rngs: dict[str, Array] | None) -> Array:
        output = self.network.apply(params, preprocess(self.env.observation_space, obs_stats, obs), rngs=rngs)
        return jnp.argmax(self.network.head.value(output)).astype(jnp.int32)


@struct.dataclass
class Noise:
    """Exploration noise on actions between -1 and 1: white, or correlated in time (Ornstein-Uhlenbeck)::

        x' = (1 - decay dt) x + std sqrt(dt) N(0, 1),    x = 0 at the start of each episode

    Attributes:
        std: sigma, deviation of the noise added over one unit of time.
        decay: theta, share of the noise that is forgotten per unit of time.
        dt: time per step. With ``decay * dt = 1`` the noise is white.
    """

    std: float | Array
    decay: float | Array = 1.0
    dt: float | Array = 1.0

    def add_to(self, policy: Policy, env: Environment) -> Policy:
        """The policy with noise on its bounded continuous actions in `env`, clipped to their bounds."""
        return Policy(Partial(Noise._act, self, env, policy.act), (policy.carry, _zeros(env)))

    def _act(self, env: Environment, act: Partial, key: Array, carry: PyTree, obs: Array) -> Act:
        carry, noise = carry
        _, carry, extras = act(key, carry, obs)
        increment = self.std * jnp.sqrt(self.dt) * jax.random.normal(key, noise.shape, jnp.float32)
        noise = (1.0 - self.decay * self.dt) * noise + increment
        action, extras = scale_action(env.action_space, jnp.clip(extras["unit_action"] + noise, -1.0, 1.0))
        return action, (carry, noise), extras

    def uniform(self, env: Environment) -> Policy:
        """Random actions, and the memory of a policy with noise."""
        return uniform(env, ((), _zeros(env)))


def _zeros(env: Environment) -> Array:
    return jnp.zeros(env.action_space.shape, jnp.float32)


def uniform(env: Environment, carry: PyTree = ()) -> Policy:
    """Random actions: uniform where they are discrete or bounded, else as the space samples them (`Box.sample`).

    The memory `carry` stays as it is.
    """
    return Policy(Partial(_uniform, env), carry)


def _uniform(env: Environment, key: Array, carry: PyTree, obs: Array) -> Act:
    space = env.action_space
    if not isinstance(space, Box) or not space.is_bounded:
        return space.sample(key), carry, {}
    action, extras = scale_action(space, jax.random.uniform(key, space.shape, jnp.float32, -1.0, 1.0))
    return action, carry, extras


def scale_action(space: Space, action: Array) -> tuple[Array, dict[str, Array]]:
    """A discrete action as it is; a continuous one from units of networks, -1 to 1, to the bounds of `space`.

    Returns:
        The action for the environment, and ``{"unit_action": action}`` where it is continuous.
    """
    return (space.from_unit(action), {"unit_action": action}) if isinstance(space, Box) else (action, {})
