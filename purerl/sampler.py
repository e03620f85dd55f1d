"""What on-policy algorithms learn from: environments in flight, and statistics of what was seen and earned there."""

from __future__ import annotations

from typing import Protocol

import jax
import jax.numpy as jnp

from purerl import normalize, rollout, struct
from purerl.returns import discounted_return
from purerl.types import Array, Environment, Metrics, Policy, PyTree, Transition
from purerl.views import blank_view, observe


@struct.dataclass
class SamplerState:
    """What has been lived through.

    Attributes:
        rollout: the environments in flight, ``[num_envs]``.
        obs_stats: of the observations; None unless they are normalised.
        return_stats: of the discounted returns that scale rewards; None unless they are normalised.
        discounted_return: float32 ``[num_envs]``, running, for `return_stats`; None unless rewards are normalised.
    """

    rollout: rollout.RolloutState
    obs_stats: normalize.RunningStatistics | None
    return_stats: normalize.RunningStatistics | None
    discounted_return: Array | None


class Samples(Protocol):
    """Of an algorithm, what says how it samples."""

    @property
    def env(self) -> Environment:
        """One of the environments."""
        ...

    @property
    def num_envs(self) -> int:
        """Environments stepped side by side."""
        ...

    @property
    def rollout_length(self) -> int:
        """Steps to take in each."""
        ...

    @property
    def gamma(self) -> float:
        """Discount factor per step of the returns that scale rewards."""
        ...

    @property
    def reward_scale(self) -> float:
        """Rewards are multiplied by it."""
        ...

    @property
    def normalize_observations(self) -> bool:
        """Whether to keep statistics of them."""
        ...


def init_sampler(algorithm: Samples, key: Array, carry: PyTree, *, normalize_rewards: bool) -> SamplerState:
    """Start the environments.

    Args:
        algorithm: what samples.
        key: randomness.
        carry: what the policy remembers when an episode begins.
        normalize_rewards: whether to divide rewards by the running deviation of the discounted return.
    """
    timestep = jax.vmap(algorithm.env.reset)(jax.random.split(key, algorithm.num_envs))
    shape = blank_view(algorithm.env.observation_space).shape
    return SamplerState(
        rollout=jax.vmap(lambda timestep: rollout.begin(timestep, carry))(timestep),
        obs_stats=normalize.init(shape) if algorithm.normalize_observations else None,
        return_stats=normalize.init(()) if normalize_rewards else None,
        discounted_return=jnp.zeros(algorithm.num_envs, jnp.float32) if normalize_rewards else None,
    )


def collect(
    algorithm: Samples, state: SamplerState, policy: Policy, key: Array
) -> tuple[SamplerState, Transition, Metrics]:
    """One more rollout.

    The statistics of the observations that are returned include this batch. Acting and learning from one batch both
    see observations through the same statistics: those of `state`, as the policy did.

    Returns:
        The state afterwards; transitions ``[num_envs, rollout_length]``, with rewards as learning sees them; and
        the metrics of the episodes that ended, whose rewards are the environment's own.
    """
    rollouts, transitions, episodes = rollout.collect(
        algorithm.env, policy, state.rollout, key, algorithm.rollout_length
    )
    reward = transitions.reward * algorithm.reward_scale
    return_stats, discounted = state.return_stats, state.discounted_return
    if return_stats is not None and discounted is not None:
        discounted, returns = jax.vmap(discounted_return, in_axes=(0, 0, None, 0))(
            reward, transitions.done, algorithm.gamma, discounted
        )
        return_stats = normalize.update(return_stats, returns)
        reward = normalize.scale(return_stats, reward)
    state = SamplerState(
        rollout=rollouts,
        obs_stats=observe(algorithm.env.observation_space, state.obs_stats, transitions.obs),
        return_stats=return_stats,
        discounted_return=discounted,
    )
    return state, struct.replace(transitions, reward=reward), episodes
