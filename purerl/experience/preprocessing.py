"""Preprocessing of observations for networks: encoding and, optionally, standardisation by running statistics."""

from __future__ import annotations

import jax.numpy as jnp

from purerl.math import running_statistics
from purerl.networks import encode
from purerl.spaces import Space
from purerl.types import Array


def preprocess(space: Space, obs_stats: running_statistics.RunningStatistics | None, obs: Array) -> Array:
    """Network input for one observation, or for any leading axes of observations.

    Args:
        space: of one observation.
        obs_stats: running statistics for the standardisation; None leaves the values as they are.
        obs: observations as the environment returned them.
    """
    features = encode(space, obs)
    return features if obs_stats is None else running_statistics.standardize(obs_stats, features)


def zero_input(space: Space) -> Array:
    """Network input of zeros for one observation: for shapes, and for the initialisation of parameters."""
    return encode(space, jnp.zeros(space.shape, space.dtype))


def update_statistics(
    space: Space, obs_stats: running_statistics.RunningStatistics | None, obs: Array
) -> running_statistics.RunningStatistics | None:
    """Running statistics after a batch of observations with any leading axes, as the environment returned them.

    None, where no statistics are kept, stays None.
    """
    return None if obs_stats is None else running_statistics.update(obs_stats, encode(space, obs))
