"""Estimators of the gradient of an expectation. `purerl.estimators` describes their common signature."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from purerl import struct
from purerl.errors import InputError
from purerl.estimators import terms
from purerl.estimators.terms import DistributionOf, Function
from purerl.math.distributions import Categorical
from purerl.types import Array, PyTree

MAX_EVENTS = 2**20
"""Largest number of events that `enumerate_gradient` sums over."""


def score_function(
    key: Array,
    distribution_of: DistributionOf,
    f: Function,
    params: PyTree,
    num_samples: int,
    *,
    baseline: float | Array = 0.0,
    antithetic: bool = False,
) -> PyTree:
    """Score-function estimate ``mean (f(x) - b) grad log p(x)``, also called REINFORCE (Williams 1992). Unbiased.

    It needs values of `f` only, for any distribution.

    Args:
        key: see `purerl.estimators`, as for the next four.
        distribution_of: see there.
        f: see there.
        params: see there.
        num_samples: see there.
        baseline: number b that does not depend on these samples, such as a moving average of earlier values of `f`: the
            estimate is unbiased for every b, because the score has mean 0.
        antithetic: draw pairs that are mirror images of each other; `num_samples` must be even.

    Raises:
        InputError: for a distribution without density, a value that is no scalar, or numbers out of range.
    """
    terms.check("score_function", distribution_of, params)
    struct.check_value("num_samples", num_samples, int, "[1, inf)")
    shape = terms.batch_axes("score_function", num_samples, antithetic)
    raw, values = _evaluate(key, distribution_of, f, params, shape)
    return _mean(terms.scores(distribution_of, params, raw, values - baseline), len(shape))


def leave_one_out(key: Array, distribution_of: DistributionOf, f: Function, params: PyTree, num_samples: int) -> PyTree:
    """Score-function estimate whose baseline of a sample is the mean value of all others. Unbiased.

    ``mean (f(x_i) - mean_{j != i} f(x_j)) grad log p(x_i)`` (Kool et al. 2019, "Buy 4 REINFORCE samples, get a baseline
    for free!"). A sample is independent of its baseline. For args and errors see `score_function`; at least
    2 samples.
    """
    terms.check("leave_one_out", distribution_of, params)
    struct.check_value("num_samples", num_samples, int, "[2, inf)")
    raw, values = _evaluate(key, distribution_of, f, params, (num_samples,))
    # values - mean of the others = N / (N - 1) (values - mean of all)
    advantages = (values - jnp.mean(values)) * (num_samples / (num_samples - 1))
    return _mean(terms.scores(distribution_of, params, raw, advantages), 1)


def optimal_baseline(
    key: Array, distribution_of: DistributionOf, f: Function, params: PyTree, num_samples: int
) -> PyTree:
    """Score-function estimate with the constant baseline of least variance, from the other samples. Unbiased.

    The variance ``E |(f - b) s|^2 - |grad|^2`` with the score ``s = grad log p`` is least at
    ``b = E[f |s|^2] / E[|s|^2]`` (Weaver and Tao 2001; Mohamed et al. 2020, section 7). The baseline of a sample is
    its estimate from all others. For args and errors see `score_function`; at least 2 samples.
    """
    terms.check("optimal_baseline", distribution_of, params)
    struct.check_value("num_samples", num_samples, int, "[2, inf)")
    raw, values = _evaluate(key, distribution_of, f, params, (num_samples,))
    scores = terms.scores(distribution_of, params, raw, jnp.ones_like(values))
    size = sum(jnp.sum(jnp.square(leaf.reshape(num_samples, -1)), axis=1) for leaf in jax.tree.leaves(scores))
    others = jnp.sum(size) - size
    # Scores of 0, as of an event that is certain, give no baseline and need none.
    baseline = (jnp.sum(values * size) - values * size) / jnp.where(others > 0, others, 1.0)
    return _mean(terms.scores(distribution_of, params, raw, values - baseline), 1)


def pathwise(
    key: Array,
    distribution_of: DistributionOf,
    f: Function,
    params: PyTree,
    num_samples: int,
    *,
    antithetic: bool = False,
) -> PyTree:
    """Pathwise estimate ``mean grad f(x(eps, theta))``, also called reparameterisation. Unbiased if `f` is continuous.

    For `Gaussian` and `TanhGaussian` (Kingma and Welling 2014; Rezende et al. 2014). Where `f` jumps it is biased: it
    does not see the jump. For args and errors see `score_function`.
    """
    terms.check("pathwise", distribution_of, params, terms.CONTINUOUS)
    struct.check_value("num_samples", num_samples, int, "[1, inf)")
    shape = terms.batch_axes("pathwise", num_samples, antithetic)

    def sample(distribution: Any) -> Array:
        return terms.event(distribution, terms.draw(key, distribution, len(shape)))

    return _mean(terms.through_samples(sample, distribution_of, f, params, shape)[1], len(shape))


def gumbel_softmax(
    key: Array,
    distribution_of: DistributionOf,
    f: Function,
    params: PyTree,
    num_samples: int,
    *,
    temperature: float | Array = 1.0,
    straight_through: bool = False,
) -> PyTree:
    """Gradient through relaxed samples ``softmax((logits + Gumbel noise) / temperature)``. Biased.

    For `Categorical`, with an `f` that is differentiable between the one-hot vectors (Jang et al. 2017, Maddison et al.
    2017). The bias disappears as the temperature goes to 0 and the variance grows.

    Args:
        key: see `purerl.estimators`, as for the next four.
        distribution_of: see there.
        f: see there.
        params: see there.
        num_samples: see there.
        temperature: positive number.
        straight_through: evaluate `f` and its derivative at the one-hot vector of the largest entry, and relax only the
            derivative of the sample (Jang et al. 2017, section 2.2).

    Raises:
        InputError: for another distribution, a value that is no scalar, or numbers out of range.
    """
    terms.check("gumbel_softmax", distribution_of, params, (Categorical,))
    struct.check_value("num_samples", num_samples, int, "[1, inf)")
    struct.check_value("temperature", temperature, float, "(0, inf)")

    def sample(distribution: Categorical) -> Array:
        logits = distribution.logits
        perturbed = logits + jax.random.gumbel(key, logits.shape, logits.dtype)
        relaxed = jax.nn.softmax(perturbed / temperature)
        return _straight_through(jnp.argmax(perturbed, axis=-1), relaxed) if straight_through else relaxed

    return _mean(terms.through_samples(sample, distribution_of, f, params, (num_samples,))[1], 1)


def straight_through(
    key: Array, distribution_of: DistributionOf, f: Function, params: PyTree, num_samples: int
) -> PyTree:
    """Straight-through estimate: ``grad f`` at the one-hot sample times the derivative of the probabilities. Biased.

    For `Categorical` (Bengio et al. 2013, "Estimating or propagating gradients through stochastic neurons",
    arXiv:1308.3432). Its mean is ``sum_k p_k f'(e_k) dp/dtheta``, which is right for a linear `f`. For args and errors
    see `gumbel_softmax`.
    """
    terms.check("straight_through", distribution_of, params, (Categorical,))
    struct.check_value("num_samples", num_samples, int, "[1, inf)")

    def sample(distribution: Categorical) -> Array:
        return _straight_through(distribution.sample(key), jax.nn.softmax(distribution.logits))

    return _mean(terms.through_samples(sample, distribution_of, f, params, (num_samples,))[1], 1)


def enumerate_gradient(distribution_of: DistributionOf, f: Function, params: PyTree) -> PyTree:
    """Exact gradient ``d/dtheta sum_x p(x) f(x)`` over all events of a `Categorical`.

    Leading axes are independent components, so ``[k, n]`` logits have ``n^k`` events.

    Raises:
        InputError: for another distribution, more than `MAX_EVENTS` events, or a value that is no scalar.
    """
    terms.check("enumerate_gradient", distribution_of, params, (Categorical,))
    *lead, num_choices = jax.eval_shape(distribution_of, params).logits.shape
    if num_choices ** math.prod(lead) > MAX_EVENTS:
        raise InputError(
            f"enumerate_gradient sums over at most {MAX_EVENTS:,} events, got {num_choices} ^ {math.prod(lead)}"
        )
    events = jnp.indices((num_choices,) * math.prod(lead), jnp.int32)
    raw = jnp.moveaxis(events, 0, -1).reshape(-1, *lead)

    def expectation(params: PyTree) -> Array:
        distribution = distribution_of(params)
        log_prob = jax.vmap(lambda raw: jnp.sum(distribution.log_prob(raw)))(raw)
        return jnp.sum(jnp.exp(log_prob) * terms.values_at(f, terms.event(distribution, raw), 1))

    return jax.grad(expectation)(params)


def _evaluate(
    key: Array, distribution_of: DistributionOf, f: Function, params: PyTree, shape: tuple[int, ...]
) -> tuple[Array, Array]:
    """Raw samples and values of `f`, with the batch axes `shape`."""
    distribution = terms.distributions(distribution_of, terms.repeat(params, shape), len(shape))
    raw = terms.draw(key, distribution, len(shape))
    return raw, terms.values_at(f, terms.event(distribution, raw), len(shape))


def _straight_through(choice: Array, relaxed: Array) -> Array:
    """One-hot vector of `choice` with the derivative of `relaxed`."""
    hard = jax.nn.one_hot(choice, relaxed.shape[-1], dtype=relaxed.dtype)
    return hard + (relaxed - jax.lax.stop_gradient(relaxed))


def _mean(tree: PyTree, num_axes: int) -> PyTree:
    """Mean over batch axes."""
    return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=tuple(range(num_axes))), tree)
