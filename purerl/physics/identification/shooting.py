"""Simulation of all segments at once, with derivatives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from purerl import struct
from purerl.math import float_leaves
from purerl.physics.identification.recording import shoot
from purerl.types import Array, Environment, PyTree


@struct.dataclass
class Model:
    """Simulation model of all segments.

    Attributes:
        env: the environment whose leaves are the parameters; None if `assign` builds a new environment.
        assign: ``assign(env, values [num_params]) -> env``; hashable.
        template: ``[num_trajectories, num_segments, ...]`` states, with the values of the leaves that are not free.
        actions: ``[num_trajectories, num_segments, segment_length, ...]``.
    """

    env: PyTree
    assign: Callable[[PyTree, Array], Environment] = struct.field(static=True)
    template: PyTree
    actions: Array


@jax.jit
def simulate_segments(model: Model, values: Array, starts: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Predicted observations and end state of every segment, and their derivatives by its start and the parameters.

    Args:
        model: simulation of all segments.
        values: ``[num_params]``.
        starts: ``[num_trajectories, num_segments, d]``; d is 0 if states are known.

    Returns:
        ``(predicted [.., segment_length, num_entries], ends [.., d])`` and the same with a last axis
        ``[d + num_params]``.
    """
    size = starts.shape[-1]

    def one(template: PyTree, actions: Array, start: Array) -> tuple:
        def outcome(unknowns: Array) -> tuple:
            env = model.assign(model.env, unknowns[size:])
            end, predicted = shoot(env, unravel(template, unknowns[:size]), actions)
            reached = predicted.reshape(len(actions), -1), float_leaves.ravel(end)[0] if size else unknowns[:0]
            return reached, reached

        derivatives, value = jax.jacfwd(outcome, has_aux=True)(jnp.concatenate([start, values]))
        return value, derivatives

    return jax.vmap(jax.vmap(one))(model.template, model.actions, starts)


def unravel(template: PyTree, vector: Array) -> PyTree:
    """State with the vector in place of the floating-point leaves of `template`; unchanged if the vector is empty."""
    return float_leaves.ravel(template)[1](vector) if vector.size else template


def float32(array: Any) -> Array:
    """Array in float32 for the accelerator; the host computes in float64."""
    return jnp.asarray(array, jnp.float32)
