"""What off-policy algorithms learn from: environments in flight, a replay of the past, statistics of observations."""

from __future__ import annotations

import jax
from jax import lax

from purerl import normalize, rollout, struct
from purerl.replay import PrioritizedReplay, Replay
from purerl.types import Array, Environment, Metrics, Policy, PyTree
from purerl.views import blank_view, observe


@struct.dataclass
class CollectorState:
    """What has been lived through.

    Attributes:
        rollout: the environments in flight, ``[num_envs]``.
        replay: past steps and, where they matter, their priorities; the state of `Collector.replay`.
        obs_stats: of the observations; None unless they are normalised.
    """

    rollout: rollout.RolloutState
    replay: PyTree
    obs_stats: normalize.RunningStatistics | None


@struct.dataclass
class Collector:
    """Acts in the environments and remembers.

    Attributes:
        env: one of them.
        replay: where steps go; it says how many environments there are and how long a rollout is.
        normalize_observations: whether to keep statistics of them.
    """

    env: Environment
    replay: Replay | PrioritizedReplay
    normalize_observations: bool = struct.field(static=True)

    def init(self, key: Array, random: Policy, action: PyTree, num_rollouts: int) -> CollectorState:
        """Start the environments and remember `num_rollouts` rollouts of the policy `random`.

        Args:
            key: randomness.
            random: how to act meanwhile.
            action: one action, as the replay shall hold it.
            num_rollouts: how many.
        """
        reset_key, warmup_key = jax.random.split(key)
        timestep = jax.vmap(self.env.reset)(jax.random.split(reset_key, self.replay.ring.num_envs))
        space = self.env.observation_space
        state = CollectorState(
            rollout=jax.vmap(lambda timestep: rollout.begin(timestep, random.carry))(timestep),
            replay=self.replay.init(jax.ShapeDtypeStruct(space.shape, space.dtype), action),
            obs_stats=normalize.init(blank_view(space).shape) if self.normalize_observations else None,
        )
        keys = jax.random.split(warmup_key, num_rollouts)
        return lax.scan(lambda state, key: (self.collect(state, random, key)[0], None), state, keys)[0]

    def collect(self, state: CollectorState, policy: Policy, key: Array) -> tuple[CollectorState, Metrics]:
        """One more rollout. The replay holds ``extras["raw_action"]`` where the policy tells it, else the action."""
        rollouts, transitions, episodes = rollout.collect(
            self.env, policy, state.rollout, key, self.replay.ring.rollout_length
        )
        obs_stats = observe(self.env.observation_space, state.obs_stats, transitions.obs)
        action = transitions.extras.get("raw_action", transitions.action)
        replay = self.replay.add(state.replay, struct.replace(transitions, action=action))
        return CollectorState(rollouts, replay, obs_stats), episodes
