"""What networks see of observations: encoded and, where that is asked for, standardised by what was seen so far."""

from __future__ import annotations

import jax.numpy as jnp

from purerl import normalize
from purerl.networks import encode
from purerl.spaces import Space
from purerl.types import Array


def view(space: Space, obs_stats: normalize.RunningStatistics | None, obs: Array) -> Array:
    """What networks see of one observation, or of any leading axes of them.

    Args:
        space: of one observation.
        obs_stats: by which it is standardised; None leaves it as it is.
        obs: as the environment gave it.
    """
    features = encode(space, obs)
    return features if obs_stats is None else normalize.standardize(obs_stats, features)


def blank_view(space: Space) -> Array:
    """What networks might see of one observation, all zero: for shapes, and for making parameters."""
    return encode(space, jnp.zeros(space.shape, space.dtype))


def observe(
    space: Space, obs_stats: normalize.RunningStatistics | None, obs: Array
) -> normalize.RunningStatistics | None:
    """The statistics after a batch of observations with any leading axes, as the environment gave them.

    None, where none are kept, stays None.
    """
    return None if obs_stats is None else normalize.update(obs_stats, encode(space, obs))
