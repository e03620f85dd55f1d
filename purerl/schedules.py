"""Factors that change with the number of environment steps taken.

A schedule maps environment steps (float32, per member) to a multiplier. Any optax schedule is one:
``optax.cosine_decay_schedule(1.0, decay_steps=500_000)``.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from purerl import struct


@struct.dataclass
class LinearDecay:
    """From 1 at the start to 0 after `steps` environment steps; `steps` is a leaf, so it can vary in a population."""

    steps: float = struct.field(help="environment steps until the factor reaches zero", within="(0, inf)")

    def __post_init__(self) -> None:
        struct.check_fields(self)

    def __call__(self, env_steps: jax.Array) -> jax.Array:
        """The factor after `env_steps`."""
        return jnp.clip(1.0 - env_steps / self.steps, 0.0, 1.0)
