"""What the smooth environments share: parameters as float32 leaves, and time steps that end nothing."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl import struct
from purerl.types import Array, TimeStep


def set_parameters(env: Any) -> None:
    """Check the fields of `env`, which is just being constructed, and keep every leaf as float32.

    A number and an array of it then compile to the same program.

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
    """The first time step of an episode; float32, also where JAX computes with 64 bits."""
    return onward(jnp.asarray(state, jnp.float32), jnp.asarray(obs, jnp.float32), jnp.float32(0.0))


def onward(state: Array, obs: Array, reward: Array) -> TimeStep:
    """A time step after which the episode goes on."""
    return TimeStep(state, obs, reward, terminated=jnp.bool_(False), truncated=jnp.bool_(False))
