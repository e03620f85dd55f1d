"""What on-policy algorithms learn from: environments in flight, and statistics of what was seen and earned there."""

from __future__ import annotations

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


@struct.dataclass
class Sampler:
    """Acts in the environments.

    Attributes:
        env: one of them.
        gamma: discount factor per step of the returns that scale rewards.
        reward_scale: rewards are multiplied by it.
        num_envs: environments stepped side by side.
        rollout_length: steps to take in each.
        steps_per_reset: see `rollout.collect`.
        normalize_observations: whether to keep statistics of them.
        normalize_rewards: whether to divide rewards by the running deviation of the discounted return.
    """

    env: Environment
    gamma: float | Array
    reward_scale: float | Array
    num_envs: int = struct.field(static=True)
    rollout_length: int = struct.field(static=True)
    steps_per_reset: int = struct.field(static=True)
    normalize_observations: bool = struct.field(static=True)
    normalize_rewards: bool = struct.field(static=True)

    def init(self, key: Array, carry: PyTree) -> SamplerState:
        """Start the environments.

        Args:
            key: randomness.
            carry: what the policy remembers when an episode begins.
        """
        timestep = jax.vmap(self.env.reset)(jax.random.split(key, self.num_envs))
        shape = blank_view(self.env.observation_space).shape
        return SamplerState(
            rollout=jax.vmap(lambda timestep: rollout.begin(timestep, carry))(timestep),
            obs_stats=normalize.init(shape) if self.normalize_observations else None,
            return_stats=normalize.init(()) if self.normalize_rewards else None,
            discounted_return=jnp.zeros(self.num_envs) if self.normalize_rewards else None,
        )

    def collect(self, state: SamplerState, policy: Policy, key: Array) -> tuple[SamplerState, Transition, Metrics]:
        """One more rollout.

        The statistics of the observations that are returned include this batch. Acting and learning from one batch both
        see observations through the same statistics: those of `state`, as the policy did.

        Returns:
            The state afterwards; transitions ``[num_envs, rollout_length]``, with rewards as learning sees them; and
            the metrics of the episodes that ended, whose rewards are the environment's own.
        """
        rollouts, transitions, episodes = rollout.collect(
            self.env, policy, state.rollout, key, self.rollout_length, self.steps_per_reset
        )
        reward = transitions.reward * self.reward_scale
        return_stats, discounted = state.return_stats, state.discounted_return
        if return_stats is not None and discounted is not None:
            discounted, returns = jax.vmap(discounted_return, in_axes=(0, 0, None, 0))(
                reward, transitions.done, self.gamma, discounted
            )
            return_stats = normalize.update(return_stats, returns)
            reward = normalize.scale(return_stats, reward)
        state = SamplerState(
            rollout=rollouts,
            obs_stats=observe(self.env.observation_space, state.obs_stats, transitions.obs),
            return_stats=return_stats,
            discounted_return=discounted,
        )
        return state, struct.replace(transitions, reward=reward), episodes
