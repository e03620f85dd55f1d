"""A sum tree: numbers that keep changing, drawn in proportion to their size.

The leaves are priorities, every other node is the sum of its `FANOUT` children, and a draw walks from the root to a
leaf (Schaul et al. 2016, "Prioritized Experience Replay", arXiv:1511.05952, appendix B.2.1, where the tree is binary).

float32 is enough for any number of updates and leaves: a node is always summed anew from its children, so no error
builds up, and each step of a walk compares siblings only, with a random number of its own.

Whatever is written, all sums stay finite: a value that is negative or NaN is written as 0, one that is infinite, or so
large that the sum might be, as the largest that is safe. The caller answers for indices being those of leaves.
"""

import jax
import jax.numpy as jnp
from jax import lax

from purerl import struct
from purerl.errors import InputError
from purerl.types import Array

FANOUT = 8
"""Children per node. On CPU the fastest of 4, 8, ..., 128 for 10^4 to 10^6 leaves, one tree or many."""

_MAX_SIZE = 2**31 - 1


@struct.dataclass
class SumTree:
    """All nodes but the root.

    Attributes:
        levels: float32, ``[nodes]`` each, from the leaves to the children of the root. ``levels[k + 1][i]`` is the sum
            of ``levels[k][FANOUT * i : FANOUT * (i + 1)]``. Padded with zeros to multiples of `FANOUT`.
    """

    levels: tuple[Array, ...]


def init(size: int) -> SumTree:
    """A tree of `size` leaves, all zero.

    Raises:
        InputError: if there would be no leaf, or more than an int32 can count.
    """
    if not 1 <= size <= _MAX_SIZE:
        raise InputError(f"a sum tree must have between 1 and {_MAX_SIZE:,} leaves, got a size of {size:,}")
    num_parents = [-(-size // FANOUT)]
    while num_parents[-1] > 1:
        num_parents.append(-(-num_parents[-1] // FANOUT))
    return SumTree(tuple(jnp.zeros(count * FANOUT, jnp.float32) for count in num_parents))


def total(tree: SumTree) -> Array:
    """The sum of all leaves, a scalar."""
    return jnp.sum(tree.levels[-1])


def get(tree: SumTree, index: Array) -> Array:
    """The leaves at ``index [batch]``."""
    return tree.levels[0].at[index].get(mode="promise_in_bounds")


def set_slice(tree: SumTree, start: int | Array, values: Array) -> SumTree:
    """Write ``values [length]`` to the leaves ``start .. start + length - 1``.

    Compiles to slices only, also under `jax.vmap` as long as the members share `start`.
    """
    leaves, *above = tree.levels
    count = values.size
    # Writing a slice moves it inside without a word; the sums must then follow it.
    first = jnp.clip(start, 0, leaves.size - count)
    values = _once_summed(tree, _summable(values, leaves))
    levels = [lax.dynamic_update_slice_in_dim(leaves, values, first, axis=0)]
    for level in above:
        children = levels[-1]
        num_parents = children.size // FANOUT
        # So many parents are touched at most, wherever among its siblings the first child is.
        count = min((count + FANOUT - 2) // FANOUT + 1, num_parents)
        first = jnp.minimum(first // FANOUT, num_parents - count)
        levels.append(_sum_slice(children, level, first, count))
    return SumTree(tuple(levels))


def set_at(tree: SumTree, index: Array, values: Array) -> SumTree:
    """Write ``values [batch]`` to the leaves at ``index [batch]``; where one is named twice, either value may stay."""
    leaves, *above = tree.levels
    values = _once_summed(tree, _summable(values, leaves))
    levels = [leaves.at[index].set(values, mode="promise_in_bounds")]
    for level in above:
        children = levels[-1]
        num_parents = children.size // FANOUT
        index = index // FANOUT
        if num_parents <= index.size:
            # Near the root it is less work to sum them all, and no scatter.
            levels.append(_sum_slice(children, level, 0, num_parents))
        else:
            sums = jnp.sum(_children_of(children, index), axis=-1)
            levels.append(level.at[index].set(sums, mode="promise_in_bounds"))
    return SumTree(tuple(levels))


def sample(tree: SumTree, key: Array, num: int) -> tuple[Array, Array]:
    """Draw leaves ``[num]``, int32, with replacement, each with probability ``leaf / total``, and say their values.

    Whoever reads the values with `get` instead and then writes to the tree copies all leaves: XLA sees no order between
    that read and the write. The values returned here were read on the way to the index, before any write that uses it.

    The share of a child in its parent is exact to float32 (2^-23). A leaf that is zero is never drawn, unless all are:
    then it is leaf 0.
    """
    uniform = jax.random.uniform(key, (len(tree.levels), num, 1), jnp.float32)
    # Column j adds up the siblings before child j. For so few numbers this product is the fastest prefix sum on CPU.
    before = jnp.triu(jnp.ones((FANOUT, FANOUT), jnp.float32), k=1)
    child = jnp.arange(FANOUT, dtype=jnp.int32)[None]
    node, value = jnp.zeros(1, jnp.int32), total(tree)[None]
    for level, fraction in zip(reversed(tree.levels), uniform, strict=True):
        children = _children_of(level, node)
        # The default precision of other devices rounds the priorities to fewer bits.
        start = jnp.matmul(children, before, precision=lax.Precision.HIGHEST)
        point = fraction * (start[:, -1:] + children[:, -1:])
        # The last child that is not empty and starts at or before the point. However the sums are rounded there is
        # one: the first that is not empty starts at exactly 0.
        chosen = jnp.max(jnp.where((start <= point) & (children > 0), child, 0), axis=-1)
        node = node * FANOUT + chosen
        value = jnp.sum(jnp.where(child == chosen[:, None], children, 0.0), axis=-1)
    return node, value


def _summable(values: Array, leaves: Array) -> Array:
    """`values` as they can stand among `leaves` without their sum being anything but a finite number."""
    largest = float(jnp.finfo(leaves.dtype).max) / (2 * leaves.size)
    return jnp.where(values > 0.0, jnp.minimum(values, largest), 0.0).astype(leaves.dtype)


def _once_summed(tree: SumTree, values: Array) -> Array:
    """`values`, but not before all sums of `tree` are known.

    The previous write still reads its leaves to sum them. Were the next write free to come first, XLA would copy the
    whole tree for it. NaN, which no tree holds, is a dependence that the compiler cannot see through.
    """
    return jnp.where(jnp.isnan(tree.levels[-1][0]), jnp.nan, values)


def _children_of(children: Array, parent: Array) -> Array:
    """``[batch, FANOUT]``: those of ``parent [batch]``, from the level below it."""
    return children.reshape(-1, FANOUT).at[parent].get(mode="promise_in_bounds")


def _sum_slice(children: Array, parents: Array, first: int | Array, count: int) -> Array:
    """`parents` with ``first .. first + count - 1`` summed anew."""
    touched = lax.dynamic_slice_in_dim(children, first * FANOUT, count * FANOUT, axis=0)
    return lax.dynamic_update_slice_in_dim(parents, jnp.sum(touched.reshape(count, FANOUT), axis=-1), first, axis=0)
