"""Random orders: complete, without preference for places or company, different each time. Gradients part by part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl.learning.minibatches import accumulate_gradient, minibatch_epochs, shuffled_indices
from purerl.types import Mean


@pytest.mark.parametrize("size", [1, 2, 3, 100, 512, 1000, 1024, 3 * 1024, 32 * 1009, 2**15])
def test_every_index_comes_once(size):
    for seed in range(3):
        order = shuffled_indices(jax.random.key(seed), size)
        np.testing.assert_array_equal(np.sort(order), np.arange(size))


# By sorting, and by the smallest and a lopsided Feistel network.
@pytest.mark.parametrize(("size", "num_minibatches"), [(16, 4), (1024, 4), (32 * 37, 32)])
def test_every_index_is_equally_likely_in_every_minibatch_and_beside_every_other(size, num_minibatches):
    num_shuffles = 4000
    # Neighbours, such as steps that follow each other, and those far apart.
    seen = np.unique(np.r_[0 : min(size, 40), 0 : size : max(1, size // 32)])
    keys = jax.random.split(jax.random.key(0), num_shuffles)
    order = np.asarray(jax.jit(jax.vmap(lambda key: shuffled_indices(key, size)))(keys))
    minibatch = (np.argsort(order, axis=1) // (size // num_minibatches))[:, seen]  # of some indices, in each shuffle
    share = (minibatch[..., None] == np.arange(num_minibatches)).mean(axis=0)
    expect(share, 1 / num_minibatches, num_shuffles)
    together = (minibatch[:, :, None] == minibatch[:, None, :]).mean(axis=0)[~np.eye(minibatch.shape[1], dtype=bool)]
    expect(together, (size / num_minibatches - 1) / (size - 1), num_shuffles)


@pytest.mark.parametrize("size", [1024, 32 * 37])
@pytest.mark.parametrize("inverse", [False, True], ids=["places", "indices"])
def test_two_places_say_nothing_about_the_distance_of_what_comes_there(size, inverse):
    """Two pushes of a Feistel network instead of six keep distances between rows, and their inverse between columns."""
    num_shuffles, bins = 4000, 16
    keys = jax.random.split(jax.random.key(0), num_shuffles)
    order = np.asarray(jax.jit(jax.vmap(lambda key: shuffled_indices(key, size)))(keys))
    order = np.argsort(order, axis=1) if inverse else order
    one, other = np.triu_indices(size // 32, k=1)
    near = np.arange(0, size, 32)  # in one column of the smallest network
    pairs = np.r_[np.c_[near[one], near[other]], np.c_[one, other]]  # and in one row
    distance = (order[:, pairs[:, 0]] - order[:, pairs[:, 1]]) % size
    for place in (distance * bins // size, distance % bins):
        share = (place[..., None] == np.arange(bins)).mean(axis=0)
        possible = np.full(bins, size // bins)
        possible[0] -= 1  # a distance of 0
        expect(share, possible / (size - 1), num_shuffles)


def expect(shares, probability, number):
    """As close as so many comparisons allow: the largest of ``n`` normal deviations is about ``sqrt(2 log n)``."""
    deviation = np.abs(shares - probability) / np.sqrt(probability * (1 - probability) / number)
    assert deviation.max() < np.sqrt(2 * np.log(shares.size)) + 1.5
    assert abs((deviation**2).mean() - 1) < 0.1 + 3 * np.sqrt(2 / shares.size)


@pytest.mark.parametrize("size", [8, 1024])
def test_shuffles_differ(size):
    orders = {tuple(np.asarray(shuffled_indices(jax.random.key(seed), size))[:8]) for seed in range(200)}
    assert len(orders) > 190


def test_epochs_take_every_row_once_in_orders_and_with_keys_of_their_own():
    def update(seen, indices, key):
        at = jnp.argmin(seen[:, 0])
        return seen.at[at].set(jnp.r_[indices, jax.random.bits(key, dtype=jnp.uint8)]), {
            "one": Mean.of(jnp.float32(1.0))
        }

    seen, metrics = minibatch_epochs(update, jnp.full((6, 33), -1), jax.random.key(0), 64, 3, 2)
    rows, words = np.asarray(seen)[:, :-1].reshape(3, 64), np.asarray(seen)[:, -1]
    np.testing.assert_array_equal(np.sort(rows, axis=1), np.tile(np.arange(64), (3, 1)))
    assert len({tuple(order) for order in rows}) == 3
    assert len(set(words)) == 6
    assert metrics["one"].count == 6


@pytest.mark.parametrize("num_rows", [7, 1024, 2048, 3000, 2 * 1031])
def test_a_gradient_in_parts_is_the_gradient(num_rows):
    x, y = jax.random.normal(jax.random.key(0), (2, num_rows))
    parts = []

    def loss(weight, part):
        x, y = part
        parts.append(len(x))
        error = jnp.square(weight * x - y)
        return jnp.mean(error), {"error": Mean.of(error), "biggest": Mean.of(jnp.max(error))}

    def gradient(key, part):
        return jax.grad(loss, has_aux=True)(jnp.float32(0.5), part)

    grads, metrics = jax.jit(lambda key, rows: accumulate_gradient(gradient, key, rows))(jax.random.key(1), (x, y))
    whole, expected = gradient(None, (x, y))
    np.testing.assert_allclose(grads, whole, rtol=1e-5)
    np.testing.assert_allclose(metrics["error"].value, expected["error"].value, rtol=1e-5)
    size = {7: 7, 1024: 1024, 2048: 1024, 3000: 1000, 2 * 1031: 2 * 1031}[num_rows]
    assert parts[0] == size
    assert metrics["biggest"].count == num_rows / size


def test_each_part_has_randomness_of_its_own():
    def gradient(key, part):
        noise = jax.random.normal(key)
        return noise, {"squared": Mean.of(noise**2)}

    mean, metrics = accumulate_gradient(gradient, jax.random.key(0), jnp.zeros(4096))
    assert abs(float(mean) ** 2 - float(metrics["squared"].value)) > 0.1
