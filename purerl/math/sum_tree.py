"""Sum tree: sampling in proportion to priorities, with fast updates of priorities.

The leaves are priorities, every other node is the sum of its `FANOUT` children, and sampling descends from the root to
a leaf (Schaul et al. 2016, "Prioritized Experience Replay", arXiv:1511.05952, appendix B.2.1, with a binary tree).

float32 is enough for any number of updates and leaves: a node is always summed again from its children, so no error
accumulates, and each level compares siblings only, with a random number of its own.

All sums stay finite: a value that is negative or NaN is written as 0, and an infinite or very large one as the largest
for which no sum can overflow. Indices are not checked: the caller must pass indices of leaves.
"""

import jax
import jax.numpy as jnp
from jax import lax

from purerl import struct
from purerl.errors import InputError
from purerl.types import Array

FANOUT = 8
"""Number of children per node. On CPU the fastest of 4, 8, ..., 128 for 10^4 to 10^6 leaves, one tree or many."""

_MAX_SIZE = 2**31 - 1


@struct.dataclass
class SumTree:
    """Nodes of a sum tree without the root.

    Attributes:
        levels: float32, ``[nodes]`` each, from the leaves to the children of the root. ``levels[k + 1][i]`` is the sum
            of ``levels[k][FANOUT * i : FANOUT * (i + 1)]``. Padded with zeros to multiples of `FANOUT`.
    """

    levels: tuple[Array, ...]


def init(size: int) -> SumTree:
    """Tree with `size` leaves, all zero.

    Raises:
        InputError: if `size` is less than 1 or does not fit int32.
    """
    if not 1 <= size <= _MAX_SIZE:
        raise InputError(f"a sum tree must have between 1 and {_MAX_SIZE:,} leaves, got a size of {size:,}")
    num_parents = [-(-size // FANOUT)]
    while num_parents[-1] > 1:
        num_parents.append(-(-num_parents[-1] // FANOUT))
    return SumTree(tuple(jnp.zeros(count * FANOUT, jnp.float32) for count in num_parents))


def total(tree: SumTree) -> Array:
    """Sum of all leaves, a scalar."""
    return jnp.sum(tree.levels[-1])


def get(tree: SumTree, index: Array) -> Array:
    """Leaves ``[batch]`` at ``index [batch]``."""
    return tree.levels[0].at[index].get(mode="promise_in_bounds")


def set_slice(tree: SumTree, start: int | Array, values: Array) -> SumTree:
    """Write ``values [length]`` to the leaves ``start .. start + length - 1``.

    Compiles to slices only, also under `jax.vmap` as long as the members share `start`.
    """
    leaves, *above = tree.levels
    count = values.size
    # `dynamic_update_slice` silently clamps the start of the slice; the sums must use the same start.
    first = jnp.clip(start, 0, leaves.size - count)
    values = _once_summed(tree, _summable(values, leaves))
    levels = [lax.dynamic_update_slice_in_dim(leaves, values, first, axis=0)]
    for level in above:
        children = levels[-1]
        num_parents = children.size // FANOUT
        # Upper bound of the number of changed parents, for any position of the first child among its siblings.
        count = min((count + FANOUT - 2) // FANOUT + 1, num_parents)
        first = jnp.minimum(first // FANOUT, num_parents - count)
        levels.append(_sum_slice(children, level, first, count))
    return SumTree(tuple(levels))


def set_at(tree: SumTree, index: Array, values: Array) -> SumTree:
    """Write ``values [batch]`` to the leaves at ``index [batch]``; of repeated indices, any one value is kept."""
    leaves, *above = tree.levels
    values = _once_summed(tree, _summable(values, leaves))
    levels = [leaves.at[index].set(values, mode="promise_in_bounds")]
    for level in above:
        children = levels[-1]
        num_parents = children.size // FANOUT
        index = index // FANOUT
        if num_parents <= index.size:
            # Near the root it is less work to sum all nodes, without a scatter.
            levels.append(_sum_slice(children, level, 0, num_parents))
        else:
            sums = jnp.sum(_children_of(children, index), axis=-1)
            levels.append(level.at[index].set(sums, mode="promise_in_bounds"))
    return SumTree(tuple(levels))


def sample(tree: SumTree, key: Array, num: int) -> tuple[Array, Array]:
    """Indices ``[num]``, int32, sampled with replacement with probability ``leaf / total``, and their leaves ``[num]``.

    Use the leaves returned here instead of `get` if the tree is written afterwards: XLA does not know the order of that
    read and the write, and would copy all leaves. The leaves returned here are read while the index is computed, so
    before any write that uses the index.

    The probability of a child within its parent is exact to float32 (2^-23). A leaf that is zero is never drawn, unless
    all are zero; then the index is 0.
    """
    uniform = jax.random.uniform(key, (len(tree.levels), num, 1), jnp.float32)
    # Column j sums the siblings before child j. For so few numbers this product is the fastest prefix sum on CPU.
    before = jnp.triu(jnp.ones((FANOUT, FANOUT), jnp.float32), k=1)
    child = jnp.arange(FANOUT, dtype=jnp.int32)[None]
    node, value = jnp.zeros(1, jnp.int32), total(tree)[None]
    for level, fraction in zip(reversed(tree.levels), uniform, strict=True):
        children = _children_of(level, node)
        # The default precision of accelerators rounds the priorities to fewer bits.
        start = jnp.matmul(children, before, precision=lax.Precision.HIGHEST)
        point = fraction * (start[:, -1:] + children[:, -1:])
        # The last nonzero child that starts at or before the point. There is always one, whatever the rounding: the
        # first nonzero child starts at exactly 0.
        chosen = jnp.max(jnp.where((start <= point) & (children > 0), child, 0), axis=-1)
        node = node * FANOUT + chosen
        value = jnp.sum(jnp.where(child == chosen[:, None], children, 0.0), axis=-1)
    return node, value


def _summable(values: Array, leaves: Array) -> Array:
    """Values clipped to the range in which the sum of all `leaves` stays finite; negative values and NaN become 0."""
    largest = float(jnp.finfo(leaves.dtype).max) / (2 * leaves.size)
    return jnp.where(values > 0.0, jnp.minimum(values, largest), 0.0).astype(leaves.dtype)


def _once_summed(tree: SumTree, values: Array) -> Array:
    """Values with a data dependence on all sums of `tree`, so that they are written after these are computed.

    The sums of the previous write still read its leaves. If the next write could come first, XLA would copy the whole
    tree. No tree holds NaN, but the compiler does not know it, so the test for NaN creates the dependence.
    """
    return jnp.where(jnp.isnan(tree.levels[-1][0]), jnp.nan, values)


def _children_of(children: Array, parent: Array) -> Array:
    """Children ``[batch, FANOUT]`` of ``parent [batch]``, from the level below."""
    return children.reshape(-1, FANOUT).at[parent].get(mode="promise_in_bounds")


def _sum_slice(children: Array, parents: Array, first: int | Array, count: int) -> Array:
    """Parents with nodes ``first .. first + count - 1`` summed again from `children`."""
    touched = lax.dynamic_slice_in_dim(children, first * FANOUT, count * FANOUT, axis=0)
    return lax.dynamic_update_slice_in_dim(parents, jnp.sum(touched.reshape(count, FANOUT), axis=-1), first, axis=0)
