"""Dividing a batch into random minibatches, and those into parts that fit into a processor's caches."""

import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax import lax

from purerl.errors import InputError
from purerl.math.reductions import sum_over_shards
from purerl.types import Array, Metrics, PyTree, merge

Rows = TypeVar("Rows")

# What a layer computes for so many rows still lies in a CPU's caches when its gradient asks for it.
ROWS_IN_CACHE = 1024

# With fewer rows a Feistel network mixes poorly, and sorting is as fast.
_FEWEST_ROWS = 32


def shuffled_indices(key: Array, size: int) -> Array:
    """The integers ``0 .. size - 1`` in random order, ``[size]``.

    `jax.random.permutation` sorts pairs, several times; a third of the training of small networks goes there. What
    matters for minibatches is who shares one, and an index's place is as good as independent of the others' in both
    ways that are used here: a keyed bijection, computed for each index by itself in linear time, where `size` is a
    product of two large numbers, else a single sort.
    """
    rows = next(rows for rows in range(math.isqrt(size), 0, -1) if size % rows == 0)
    return _sorted_words(key, size) if rows < _FEWEST_ROWS else _feistel(key, rows, size // rows)


def _sorted_words(key: Array, size: int) -> Array:
    """Write each index into the low bits of a random word and sort the words.

    Indices whose random bits agree keep their order, so this is not exactly uniform over all permutations.
    """
    index_bits = (size - 1).bit_length()
    words = (jax.random.bits(key, (size,)) << index_bits) | jnp.arange(size, dtype=jnp.uint32)
    return (jnp.sort(words) & jnp.uint32((1 << index_bits) - 1)).astype(jnp.int32)


def _feistel(key: Array, rows: int, columns: int) -> Array:
    """Place the indices on a grid and push, in turn, along each column by a random number and along each row.

    A Feistel network (Luby & Rackoff 1988, "How to construct pseudorandom permutations ..."): each push is undone by
    pulling, so whatever the random numbers, no two indices end in one place. Six of them; four would be the least that
    theory asks for.
    """
    index = jnp.arange(rows * columns, dtype=jnp.uint32)
    row, column = index // jnp.uint32(columns), index % jnp.uint32(columns)
    for round_key in jax.random.bits(key, (3, 2)):
        row = (row + _hash(column ^ round_key[0]) % jnp.uint32(rows)) % jnp.uint32(rows)
        column = (column + _hash(row ^ round_key[1]) % jnp.uint32(columns)) % jnp.uint32(columns)
    return (row * jnp.uint32(columns) + column).astype(jnp.int32)


def _hash(x: Array) -> Array:
    """Mixes the bits of words: multiplications carry them upwards, shifts bring them down again."""
    for shift, multiplier in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        x = (x ^ (x >> shift)) * jnp.uint32(multiplier)
    return x ^ (x >> 15)


def minibatch_epochs(
    update: Callable[[PyTree, Array, Array], tuple[PyTree, Metrics]],
    learner: PyTree,
    key: Array,
    num_rows: int,
    num_epochs: int,
    num_minibatches: int,
    stop: Callable[[Metrics], Array] | None = None,
) -> tuple[PyTree, Metrics]:
    """Epochs of shuffled minibatches, each row once per epoch, but for a random rest that fills no minibatch.

    Args:
        update: ``(learner, indices, key) -> (learner, metrics)`` for the rows of one minibatch.
        learner: parameters and the optimiser's state, or any other carry.
        key: randomness.
        num_rows: rows of the batch.
        num_epochs: passes over the batch.
        num_minibatches: updates per pass, at most `num_rows`.
        stop: from the metrics of an epoch, over all shards, whether to skip all later ones.

    Returns:
        The learner afterwards and the metrics of all updates, merged.

    Raises:
        InputError: if there are fewer rows than minibatches.
    """
    if num_rows < num_minibatches:
        raise InputError(f"a batch of {num_rows} rows cannot be divided into num_minibatches = {num_minibatches} parts")

    def minibatch(learner: PyTree, inputs: tuple[Array, Array]) -> tuple[PyTree, Metrics]:
        return update(learner, *inputs)

    def epoch(learner: PyTree, key: Array) -> tuple[PyTree, Metrics]:
        order_key, update_key = jax.random.split(key)
        # A single minibatch is the batch, in the order it has.
        order = jnp.arange(num_rows) if num_minibatches == 1 else shuffled_indices(order_key, num_rows)
        order = order[: num_rows - num_rows % num_minibatches]
        keys = jax.random.split(update_key, num_minibatches)
        learner, metrics = lax.scan(minibatch, learner, (order.reshape(num_minibatches, -1), keys))
        return learner, merge(metrics)

    keys = jax.random.split(key, num_epochs)
    if stop is None:
        learner, metrics = lax.scan(epoch, learner, keys)
        return learner, merge(metrics)

    def epoch_unless_stopped(carry: tuple[PyTree, Array], key: Array) -> tuple[tuple[PyTree, Array], Metrics]:
        learner, stopped = carry
        skipped = jax.tree.map(jnp.zeros_like, jax.eval_shape(epoch, learner, key)[1])
        learner, metrics = lax.cond(stopped, lambda: (learner, skipped), lambda: epoch(learner, key))
        return (learner, stopped | stop(sum_over_shards(metrics))), metrics

    (learner, _), metrics = lax.scan(epoch_unless_stopped, (learner, jnp.bool_(False)), keys)
    return learner, merge(metrics)


def accumulate_gradient(
    gradient: Callable[[Array, Rows], tuple[PyTree, Metrics]], key: Array, rows: Rows
) -> tuple[PyTree, Metrics]:
    """The gradient of a mean over many rows, on a CPU computed part by part.

    PPO with minibatches of 65,536 rows trains 1.6 times as fast that way, and needs a fraction of the memory. An
    accelerator computes all rows at once.

    Args:
        gradient: ``(key, part) -> (gradient, metrics)``, where the gradient is that of a mean over the part.
        key: randomness.
        rows: leaves ``[num_rows, ...]``.

    Returns:
        The mean of the parts' gradients, and their metrics merged.
    """
    num_rows = len(jax.tree.leaves(rows)[0])
    num_parts = _num_parts(num_rows) if jax.default_backend() == "cpu" else 1
    if num_parts == 1:
        return gradient(key, rows)
    parts = jax.tree.map(lambda leaf: leaf.reshape(num_parts, -1, *leaf.shape[1:]), rows)
    gradient = jax.jit(gradient)  # is traced once, for its shapes and for the loop

    def add(total: PyTree, inputs: tuple[Array, Rows]) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, gradient(*inputs)), None

    keys = jax.random.split(key, num_parts)
    shapes = jax.eval_shape(gradient, keys[0], jax.tree.map(lambda leaf: leaf[0], parts))
    nothing = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
    (total, metrics), _ = lax.scan(add, nothing, (keys, parts))
    return jax.tree.map(lambda leaf: leaf / num_parts, total), metrics


def _num_parts(num_rows: int) -> int:
    """The least number of equal parts that fit into caches; 1 if they would have to be less than half of that."""
    least = -(-num_rows // ROWS_IN_CACHE)
    return next((number for number in range(least, 2 * least) if num_rows % number == 0), 1)
