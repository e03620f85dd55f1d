"""Regression of a value: the minimum of least squares, and updates counted and taken one by one."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax

from purerl.learning import optimizers
from purerl.learning.value_regression import explained_variance, fit_value

RNG = np.random.default_rng(0)
OBS = np.float32(RNG.normal(size=(64, 3)))
TARGET = np.float32(OBS @ [1.0, -2.0, 0.5] + 0.3 + RNG.normal(size=64))
NOTHING = {"w": jnp.zeros(3), "b": jnp.float32(0.0)}


def linear(params, obs):
    return params["w"] @ obs + params["b"]


class SGD:
    """Plain gradient descent, an optimiser of the user's own."""

    def transformation(self, learning_rate):
        return optax.sgd(learning_rate)


def fit(optimizer, learning_rate, params, num_epochs, num_minibatches):
    learner, data = (params, optimizers.init(optimizer, params)), (jnp.asarray(OBS), jnp.asarray(TARGET))

    def fitted(obs, target, key):
        return fit_value(linear, optimizer, learning_rate, learner, obs, target, key, num_epochs, num_minibatches)

    return jax.jit(fitted)(*data, jax.random.key(0))


def test_a_linear_value_is_that_of_least_squares():
    params, _, _ = fit(SGD(), 0.3, NOTHING, 300, 1)
    features = np.column_stack([OBS, np.ones(64)])
    expected, *_ = np.linalg.lstsq(features, TARGET, rcond=None)
    np.testing.assert_allclose([*params["w"], params["b"]], expected, rtol=1e-4, atol=1e-5)
    _, _, loss = fit(SGD(), 0.3, params, 1, 1)
    np.testing.assert_allclose(loss.value, 0.5 * np.mean((features @ expected - TARGET) ** 2), rtol=1e-4)


def test_every_epoch_takes_every_sample_once():
    """Nothing moves, so that the minibatches of an epoch together have the loss of all samples."""
    params, opt_state, loss = fit(optimizers.Adam(), 0.0, NOTHING, 3, 8)
    chex.assert_trees_all_equal(params, NOTHING)
    assert float(loss.count) == int(opt_state[0].count) == 3 * 8
    np.testing.assert_allclose(loss.value, 0.5 * np.mean(TARGET**2), rtol=1e-5)


class Recorder:
    """An optimiser that moves nothing and keeps the gradients of six updates."""

    def transformation(self, learning_rate):
        def update(gradient, state, params=None):
            count, seen = state
            return jnp.zeros_like(gradient), (count + 1, seen.at[count].set(gradient))

        return optax.GradientTransformation(lambda params: (jnp.int32(0), jnp.zeros((6, *params.shape))), update)


def test_epochs_have_orders_of_their_own():
    # One parameter per sample: a gradient shows who is in its minibatch.
    params, optimizer = jnp.zeros(64), Recorder()
    _, (_, seen), _ = fit_value(
        lambda params, obs: params @ obs,
        optimizer,
        0.0,
        (params, optimizers.init(optimizer, params)),
        jnp.eye(64),
        jnp.ones(64),
        jax.random.key(0),
        3,
        2,
    )
    epochs = np.reshape(np.asarray(seen) != 0.0, (3, 2, 64))
    np.testing.assert_array_equal(epochs.sum(axis=1), 1)
    assert len({minibatch.tobytes() for minibatch in epochs[:, 0]}) == 3


def test_one_epoch_of_one_minibatch_is_one_step_of_gradient_descent():
    params, _, _ = fit(SGD(), 0.1, NOTHING, 1, 1)
    np.testing.assert_allclose(params["w"], 0.1 * (TARGET[:, None] * OBS).mean(axis=0), rtol=1e-4)
    np.testing.assert_allclose(params["b"], 0.1 * TARGET.mean(), rtol=1e-4)


def test_explained_variance_of_right_constant_and_wrong_values():
    for value, expected in ((TARGET, 1.0), (TARGET + 3.0, 1.0), (np.zeros_like(TARGET), 0.0), (-TARGET, -3.0)):
        np.testing.assert_allclose(explained_variance(value, TARGET), expected, atol=1e-5)
