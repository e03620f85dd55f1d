"""Initial guesses of the start states of segments, for recordings without states."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from purerl.math import float_leaves
from purerl.physics.identification.recording import shoot
from purerl.physics.identification.shooting import Model, unravel
from purerl.types import Array, Environment, PyTree

_NUM_RESETS = 256
_TRACKING_STEPS = 10


@jax.jit
def nearest_resets(env: Environment, observations: Array, weights: Array) -> PyTree:
    """Start states, chosen from many resets, whose observations are nearest to ``[num_trajectories, ...]``."""
    draws = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), _NUM_RESETS))

    def nearest(observation: Array) -> Array:
        difference = (draws.obs - observation[None]).reshape(_NUM_RESETS, -1) * weights[None]
        distance = jnp.sum(difference**2, axis=1)
        # `argmin` would choose NaN.
        return jnp.argmin(jnp.where(jnp.isnan(distance), jnp.inf, distance))

    chosen = jax.vmap(nearest)(observations)
    return jax.tree.map(lambda leaf: leaf[chosen], draws.state)


@jax.jit
def track(model: Model, values: Array, observed: Array, weights: Array) -> Array:
    """Start states of all segments, fitted one after the other. The initial guess of each is the end of the previous
    segment, or the state in the template if the simulation from that end fails.

    Args:
        model: simulation of all segments; the states in its template are guesses.
        values: ``[num_params]``.
        observed: ``[num_trajectories, num_segments, segment_length, num_entries]``.
        weights: ``[num_segments, segment_length, num_entries]``.

    Returns:
        ``[num_trajectories, num_segments, d]``.
    """
    env = model.assign(model.env, values)

    def segment(start: Array, inputs: tuple) -> tuple[Array, Array]:
        template, actions, observed, weights = inputs

        def errors(start: Array) -> tuple[Array, tuple[Array, Array]]:
            end, predicted = shoot(env, unravel(template, start), actions)
            # Padded steps may be infinite or NaN.
            error = jnp.where(weights > 0.0, (predicted.reshape(weights.shape) - observed) * weights, 0.0)
            return jnp.ravel(error), (jnp.ravel(error), float_leaves.ravel(end)[0])

        def improve(loop: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
            start, damping = loop
            derivatives, (error, _) = jax.jacfwd(errors, has_aux=True)(start)
            gram = derivatives.T @ derivatives
            scale = jnp.diag(gram) + 1e-6 * jnp.max(jnp.diag(gram))
            tried = start - jnp.linalg.solve(gram + jnp.diag(damping * scale), derivatives.T @ error)
            better = jnp.sum(errors(tried)[0] ** 2) < jnp.sum(error**2)
            return (jnp.where(better, tried, start), jnp.where(better, 0.2 * damping, 5.0 * damping)), None

        # If the end of the previous segment gives infinite or NaN errors, start from the guess.
        follows = jnp.all(jnp.isfinite(errors(start)[0]))
        start = jnp.where(follows, start, float_leaves.ravel(template)[0])
        (start, _), _ = lax.scan(improve, (start, jnp.float32(0.1)), None, _TRACKING_STEPS)
        return errors(start)[1][1], start

    def trajectory(template: PyTree, actions: Array, observed: Array) -> Array:
        first = float_leaves.ravel(jax.tree.map(lambda leaf: leaf[0], template))[0]
        return lax.scan(segment, first, (template, actions, observed, weights))[1]

    return jax.vmap(trajectory)(model.template, model.actions, observed)
