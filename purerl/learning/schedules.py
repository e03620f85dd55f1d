"""Schedules: values of hyper-parameters that change with the number of environment steps.

Every hyper-parameter annotated `Scalar` may be a schedule. A schedule maps environment steps (float32, per member) to a
value. Any optax schedule is one: ``optax.exponential_decay(1e-3, 100_000, 0.5)``. The fields of `LinearSchedule` and
`CosineSchedule` are leaves, so they can vary in a population: ``{"learning_rate.start": [1e-3, 3e-4]}``.
"""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

import jax.numpy as jnp

from purerl import struct
from purerl.experience.reward_models import RewardModel
from purerl.learning.optimizers import Optimizer
from purerl.math.reductions import num_shards
from purerl.types import Array

T = TypeVar("T")

STEPS = "environment steps until the end value is reached"


@struct.dataclass
class LinearSchedule:
    """From `start` to `end` along a line over `steps` environment steps, and `end` from there on."""

    start: float = struct.field(help="initial value", within="(-inf, inf)")
    end: float = struct.field(help="final value", within="(-inf, inf)")
    steps: float = struct.field(help=STEPS, within="(0, inf)")

    def __post_init__(self) -> None:
        struct.check_fields(self)

    def extremes(self) -> tuple[float, float]:
        """First and last value."""
        return self.start, self.end

    def __call__(self, env_steps: Array) -> Array:
        """The value after `env_steps`."""
        return self.end + (self.start - self.end) * jnp.clip(1.0 - env_steps / self.steps, 0.0, 1.0)


@struct.dataclass
class CosineSchedule:
    """From `start` to `end` along half a cosine over `steps` environment steps, and `end` from there on.

    Loshchilov & Hutter 2017, "SGDR", arXiv:1608.03983, equation 5, without restarts.
    """

    start: float = struct.field(help="initial value", within="(-inf, inf)")
    end: float = struct.field(help="final value", within="(-inf, inf)")
    steps: float = struct.field(help=STEPS, within="(0, inf)")

    def __post_init__(self) -> None:
        struct.check_fields(self)

    def extremes(self) -> tuple[float, float]:
        """First and last value."""
        return self.start, self.end

    def __call__(self, env_steps: Array) -> Array:
        """The value after `env_steps`."""
        progress = jnp.clip(env_steps / self.steps, 0.0, 1.0)
        return self.end + (self.start - self.end) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


def env_steps(iteration: Array, steps_per_iteration: int) -> Array:
    """Environment steps after so many iterations, float32: an int32 would wrap at 2^31.

    Args:
        iteration: int32, iterations done.
        steps_per_iteration: environment steps of each, on one shard.
    """
    return iteration.astype(jnp.float32) * float(num_shards() * steps_per_iteration)


def at(algorithm: T, iteration: Array) -> T:
    """The algorithm with the present value, a float32, of each scheduled hyper-parameter.

    Those of optimisers and reward models are included.

    Args:
        algorithm: a dataclass with `Scalar` fields and `steps_per_iteration`.
        iteration: int32, iterations done.
    """
    steps = env_steps(iteration, algorithm.steps_per_iteration)  # type: ignore[attr-defined]

    def present(node: Any) -> Any:
        values = {}
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            if isinstance(value, Optimizer | RewardModel) and dataclasses.is_dataclass(value):
                values[field.name] = present(value)
            elif struct.is_scalar(field) and callable(value):
                values[field.name] = jnp.asarray(value(steps), jnp.float32)
        return struct.with_values(node, values)

    return present(algorithm)
