"""Covariance matrix adaptation (Hansen 2016, "The CMA evolution strategy: a tutorial", arXiv:1604.00772).

Pure pieces for the minimisation of any function: `init`, and in turn `ask` for candidates and `tell` their losses::

    state = cma.init(jnp.zeros(10), std=1.0)
    candidates = cma.ask(state, key, population_size=12)
    state = cma.tell(state, candidates, jax.vmap(loss)(candidates))

Candidates are drawn from ``N(m, sigma^2 C)``; `tell` moves m to the mean of the better half, C towards the steps that
succeeded, and sigma so that successive steps are uncorrelated. Only the order of the losses matters. Constants are
those of table 1, negative weights ("active" update) included.

The scales that candidates are drawn with keep the condition number below 1e6: in float32, smaller eigenvalues cannot be
told apart from rounding.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from purerl import struct

Array = jax.Array

MAX_CONDITION = 1e6
"""Largest condition number of the covariance matrix: float32 eigenvalues are exact to 1e-7 of the largest."""

MIN_STD, MAX_STD = 1e-10, 1e10
"""Bounds of sigma, which changes by factors."""


@struct.dataclass
class CMAState:
    """Distribution of candidates, and the paths that it came by.

    Attributes:
        generation: int32, updates done, g.
        mean: ``[d]``, m.
        std: sigma, the overall deviation.
        covariance: ``[d, d]``, C.
        axes: ``[d, d]``, B: eigenvectors of C in columns, of the last decomposition.
        scales: ``[d]``, D: square roots of its eigenvalues.
        std_path: ``[d]``, p_sigma.
        covariance_path: ``[d]``, p_c.
    """

    generation: Array = struct.field(shared=True)
    mean: Array
    std: Array
    covariance: Array
    axes: Array
    scales: Array
    std_path: Array
    covariance_path: Array


@dataclasses.dataclass(frozen=True)
class Constants:
    """Strategy parameters for ``[n]`` candidates of d parameters (table 1, in its notation)."""

    weights: np.ndarray  # [n], of candidates from the best to the worst
    num_parents: int  # mu
    mu_eff: float
    c_sigma: float
    d_sigma: float
    c_c: float
    c_1: float
    c_mu: float
    norm: float  # expected length of a standard normal vector [d]

    @property
    def decomposition_period(self) -> int:
        """Generations between two decompositions of C, so that these take O(d^2) per candidate (appendix B.2)."""
        return max(1, math.floor(1.0 / (10.0 * self.norm**2 * (self.c_1 + self.c_mu))))


@functools.cache
def constants(num_parameters: int, population_size: int) -> Constants:
    """Strategy parameters (table 1)."""
    d, n = num_parameters, population_size
    raw = math.log((n + 1) / 2) - np.log(np.arange(1, n + 1))
    positive, negative = raw[: n // 2], raw[n // 2 :]
    mu_eff = float(positive.sum() ** 2 / (positive**2).sum())
    mu_eff_negative = negative.sum() ** 2 / (negative**2).sum()
    c_sigma = (mu_eff + 2) / (d + mu_eff + 5)
    c_1 = 2 / ((d + 1.3) ** 2 + mu_eff)
    c_mu = min(1 - c_1, 2 * (0.25 + mu_eff + 1 / mu_eff - 2) / ((d + 2) ** 2 + mu_eff))
    total = min(1 + c_1 / c_mu, 1 + 2 * mu_eff_negative / (mu_eff + 2), (1 - c_1 - c_mu) / (d * c_mu))
    return Constants(
        weights=np.where(raw >= 0, raw / positive.sum(), total * raw / np.abs(raw[raw < 0]).sum()).astype(np.float32),
        num_parents=n // 2,
        mu_eff=mu_eff,
        c_sigma=c_sigma,
        d_sigma=1 + 2 * max(0.0, math.sqrt((mu_eff - 1) / (d + 1)) - 1) + c_sigma,
        c_c=(4 + mu_eff / d) / (d + 4 + 2 * mu_eff / d),
        c_1=c_1,
        c_mu=c_mu,
        norm=math.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d**2)),
    )


def init(mean: Array, std: float | Array) -> CMAState:
    """A round distribution about ``mean [d]``."""
    mean = jnp.asarray(mean, jnp.float32)
    identity, zeros = jnp.eye(len(mean), dtype=jnp.float32), jnp.zeros_like(mean)
    std = jnp.asarray(std, jnp.float32)
    return CMAState(jnp.int32(0), mean, std, identity, identity, jnp.ones_like(mean), zeros, zeros)


def ask(state: CMAState, key: Array, population_size: int) -> Array:
    """Candidates ``[n, d]``: ``m + sigma B D z`` (equations 38 to 40)."""
    noise = jax.random.normal(key, (population_size, len(state.mean)), jnp.float32)
    return state.mean[None] + state.std * (noise * state.scales[None]) @ state.axes.T


def tell(state: CMAState, candidates: Array, losses: Array) -> CMAState:
    """The distribution after one generation (equations 41 to 47).

    Args:
        state: the distribution.
        candidates: ``[n, d]``, as `ask` returned them.
        losses: ``[n]``, less is better.
    """
    d = len(state.mean)
    k = constants(d, len(candidates))
    steps = (candidates[jnp.argsort(losses)] - state.mean[None]) / state.std
    step = jnp.asarray(k.weights[: k.num_parents]) @ steps[: k.num_parents]
    mean = state.mean + state.std * step

    whiten = (state.axes / state.scales[None]) @ state.axes.T  # C^(-1/2)
    std_path = (1 - k.c_sigma) * state.std_path + math.sqrt(k.c_sigma * (2 - k.c_sigma) * k.mu_eff) * whiten @ step
    length = jnp.linalg.norm(std_path)
    std = state.std * jnp.exp(k.c_sigma / k.d_sigma * (length / k.norm - 1))

    generation = state.generation + 1
    expected = jnp.sqrt(1 - (1 - k.c_sigma) ** (2 * generation.astype(jnp.float32)))
    # While sigma is far too small, C must not grow in the direction of the search (h_sigma).
    steady = (length / expected < (1.4 + 2 / (d + 1)) * k.norm).astype(jnp.float32)
    path = (1 - k.c_c) * state.covariance_path + steady * math.sqrt(k.c_c * (2 - k.c_c) * k.mu_eff) * step
    weights = jnp.asarray(k.weights)
    lengths = jnp.sum((steps @ whiten) ** 2, axis=1)
    # Bad candidates count as if they were as far away as is usual, which keeps C positive definite.
    bounded = jnp.where(weights >= 0, weights, weights * d / jnp.maximum(lengths, 1e-12))
    kept = 1 + k.c_1 * (1 - steady) * k.c_c * (2 - k.c_c) - k.c_1 - k.c_mu * float(k.weights.sum())
    covariance = kept * state.covariance + k.c_1 * jnp.outer(path, path) + k.c_mu * (steps.T * bounded[None]) @ steps

    axes, scales = lax.cond(
        generation % k.decomposition_period == 0, _decompose, lambda _: (state.axes, state.scales), covariance
    )
    return CMAState(generation, mean, jnp.clip(std, MIN_STD, MAX_STD), covariance, axes, scales, std_path, path)


def _decompose(covariance: Array) -> tuple[Array, Array]:
    """Eigenvectors, and the square roots of the eigenvalues, the small ones raised as `MAX_CONDITION` asks."""
    values, axes = jnp.linalg.eigh(0.5 * (covariance + covariance.T))
    return axes, jnp.sqrt(jnp.maximum(values, values[-1] / MAX_CONDITION))
