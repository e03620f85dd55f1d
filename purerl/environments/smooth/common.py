"""Helpers of the smooth environments: float32 parameters, and time steps of episodes without end."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl import struct
from purerl.types import Array, TimeStep


def set_parameters(env: Any) -> None:
    """Check the fields of `env` during its construction, and convert every leaf to float32.

    Then a number and an array use the same compiled program.

    Raises:
        InputError: for a value outside of its field's interval.
    """
    struct.check_fields(env)
    for f in dataclasses.fields(env):
        value = getattr(env, f.name)
        if f.metadata["static"]:
            value = float(value)
        elif isinstance(value, jax.Array):
            value = jnp.asarray(value, jnp.float32)
        else:
            value = np.asarray(value, np.float32)
        object.__setattr__(env, f.name, value)


def start(state: Array, obs: Array) -> TimeStep:
    """First time step of an episode, in float32 even with JAX's 64 bits enabled."""
    return onward(jnp.asarray(state, jnp.float32), jnp.asarray(obs, jnp.float32), jnp.float32(0.0))


def onward(state: Array, obs: Array, reward: Array) -> TimeStep:
    """Time step that does not end the episode."""
    return TimeStep(state, obs, reward, terminated=jnp.bool_(False), truncated=jnp.bool_(False))
