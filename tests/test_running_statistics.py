"""Running statistics against NumPy over everything seen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from purerl.errors import InputError
from purerl.math import running_statistics

update, merge = jax.jit(running_statistics.update), jax.jit(running_statistics.merge)
standardize, scale = jax.jit(running_statistics.standardize), jax.jit(running_statistics.scale)


def of(*batches):
    stats = running_statistics.init(batches[0].shape[-1:])
    for batch in batches:
        stats = update(stats, batch)
    return stats


def assert_close(a, b, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b)


def random_batches(seed, num):
    rng = np.random.default_rng(seed)
    shape = lambda: (rng.integers(1, 4), 5, 2)  # noqa: E731
    return [rng.normal(rng.normal(0, 3, 2), rng.uniform(0.1, 3, 2), shape()).astype(np.float32) for _ in range(num)]


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6))
def test_batches_add_up_to_the_statistics_of_all_data(seed, num):
    batches = random_batches(seed, num)
    everything = np.concatenate([b.reshape(-1, 2) for b in batches]).astype(np.float64)
    stats = of(*batches)
    assert stats.count == len(everything)
    np.testing.assert_allclose(stats.mean, everything.mean(0), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(stats.var, everything.var(0), rtol=1e-4)


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_merging_is_associative_commutative_and_has_a_neutral_element(seed):
    a, b, c = (of(batch) for batch in random_batches(seed, 3))
    assert_close(merge(merge(a, b), c), merge(a, merge(b, c)), rtol=1e-4, atol=1e-5)
    assert_close(merge(a, b), merge(b, a), rtol=1e-4, atol=1e-5)
    nothing = running_statistics.init((2,))
    assert_close(merge(a, nothing), a, rtol=0, atol=0)
    assert_close(merge(nothing, a), a, rtol=0, atol=0)
    assert_close(merge(nothing, nothing), nothing, rtol=0, atol=0)


@pytest.mark.parametrize("batch_size", [1, 32, 4096])
def test_a_large_offset_does_not_swallow_the_deviation(batch_size):
    data = np.random.default_rng(0).normal(1e4, 1.0, (8192, 1)).astype(np.float32)
    batches = jnp.asarray(data).reshape(-1, batch_size, 1)
    step = lambda stats, batch: (running_statistics.update(stats, batch), None)  # noqa: E731
    stats, _ = jax.jit(lambda s, b: jax.lax.scan(step, s, b))(running_statistics.init((1,)), batches)
    exact = data.astype(np.float64)
    # Steps of the mean are rounded to the spacing of float32 there, 1e-3.
    np.testing.assert_allclose(stats.mean, exact.mean(0), atol=0.05)
    np.testing.assert_allclose(stats.var, exact.var(0), rtol=0.02)


def test_the_variance_is_right_even_where_the_mean_cannot_be_represented():
    data = np.float32(2**23) + np.float32([0.0, 1.0, 0.0, 1.0])  # the mean lies between two neighbouring float32
    np.testing.assert_allclose(update(running_statistics.init(()), data).var, 0.25)


@pytest.mark.parametrize("count", [2.0**24, 2.0**26, 1e10])
def test_large_counts_do_not_make_the_variance_drift(count):
    """Kept as a sum of squares in float32, it would be 2 to 3 % off here for the first two; see the module."""

    def step(i, stats):
        noise = jax.random.normal(jax.random.fold_in(jax.random.key(0), i), (3,))
        return running_statistics.update(stats, 3.0 + 1.4 * noise)

    start = running_statistics.RunningStatistics(jnp.float32(count), jnp.float32(3.0), jnp.float32(1.96))
    stats = jax.jit(lambda s: jax.lax.fori_loop(0, 500_000, step, s))(start)
    np.testing.assert_allclose(stats.mean, 3.0, atol=0.003)
    np.testing.assert_allclose(stats.var, 1.96, rtol=0.002)


def test_merging_large_counts():
    a = running_statistics.RunningStatistics(jnp.float32(5e9), jnp.float32(3.0), jnp.float32(4.0))
    b = running_statistics.RunningStatistics(jnp.float32(1e10), jnp.float32(6.0), jnp.float32(4.0))
    np.testing.assert_allclose(merge(a, b).mean, 5.0, rtol=1e-6)
    np.testing.assert_allclose(merge(a, b).var, 4.0 + 1 / 3 * 2 / 3 * 3.0**2, rtol=1e-6)


def test_early_data_and_late_data_count_alike():
    """The variance must also grow when the mean wanders, as it does while a policy learns."""
    data = np.linspace(0.0, 100.0, 5000).astype(np.float32)
    step = lambda stats, batch: (running_statistics.update(stats, batch), None)  # noqa: E731
    stats, _ = jax.jit(lambda s, b: jax.lax.scan(step, s, b))(
        running_statistics.init(()), jnp.asarray(data).reshape(-1, 5)
    )
    np.testing.assert_allclose(stats.mean, data.mean(dtype=np.float64), rtol=1e-5)
    np.testing.assert_allclose(stats.var, data.var(dtype=np.float64), rtol=1e-4)


def test_standardised_data_have_mean_zero_and_deviation_one():
    (data,) = random_batches(0, 1)
    result = standardize(of(data), data).reshape(-1, 2)
    np.testing.assert_allclose(result.mean(0), 0.0, atol=1e-5)
    np.testing.assert_allclose(result.std(0), 1.0, rtol=1e-4)
    flat = data.reshape(-1, 2)
    np.testing.assert_allclose(result, (flat - flat.mean(0)) / flat.std(0), rtol=1e-3, atol=1e-4)


def test_scaling_divides_only():
    rewards = np.float32([1.0, 2.0, -3.0, 6.0])
    stats = update(running_statistics.init(()), rewards)
    np.testing.assert_allclose(scale(stats, rewards), rewards / rewards.std(), rtol=1e-5)
    np.testing.assert_allclose(scale(stats, np.float32(1e6)), 10.0)
    np.testing.assert_allclose(scale(stats, np.float32(-1e6), 3.0), -3.0)


def test_before_any_data_values_are_only_clipped():
    x = np.float32([0.5, -7.25, 99.0, -99.0])
    for apply in (standardize, scale):
        np.testing.assert_array_equal(apply(running_statistics.init((4,)), x), [0.5, -7.25, 10.0, -10.0])


def test_an_entry_that_never_varies_becomes_zero_and_a_surprise_is_clipped():
    data = np.stack([np.full(64, 1234.567), np.arange(64.0)], axis=1).astype(np.float32)
    stats = of(data, data)
    assert np.all(standardize(stats, data)[:, 0] == 0.0)
    assert standardize(stats, np.float32([2000.0, 0.0]))[0] == 10.0


def test_integers_become_strong_float32():
    stats = running_statistics.update(running_statistics.init((2,)), jnp.uint8([[0, 255], [2, 253]]))
    np.testing.assert_allclose(stats.mean, [1.0, 254.0])
    x = jnp.uint8([1, 2])
    leaves = [*jax.tree.leaves(stats), running_statistics.standardize(stats, x), running_statistics.scale(stats, x)]
    assert all(x.dtype == jnp.float32 and not x.weak_type for x in leaves)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), stats) == jax.tree.map(
        lambda x: (x.shape, x.dtype), running_statistics.init((2,))
    )


@pytest.mark.parametrize("shape", [(4,), (5, 2), ()])
def test_a_batch_of_something_else_is_an_input_error(shape):
    with pytest.raises(InputError, match="batch must have shape"):
        running_statistics.update(running_statistics.init((3,)), jnp.zeros(shape))
