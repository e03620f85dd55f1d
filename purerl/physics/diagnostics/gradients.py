"""Comparison of two gradient estimates: first order, from derivatives, and zeroth order, from values alone.

Both estimate the gradient of the smoothed function ``F(theta) = E f(theta + sigma eps)`` with standard normal ``eps``
(Suh et al. 2022, "Do differentiable simulators give better policy gradients?", arXiv:2202.00817)::

    first order     grad F = E[ grad f(theta + sigma eps) ]            if f is continuous
    zeroth order    grad F = E[ f(theta + sigma eps) eps / sigma ]     always

If f jumps, the first-order estimate does not see the jump: it is biased. If f is continuous but so steep that hardly
any sample lands on the slope, the estimate is unbiased but useless for any affordable number of samples; depending on
the samples, this shows as bias or as a huge variance.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp

from purerl import struct
from purerl.errors import InputError
from purerl.estimators import terms
from purerl.estimators.measurement import RESOLUTION, bias_test, error, is_biased, mean, t_quantile
from purerl.math.distributions import Gaussian
from purerl.types import Array


@struct.dataclass
class GradientComparison:
    """First- and zeroth-order estimates of the gradient of the smoothed function, and their difference.

    Attributes:
        first_order: ``[n]``, mean of the gradients at the samples.
        zeroth_order: ``[n]``, estimate from the values only.
        first_order_error: ``[n]``, standard error of `first_order`.
        zeroth_order_error: ``[n]``, standard error of `zeroth_order`.
        first_order_variance: variance ``E |g - E g|^2`` of the gradient at a single sample.
        zeroth_order_variance: variance of the zeroth-order estimate from a single antithetic pair.
        roughness: ``sigma (E |g|^2)^(1/2) / std f``, the size of the gradients relative to what the variation of the
            values suggests. 1 for a linear function, ``k^(1/2)`` for a polynomial of degree k, much larger for a
            function with structure finer than `sigma`. At least 1 for a continuous function (Gaussian Poincare
            inequality), so a smaller value indicates jumps. NaN for a constant.
        norms: ``[2 * num_samples]``, norm of the gradient at each sample; infinite or NaN where the gradient is.
        cosine: cosine of the angle between the two means; NaN where one of them is 0.
        bias: difference, first minus zeroth order, along the direction in which they seem to differ most: on average at
            most the norm of the bias, and 0 if there is none.
        bias_interval: ``[2]``, confidence interval of `bias`.
        biased: whether that interval excludes 0, by more than the resolution of float32.
        nonfinite: fraction of samples whose value or gradient, or its square, is infinite or NaN; they are left out of
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

    Samples are pairs ``theta +- sigma eps``. Both estimates use the same samples, so most of their noise cancels in the
    difference. The remaining noise for a linear function, ``(1 - eps eps') g``, has mean 0 for every fixed g; it is
    subtracted, with the first-order mean of the other half of the samples as g. So a quadratic function leaves hardly
    any noise.

    The test is valid in any dimension: the first half of the samples chooses a direction, and a t-test on the second
    half, which is independent of that choice, tests whether the difference along it is 0.

    Args:
        function: ``function(theta) -> ()``, differentiable in reverse mode.
        theta: ``[n]``, point at which the gradient is estimated.
        key: randomness of the samples.
        sigma: standard deviation of the noise, in the units of `theta`.
        num_samples: number of antithetic pairs; `function` is evaluated twice as often.
        confidence: probability that `bias_interval` contains the true value; ``1 - confidence`` is the probability of
            calling gradients biased that agree.

    Raises:
        InputError: for a `theta` that is not a vector of floats, or numbers out of range.
    """
    struct.check_value("sigma", sigma, float, "(0, inf)")
    struct.check_value("num_samples", num_samples, int, "[8, inf)")
    struct.check_value("confidence", confidence, float, "(0, 1)")
    theta = jnp.asarray(theta)
    if theta.ndim != 1 or not jnp.issubdtype(theta.dtype, jnp.floating):
        raise InputError(f"theta must be a vector of floats, got {theta.dtype}{list(theta.shape)}")

    def smoothed(theta: Array) -> Gaussian:
        return Gaussian(theta, jnp.broadcast_to(jnp.log(jnp.asarray(sigma, theta.dtype)), theta.shape))

    # Both are the estimators of `purerl.estimators` at the same antithetic pairs: pathwise, and the score function.
    pairs = (2, num_samples)
    raw = terms.draw(key, terms.distributions(smoothed, terms.repeat(theta, pairs), 2), 2)
    values, gradients = terms.through_samples(lambda d: terms.draw(key, d, 2), smoothed, function, theta, pairs)
    # The score is odd in eps, so what the values of a pair have in common drops out; large ones would round.
    odd = values - jnp.mean(values, axis=0, keepdims=True)
    zeroth = jnp.mean(terms.scores(smoothed, theta, raw, odd), axis=0)
    eps = sigma * terms.scores(smoothed, theta, raw[0], jnp.ones(num_samples, theta.dtype))
    return _compare(eps, values, gradients, zeroth, sigma, t_quantile(num_samples, confidence))


def _compare(
    eps: Array, values: Array, gradients: Array, zeroth: Array, sigma: float | Array, quantile: float
) -> GradientComparison:
    """Comparison from samples.

    `eps` and `zeroth` are ``[num_samples, n]``, `values` ``[2, num_samples]`` and `gradients` ``[2, num_samples, n]``;
    the axis of length 2 is + and - eps.
    """
    # Below, sums of squares must be finite.
    squares = jnp.square(values) + jnp.sum(jnp.square(gradients), axis=-1)
    finite = jnp.isfinite(4.0 * squares.size * squares)
    kept = jnp.all(finite, axis=0)
    choosing = jnp.arange(kept.size) < kept.size // 2
    halves = kept & choosing, kept & ~choosing
    norms = jnp.linalg.norm(gradients, axis=-1).reshape(-1)
    values = jnp.where(kept[None, :], values, 0.0)
    gradients = jnp.where(kept[None, :, None], gradients, 0.0)
    zeroth = jnp.where(kept[:, None], zeroth, 0.0)

    first = jnp.mean(gradients, axis=0)
    first_mean, zeroth_mean = mean(first, kept), mean(zeroth, kept)
    variance = mean(jnp.mean(jnp.square(values - jnp.mean(mean(values.T, kept))), axis=0), kept)
    size = mean(jnp.mean(jnp.sum(jnp.square(gradients), axis=-1), axis=0), kept)
    scatter = jnp.sum(jnp.square(gradients - first_mean[None, None, :]), axis=-1)

    fixed = jnp.where(choosing[:, None], mean(first, halves[1])[None, :], mean(first, halves[0])[None, :])
    linear_noise = eps * jnp.sum(eps * fixed, axis=-1, keepdims=True) - fixed
    difference = first - (zeroth - linear_noise)
    bias, interval = bias_test(difference, kept, quantile)
    # Rounding of the values, and of the chain rule.
    rounding = jnp.finfo(values.dtype).eps * jnp.mean(mean(jnp.abs(values.T), kept))
    resolution = rounding / sigma + RESOLUTION * jnp.linalg.norm(first_mean)

    return GradientComparison(
        first_order=first_mean,
        zeroth_order=zeroth_mean,
        first_order_error=error(first, kept),
        zeroth_order_error=error(zeroth, kept),
        first_order_variance=mean(jnp.mean(scatter, axis=0), kept),
        zeroth_order_variance=mean(jnp.sum(jnp.square(zeroth - zeroth_mean[None, :]), axis=-1), kept),
        roughness=sigma * jnp.sqrt(size / variance),
        norms=norms,
        cosine=jnp.sum(first_mean * zeroth_mean) / (jnp.linalg.norm(first_mean) * jnp.linalg.norm(zeroth_mean)),
        bias=bias,
        bias_interval=interval,
        biased=is_biased(interval, resolution),
        nonfinite=jnp.mean(~finite),
    )
