"""Experience of an agent: environments in flight, running statistics, scaled rewards; a replay behind it if needed."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from purerl import rollout, struct
from purerl.experience.preprocessing import preprocess, update_statistics, zero_input
from purerl.experience.reward_models import EnvironmentReward, RewardModel
from purerl.math import running_statistics
from purerl.math.returns import discounted_return
from purerl.replay import PrioritizedReplay, Replay, ReplaySample
from purerl.rollout import RolloutState
from purerl.types import Array, Environment, Metrics, Policy, PyTree, Transition

_REWARD_MODEL = 2**32 - 1
"""Number of the reward model's key, folded in: far from those of the environments, which `jax.random.split` counts."""


@struct.dataclass
class ExperienceState:
    """Environments in flight and running statistics.

    Attributes:
        rollout: the environments in flight, ``[num_envs]``.
        obs_stats: running statistics of observations; None unless they are normalised.
        return_stats: running statistics of the discounted returns that scale rewards; None unless they are normalised.
        discounted_return: float32 ``[num_envs]``, running, for `return_stats`; None unless rewards are normalised.
        reward_model: state of the reward model.
    """

    rollout: RolloutState = struct.field(per_shard=True)
    obs_stats: running_statistics.RunningStatistics | None
    return_stats: running_statistics.RunningStatistics | None
    discounted_return: Array | None = struct.field(per_shard=True)
    reward_model: PyTree


@struct.dataclass
class Experience:
    """Collection of transitions from many copies of one environment.

    Attributes:
        env: one of the environments.
        num_envs: environments side by side.
        rollout_length: steps in each environment per call of `collect`.
        normalize_observations: whether to keep running statistics of observations.
        reward_scale: factor of rewards.
        normalize_rewards: whether to divide rewards by the running deviation of the discounted return.
        gamma: discount factor per step of that return.
        reward_model: rewards to learn from, before they are scaled.
    """

    env: Environment
    num_envs: int = struct.field(static=True)
    rollout_length: int = struct.field(static=True)
    normalize_observations: bool = struct.field(default=False, static=True)
    reward_scale: float | Array = 1.0
    normalize_rewards: bool = struct.field(default=False, static=True)
    gamma: float | Array = 1.0
    reward_model: RewardModel = EnvironmentReward()

    def init(self, key: Array, carry: PyTree = ()) -> ExperienceState:
        """Environments at the start of an episode, with the policy memory `carry`, and empty statistics."""
        model_key = jax.random.fold_in(key, _REWARD_MODEL)
        timestep = jax.vmap(self.env.reset)(jax.random.split(key, self.num_envs))
        shape = zero_input(self.env.observation_space).shape
        return ExperienceState(
            rollout=jax.vmap(lambda timestep: rollout.begin(timestep, carry))(timestep),
            obs_stats=running_statistics.init(shape) if self.normalize_observations else None,
            return_stats=running_statistics.init(()) if self.normalize_rewards else None,
            discounted_return=jnp.zeros(self.num_envs, jnp.float32) if self.normalize_rewards else None,
            reward_model=self.reward_model.init(self.env, self.num_envs, model_key),
        )

    def collect(
        self, state: ExperienceState, policy: Policy, key: Array
    ) -> tuple[ExperienceState, Transition, Metrics]:
        """One rollout in each environment.

        The statistics of the returned state include this rollout. Acting and learning both see observations through
        the statistics before it.

        Returns:
            The state afterwards; transitions ``[num_envs, rollout_length]``, with scaled rewards; and metrics: of the
            episodes that ended, in the environment's own rewards, and of the reward model.
        """
        model_key = jax.random.fold_in(key, _REWARD_MODEL)
        rollouts, transitions, episodes = rollout.collect(self.env, policy, state.rollout, key, self.rollout_length)
        model, reward, metrics = self.reward_model.learn(self.env, state.reward_model, transitions, model_key)
        reward = reward * self.reward_scale
        return_stats, discounted = state.return_stats, state.discounted_return
        if return_stats is not None and discounted is not None:
            discounted, returns = jax.vmap(discounted_return, in_axes=(0, 0, None, 0))(
                reward, transitions.done, self.gamma, discounted
            )
            return_stats = running_statistics.update(return_stats, returns)
            reward = running_statistics.scale(return_stats, reward)
        state = ExperienceState(rollouts, state.obs_stats, return_stats, discounted, model)
        transitions = struct.replace(transitions, reward=reward)
        return self.observe(state, transitions.obs), transitions, {**episodes, **metrics}

    def observe(self, state: ExperienceState, obs: Array) -> ExperienceState:
        """The state with `obs`, observations with any leading axes, in its running statistics."""
        return struct.replace(state, obs_stats=update_statistics(self.env.observation_space, state.obs_stats, obs))

    def preprocess(self, state: ExperienceState, obs: Array) -> Array:
        """Network input for observations with any leading axes (see `preprocessing.preprocess`)."""
        return preprocess(self.env.observation_space, state.obs_stats, obs)

    def preprocess_steps(self, state: ExperienceState, transitions: Transition) -> tuple[Array, Array]:
        """Network inputs for the observations of transitions and for their true successors."""
        return self.preprocess(state, transitions.obs), self.preprocess(state, transitions.next_obs)

    def preprocess_sample(self, state: ExperienceState, sample: ReplaySample) -> ReplaySample:
        """A sample whose observations are network inputs."""
        inputs = {name: self.preprocess(state, getattr(sample, name)) for name in ("obs", "next_obs", "later_obs")}
        return struct.replace(sample, **inputs)

    def collect_into(
        self, replay: Replay | PrioritizedReplay, state: ExperienceState, memory: PyTree, policy: Policy, key: Array
    ) -> tuple[ExperienceState, PyTree, Metrics]:
        """One rollout in each environment, added to a replay.

        Args:
            replay: what the transitions are added to.
            state: environments and statistics.
            memory: the state of `replay`.
            policy: how to act.
            key: randomness.

        Returns:
            The two states afterwards, and the metrics of the episodes that ended.
        """
        state, transitions, episodes = self.collect(state, policy, key)
        return state, replay.add(memory, struct.replace(transitions, action=_critic_action(transitions))), episodes

    def warm_up(
        self, replay: Replay | PrioritizedReplay, policy: Policy, num_rollouts: int, key: Array
    ) -> tuple[ExperienceState, PyTree]:
        """Environments, and a replay that holds the first `num_rollouts` rollouts of `policy`.

        Args:
            replay: what the transitions are added to.
            policy: how to act meanwhile.
            num_rollouts: how many.
            key: randomness.

        Returns:
            The states of environments and replay.
        """
        reset_key, warmup_key = jax.random.split(key)
        state = self.init(reset_key, policy.carry)
        keys = jax.random.split(warmup_key, num_rollouts)
        one = jax.eval_shape(self.collect, state, policy, jax.ShapeDtypeStruct(key.shape, key.dtype))[1]
        action = jax.ShapeDtypeStruct(_critic_action(one).shape[2:], _critic_action(one).dtype)
        space = self.env.observation_space
        memory = replay.init(jax.ShapeDtypeStruct(space.shape, space.dtype), action)

        def collect(states: tuple[ExperienceState, PyTree], key: Array) -> tuple[tuple[ExperienceState, PyTree], None]:
            return self.collect_into(replay, *states, policy, key)[:2], None

        return lax.scan(collect, (state, memory), keys)[0]


def _critic_action(transitions: Transition) -> Array:
    """Actions as critics see them: between -1 and 1 where the environment's are bounded, else as they were sent."""
    return transitions.extras.get("unit_action", transitions.action)
