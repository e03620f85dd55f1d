"""Reductions over the shards of an agent that learns from several parts of its environments at once.

A shard holds some of the environments of one agent and computes gradients from them. All shards have equal parameters,
so whatever changes parameters, statistics or a decision must be the same on all: a mean, a sum or a minimum over the
shards. Where there are no shards, each function here returns what it was given.

The axis of the shards has a name in `jax.vmap`, and a second one where the shards are spread over devices (see
`purerl.training.shards`). Algorithms know neither.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Array = jax.Array
T = TypeVar("T")

SHARDS = "shards"
"""Name of the axis of the shards on one device."""

SHARD_DEVICES = "shard_devices"
"""Name of the axis of the devices that one agent's shards are spread over."""


def num_shards() -> int:
    """Number of shards that the present computation is one of; 1 where there are none."""
    return lax.axis_size(axes) if (axes := _axes()) else 1


def num_shard_devices() -> int:
    """Number of devices that the shards of one agent are spread over."""
    return lax.axis_size(SHARD_DEVICES) if _is_bound(SHARD_DEVICES) else 1


def shard_number() -> Array:
    """Number of this shard, int32 from 0."""
    return lax.axis_index(axes) if (axes := _axes()) else jnp.int32(0)


def mean_over_shards(tree: T) -> T:
    """Mean over the shards of each leaf, in one message."""
    return _in_one_message(lambda vector: lax.pmean(vector, axes), tree) if (axes := _axes()) else tree


def sum_over_shards(tree: T) -> T:
    """Sum over the shards of each leaf, in one message."""
    return _in_one_message(lambda vector: lax.psum(vector, axes), tree) if (axes := _axes()) else tree


def min_over_shards(tree: T) -> T:
    """Minimum over the shards of each leaf."""
    return lax.pmin(tree, axes) if (axes := _axes()) else tree


def from_first_shard(leaf: Array) -> Array:
    """The array of shard 0."""
    if not (axes := _axes()):
        return leaf
    return lax.psum(jnp.where(shard_number() == 0, leaf, jnp.zeros_like(leaf)), axes).astype(leaf.dtype)


def _in_one_message(reduce: Callable[[Array], Array], tree: T) -> T:
    """The reduction of each leaf. Between devices, many small messages take longer than a large one."""
    leaves, structure = jax.tree.flatten(tree)
    if len(leaves) < 2 or len({leaf.dtype for leaf in leaves}) > 1:
        return jax.tree.map(reduce, tree)
    vector = reduce(jnp.concatenate([jnp.ravel(leaf) for leaf in leaves]))
    parts = jnp.split(vector, np.cumsum([leaf.size for leaf in leaves])[:-1])
    return jax.tree.unflatten(structure, [part.reshape(leaf.shape) for part, leaf in zip(parts, leaves, strict=True)])


def _axes() -> tuple[str, ...]:
    """Names of the axes that the shards of this computation lie on, those of devices outermost."""
    return tuple(name for name in (SHARD_DEVICES, SHARDS) if _is_bound(name))


def _is_bound(name: str) -> bool:
    try:
        lax.axis_size(name)
    except NameError:
        return False
    return True
