"""Factors that change with the number of environment steps taken.

A schedule maps environment steps (float32, per member) to a multiplier. Any optax schedule is one:
``optax.cosine_decay_schedule(1.0, decay_steps=500_000)``.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from purerl import struct


def env_steps(iteration: jax.Array, steps_per_iteration: int) -> jax.Array:
    """Environment steps after so many iterations, float32: an int32 would wrap at 2^31.

    Args:
        iteration: int32, iterations done.
        steps_per_iteration: environment steps of each.
    """
    return iteration.astype(jnp.float32) * float(steps_per_iteration)


def schedule_factor(
    schedule: Callable[[jax.Array], jax.Array] | None, iteration: jax.Array, steps_per_iteration: int
) -> jax.Array:
    """What a learning rate is multiplied by after so many iterations, float32; 1 without a schedule.

    Args:
        schedule: environment steps to a factor; None is constant.
        iteration: see `env_steps`.
        steps_per_iteration: see `env_steps`.
    """
    factor = 1.0 if schedule is None else schedule(env_steps(iteration, steps_per_iteration))
    return jnp.asarray(factor, jnp.float32)


@struct.dataclass
class LinearDecay:
    """From 1 at the start to 0 after `steps` environment steps; `steps` is a leaf, so it can vary in a population."""

    steps: float = struct.field(help="environment steps until the factor reaches zero", within="(0, inf)")

    def __post_init__(self) -> None:
        struct.check_fields(self)

    def __call__(self, env_steps: jax.Array) -> jax.Array:
        """The factor after `env_steps`."""
        return jnp.clip(1.0 - env_steps / self.steps, 0.0, 1.0)
