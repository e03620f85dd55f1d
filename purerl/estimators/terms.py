"""Terms of gradient estimates: one gradient per sample, whose mean is the estimate.

The parameters are repeated for each sample, so one reverse pass gives the gradients of all samples. Batch axes are
``[N]`` for independent samples and ``[2, N]`` for antithetic pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from purerl.errors import InputError
from purerl.math import float_leaves
from purerl.math.distributions import Categorical, Gaussian, TanhGaussian
from purerl.types import Array, PyTree

CONTINUOUS = (Gaussian, TanhGaussian)
ANY = (Categorical, *CONTINUOUS)

DistributionOf = Callable[[PyTree], Any]
Function = Callable[[Array], Array]


def check(name: str, distribution_of: DistributionOf, params: PyTree, allowed: tuple[type, ...] = ANY) -> None:
    """Check the input of the estimator `name`.

    Raises:
        InputError: for a distribution that the estimator is not for, or arrays of it that differ in shape; for
            parameters that are not floats.
    """
    if not jax.tree.leaves(params) or not all(map(float_leaves.is_float, jax.tree.leaves(params))):
        raise InputError(f"{name}: params must be a pytree of floats, got {jax.tree.map(jnp.result_type, params)}")
    distribution = jax.eval_shape(distribution_of, params)
    if not isinstance(distribution, allowed):
        names = " or ".join(kind.__name__ for kind in allowed)
        raise InputError(f"{name} is for the distributions {names}, not for {type(distribution).__name__}")
    shapes = sorted({jnp.shape(leaf) for leaf in jax.tree.leaves(distribution)}, key=len)
    if len(shapes) > 1 or not shapes[0]:
        got = " and ".join(str(list(shape)) for shape in shapes)
        raise InputError(f"{name}: the arrays of a distribution must have one shape [..., n], got {got}")


def distributions(distribution_of: DistributionOf, params: PyTree, num_axes: int) -> Any:
    """Distributions with `num_axes` batch axes, of parameters that have them."""
    for _ in range(num_axes):
        distribution_of = jax.vmap(distribution_of)
    return distribution_of(params)


def repeat(params: PyTree, shape: tuple[int, ...]) -> PyTree:
    """Parameters with the batch axes `shape`."""
    return jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (*shape, *jnp.shape(leaf))), params)


def draw(key: Array, distribution: Any, num_axes: int = 1) -> Array:
    """Raw samples ``[N, ...]`` of distributions ``[N]``; antithetic pairs ``[2, N, ...]`` of distributions ``[2, N]``.

    Both samples of a pair have the distribution. They are mirror images at the mean of a Gaussian (before ``tanh``);
    for a `Categorical`, they belong to ``u`` and ``1 - u`` of its inverse distribution function.
    """
    if num_axes == 1:
        return distribution.sample(key)
    one, other = (jax.tree.map(lambda leaf, i=i: leaf[i], distribution) for i in range(2))
    if not isinstance(one, Categorical):
        return jnp.stack([one.sample(key), 2.0 * other.mean - other.sample(key)])
    smallest = 0.5 * float(jnp.finfo(one.logits.dtype).eps)  # 1 - smallest is below 1
    uniform = jax.random.uniform(key, one.logits.shape[:-1], one.logits.dtype, minval=smallest)
    return jnp.stack([_inverse(one, uniform), _inverse(other, 1.0 - uniform)])


def event(distribution: Any, raw: Array) -> Array:
    """Argument of `f` for raw samples: the action, or the one-hot vector for a `Categorical`."""
    if isinstance(distribution, Categorical):
        return jax.nn.one_hot(raw, distribution.logits.shape[-1], dtype=distribution.logits.dtype)
    return distribution.action(raw)


def values_at(f: Function, x: Array, num_axes: int) -> Array:
    """Values of `f` at samples with `num_axes` batch axes.

    Raises:
        InputError: if a value is not a scalar.
    """
    for _ in range(num_axes):
        f = jax.vmap(f)
    values = jnp.asarray(f(x))
    if values.ndim != num_axes:
        raise InputError(f"f must return a scalar, got the shape {list(values.shape[num_axes:])}")
    return values


def scores(distribution_of: DistributionOf, params: PyTree, raw: Array, weights: Array) -> PyTree:
    """Terms ``weight * grad log p(raw)`` of the score function.

    Args:
        distribution_of: see `purerl.estimators`.
        params: without batch axes.
        raw: samples, with the batch axes of `weights`.
        weights: value or advantage of each sample. No gradient flows into them.

    Returns:
        Pytree like `params`, with batch axes.
    """

    def weighted(params: PyTree) -> Array:
        log_prob = distributions(distribution_of, params, weights.ndim).log_prob(raw)
        joint = jnp.sum(log_prob, axis=tuple(range(weights.ndim, log_prob.ndim)))
        return jnp.sum(lax.stop_gradient(weights) * joint)

    return jax.grad(weighted)(repeat(params, weights.shape))


def through_samples(
    sample: Callable[[Any], Array], distribution_of: DistributionOf, f: Function, params: PyTree, shape: tuple[int, ...]
) -> tuple[Array, PyTree]:
    """Values, and terms ``grad f(x(params))``, of samples that are differentiable in the parameters.

    Args:
        sample: ``sample(distribution) -> x``, for distributions with batch axes.
        distribution_of: see `purerl.estimators`.
        f: see `purerl.estimators`.
        params: without batch axes.
        shape: batch axes.

    Returns:
        Values ``[*shape]`` and a pytree like `params`, with batch axes.
    """

    def total(params: PyTree) -> tuple[Array, Array]:
        distribution = distributions(distribution_of, params, len(shape))
        values = values_at(f, sample(distribution), len(shape))
        return jnp.sum(values), values

    gradients, values = jax.grad(total, has_aux=True)(repeat(params, shape))
    return values, gradients


def batch_axes(name: str, num_samples: int, antithetic: bool) -> tuple[int, ...]:
    """Batch axes of samples: ``(N,)``, or ``(2, N / 2)`` for antithetic pairs."""
    if antithetic and num_samples % 2:
        raise InputError(f"{name} with antithetic pairs needs an even num_samples, got {num_samples}")
    return (2, num_samples // 2) if antithetic else (num_samples,)


def _inverse(distribution: Categorical, uniform: Array) -> Array:
    """Integers at which the distribution function first exceeds `uniform`."""
    cumulative = jnp.cumsum(jax.nn.softmax(distribution.logits), axis=-1)
    # Divided by the last entry, which rounding may leave below 1: a choice of probability 0 is never drawn.
    return jnp.sum(cumulative / cumulative[..., -1:] <= uniform[..., None], axis=-1).astype(jnp.int32)
