"""Presets: settings of one algorithm on one environment."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from purerl.types import Environment


@dataclasses.dataclass(frozen=True)
class Preset:
    """Settings of one algorithm on one environment.

    Attributes:
        hyperparameters: fields of the algorithm that differ from its defaults; schedules as text, such as
            ``"linear:1:0.05:50%"``.
        optimizer: what differs from the algorithm's default optimiser: its kind, ``optimizer``, and its numbers.
        reward_model: the same of the reward model.
        network: what differs from the algorithm's default network: kinds of its parts (``trunk`` is ``"mlp"`` or
            ``"cnn"``, ``head`` is ``"mean"``, ``"c51"`` or ``"quantile"``), and fields of parts and network.
        env: options of the environment that differ from its defaults.
        total_steps: environment steps of one run, per member.
        anneal: whether the learning rate falls linearly to 0 over the run.
    """

    hyperparameters: dict[str, Any] = dataclasses.field(default_factory=dict)
    optimizer: dict[str, Any] = dataclasses.field(default_factory=dict)
    reward_model: dict[str, Any] = dataclasses.field(default_factory=dict)
    network: dict[str, Any] = dataclasses.field(default_factory=dict)
    env: dict[str, Any] = dataclasses.field(default_factory=dict)
    total_steps: int = 500_000
    anneal: bool = True

    def extended(self, **changes: Any) -> Preset:
        """A copy with some attributes changed; what is a mapping gets new or other entries."""
        merged = {
            name: {**getattr(self, name), **value} if isinstance(value, dict) else value
            for name, value in changes.items()
        }
        return dataclasses.replace(self, **merged)


def is_image(env: Environment) -> bool:
    """Whether `env` shows grids ``[height, width, channels]``."""
    return len(env.observation_space.shape) == 3
