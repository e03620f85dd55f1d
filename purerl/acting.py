"""How policies act: draw from a distribution or take its mode, in the environment's own units; or at random."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from purerl import normalize, struct
from purerl.networks import ActorCritic
from purerl.spaces import Box, Space
from purerl.types import Array, Environment, Policy, PyTree
from purerl.views import view


@struct.dataclass
class Actor:
    """Acts by a network's distribution over actions.

    Attributes:
        env: one of the environments it acts in.
        network: with the environment's action space filled in.
    """

    env: Environment
    network: ActorCritic = struct.field(static=True)

    def policy(self, params: PyTree, obs_stats: normalize.RunningStatistics | None, *, explore: bool) -> Policy:
        """Sample actions (``explore=True``) or take the mode of each distribution, in the environment's own units.

        A sample's `extras` are ``raw_action``, as the distribution drew it, and ``log_prob``, the logarithm of its
        probability: what the environment gets is squashed or clipped, and scaled to its bounds.

        Args:
            params: of the network; without a memory, those of the policy are enough.
            obs_stats: of the observations; None unless they are normalised.
            explore: whether to sample.
        """
        act = Actor._sample if explore else Actor._mode
        # Not a bound method: that would hide the leaves of `self` where JAX does not see them.
        return Policy(Partial(act, self, params, obs_stats), self.network.initial_carry())

    def _sample(
        self, params: PyTree, obs_stats: normalize.RunningStatistics | None, key: Array, carry: PyTree, obs: Array
    ) -> tuple[Array, PyTree, dict[str, Array]]:
        carry, distribution = self._act(params, obs_stats, carry, obs)
        raw, log_prob = distribution.sample_and_log_prob(key)
        return self._to_env(distribution.action(raw)), carry, {"raw_action": raw, "log_prob": log_prob}

    def _mode(
        self, params: PyTree, obs_stats: normalize.RunningStatistics | None, key: Array, carry: PyTree, obs: Array
    ) -> tuple[Array, PyTree, dict[str, Array]]:
        carry, distribution = self._act(params, obs_stats, carry, obs)
        return self._to_env(distribution.action(distribution.mode())), carry, {}

    def _act(self, params: PyTree, obs_stats: normalize.RunningStatistics | None, carry: PyTree, obs: Array) -> Any:
        """``(carry, distribution)``."""
        return self.network.apply(params, carry, view(self.env.observation_space, obs_stats, obs), method="act")

    def _to_env(self, action: Array) -> Array:
        space = self.env.action_space
        return space.from_unit(action) if isinstance(space, Box) else action


def uniform(env: Environment, carry: PyTree = ()) -> Policy:
    """Random actions, uniform where these are discrete or bounded, else as the space samples (`Box.sample`).

    The memory `carry` stays as it is.
    """
    return Policy(Partial(_uniform, env), carry)


def _uniform(env: Environment, key: Array, carry: PyTree, obs: Array) -> tuple[Array, PyTree, dict[str, Array]]:
    space = env.action_space
    if not isinstance(space, Box) or not space.is_bounded:
        return space.sample(key), carry, {}
    return in_units(space, jax.random.uniform(key, space.shape, jnp.float32, -1.0, 1.0), carry)


def in_units(space: Space, raw_action: Array, carry: PyTree) -> tuple[Array, PyTree, dict[str, Array]]:
    """Result of `Policy.act` for an action between -1 and 1: scaled to the bounds of `space`.

    Its `extras` are ``raw_action``, the action as critics see it.
    """
    assert isinstance(space, Box)
    return space.from_unit(raw_action), carry, {"raw_action": raw_action}
