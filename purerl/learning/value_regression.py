"""Regression of a value function that learns apart from its policy, and how well it fits."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from purerl.learning import optimizers
from purerl.learning.minibatches import shuffled_indices
from purerl.learning.optimizers import Optimizer
from purerl.math.estimates import mean_and_variance
from purerl.types import Array, Mean, PyTree

Learner = tuple[PyTree, PyTree]


def fit_value(
    value: Callable[[PyTree, Array], Array],
    optimizer: Optimizer,
    learning_rate: Array | float,
    learner: Learner,
    obs: Array,
    target: Array,
    key: Array,
    num_epochs: int,
    num_minibatches: int,
) -> tuple[PyTree, PyTree, Mean]:
    """Epochs of shuffled minibatches of squared errors, each sample once per epoch.

    Args:
        value: ``value(params, obs)`` of one observation, a scalar.
        optimizer: rule for updates.
        learning_rate: its step size.
        learner: parameters, and the state of `optimizer`.
        obs: network inputs ``[n, ...]``.
        target: ``[n]``.
        key: randomness of the order.
        num_epochs: passes over all samples.
        num_minibatches: updates per epoch; a divisor of ``n``.

    Returns:
        Parameters, the optimiser's state, and half the mean squared error, each minibatch's before its update.
    """

    def loss(params: PyTree, obs: Array, target: Array) -> Array:
        values = jax.vmap(lambda obs: value(params, obs))(obs)
        return 0.5 * jnp.mean(jnp.square(values - target))

    def minibatch(learner: Learner, indices: Array) -> tuple[Learner, Mean]:
        params, opt_state = learner
        value_loss, grads = jax.value_and_grad(loss)(params, obs[indices], target[indices])
        return optimizers.update(optimizer, learning_rate, grads, opt_state, params), Mean.of(value_loss)

    def epoch(learner: Learner, key: Array) -> tuple[Learner, Mean]:
        order = shuffled_indices(key, len(target)).reshape(num_minibatches, -1)
        learner, losses = lax.scan(minibatch, learner, order)
        return learner, losses.sum(0)

    (params, opt_state), losses = lax.scan(epoch, learner, jax.random.split(key, num_epochs))
    return params, opt_state, losses.sum(0)


def explained_variance(value: Array, target: Array) -> Array:
    """Share of the targets' variance that values explain: 1 if they agree, below 0 if worse than a constant."""
    (_, unexplained), (_, variance) = mean_and_variance(target - value), mean_and_variance(target)
    return 1.0 - unexplained / jnp.maximum(variance, 1e-8)
