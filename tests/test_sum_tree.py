"""The sum tree against a plain array of leaves."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import AS_FOR_USERS
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from purerl import InputError
from purerl.math import sum_tree
from purerl.math.sum_tree import FANOUT

set_slice, set_at, get = jax.jit(sum_tree.set_slice), jax.jit(sum_tree.set_at), jax.jit(sum_tree.get)
sample = jax.jit(lambda tree, key, num: sum_tree.sample(tree, key, num)[0], static_argnums=2)

seeds = st.integers(0, 2**32 - 1)


def tree_of(leaves):
    return set_slice(sum_tree.init(len(leaves)), 0, jnp.asarray(leaves, jnp.float32))


def uneven(rng, size, share_of_zeros=0.0, decades=4.0):
    leaves = 10.0 ** rng.uniform(-decades, decades, size)
    return np.where(rng.uniform(size=size) < share_of_zeros, 0.0, leaves).astype(np.float32)


def assert_sums_agree(tree):
    levels = [np.asarray(level, np.float64) for level in tree.levels]
    assert levels[-1].size == FANOUT
    for children, parents in itertools.pairwise(levels):
        sums = children.reshape(-1, FANOUT).sum(axis=1)
        np.testing.assert_allclose(parents[: sums.size], sums, rtol=1e-6)
        assert not parents[sums.size :].any()


def assert_leaves_are(tree, leaves):
    np.testing.assert_array_equal(tree.levels[0][: len(leaves)], leaves)
    assert not tree.levels[0][len(leaves) :].any()
    assert_sums_agree(tree)


# Writing


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([1, FANOUT, FANOUT**2 + 1, 200]), seeds, st.data())
def test_any_sequence_of_writes_leaves_the_sums_of_the_leaves(size, seed, data):
    rng = np.random.default_rng(seed)
    leaves, tree = np.zeros(size, np.float32), sum_tree.init(size)
    for contiguous in data.draw(st.lists(st.booleans(), min_size=1, max_size=6)):
        if contiguous:
            length = data.draw(st.sampled_from([n for n in (1, 2, FANOUT + 1, 40) if n <= size]))
            start = data.draw(st.integers(0, size - length))
            values = uneven(rng, length, share_of_zeros=0.2)
            tree = set_slice(tree, start, values)
            leaves[start : start + length] = values
        else:
            index = rng.integers(0, size, data.draw(st.sampled_from([1, 5, 30])))
            values = uneven(rng, index.size, share_of_zeros=0.2)
            tree = set_at(tree, index, values)
            for i in set(index.tolist()):
                leaves[i] = tree.levels[0][i]
                assert leaves[i] in values[index == i]
    assert_leaves_are(tree, leaves)
    np.testing.assert_array_equal(get(tree, jnp.arange(size)), leaves)
    np.testing.assert_allclose(sum_tree.total(tree), leaves.sum(dtype=np.float64), rtol=1e-6)


@pytest.mark.parametrize("length", [1, 2, FANOUT, FANOUT + 1, FANOUT + 2, 3 * FANOUT])
def test_a_slice_may_begin_anywhere(length):
    leaves = np.arange(1, FANOUT**2 + FANOUT + 4, dtype=np.float32)
    tree = tree_of(leaves)
    for start in range(len(leaves) - length + 1):
        leaves[start : start + length] += 1.0
        tree = set_slice(tree, start, leaves[start : start + length])
        assert_leaves_are(tree, leaves)


@pytest.mark.parametrize("start", [-3, 10_000])
def test_sums_agree_even_if_a_slice_reaches_out_of_the_tree(start):
    assert_sums_agree(set_slice(tree_of(np.ones(100)), start, jnp.full(5, 7.0)))


@pytest.mark.parametrize("write", [set_at, lambda tree, index, values: set_slice(tree, index[0], values)])
@pytest.mark.parametrize(("bad", "drawn"), [(np.nan, 0.0), (-np.inf, 0.0), (-3.0, 0.0), (np.inf, 1.0), (3e38, 1.0)])
def test_what_is_no_priority_does_no_harm(write, bad, drawn):
    leaves = np.ones(100, np.float32)
    tree = write(tree_of(leaves), jnp.asarray([40, 41]), jnp.float32([bad, bad]))
    index, value = jax.jit(sum_tree.sample, static_argnums=2)(tree, jax.random.key(0), 1000)
    assert np.isfinite(value).all()
    assert np.isfinite(sum_tree.total(tree))
    assert np.isin(index, [40, 41]).mean() == drawn
    assert_leaves_are(write(tree, jnp.asarray([40, 41]), jnp.ones(2)), leaves)


def test_errors_do_not_build_up():
    size = 1000

    def write(i, tree):
        start_key, index_key, slice_key, values_key = jax.random.split(jax.random.fold_in(jax.random.key(0), i), 4)
        start = jax.random.randint(start_key, (), 0, size - 2)
        index = jax.random.randint(index_key, (2,), 0, size)
        tree = sum_tree.set_slice(tree, start, 10.0 ** jax.random.uniform(slice_key, (3,), minval=-4.0, maxval=4.0))
        return sum_tree.set_at(tree, index, 10.0 ** jax.random.uniform(values_key, (2,), minval=-4.0, maxval=4.0))

    tree = jax.jit(lambda tree: lax.fori_loop(0, 100_000, write, tree))(sum_tree.init(size))
    assert (tree.levels[0][:size] > 0).all()
    assert_sums_agree(tree)
    np.testing.assert_allclose(sum_tree.total(tree), np.asarray(tree.levels[0], np.float64).sum(), rtol=1e-6)


# Drawing


@pytest.mark.parametrize("size", [1, 3, FANOUT, 1001])
def test_leaves_are_drawn_in_proportion(size):
    leaves = uneven(np.random.default_rng(size), size, share_of_zeros=0.3 if size > 1 else 0.0, decades=1.5)
    drawn = np.asarray(sample(tree_of(leaves), jax.random.key(1), 200_000))
    assert drawn.dtype == np.int32
    counts = np.bincount(drawn, minlength=size)
    assert counts.size == size
    assert not counts[leaves == 0].any()
    expected = 200_000 * leaves.astype(np.float64) / leaves.sum(dtype=np.float64)
    often = expected >= 5
    seldom = np.asarray([expected[~often].sum(), counts[~often].sum()])
    assert abs(seldom[1] - seldom[0]) <= 5 * np.sqrt(seldom[0])
    # Chi-squared has mean df and variance 2 df.
    chi_squared = np.sum((counts[often] - expected[often]) ** 2 / expected[often])
    df = max(often.sum() - 1, 1)
    assert chi_squared < df + 4 * np.sqrt(2 * df)


def test_a_leaf_that_is_zero_is_never_drawn():
    leaves = uneven(np.random.default_rng(0), 5003, share_of_zeros=0.95, decades=8.0)
    tree = tree_of(leaves)
    for seed in range(3):
        assert (leaves[sample(tree, jax.random.key(seed), 200_000)] > 0).all()
    # The large ones take all the draws; among small ones alone each must turn up.
    small = np.where(leaves < 1e-6, leaves, 0.0)
    drawn = np.asarray(sample(tree_of(small), jax.random.key(0), 200_000))
    assert set(drawn.tolist()) == set(np.flatnonzero(small).tolist())


@pytest.mark.parametrize("fraction", [0.0, 2.0**-23, 1.0 - 2.0**-23, 1.0])
def test_nor_where_rounding_is_worst(fraction, monkeypatch):
    monkeypatch.setattr(jax.random, "uniform", lambda key, shape, dtype: jnp.full(shape, fraction, dtype))
    sample_one = jax.jit(lambda tree: sum_tree.sample(tree, jax.random.key(0), 1)[0][0])
    for seed in range(50):
        leaves = uneven(np.random.default_rng(seed), 500, share_of_zeros=0.8, decades=8.0)
        assert leaves[sample_one(tree_of(leaves))] > 0


def test_neighbours_are_told_apart_among_ten_million():
    size = 10_000_000
    # Half of the sum lies in leaf 0. A running sum would skip every second leaf beyond 2^24.
    drawn = sample(set_at(tree_of(np.ones(size)), jnp.int32([0]), jnp.float32([size])), jax.random.key(0), 100_000)
    assert abs(jnp.mean(drawn == 0) - 0.5) < 0.01
    beyond = np.asarray(drawn[drawn > 7_000_000])
    assert beyond.size > 10_000
    assert abs(np.mean(beyond % 2) - 0.5) < 0.02


def test_without_any_priority_leaf_0_is_drawn():
    assert not sample(sum_tree.init(100), jax.random.key(0), 50).any()


# Many trees, and loops


def test_trees_side_by_side_are_as_trees_alone():
    rng = np.random.default_rng(0)
    leaves = np.stack([uneven(rng, 100) for _ in range(3)])
    index, values = rng.integers(0, 100, (3, 9)), np.stack([uneven(rng, 9) for _ in range(3)])
    values = np.where(index == index[:, :1], values[:, :1], values)
    keys = jax.random.split(jax.random.key(0), 3)

    def run(leaves, index, values, key):
        tree = sum_tree.set_slice(sum_tree.init(100), 0, leaves)
        tree = sum_tree.set_slice(tree, 41, values)
        before = sum_tree.sample(tree, key, 20)[0]
        tree = sum_tree.set_at(tree, index, values)
        return before, tree, sum_tree.sample(tree, key, 20)[0]

    many = jax.jit(jax.vmap(run))(leaves, index, values, keys)
    for member in range(3):
        alone = jax.jit(run)(leaves[member], index[member], values[member], keys[member])
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x[member], y, rtol=1e-6), many, alone)  # noqa: B023


@pytest.mark.parametrize("length", [1, 300])
def test_members_that_share_the_start_write_slices(length):
    trees = jax.vmap(lambda _: sum_tree.init(1000))(jnp.arange(4))
    values = jnp.ones((4, length))

    def program(in_axes, start):
        lowered = jax.jit(jax.vmap(sum_tree.set_slice, in_axes)).lower(trees, start, values)
        return str(lowered.compile(AS_FOR_USERS).as_text())

    shared, different = program((0, None, 0), jnp.int32(5)), program((0, 0, 0), jnp.arange(4))
    assert "dynamic-update-slice(" in shared
    assert "scatter(" not in shared
    assert "gather(" not in shared
    assert "while(" not in shared
    assert "scatter(" in different


@pytest.mark.parametrize("num_members", [None, 4])
def test_loops_write_in_place(num_members):
    def turn(i, tree):
        """Every kind of write after every other."""
        tree = sum_tree.set_slice(tree, i, jnp.zeros(3))
        tree = sum_tree.set_slice(tree, i + 7, jnp.ones(3))
        index, _ = sum_tree.sample(tree, jax.random.fold_in(jax.random.key(0), i), 16)
        tree = sum_tree.set_at(tree, index, 0.5 * sum_tree.get(tree, index))
        tree = sum_tree.set_at(tree, i + jnp.arange(4), jnp.ones(4))
        return sum_tree.set_slice(tree, i, jnp.ones(2))

    def run(trees):
        return lax.fori_loop(0, 10, turn if num_members is None else jax.vmap(turn, (None, 0)), trees)

    trees = jax.eval_shape(lambda: sum_tree.init(100_000))
    if num_members is not None:
        trees = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((num_members, *leaf.shape), leaf.dtype), trees)
    num_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trees))
    memory = jax.jit(run, donate_argnums=0).lower(trees).compile().memory_analysis()
    assert memory is not None
    assert memory.alias_size_in_bytes == num_bytes
    assert memory.temp_size_in_bytes < 0.1 * num_bytes


def test_a_tree_is_the_carry_of_a_scan():
    def write(tree, position):
        return sum_tree.set_slice(tree, position, jnp.ones(10)), sum_tree.total(tree)

    tree, totals = lax.scan(write, sum_tree.init(95), jnp.arange(9) * 10)
    np.testing.assert_array_equal(totals, np.arange(9) * 10)
    assert_leaves_are(tree, [1.0] * 90 + [0.0] * 5)


# Bad input


@pytest.mark.parametrize(("size", "shown"), [(0, "0"), (-1, "-1"), (2**31, "2,147,483,648")])
def test_a_tree_without_leaves_or_with_too_many_is_refused(size, shown):
    with pytest.raises(InputError, match=f"between 1 and 2,147,483,647 leaves, got a size of {shown}"):
        sum_tree.init(size)
