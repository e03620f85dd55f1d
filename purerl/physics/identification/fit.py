"""Estimation of parameters from a recording: first guess, search, report."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from purerl import struct
from purerl.errors import InputError
from purerl.math import float_leaves
from purerl.physics.identification.parameters import find_parameters
from purerl.physics.identification.problem import Point, Problem
from purerl.physics.identification.recording import Recording, check_recording
from purerl.physics.identification.report import Fit, report
from purerl.physics.identification.search import deviations, search
from purerl.physics.identification.segments import Segments, cut
from purerl.physics.identification.shooting import Model, float32
from purerl.physics.identification.starts import nearest_resets, track
from purerl.types import Array, Environment, PyTree


def fit_params(
    env: Environment | Callable[[dict[str, Array]], Environment],
    parameters: Sequence[str] | Mapping[str, float],
    data: Recording,
    *,
    segment_length: int = 5,
    free_states: bool = True,
    noise: float | Sequence[float] | np.ndarray | None = None,
    signed: Collection[str] = (),
    max_iterations: int = 50,
    callback: Callable[[dict[str, float], float, float], None] | None = None,
) -> Fit:
    """Estimate physics parameters and their uncertainty from `data` (method: see `purerl.identification`).

    The dynamics must be deterministic, and the noise of the observations independent from step to step. The first
    observation of a trajectory is used only to guess its start state, because an `Environment` observes after a step.

    A parameter is a floating-point leaf of `env`, named by its path or by any unique end of the path: ``"mass"``,
    ``"params.m"``, ``"link.inertia.mass[1]"``. An array without index stands for all its entries.

    Args:
        env: the environment; or ``build({name: value}) -> env``, for parameters that are not leaves.
        parameters: names, with the values in `env` as start values; or a mapping of names to start values.
        data: the recording. Its states, if it has any, are the initial guess of the start states.
        segment_length: number of steps between two start states. Short segments tolerate bad start values, long ones
            cost less.
        free_states: estimate the floating-point leaves of the state at the start of each segment. With False the states
            of `data` count as exact: for simulators whose state is large or redundant, such as Brax.
        noise: standard deviations of the entries of an observation; only their ratios matter. By default they are
            estimated: the fit is repeated twice, with the deviations of the previous fit.
        signed: names of parameters that may change their sign. The others keep it, because their logarithm is fitted;
            except for those that start at 0.
        max_iterations: largest number of Gauss-Newton steps per fit.
        callback: ``callback(estimate, misfit, gap)`` before each step, with the root mean squares of residual / noise
            and of the gaps between segments.

    Returns:
        The estimates. Directions in parameter space that the data do not determine keep their start values, and a
        warning names them.

    Raises:
        InputError: for invalid names, shapes and numbers, before anything compiles; and for start values with which the
            simulation is not finite.
    """
    struct.check_value("segment_length", segment_length, int, "[1, inf)")
    struct.check_value("max_iterations", max_iterations, int, "[1, inf)")
    found = find_parameters(env, parameters, signed)
    guess = found.assign(found.base, float32(found.start))
    check_recording(guess, data, free_states)
    segments = cut(data, segment_length)
    if noise is not None:
        _check_noise(noise, segments.spread.shape)
    weights = segments.weights(segments.spread if noise is None else noise)

    template = _states(guess, data, segments, weights)
    model = Model(found.base, found.assign, template, jnp.asarray(segments.actions))
    problem = Problem(model, found, segments, weights)
    starts = jnp.zeros((*segments.observed.shape[:2], 0))
    if free_states:
        starts = jax.vmap(jax.vmap(lambda state: float_leaves.ravel(state)[0]))(template)
    num_unknowns = found.start.size + starts.shape[0] * starts.shape[2]
    if problem.num_observed <= num_unknowns:
        raise InputError(
            f"{problem.num_observed} observed numbers cannot determine {num_unknowns} unknowns: record more"
        )
    if starts.size and data.states is None:
        weights_of_steps = float32(segments.used[..., None] * weights)
        starts = track(model, float32(found.start), float32(segments.observed), weights_of_steps)

    result = search(problem, Point(found.start, np.asarray(starts, np.float64)), max_iterations, callback)
    num_evaluations = result.num_evaluations
    for _ in range(2 if noise is None else 0):
        problem = dataclasses.replace(problem, weights=segments.weights(deviations(problem, result)))
        result = search(problem, result.point, max_iterations, callback)
        num_evaluations += result.num_evaluations
    return report(problem, result, num_evaluations)


def _check_noise(noise: float | Sequence[float] | np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise `InputError` unless `noise` has standard deviations for an observation of that shape."""
    if np.shape(noise) not in ((), shape):
        raise InputError(f"noise must be one number or one for each of {shape[0]} entries, got {noise!r}")
    struct.check_value("noise", noise, float, "(0, inf)")


def _states(guess: Environment, data: Recording, segments: Segments, weights: np.ndarray) -> PyTree:
    """States ``[num_trajectories, num_segments, ...]`` at the start of each segment, as recorded or from resets."""
    if data.states is None:
        resets = nearest_resets(guess, float32(data.observations)[:, 0], float32(weights))
        return jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], len(segments.used), axis=1), resets)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[:, :-1][:, :: segments.used.shape[1]], data.states)
