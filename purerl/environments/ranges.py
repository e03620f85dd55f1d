"""Domain randomisation over ranges of parameters, and environments that differ in one of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from purerl import numeric, paths
from purerl.environments.influence import check_acts
from purerl.environments.wrappers import RandomizeParameters
from purerl.errors import InputError
from purerl.types import Array, Environment


def randomize(env: Environment, ranges: Mapping[str, Sequence[float]]) -> RandomizeParameters:
    """Environment whose parameters are drawn uniformly from ranges, anew for every episode (Tobin et al. 2017).

    Args:
        env: the nominal environment.
        ranges: dotted path of a number in `env` to its least and greatest value, such as
            ``{"params.length": (0.25, 1.0)}``. Whole numbers are drawn with both ends. The bounds are leaves.

    Raises:
        InputError: for a name that `env` does not have, a number that follows from others or has no effect, or a range
            that is empty or has a value that `env` does not accept.
    """
    bounds = {}
    for name, (low, high) in ranges.items():
        both = along(env, name, [low, high])
        if not both[0] < both[1]:
            raise InputError(f"the range of {name!r} must go from a number to a greater one, got {low!r} to {high!r}")
        bounds[name] = both
    return RandomizeParameters(env, jax.tree_util.Partial(_uniform, bounds))


def along(env: Environment, name: str, values: Sequence[float]) -> np.ndarray:
    """Values of the number at the path `name` in `env`, with its dtype, checked by `env`.

    Raises:
        InputError: as `randomize` does for a name or value.
    """
    if name.startswith("env.") and not hasattr(env, "env"):
        raise InputError(f"{name!r}: names are those within the environment, leave out 'env.'")
    number = paths.number_at(env, name)
    if np.ndim(number):
        raise InputError(f"{name!r} must be a single number, but it is an array of shape {np.shape(number)}")
    column = numeric.fitting(f"{name!r}", list(values), numeric.dtype_of(number))
    changed = [paths.replaced(env, name, value) for value in column]
    if jax.tree.structure(changed[0]) != jax.tree.structure(env):
        raise InputError(f"{name!r} has no value and cannot vary")
    check_acts(env, [name])
    return column


def _uniform(bounds: Mapping[str, Array], key: Array, env: Environment) -> Environment:
    """`env` with parameters drawn from their bounds ``[2]``."""
    for number, (name, bound) in enumerate(sorted(bounds.items())):
        low, high = jnp.asarray(bound)
        own_key = jax.random.fold_in(key, number)
        if jnp.issubdtype(low.dtype, jnp.integer):
            value = jax.random.randint(own_key, (), low, high + 1, low.dtype)
        else:
            value = jax.random.uniform(own_key, (), low.dtype, low, high)
        env = paths.replaced(env, name, value)
    return env
