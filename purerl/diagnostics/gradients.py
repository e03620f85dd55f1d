"""Two estimates of one gradient: by differentiating the function, and by its values alone.

Both estimate the gradient of the smoothed function ``F(theta) = E f(theta + sigma eps)`` with standard normal ``eps``
(Suh et al. 2022, "Do differentiable simulators give better policy gradients?", arXiv:2202.00817)::

    first order     grad F = E[ grad f(theta + sigma eps) ]            if f is continuous
    zeroth order    grad F = E[ f(theta + sigma eps) eps / sigma ]     always

Where f jumps the first one does not see the jump: it is biased. Where f is continuous but so steep that hardly a sample
lands on the slope, it is right in the mean and useless for any number of samples that one has; that shows as bias or as
a huge variance, by luck.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from scipy.special import stdtrit

from purerl import struct
from purerl.errors import InputError
from purerl.types import Array

RESOLUTION = 1e-3
"""Share of the gradient below which a difference says more about rounding in float32 than about the function."""


@struct.dataclass
class GradientComparison:
    """The two estimates of the gradient of the smoothed function, and how they differ.

    Attributes:
        first_order: ``[n]``, mean of the gradients at the samples.
        zeroth_order: ``[n]``, from the values only.
        first_order_error: ``[n]``, standard error of `first_order`.
        zeroth_order_error: ``[n]``, standard error of `zeroth_order`.
        first_order_variance: ``E |g - E g|^2`` of the gradient at a single sample.
        zeroth_order_variance: the same of the zeroth-order estimate from a single antithetic pair.
        roughness: ``sigma (E |g|^2)^(1/2) / std f``, the size of gradients by what the values suggest. 1 for a linear
            function, ``k^(1/2)`` for a polynomial of degree k, far more for one that is rougher than `sigma` can see;
            never below 1 for a continuous function (the Gaussian Poincare inequality), so that less speaks for jumps.
            NaN for a constant.
        norms: ``[2 * num_samples]``, norm of the gradient at each sample; infinite or NaN where that is.
        cosine: of the angle between the two means; NaN where one of them is 0.
        bias: difference first minus zeroth order along the direction in which they seem to differ most: in the mean at
            most the norm of the bias, and 0 if there is none.
        bias_interval: ``[2]``, confidence interval of `bias`.
        biased: whether that interval excludes 0, by more than float32 can resolve.
        nonfinite: share of the samples whose value or gradient, or its square, is infinite or NaN; they are left out of
            all of the above, together with their antithetic partner.
    """

    first_order: Array
    zeroth_order: Array
    first_order_error: Array
    zeroth_order_error: Array
    first_order_variance: Array
    zeroth_order_variance: Array
    roughness: Array
    norms: Array
    cosine: Array
    bias: Array
    bias_interval: Array
    biased: Array
    nonfinite: Array


def compare_gradients(
    function: Callable[[Array], Array],
    theta: Array,
    key: Array,
    *,
    sigma: float | Array,
    num_samples: int,
    confidence: float = 0.95,
) -> GradientComparison:
    """Estimate the gradient of `function`, smoothed by Gaussian noise, in both ways and test whether they agree.

    Samples come in pairs ``theta +- sigma eps``, and both estimates use the same ones, so that most of their noise
    cancels in the difference. What is left of it for a linear function, ``(1 - eps eps') g``, has mean 0 for every
    fixed g and is taken off with the first-order mean of the other half of the samples for g; so a quadratic function
    leaves hardly any noise.

    The test is honest in any dimension: the first half of the samples chooses a direction, and a t-test on the second
    half, which knows nothing of that choice, asks whether the difference along it is 0.

    Args:
        function: ``function(theta) -> ()``, which reverse mode can differentiate.
        theta: ``[n]``, where.
        key: randomness of the samples.
        sigma: standard deviation of the noise, in the units of `theta`.
        num_samples: antithetic pairs, so that `function` is evaluated twice as often.
        confidence: that `bias_interval` contains the truth; ``1 - confidence`` is how often agreeing gradients are
            taken for biased.

    Raises:
        InputError: for a `theta` that is no vector of floats, or numbers out of range.
    """
    struct.check_value("sigma", sigma, float, "(0, inf)")
    struct.check_value("num_samples", num_samples, int, "[8, inf)")
    struct.check_value("confidence", confidence, float, "(0, 1)")
    theta = jnp.asarray(theta)
    if theta.ndim != 1 or not jnp.issubdtype(theta.dtype, jnp.floating):
        raise InputError(f"theta must be a vector of floats, got {theta.dtype}{list(theta.shape)}")

    eps = jax.random.normal(key, (num_samples, theta.size), theta.dtype)
    signs = jnp.array([1.0, -1.0], theta.dtype)
    at = jax.vmap(jax.vmap(lambda sign, eps: theta + sign * sigma * eps, (None, 0)), (0, None))(signs, eps)
    values, gradients = jax.vmap(jax.vmap(jax.value_and_grad(function)))(at)
    quantile = stdtrit(num_samples - num_samples // 2 - 1, 0.5 * (1.0 + confidence))
    return _compare(eps, values, gradients, sigma, float(quantile))


def _compare(eps: Array, values: Array, gradients: Array, sigma: float | Array, quantile: float) -> GradientComparison:
    """`eps` ``[num_samples, n]``, `values` ``[2, num_samples]`` and `gradients` ``[2, num_samples, n]``, + and -."""
    # Their squares are added up.
    squares = jnp.square(values) + jnp.sum(jnp.square(gradients), axis=-1)
    finite = jnp.isfinite(4.0 * squares.size * squares)
    kept = jnp.all(finite, axis=0)
    choosing = jnp.arange(kept.size) < kept.size // 2
    halves = kept & choosing, kept & ~choosing
    norms = jnp.linalg.norm(gradients, axis=-1).reshape(-1)
    values = jnp.where(kept[None, :], values, 0.0)
    gradients = jnp.where(kept[None, :, None], gradients, 0.0)

    first = jnp.mean(gradients, axis=0)
    zeroth = eps * ((values[0] - values[1]) / (2.0 * sigma))[:, None]
    first_mean, zeroth_mean = _mean(first, kept), _mean(zeroth, kept)
    variance = _mean(jnp.mean(jnp.square(values - jnp.mean(_mean(values.T, kept))), axis=0), kept)
    size = _mean(jnp.mean(jnp.sum(jnp.square(gradients), axis=-1), axis=0), kept)
    scatter = jnp.sum(jnp.square(gradients - first_mean[None, None, :]), axis=-1)

    fixed = jnp.where(choosing[:, None], _mean(first, halves[1])[None, :], _mean(first, halves[0])[None, :])
    linear_noise = eps * jnp.sum(eps * fixed, axis=-1, keepdims=True) - fixed
    difference = first - (zeroth - linear_noise)
    along = difference @ _unit(_mean(difference, halves[0]))
    bias = _mean(along, halves[1])
    interval = bias + quantile * _error(along, halves[1]) * jnp.array([-1.0, 1.0], bias.dtype)
    # Rounding of the values themselves, and of the chain rule.
    rounding = jnp.finfo(values.dtype).eps * jnp.mean(_mean(jnp.abs(values.T), kept))
    resolution = rounding / sigma + RESOLUTION * jnp.linalg.norm(first_mean)

    return GradientComparison(
        first_order=first_mean,
        zeroth_order=zeroth_mean,
        first_order_error=_error(first, kept),
        zeroth_order_error=_error(zeroth, kept),
        first_order_variance=_mean(jnp.mean(scatter, axis=0), kept),
        zeroth_order_variance=_mean(jnp.sum(jnp.square(zeroth - zeroth_mean[None, :]), axis=-1), kept),
        roughness=sigma * jnp.sqrt(size / variance),
        norms=norms,
        cosine=jnp.sum(first_mean * zeroth_mean) / (jnp.linalg.norm(first_mean) * jnp.linalg.norm(zeroth_mean)),
        bias=bias,
        bias_interval=interval,
        biased=(interval[0] > resolution) | (interval[1] < -resolution),
        nonfinite=jnp.mean(~finite),
    )


def _mean(samples: Array, kept: Array) -> Array:
    """Mean over the first axis where `kept`; NaN if nothing is."""
    kept = kept.reshape(-1, *(1,) * (samples.ndim - 1))
    return jnp.sum(jnp.where(kept, samples, 0.0), axis=0) / jnp.sum(kept)


def _error(samples: Array, kept: Array) -> Array:
    """Standard error of `_mean`."""
    count = jnp.sum(kept)
    variance = _mean(jnp.square(samples - _mean(samples, kept)[None]), kept) * count / (count - 1)
    return jnp.sqrt(variance / count)


def _unit(vector: Array) -> Array:
    """`vector` at length 1, or 0."""
    norm = jnp.linalg.norm(vector)
    return vector / jnp.where(norm > 0, norm, 1.0)
