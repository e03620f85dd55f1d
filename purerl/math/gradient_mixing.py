"""Inverse-variance mixture of a first-order and a zeroth-order gradient estimate."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from purerl.types import Array, PyTree


def mix_gradients(first: PyTree, zeroth: PyTree) -> tuple[PyTree, Array]:
    """Inverse-variance weighted mean of two gradient estimates (Parmas et al. 2018, "PIPPS", arXiv:1902.01240; Suh et
    al. 2022, "Do differentiable simulators give better policy gradients?", arXiv:2202.00817).

    ::

        w = var0 / (var0 + var1),    w first + (1 - w) zeroth

    with the variances of the means, summed over all parameters. This is the combination of least variance if the
    estimates are independent. Variances do not show bias: if samples miss the jumps of the dynamics, the first-order
    estimate is biased, and its weight is too large.

    Args:
        first: gradients through the dynamics, leaves ``[n, ...]``, one for each of n samples, n at least 2. Samples
            that are not finite, or whose squares are not, are left out; if fewer than two remain, w is 0.
        zeroth: gradients from returns, of the same shapes, treated likewise; if fewer than two remain, w is 1.

    Returns:
        The mixed mean, and w.
    """
    _, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], first))
    first, zeroth = (jax.vmap(lambda tree: ravel_pytree(tree)[0])(samples) for samples in (first, zeroth))
    first_kept, zeroth_kept = _usable(first), _usable(zeroth)
    first_mean, first_variance = _mean_and_variance(first, first_kept)
    zeroth_mean, zeroth_variance = _mean_and_variance(zeroth, zeroth_kept)
    total = first_variance + zeroth_variance
    weight = jnp.where(total > 0, zeroth_variance / jnp.where(total > 0, total, 1.0), 1.0)
    weight = jnp.where(jnp.sum(zeroth_kept) >= 2, weight, 1.0)
    weight = jnp.where(jnp.sum(first_kept) >= 2, weight, 0.0)
    return unravel(weight * first_mean + (1.0 - weight) * zeroth_mean), weight


def mixed_gradient(
    gradients: Callable[[PyTree, Array], tuple[tuple[PyTree, PyTree, PyTree], PyTree]], environments: PyTree, key: Array
) -> tuple[tuple[PyTree, PyTree], PyTree, Array]:
    """Mixture of the gradient estimates of several environments, each of which is a sample.

    Args:
        gradients: ``(environment, key) -> ((first, zeroth, counts), rest)`` for one environment: its two estimates,
            numbers to add up, and anything else.
        environments: leaves ``[num_envs, ...]``.
        key: randomness.

    Returns:
        The mixed gradient with the sums of the counts, the rest ``[num_envs, ...]``, and the weight of the first-order
        estimate.
    """
    keys = jax.random.split(key, len(jax.tree.leaves(environments)[0]))
    (first, zeroth, counts), rest = jax.vmap(gradients)(environments, keys)
    mixed, weight = mix_gradients(first, zeroth)
    return (mixed, jax.tree.map(lambda leaf: leaf.sum(0), counts)), rest, weight


def _usable(samples: Array) -> Array:
    """Whether the squares of each of ``samples [n, size]`` have a finite sum; then so has the squared deviation."""
    return jnp.isfinite(4.0 * samples.shape[0] * jnp.sum(jnp.square(samples), axis=1))


def _mean_and_variance(samples: Array, kept: Array) -> tuple[Array, Array]:
    """Mean ``[size]`` of the ``samples [n, size]`` that are `kept`, and the total variance of that mean, a scalar."""
    count = jnp.maximum(jnp.sum(kept), 2)
    mean = jnp.sum(jnp.where(kept[:, None], samples, 0.0), axis=0) / count
    squares = jnp.square(jnp.where(kept[:, None], samples - mean[None, :], 0.0))
    return mean, jnp.sum(squares) / (count * (count - 1))
