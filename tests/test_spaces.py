"""Spaces: bounds, scaling, sampling, and comparing by value."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import InputError
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


def test_from_unit_has_a_single_bound_where_one_of_two_would_be_and_leaves_the_rest_alone():
    space = Box((4,), (-2.0, 5.0, -INF, -INF), (2.0, INF, -1.0, INF))
    for unit, expected in ((-9.0, [-2, 5, -11, -9]), (-1.0, [-2, 5, -3, -1]), (0.0, [0, 6, -2, 0])):
        np.testing.assert_allclose(space.from_unit(jnp.full(4, unit)), expected)
    for unit, expected in ((1.0, [2, 7, -1, 1]), (9.0, [2, 15, -1, 9])):
        np.testing.assert_allclose(space.from_unit(jnp.full(4, unit)), expected)
    # So nothing that is allowed stays out of reach, and every entry can move where an untrained agent is.
    np.testing.assert_allclose(jax.grad(lambda x: jnp.sum(space.from_unit(x)))(jnp.zeros(4)), [2, 1, 1, 1])


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int8, bool])
def test_every_integer_is_equally_likely(dtype):
    low, high = (0, 1) if dtype is bool else (0 if dtype is np.uint8 else -2, 3)
    space = Box((1,), low, high, dtype)
    units = jnp.linspace(-1.0, 1.0, 6001)[:, None]
    counts = np.unique(np.asarray(jax.vmap(space.from_unit)(units)), return_counts=True)
    assert counts[0].tolist() == list(range(low, high + 1))
    assert np.ptp(counts[1]) <= 2
    assert len(np.unique(jax.vmap(space.sample)(KEYS))) == high - low + 1


def test_integers_have_the_bounds_of_their_dtype_and_whole_ones():
    assert Box((2,), dtype=np.uint8) == Box((2,), 0, 255, np.uint8) == Box((2,), -1, 1e9, np.uint8)
    assert Box((2,), dtype=bool) == Box((2,), 0, 1, bool)
    assert Box((2,), -0.5, 2.5, np.int32) == Box((2,), 0, 2, np.int32)
    assert Box((2,), dtype=np.uint32).low == 0
    assert not Box((2,), dtype=np.int32).is_bounded


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (Box, ((2,), 1.0, 0.0), "low of a Box must not exceed high, got 1.0 and 0.0"),
        (Box, ((2,), (0.0, 3.0), (1.0, 2.0)), "must not exceed"),
        (Box, ((2,), INF, INF), "must not exceed"),
        (Box, ((2,), -INF, -1e31), "must not exceed"),
        (Box, ((2,), 0.2, 0.8, np.int32), "must not exceed"),
        (Box, ((2,), float("nan"), 0.0), "low of a Box must not be NaN"),
        (Box, ((2,), 0.0, (1.0, float("nan"))), "high of a Box must not be NaN"),
        (Box, ((2,), 0.0, (1.0, 2.0, 3.0)), r"high of a Box of shape \(2,\) must be a number or one per entry"),
        (Box, ((2,), "low", 1.0), "low of a Box"),
        (Box, (2,), r"shape of a Box must be a tuple of whole numbers such as \(3,\), got 2"),
        (Box, ((-1,),), "shape of a Box"),
        (Box, ((2,), 0.0, 1.0, complex), "dtype of a Box"),
        (Discrete, (0,), r"n of Discrete must be a whole number in \[1, 2147483647\], got 0"),
        (Discrete, (2**40,), "n of Discrete"),
        (Discrete, (2.0,), "n of Discrete"),
        (Discrete, (True,), "n of Discrete"),
    ],
)
def test_what_is_no_space_is_refused(kind, arguments, message):
    with pytest.raises(InputError, match=message):
        kind(*arguments)


def test_equal_bounds_leave_one_value():
    space = Box((2,), (3.0, -1.0), (3.0, 1.0))
    for value in (space.sample(KEYS[0]), space.from_unit(jnp.float32([0.3, 0.3]))):
        assert value[0] == 3.0


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


def test_bounds_that_jax_traces_are_refused():
    """A property of an environment is read while its reset is traced, where `jnp.array` has no numbers."""
    with pytest.raises(InputError, match=r"numpy instead of jax\.numpy"):
        jax.eval_shape(lambda: Box((2,), jnp.array([-1.0, -2.0]), 1.0).sample(jax.random.key(0)))
