"""Mean, variance and bias of a gradient estimator, from many independent estimates, with confidence intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.special import stdtrit

from purerl import struct
from purerl.errors import InputError
from purerl.estimators.gradients import enumerate_gradient
from purerl.estimators.terms import DistributionOf, Function
from purerl.math.distributions import Categorical
from purerl.math.statistics import bootstrap_interval
from purerl.types import Array, PyTree

RESOLUTION = 1e-3
"""Smallest difference relative to the gradient that is not attributed to rounding in float32."""

Estimator = Callable[[Array, DistributionOf, Function, PyTree, int], PyTree]
"""``estimator(key, distribution_of, f, params, num_samples) -> gradient``."""


@struct.dataclass
class Measurement:
    """Result of `measure`. Estimates that are not finite are left out of all but `nonfinite`.

    Attributes:
        mean: like the parameters, mean of the estimates.
        error: like the parameters, standard error of `mean`.
        exact: like the parameters, the exact gradient.
        variance: ``E |g - E g|^2`` of one estimate, the sum over all parameters.
        variance_interval: ``[2]``, bootstrap interval of `variance`.
        bias: mean of the estimate minus the exact gradient, along the direction in which they seem to differ most: on
            average at most the norm of the bias, and 0 if there is none.
        bias_interval: ``[2]``, confidence interval of `bias`.
        biased: whether that interval excludes 0, by more than the resolution of float32.
        nonfinite: fraction of estimates that are infinite or NaN.
    """

    mean: PyTree
    error: PyTree
    exact: PyTree
    variance: float
    variance_interval: np.ndarray
    bias: float
    bias_interval: np.ndarray
    biased: bool
    nonfinite: float


def measure(
    estimator: Estimator,
    key: Array,
    distribution_of: DistributionOf,
    f: Function,
    params: PyTree,
    num_samples: int,
    *,
    exact: PyTree | None = None,
    num_estimates: int = 1000,
    confidence: float = 0.95,
) -> Measurement:
    """Measure an estimator against the exact gradient. One compiled program computes all estimates.

    Args:
        estimator: one of this package, or a function of your own with its signature.
        key: randomness; equal keys give estimators equal randomness.
        distribution_of: see `purerl.estimators`, as for the next three.
        f: see there.
        params: see there.
        num_samples: of each estimate.
        exact: the exact gradient, like `params`; by default from `enumerate_gradient`, which needs a `Categorical`.
        num_estimates: number of independent estimates.
        confidence: probability that an interval contains its true value.

    Raises:
        InputError: for a missing or misshapen exact gradient, or anything that the estimator does not accept.
    """
    struct.check_value("num_estimates", num_estimates, int, "[8, inf)")
    struct.check_value("confidence", confidence, float, "(0, 1)")
    if exact is None:
        if not isinstance(jax.eval_shape(distribution_of, params), Categorical):
            raise InputError("only the events of a Categorical can be enumerated: give the exact gradient")
        exact = enumerate_gradient(distribution_of, f, params)
    if jax.tree.map(jnp.shape, exact) != jax.tree.map(jnp.shape, params):
        raise InputError(
            f"the exact gradient must be like params, {jax.tree.map(jnp.shape, params)}, "
            f"got {jax.tree.map(jnp.shape, exact)}"
        )

    @jax.jit
    def run(key: Array, params: PyTree, exact: PyTree) -> tuple[Any, ...]:
        def estimate(key: Array) -> Array:
            return ravel_pytree(estimator(key, distribution_of, f, params, num_samples))[0]

        estimates = jax.vmap(estimate)(jax.random.split(key, num_estimates))
        kept = jnp.all(jnp.isfinite(estimates), axis=1)
        estimates = jnp.where(kept[:, None], estimates, 0.0)
        average = mean(estimates, kept)
        squares = jnp.sum(jnp.square(estimates - average[None]), axis=1)
        bias, interval = bias_test(
            estimates - ravel_pytree(exact)[0][None], kept, t_quantile(num_estimates, confidence)
        )
        resolution = RESOLUTION * jnp.linalg.norm(average)
        return average, error(estimates, kept), kept, squares, bias, interval, is_biased(interval, resolution)

    average, deviation, kept, squares, bias, interval, biased = jax.device_get(run(key, params, exact))
    unravel = ravel_pytree(params)[1]
    count = int(np.sum(kept))
    squares = squares[kept].astype(np.float64) * (count / max(count - 1, 1))
    bounds = bootstrap_interval(squares, confidence, resamples=2000) if count > 1 else None
    return Measurement(
        mean=unravel(average),
        error=unravel(deviation),
        exact=exact,
        variance=float(np.mean(squares)) if count > 1 else float("nan"),
        variance_interval=np.full(2, np.nan) if bounds is None else np.stack(bounds),
        bias=float(bias),
        bias_interval=interval,
        biased=bool(biased),
        nonfinite=1.0 - count / num_estimates,
    )


def compare(
    estimators: Mapping[str, Estimator],
    key: Array,
    distribution_of: DistributionOf,
    f: Function,
    params: PyTree,
    num_samples: int,
    **settings: Any,
) -> dict[str, Measurement]:
    """`measure` for several estimators by name, with equal randomness and equal numbers of samples.

    `settings` are the keywords of `measure`.
    """
    one = partial(
        measure, key=key, distribution_of=distribution_of, f=f, params=params, num_samples=num_samples, **settings
    )
    return {name: one(estimator) for name, estimator in estimators.items()}


def bias_test(differences: Array, kept: Array, quantile: float) -> tuple[Array, Array]:
    """Bias along one direction, and its confidence interval; valid in any dimension.

    The first half of the samples chooses the direction, and a t-test on the second half, which is independent of that
    choice, tests whether the difference along it is 0.

    Args:
        differences: ``[N, n]``, independent samples of an estimate minus the truth.
        kept: bool ``[N]``, samples that count.
        quantile: see `t_quantile`.
    """
    choosing = jnp.arange(kept.size) < kept.size // 2
    along = differences @ _unit(mean(differences, kept & choosing))
    bias = mean(along, kept & ~choosing)
    return bias, bias + quantile * error(along, kept & ~choosing) * jnp.array([-1.0, 1.0], bias.dtype)


def is_biased(interval: Array, resolution: Array) -> Array:
    """Whether an interval of `bias_test` excludes 0 by more than `resolution`."""
    return (interval[0] > resolution) | (interval[1] < -resolution)


def t_quantile(num_samples: int, confidence: float) -> float:
    """Quantile for `bias_test`: of Student's t distribution for the second half of the samples."""
    return float(stdtrit(num_samples - num_samples // 2 - 1, 0.5 * (1.0 + confidence)))


def mean(samples: Array, kept: Array) -> Array:
    """Mean over the first axis where `kept`; NaN if no sample is kept."""
    kept = kept.reshape(-1, *(1,) * (samples.ndim - 1))
    return jnp.sum(jnp.where(kept, samples, 0.0), axis=0) / jnp.sum(kept)


def error(samples: Array, kept: Array) -> Array:
    """Standard error of `mean`."""
    count = jnp.sum(kept)
    variance = mean(jnp.square(samples - mean(samples, kept)[None]), kept) * count / (count - 1)
    return jnp.sqrt(variance / count)


def _unit(vector: Array) -> Array:
    """Unit vector in the direction of `vector`; 0 for a zero vector."""
    norm = jnp.linalg.norm(vector)
    return vector / jnp.where(norm > 0, norm, 1.0)
