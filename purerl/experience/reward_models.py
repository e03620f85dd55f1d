"""Reward models: the rewards that an agent learns from, and a model of them that learns beside it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from purerl import struct
from purerl.types import Array, Environment, Metrics, PyTree, Transition


@runtime_checkable
class RewardModel(Protocol):
    """Rewards of transitions: those of the environment, with a bonus or replaced by others.

    A reward model is a pytree of numbers. Its parameters and statistics are in its state, which is a part of
    `ExperienceState`. Episode returns in metrics and evaluations are always those of the environment.
    """

    def init(self, env: Environment, num_envs: int, key: Array) -> PyTree:
        """State before learning.

        Args:
            env: one of the environments.
            num_envs: environments side by side.
            key: randomness.
        """
        ...

    def learn(
        self, env: Environment, state: PyTree, transitions: Transition, key: Array
    ) -> tuple[PyTree, Array, Metrics]:
        """Rewards of one batch of rollouts, and the model after learning from it.

        Args:
            env: one of the environments.
            state: of the model.
            transitions: ``[num_envs, time]``, with the environment's rewards.
            key: randomness.

        Returns:
            The state afterwards, rewards float32 ``[num_envs, time]`` and metrics.
        """
        ...


@struct.dataclass
class EnvironmentReward:
    """Rewards of the environment, unchanged."""

    def init(self, env: Environment, num_envs: int, key: Array) -> tuple[()]:
        """No state."""
        return ()

    def learn(
        self, env: Environment, state: tuple[()], transitions: Transition, key: Array
    ) -> tuple[tuple[()], Array, Metrics]:
        """The rewards as they are."""
        return state, transitions.reward, {}
