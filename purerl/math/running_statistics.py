"""Running mean and variance of a stream of arrays, in float32, mergeable in any order.

Batches are merged as in Chan, Golub & LeVeque (1983, "Algorithms for computing the sample variance"), the parallel
form of Welford's method. One thing differs: the variance is stored, not the sum of squared deviations. That sum and the
count both grow without bound, and once a batch is only about 2^-24 of them, float32 rounds the two differently; their
ratio then drifts away from the variance. Mean and variance instead move *towards* each batch by its share ``n_b / n``:
a step that is too small is lost, and the statistics stay right. This begins after about 10^7 updates. At the same point
the count stops growing (batches of 512 reach 8e9), and the statistics no longer change.
"""

import math

import jax
import jax.numpy as jnp

from purerl import struct
from purerl.errors import InputError
from purerl.math.reductions import mean_over_shards, num_shards

Array = jax.Array

# Keeps the scale of constant entries finite; far below the variance of entries that vary.
EPSILON = 1e-8


@struct.dataclass
class RunningStatistics:
    """Running count, mean and variance of arrays of one shape.

    Attributes:
        count: float32 scalar, number of arrays.
        mean: float32, of the shape of one array.
        var: float32, of the shape of one array; divided by `count`, not by ``count - 1``.
    """

    count: Array
    mean: Array
    var: Array


def init(shape: tuple[int, ...]) -> RunningStatistics:
    """Initial statistics, of no data, for arrays of this `shape`."""
    return RunningStatistics(jnp.zeros((), jnp.float32), jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.float32))


def update(stats: RunningStatistics, batch: Array) -> RunningStatistics:
    """Statistics that include a `batch` of arrays, with any number of leading axes, and the batches of other shards.

    Raises:
        InputError: if the trailing axes of `batch` are not those of one array.
    """
    batch = jnp.asarray(batch, jnp.float32)
    num_leading = batch.ndim - stats.mean.ndim
    if num_leading < 0 or batch.shape[num_leading:] != stats.mean.shape:
        raise InputError(f"batch must have shape [..., *{list(stats.mean.shape)}], got {list(batch.shape)}")
    leading = tuple(range(num_leading))
    count = jnp.full((), math.prod(batch.shape[:num_leading]), jnp.float32)
    mean = jnp.mean(batch, leading, keepdims=True)
    centred = batch - mean
    # The second pass corrects the rounding error of the first (Chan et al. 1983, eq. 1.7).
    rest = jnp.mean(centred, leading)
    var = jnp.maximum(jnp.mean(centred**2, leading) - rest**2, 0.0)
    return merge(stats, _over_shards(RunningStatistics(count, jnp.squeeze(mean, leading) + rest, var)))


def _over_shards(stats: RunningStatistics) -> RunningStatistics:
    """Statistics of as much data on each shard, together."""
    mean = mean_over_shards(stats.mean)
    var = mean_over_shards(stats.var + (stats.mean - mean) ** 2)
    return RunningStatistics(num_shards() * stats.count, mean, var)


def merge(a: RunningStatistics, b: RunningStatistics) -> RunningStatistics:
    """Statistics of both data sets together; symmetric and associative up to rounding."""
    count = a.count + b.count
    share = b.count / jnp.maximum(count, 1.0)
    delta = b.mean - a.mean
    mean = a.mean + share * delta
    var = a.var + share * (b.var - a.var + (1.0 - share) * delta**2)
    return RunningStatistics(count, mean, jnp.maximum(var, 0.0))


def pooled(stats: RunningStatistics) -> RunningStatistics:
    """Statistics of several data sets ``[n]`` together."""
    count = jnp.sum(stats.count)
    shares = stats.count / jnp.maximum(count, 1.0)
    mean = jnp.tensordot(shares, stats.mean, 1)
    var = jnp.tensordot(shares, stats.var + (stats.mean - mean[None]) ** 2, 1)
    return RunningStatistics(count, mean, var)


def standardize(stats: RunningStatistics, x: Array, clip: float | Array = 10.0) -> Array:
    """Standardised array ``(x - mean) / std``, clipped to ``[-clip, clip]``; `x` may have leading axes.

    With statistics of no data, `x` is only clipped.
    """
    x = jnp.asarray(x, jnp.float32)
    return jnp.clip((x - jnp.broadcast_to(stats.mean, x.shape)) / _std(stats, x.shape), -clip, clip)


def scale(stats: RunningStatistics, x: Array, clip: float | Array = 10.0) -> Array:
    """Scaled array ``x / std``, clipped to ``[-clip, clip]``; `x` may have leading axes. Rewards keep their sign.

    With statistics of no data, `x` is only clipped.
    """
    x = jnp.asarray(x, jnp.float32)
    return jnp.clip(x / _std(stats, x.shape), -clip, clip)


def _std(stats: RunningStatistics, shape: tuple[int, ...]) -> Array:
    """Standard deviation to divide by, broadcast to `shape`; 1 for statistics of no data."""
    return jnp.broadcast_to(jnp.where(stats.count > 0, jnp.sqrt(stats.var + EPSILON), 1.0), shape)
