"""Spaces: bounds, scaling, sampling, and comparing by value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.spaces import Box, Discrete

INF = float("inf")
KEYS = jax.random.split(jax.random.key(0), 300)


def test_discrete_is_an_int32_scalar_and_samples_every_member():
    space = Discrete(3)
    assert space.shape == ()
    assert space.dtype == np.int32
    assert str(space) == "Discrete(3)"
    samples = jax.jit(jax.vmap(space.sample))(KEYS)
    assert samples.dtype == jnp.int32
    assert set(np.asarray(samples).tolist()) == {0, 1, 2}


def test_bounds_are_arrays_of_the_shape():
    low, high = Box((2, 2), 0, [[1, 2], [3, 4]]).bounds
    np.testing.assert_array_equal(low, np.zeros((2, 2)))
    np.testing.assert_array_equal(high, [[1, 2], [3, 4]])
    assert low.dtype == high.dtype == np.float32


def test_boxes_compare_and_hash_by_value_however_they_were_written():
    spellings = [
        Box((2,), -1, 1),
        Box([2], np.float32(-1), np.ones(2)),
        Box((np.int64(2),), (-1.0, -1.0), jnp.ones(2), "float32"),
    ]
    assert len(set(spellings)) == 1
    different = [Box((2,), -1, 2), Box((3,), -1, 1), Box((2,), -1, 1, np.uint8), Box((2,), -1, (1.0, 2.0))]
    assert len({spellings[0], *different}) == 5
    assert Discrete(2) == Discrete(2) != Discrete(3)
    assert len({Discrete(2), Discrete(2), Discrete(3)}) == 2


def test_as_static_argument_an_equal_space_does_not_recompile():
    traces = []

    def sample(space, key):
        traces.append(space)
        return space.sample(key)

    jitted = jax.jit(sample, static_argnums=0)
    jitted(Box((2,), -1, 1), KEYS[0])
    jitted(Box((2,), -1.0, np.ones(2)), KEYS[0])
    assert len(traces) == 1


@pytest.mark.parametrize("huge", [np.finfo(np.float32).max, 1e30, np.inf])
def test_numbers_beyond_meaning_are_no_bounds(huge):
    space = Box((2,), -huge, huge)
    assert space == Box((2,))
    assert not space.is_bounded


def test_is_bounded_needs_every_bound():
    assert Box((2,), -1, 1).is_bounded
    assert not Box((2,), -1, (1.0, INF)).is_bounded
    assert not Box((2,), -INF, 1).is_bounded


def test_from_unit_maps_ends_to_bounds_and_clips():
    space = Box((3,), (-1.0, 0.0, 5.0), (1.0, 10.0, 6.0))
    for unit, expected in ((-1.0, [-1, 0, 5]), (0.0, [0, 5, 5.5]), (1.0, [1, 10, 6]), (7.0, [1, 10, 6])):
        np.testing.assert_allclose(space.from_unit(jnp.full(3, unit)), expected)


def test_from_unit_leaves_entries_without_two_finite_bounds_alone():
    space = Box((3,), (-2.0, 0.0, -INF), (2.0, INF, INF))
    np.testing.assert_allclose(space.from_unit(jnp.float32([3.0, 3.0, -3.0])), [2.0, 3.0, -3.0])


def test_from_unit_never_leaves_the_bounds_by_rounding():
    rng = np.random.default_rng(0)
    ends = rng.normal(size=(2, 500)) * 10.0 ** rng.integers(-3, 3, size=(2, 500))
    low, high = np.sort(ends, axis=0).astype(np.float32)
    space = Box((500,), tuple(low.tolist()), tuple(high.tolist()))
    from_unit = jax.jit(space.from_unit)
    for unit in (-1.0, -1.0 + 1e-7, 1.0 - 1e-7, 1.0):
        value = np.asarray(from_unit(jnp.full(500, unit)))
        assert np.all(value >= low)
        assert np.all(value <= high)
    np.testing.assert_array_equal(from_unit(jnp.full(500, -1.0)), low)
    np.testing.assert_array_equal(from_unit(jnp.full(500, 1.0)), high)


def test_from_unit_has_the_slope_of_the_scale_inside_and_none_outside():
    slope = jax.grad(lambda x: Box((1,), -2.0, 6.0).from_unit(x)[0])
    assert slope(jnp.float32([0.3])) == 4.0
    assert slope(jnp.float32([1.5])) == 0.0


def test_samples_lie_inside_and_reach_everywhere():
    space = Box((4,), (-2.0, 0.0, -INF, -INF), (3.0, INF, 0.0, INF))
    samples = np.asarray(jax.jit(jax.vmap(space.sample))(KEYS))
    low, high = space.bounds
    assert samples.dtype == np.float32
    assert np.all(np.isfinite(samples))
    assert np.all(samples >= low)
    assert np.all(samples <= high)
    assert samples[:, 0].min() < -1.9
    assert samples[:, 0].max() > 2.9
    assert np.all(samples.std(axis=0) > 0.5)
    assert abs(samples[:, 3].mean()) < 0.2


def test_samples_and_scaled_values_have_the_dtype_of_the_space():
    space = Box((2,), 0, 255, np.uint8)
    assert space.sample(KEYS[0]).dtype == np.uint8
    assert space.from_unit(jnp.float32([-1.0, 1.0])).tolist() == [0, 255]
    assert Box(()).sample(KEYS[0]).shape == ()


def test_spaces_print_briefly():
    assert str(Box((3,), -1, 1)) == "Box([3], [-1, 1])"
    assert str(Box((2,), (-1.0, -2.0), INF)) == "Box([2], [-2..-1, inf])"
    assert str(Box((2,), 0, 255, np.uint8)) == "Box([2], [0, 255], uint8)"
