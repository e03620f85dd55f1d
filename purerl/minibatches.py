"""Dividing a batch into random minibatches."""

import jax
import jax.numpy as jnp

Array = jax.Array


def shuffled_indices(key: Array, size: int) -> Array:
    """The integers ``0 .. size - 1`` in random order, ``[size]``, by a single sort.

    `jax.random.permutation` sorts pairs, several times; a third of the training of small networks goes there. Here each
    index is written into the low bits of a random word and the words are sorted. Indices whose random bits agree keep
    their order, so this is not exactly uniform over all permutations. For minibatches it need not be: what matters is
    who shares one, and an index's place is as good as independent of the others'.
    """
    index_bits = (size - 1).bit_length()
    words = (jax.random.bits(key, (size,)) << index_bits) | jnp.arange(size, dtype=jnp.uint32)
    return jnp.sort(words) & jnp.uint32((1 << index_bits) - 1)
