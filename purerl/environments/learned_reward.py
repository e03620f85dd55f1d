"""Environment with a reward that is a function of observations and actions, such as a learned one."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from purerl import struct
from purerl.environments import casting
from purerl.spaces import Space
from purerl.types import Array, Environment, PyTree, TimeStep


@struct.dataclass
class LearnedRewardState:
    """State of `LearnedReward`: the state of `env`, and its observation."""

    env: PyTree
    obs: Array


@struct.dataclass
class LearnedReward:
    """Environment with another reward of what an agent sees and does.

    `WithReward` is the same for functions of the environment's state.

    Attributes:
        env: the environment.
        reward: ``reward(obs, action, next_obs) -> scalar``. A function, or a `Partial` of one, whose arguments (such as
            the parameters of a network) then are leaves.
    """

    env: Environment
    reward: Callable[[Array, Array, Array], Array]

    def __post_init__(self) -> None:
        struct.wrap_functions(self, "reward")

    @property
    def observation_space(self) -> Space:
        """Observation space of `env`."""
        return self.env.observation_space

    @property
    def action_space(self) -> Space:
        """Action space of `env`."""
        return self.env.action_space

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        timestep = self.env.reset(key)
        return struct.replace(timestep, state=LearnedRewardState(timestep.state, timestep.obs))

    def step(self, key: Array, state: LearnedRewardState, action: Array) -> TimeStep:
        """Advance `state` by one action."""
        timestep = self.env.step(key, state.env, action)
        reward = casting.scalar(
            self.reward(state.obs, action, timestep.obs), jnp.float32, "the reward of LearnedReward"
        )
        return struct.replace(timestep, state=LearnedRewardState(timestep.state, timestep.obs), reward=reward)
