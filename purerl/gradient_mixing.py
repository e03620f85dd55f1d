"""One gradient from two estimates of it, each trusted as far as its samples agree."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from purerl.types import Array, PyTree


def mix_gradients(first: PyTree, zeroth: PyTree) -> tuple[PyTree, Array]:
    """The combination of two estimates with the least variance, were they independent (Parmas et al. 2018, "PIPPS",
    arXiv:1902.01240; Suh et al. 2022, "Do differentiable simulators give better policy gradients?", arXiv:2202.00817).

    ::

        w = var0 / (var0 + var1),    w first + (1 - w) zeroth

    with the variances of the means, added up over all parameters. They say nothing about a bias, so that a first-order
    estimate that misses jumps is trusted the more the fewer it sees.

    Args:
        first: gradients from derivatives, leaves ``[n, ...]``, one for each of n samples. Samples that are not finite
            are left out; if fewer than two remain the weight is 0.
        zeroth: gradients from returns, of the same shapes, n at least 2.

    Returns:
        The mixed mean, and w.
    """
    _, unravel = ravel_pytree(jax.tree.map(lambda leaf: leaf[0], first))
    first, zeroth = (jax.vmap(lambda tree: ravel_pytree(tree)[0])(samples) for samples in (first, zeroth))
    finite = jnp.all(jnp.isfinite(first), axis=1)
    first_mean, first_variance = _mean_and_variance(first, finite)
    zeroth_mean, zeroth_variance = _mean_and_variance(zeroth, jnp.ones_like(finite))
    total = first_variance + zeroth_variance
    weight = jnp.where(total > 0, zeroth_variance / jnp.where(total > 0, total, 1.0), 1.0)
    weight = jnp.where(jnp.sum(finite) >= 2, weight, 0.0)
    return unravel(weight * first_mean + (1.0 - weight) * zeroth_mean), weight


def _mean_and_variance(samples: Array, kept: Array) -> tuple[Array, Array]:
    """Of ``samples [n, size]`` that are `kept`: the mean ``[size]``, and its variance, a scalar."""
    count = jnp.maximum(jnp.sum(kept), 2)
    mean = jnp.sum(jnp.where(kept[:, None], samples, 0.0), axis=0) / count
    squares = jnp.square(jnp.where(kept[:, None], samples - mean[None, :], 0.0))
    return mean, jnp.sum(squares) / (count * (count - 1))
