"""System identification: physics parameters of an environment from recorded trajectories, by multiple shooting.

One long simulation from a guessed start is a treacherous way to compare a model with data: errors grow along it, and
the misfit has many local minima. Multiple shooting (Bock and Plitt 1984, "A multiple shooting algorithm for direct
solution of optimal control problems"; for parameters Bock 1987, "Randwertproblemmethoden zur Parameteridentifizierung")
cuts each trajectory into short segments that all begin near the data. The states at which they begin are unknowns too,
and that each segment ends where the next begins is a constraint, which need not hold before the end of the search::

    min  sum_t |(h(x_t; theta) - y_t) / noise|^2     subject to     F(x_s; theta) = x_{s+1}
    theta, x_0 .. x_{S-1}

with ``F`` the simulation of one segment and ``y`` the observations. Each step linearises both (forward mode, so that
simulators with a `while_loop` will do) and solves the linear problem, whose work grows with the number of segments and
no faster: a constrained Gauss-Newton method. Simulations run on the accelerator in float32, all segments at once; the
linear algebra is float64 on the host.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.tree_util import Partial
from scipy.special import stdtrit

from purerl import struct
from purerl.errors import InputError, unknown
from purerl.spaces import Box
from purerl.types import Array, Environment, Policy, PyTree

# Derivatives in float32 are known to about six digits. A direction that matters less than this share of what its
# parameters do one by one is rounding, not information.
_RANK_TOLERANCE = 1e-5
# Weights of the linearised constraints and of holding start states, relative to that of a segment's observations.
_LINK, _HOLD = 1e6, 1e-4
# Simulations in float32 reproduce observations to about this share of their spread, and no better.
_ROUNDING = 3e-6
# No parameter changes by more than this factor in one step.
_LARGEST_FACTOR = 3.0
_MOST_HALVINGS = 12
_NUM_RESETS = 256
_TRACKING_STEPS = 10


@struct.dataclass
class Recording:
    """Trajectories of one length, in none of which an episode ends.

    Attributes:
        actions: ``[num_trajectories, T, ...]``.
        observations: ``[num_trajectories, T + 1, ...]``, what a sensor said before the first and after each action.
        states: of the simulator, ``[num_trajectories, T + 1, ...]`` in every leaf, or None if nobody knows them.
    """

    actions: Array
    observations: Array
    states: PyTree = None


@dataclasses.dataclass(frozen=True)
class Fit:
    """What `fit_params` found.

    Attributes:
        env: the environment with the estimated parameters.
        estimate: value of each parameter.
        standard_error: of each estimate; infinite for those that the data leave open.
        interval: 95 % confidence interval of each parameter, by Student's t.
        covariance: ``[num_params, num_params]`` of the estimates, in the order of `estimate`; the start states, which
            were estimated along with them, are accounted for.
        undetermined: one sentence for each direction in parameter space that the data say nothing about.
        noise: ``[num_entries]``, standard deviation of what observations deviate from predictions, per entry.
        states: ``[num_trajectories, ...]`` in every leaf, where the trajectories start: as estimated or as given.
        num_evaluations: simulations of the whole recording with derivatives.
        converged: whether another step would change the predictions by next to nothing. If not, do not believe the
            rest: the search got stuck, as it does where impacts make the misfit jump.
    """

    env: Environment
    estimate: dict[str, float]
    standard_error: dict[str, float]
    interval: dict[str, tuple[float, float]]
    covariance: np.ndarray
    undetermined: tuple[str, ...]
    noise: np.ndarray
    states: PyTree
    num_evaluations: int
    converged: bool

    def __str__(self) -> str:
        width = max(len("parameter"), *map(len, self.estimate))
        lines = [f"{'parameter':<{width}}  {'estimate':>10}  {'std. error':>10}  95 % interval"]
        for name, value in self.estimate.items():
            low, high = self.interval[name]
            lines.append(
                f"{name:<{width}}  {value:>10.5g}  {self.standard_error[name]:>10.2g}  {low:.5g} to {high:.5g}"
            )
        lines.append("noise of each entry of an observation: " + ", ".join(f"{x:.3g}" for x in self.noise))
        lines.append(f"{'converged' if self.converged else 'NOT converged'} after {self.num_evaluations} evaluations")
        return "\n".join([*lines, *self.undetermined])


def record(env: Environment, policy: Policy, key: Array, *, num_trajectories: int, length: int) -> Recording:
    """Let `policy` act and write everything down, without noise.

    Args:
        env: the environment, standing in for the real thing.
        policy: how to act. What is not excited cannot be identified; see `random_actions`.
        key: randomness of starts and actions.
        num_trajectories: how many, each from a reset of its own.
        length: steps of each.

    Raises:
        InputError: if an episode ends earlier than that.
    """
    struct.check_value("num_trajectories", num_trajectories, int, "[1, inf)")
    struct.check_value("length", length, int, "[1, inf)")
    data, done = _record(env, policy, jax.random.split(key, num_trajectories), length)
    early = np.argwhere(np.asarray(done)[:, :-1])
    if early.size:
        trajectory, step = early[0]
        raise InputError(
            f"the episode of trajectory {trajectory} ended after {step + 1} of {length} steps: "
            "record shorter trajectories, or act more gently"
        )
    return data


def random_actions(env: Environment, hold: int = 1) -> Policy:
    """A policy that draws actions at random and keeps to each for `hold` steps.

    Mechanics average out what changes with every step; actions that are held excite slow motions too.
    """
    struct.check_value("hold", hold, int, "[1, inf)")
    space = env.action_space
    return Policy(Partial(_hold, env, jnp.int32(hold)), carry=(jnp.zeros(space.shape, space.dtype), jnp.int32(0)))


@jax.jit
def simulate(env: Environment, states: PyTree, actions: Array) -> Array:
    """Observations ``[num_trajectories, T, ...]`` after each action.

    Args:
        env: the environment, deterministic.
        states: ``[num_trajectories, ...]`` start states.
        actions: ``[num_trajectories, T, ...]``.
    """
    return jax.vmap(lambda state, actions: _shoot(env, state, actions)[1])(states, actions)


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
    """Estimate physics parameters and their uncertainty from `data` (method: see the top of this file).

    The dynamics must be deterministic, and the noise of the observations independent from step to step. The first
    observation of a trajectory only helps to guess where it starts: an `Environment` observes after a step.

    A parameter is a floating-point leaf of `env`, named by its path or by any end of the path that is unique:
    ``"mass"``, ``"params.m"``, ``"link.inertia.mass[1]"``. An array without index stands for all its entries.

    Args:
        env: the environment. Or ``build({name: value}) -> env``, for parameters that are no leaves.
        parameters: names, and the search starts at the values in `env`; or a mapping of names to start values.
        data: what was recorded. Its states, if it has any, are where the search starts.
        segment_length: steps between two start states. Short segments forgive a bad start, long ones cost less.
        free_states: estimate the floating-point leaves of the state at the start of each segment. False takes the
            states of `data` for exact: for simulators whose state is large or redundant, such as Brax.
        noise: standard deviations of the entries of an observation, of which only the ratios matter. By default they
            are estimated: the fit is repeated twice with the deviations that it left.
        signed: names of parameters that may change their sign. The others keep it, because it is their logarithm that
            is fitted; except for those that start at 0.
        max_iterations: limit of Gauss-Newton steps per fit.
        callback: ``callback(estimate, misfit, gap)`` before each step, with the root mean squares of residual over
            noise and of the gaps between segments.

    Returns:
        The estimates. A direction in parameter space about which the data say nothing stays where it started, and a
        warning names it.

    Raises:
        InputError: for names, shapes and numbers that make no sense, before anything compiles; and for start values
            with which the simulation is not finite.
    """
    struct.check_value("segment_length", segment_length, int, "[1, inf)")
    struct.check_value("max_iterations", max_iterations, int, "[1, inf)")
    base, assign, start = _parameters(env, parameters)
    for name in (signed := {signed} if isinstance(signed, str) else set(signed)):
        if name not in start:
            raise unknown("signed parameter", name, start)
    values = np.asarray(list(start.values()), np.float64)
    guess = assign(base, _float32(values))
    _check_recording(guess, data, free_states)
    segments = _cut(data, segment_length)
    if noise is not None:
        if np.shape(noise) not in ((), segments.spread.shape):
            raise InputError(
                f"noise must be one number or one for each of {segments.spread.size} entries, got {noise!r}"
            )
        struct.check_value("noise", noise, float, "(0, inf)")
    weights = _weights(segments.spread if noise is None else noise, segments.spread)

    if data.states is None:
        resets = _nearest_resets(guess, _float32(data.observations)[:, 0], _float32(weights))
        template = jax.tree.map(lambda leaf: jnp.repeat(leaf[:, None], len(segments.used), axis=1), resets)
    else:
        template = jax.tree.map(lambda leaf: jnp.asarray(leaf)[:, :-1][:, ::segment_length], data.states)
    model = _Model(base, assign, template, jnp.asarray(segments.actions))
    starts = jax.vmap(jax.vmap(_ravel))(template) if free_states else jnp.zeros((*segments.observed.shape[:2], 0))
    num_unknowns = values.size + starts.shape[0] * starts.shape[2]
    num_observed = segments.num_steps * np.count_nonzero(weights)
    if num_observed <= num_unknowns:
        raise InputError(f"{num_observed} observed numbers cannot determine {num_unknowns} unknowns: record more")
    if starts.size and data.states is None:
        weights_of_steps = _float32(segments.used[..., None] * weights)
        starts = _track(model, _float32(values), _float32(segments.observed), weights_of_steps)

    logarithmic = np.asarray([value != 0.0 and name not in signed for name, value in start.items()])
    problem = _Problem(model, tuple(start), logarithmic, segments, weights)
    result = _search(problem, _Point(values, np.asarray(starts, np.float64)), max_iterations, callback)
    num_evaluations = result.num_evaluations
    for _ in range(2 if noise is None else 0):
        problem = dataclasses.replace(problem, weights=_weights(_deviations(problem, result), segments.spread))
        result = _search(problem, result.point, max_iterations, callback)
        num_evaluations += result.num_evaluations
    return _report(problem, result, num_evaluations)


@struct.dataclass
class _Model:
    """What simulates all segments.

    Attributes:
        env: the environment whose leaves parameters are; None where `assign` builds another one.
        assign: ``assign(env, values [num_params]) -> env``; hashable.
        template: ``[num_trajectories, num_segments, ...]`` states, which give the entries that are not free.
        actions: ``[num_trajectories, num_segments, segment_length, ...]``.
    """

    env: PyTree
    assign: Callable[[PyTree, Array], Environment] = struct.field(static=True)
    template: PyTree
    actions: Array


@dataclasses.dataclass(frozen=True)
class _Entries:
    """Puts values into entries of an environment's leaves: ``(leaf, index in it)`` each."""

    places: tuple[tuple[int, tuple[int, ...]], ...]

    def __call__(self, env: PyTree, values: Array) -> PyTree:
        leaves, structure = jax.tree.flatten(env)
        for position, (leaf, index) in enumerate(self.places):
            leaves[leaf] = jnp.asarray(leaves[leaf]).at[index].set(values[position])
        return jax.tree.unflatten(structure, leaves)


@dataclasses.dataclass(frozen=True)
class _Build:
    """Calls the user's function with values by name."""

    function: Callable[[dict[str, Array]], Environment]
    names: tuple[str, ...]

    def __call__(self, env: None, values: Array) -> Environment:
        return self.function({name: values[position] for position, name in enumerate(self.names)})


def _hold(env: Environment, hold: Array, key: Array, carry: PyTree, obs: Array) -> tuple[Array, PyTree, dict]:
    action, age = carry
    action = jnp.where(age % hold == 0, env.action_space.sample(key), action)
    return action, (action, age + 1), {}


@partial(jax.jit, static_argnames="length")
def _record(env: Environment, policy: Policy, keys: Array, length: int) -> tuple[Recording, Array]:
    """Trajectories, and whether the episode had ended ``[num_trajectories, length]``."""

    def one(key: Array) -> tuple[Recording, Array]:
        reset_key, step_key = jax.random.split(key)
        first = env.reset(reset_key)

        def step(loop: tuple, index: Array) -> tuple[tuple, tuple]:
            timestep, carry = loop
            action_key, env_key = jax.random.split(jax.random.fold_in(step_key, index))
            action, carry, _ = policy.act(action_key, carry, timestep.obs)
            timestep = env.step(env_key, timestep.state, action)
            return (timestep, carry), (action, timestep.obs, timestep.state, timestep.done)

        _, (actions, observations, states, done) = lax.scan(step, (first, policy.carry), jnp.arange(length))
        observations, states = jax.tree.map(
            lambda start, rest: jnp.concatenate([start[None], rest]), (first.obs, first.state), (observations, states)
        )
        return Recording(actions, observations, states), done

    return jax.vmap(one)(keys)


def _shoot(env: Environment, state: PyTree, actions: Array) -> tuple[PyTree, Array]:
    """The state after `actions`, and the observation after each."""

    def step(state: PyTree, action: Array) -> tuple[PyTree, Array]:
        # Nothing is random, but `step` wants a key.
        timestep = env.step(jax.random.key(0), state, action)
        return timestep.state, timestep.obs

    return lax.scan(step, state, actions)


def _ravel(state: PyTree) -> Array:
    """The floating-point leaves of one state as a vector."""
    leaves = [jnp.ravel(leaf).astype(jnp.float32) for leaf in jax.tree.leaves(state) if _is_float(leaf)]
    return jnp.concatenate(leaves) if leaves else jnp.zeros(0)


def _unravel(template: PyTree, vector: Array) -> PyTree:
    """`template` with the vector in place of its floating-point leaves; unchanged if the vector is empty."""
    leaves, structure = jax.tree.flatten(template)
    position = 0
    for i, leaf in enumerate(leaves):
        if _is_float(leaf) and vector.size:
            leaves[i] = vector[position : position + leaf.size].reshape(leaf.shape).astype(leaf.dtype)
            position += leaf.size
    return jax.tree.unflatten(structure, leaves)


@jax.jit
def _simulate(model: _Model, values: Array, starts: Array) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Predicted observations and end of every segment, and their derivatives by its start and the parameters.

    Args:
        model: what simulates.
        values: ``[num_params]``.
        starts: ``[num_trajectories, num_segments, d]``; d is 0 if states are known.

    Returns:
        ``(predicted [.., segment_length, num_entries], ends [.., d])`` and the same with a last axis
        ``[d + num_params]``.
    """
    size = starts.shape[-1]

    def one(template: PyTree, actions: Array, start: Array) -> tuple:
        def shoot(unknowns: Array) -> tuple:
            env = model.assign(model.env, unknowns[size:])
            end, predicted = _shoot(env, _unravel(template, unknowns[:size]), actions)
            outcome = predicted.reshape(len(actions), -1), _ravel(end) if size else unknowns[:0]
            return outcome, outcome

        derivatives, outcome = jax.jacfwd(shoot, has_aux=True)(jnp.concatenate([start, values]))
        return outcome, derivatives

    return jax.vmap(jax.vmap(one))(model.template, model.actions, starts)


@jax.jit
def _nearest_resets(env: Environment, observations: Array, weights: Array) -> PyTree:
    """For each first observation ``[num_trajectories, ...]`` the one of many start states that looks most like it."""
    draws = jax.vmap(env.reset)(jax.random.split(jax.random.key(0), _NUM_RESETS))

    def nearest(observation: Array) -> Array:
        difference = (draws.obs - observation[None]).reshape(_NUM_RESETS, -1) * weights[None]
        return jnp.argmin(jnp.sum(difference**2, axis=1))

    chosen = jax.vmap(nearest)(observations)
    return jax.tree.map(lambda leaf: leaf[chosen], draws.state)


@jax.jit
def _track(model: _Model, values: Array, observed: Array, weights: Array) -> Array:
    """Start states of all segments, found one after the other: each begins the search where the one before ended.

    Args:
        model: what simulates; the first state of each trajectory in its template is a guess.
        values: ``[num_params]``.
        observed: ``[num_trajectories, num_segments, segment_length, num_entries]``.
        weights: ``[num_segments, segment_length, num_entries]``.

    Returns:
        ``[num_trajectories, num_segments, d]``.
    """
    env = model.assign(model.env, values)

    def segment(start: Array, inputs: tuple) -> tuple[Array, Array]:
        template, actions, observed, weights = inputs

        def shoot(start: Array) -> tuple[Array, tuple[Array, Array]]:
            end, predicted = _shoot(env, _unravel(template, start), actions)
            # Steps that count for nothing may have left the range of numbers.
            error = jnp.where(weights > 0.0, (predicted.reshape(weights.shape) - observed) * weights, 0.0)
            return jnp.ravel(error), (jnp.ravel(error), _ravel(end))

        def improve(loop: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
            start, damping = loop
            derivatives, (error, _) = jax.jacfwd(shoot, has_aux=True)(start)
            gram = derivatives.T @ derivatives
            scale = jnp.diag(gram) + 1e-6 * jnp.max(jnp.diag(gram))
            tried = start - jnp.linalg.solve(gram + jnp.diag(damping * scale), derivatives.T @ error)
            better = jnp.sum(shoot(tried)[0] ** 2) < jnp.sum(error**2)
            return (jnp.where(better, tried, start), jnp.where(better, 0.2 * damping, 5.0 * damping)), None

        (start, _), _ = lax.scan(improve, (start, jnp.float32(0.1)), None, _TRACKING_STEPS)
        return shoot(start)[1][1], start

    def trajectory(template: PyTree, actions: Array, observed: Array) -> Array:
        first = _ravel(jax.tree.map(lambda leaf: leaf[0], template))
        return lax.scan(segment, first, (template, actions, observed, weights))[1]

    return jax.vmap(trajectory)(model.template, model.actions, observed)


@dataclasses.dataclass(frozen=True)
class _Segments:
    """A recording cut up; the last segment is filled up with steps that count for nothing.

    Attributes:
        actions: ``[num_trajectories, num_segments, segment_length, ...]``.
        observed: ``[num_trajectories, num_segments, segment_length, num_entries]``, after each action.
        used: ``[num_segments, segment_length]`` bool, False for the filling.
        spread: ``[num_entries]``, standard deviation of each entry of an observation over the recording.
    """

    actions: np.ndarray
    observed: np.ndarray
    used: np.ndarray
    spread: np.ndarray

    @property
    def num_steps(self) -> int:
        """Steps recorded, of all trajectories."""
        return len(self.observed) * int(np.count_nonzero(self.used))


@dataclasses.dataclass(frozen=True)
class _Problem:
    """What a search minimises.

    Attributes:
        model: what simulates.
        names: of the parameters.
        logarithmic: ``[num_params]`` bool, whether the search moves in the logarithm.
        segments: the data.
        weights: ``[num_entries]``, one over the noise; 0 for an entry that never changes.
    """

    model: _Model
    names: tuple[str, ...]
    logarithmic: np.ndarray
    segments: _Segments
    weights: np.ndarray

    @property
    def num_observed(self) -> int:
        """Numbers to be explained."""
        return self.segments.num_steps * int(np.count_nonzero(self.weights))

    @property
    def rounding(self) -> float:
        """Sum of squared weighted residuals that float32 cannot tell from zero."""
        return self.segments.num_steps * float(np.sum((_ROUNDING * self.weights * self.segments.spread) ** 2))

    def slope(self, point: _Point) -> np.ndarray:
        """``[num_params]``, derivative of a parameter by its coordinate in the search."""
        return np.where(self.logarithmic, point.values, 1.0)

    def linearize(self, point: _Point) -> _Linearization:
        """Residuals and gaps at `point`, with derivatives."""
        outcome, derivatives = _simulate(self.model, _float32(point.values), _float32(point.starts))
        (predicted, ends), (by_unknowns, ends_by_unknowns) = (
            [np.asarray(x, np.float64) for x in pair] for pair in (outcome, derivatives)
        )
        weights = self.segments.used[..., None] * self.weights
        with np.errstate(invalid="ignore", over="ignore"):  # a step that goes too far is none of the user's business
            residual = np.where(weights > 0.0, (predicted - self.segments.observed) * weights, 0.0)
            by_unknowns = np.where(weights[..., None] > 0.0, by_unknowns * weights[..., None], 0.0)
        scale = np.concatenate([np.ones(point.starts.shape[-1]), self.slope(point)])
        shape = (*residual.shape[:2], -1)
        return _Linearization(
            residual.reshape(shape),
            ends[:, :-1] - point.starts[:, 1:],
            by_unknowns.reshape(*shape, scale.size) * scale,
            ends_by_unknowns * scale,
        )


@dataclasses.dataclass(frozen=True)
class _Point:
    """Where a search is: parameters ``[num_params]``, start states ``[num_trajectories, num_segments, d]``."""

    values: np.ndarray
    starts: np.ndarray


@dataclasses.dataclass(frozen=True)
class _Linearization:
    """Residuals and gaps to first order; R weighted residuals per segment, d entries of a start state.

    Attributes:
        residual: ``[num_trajectories, num_segments, R]``, prediction minus observation over noise.
        gap: ``[num_trajectories, num_segments - 1, d]``, the end of a segment minus the start of the next.
        by_unknowns: ``[num_trajectories, num_segments, R, d + num_params]``, derivatives of `residual`.
        ends_by_unknowns: ``[num_trajectories, num_segments, d, d + num_params]``, derivatives of the ends.
    """

    residual: np.ndarray
    gap: np.ndarray
    by_unknowns: np.ndarray
    ends_by_unknowns: np.ndarray

    def merit(self, penalty: float) -> float:
        """What a step has to decrease: half the squared residual and `penalty` times the norm of the gaps."""
        value = 0.5 * np.sum(self.residual**2) + penalty * np.linalg.norm(self.gap)
        # No step starts where there are no derivatives. Nothing follows the last segment, whose end does not matter.
        derivatives = (self.by_unknowns, self.ends_by_unknowns[:, :-1])
        usable = np.isfinite(value) and all(np.all(np.isfinite(array)) for array in derivatives)
        return float(value) if usable else np.inf


@dataclasses.dataclass(frozen=True)
class _Step:
    """A constrained Gauss-Newton step, and what its linear problem says about the solution.

    Parameters are in the coordinates of the search.

    Attributes:
        params: ``[num_params]``.
        starts: ``[num_trajectories, num_segments, d]``.
        residual: change ``[num_trajectories, num_segments, R]`` of the residuals, to first order.
        covariance: ``[num_params, num_params]`` for residuals of variance 1, without the open directions.
        open_directions: ``[num_open, num_params]``, on which no residual depends.
        rank: how many unknowns the residuals determine.
    """

    params: np.ndarray
    starts: np.ndarray
    residual: np.ndarray
    covariance: np.ndarray
    open_directions: np.ndarray
    rank: int


@dataclasses.dataclass(frozen=True)
class _Result:
    """Where a search ended, with the linear problem there."""

    point: _Point
    at: _Linearization
    step: _Step
    converged: bool
    num_evaluations: int


def _search(problem: _Problem, point: _Point, max_iterations: int, callback: Callable | None) -> _Result:
    """Constrained Gauss-Newton with a line search on the exact penalty of Han (1977), which falls along every step."""
    here = problem.linearize(point)
    if not np.isfinite(here.merit(1.0)):
        raise InputError(f"the simulation is not finite with {_named(problem, point.values)}: start elsewhere")
    penalty, num_evaluations = 0.0, 1
    for _ in range(max_iterations):
        step = _solve(here)
        if callback is not None:
            misfit = np.sqrt(np.sum(here.residual**2) / problem.num_observed)
            gap = np.sqrt(np.mean(here.gap**2)) if here.gap.size else 0.0
            callback(_named(problem, point.values), float(misfit), float(gap))
        if _is_negligible(problem, here, step):
            return _Result(point, here, step, True, num_evaluations)

        slope, gap = float(np.sum(here.residual * step.residual)), float(np.linalg.norm(here.gap))
        if gap > 0.0:
            penalty = max(penalty, 2.0 * slope / gap)
        # What the merit may rise by rounding in the simulations alone.
        slack = float(np.linalg.norm(here.residual)) * np.sqrt(problem.rounding / problem.num_observed)
        descent = slope - penalty * gap
        largest = np.max(np.abs(step.params[problem.logarithmic]), initial=0.0)
        share = min(1.0, np.log(_LARGEST_FACTOR) / max(largest, 1e-30))
        for _ in range(_MOST_HALVINGS):
            tried = _moved(problem, point, step, share)
            there = problem.linearize(tried)
            num_evaluations += 1
            if there.merit(penalty) < here.merit(penalty) + 1e-4 * share * descent + slack:
                break
            share *= 0.5
        else:
            return _Result(point, here, step, False, num_evaluations)
        point, here = tried, there
    return _Result(point, here, _solve(here), False, num_evaluations)


def _solve(at: _Linearization) -> _Step:
    """Minimise the linearised residuals over all unknowns that close the linearised gaps.

    Start states are eliminated one after the other, each by an orthogonal transformation of the rows in which it
    appears (as in a square-root information filter, Bierman 1977). Unlike substituting the constraints ("condensing"),
    which multiplies derivatives over the whole trajectory, this is stable for dynamics that are not. Constraints are
    rows of great weight. Rows of little weight hold back moves of start states that nothing is known about.
    """
    num_trajectories, num_segments, size, width = at.ends_by_unknowns.shape
    by_start = np.sqrt(np.mean(np.sum(at.by_unknowns[..., :size] ** 2, axis=2), axis=(0, 1)))
    scale = np.where(by_start > 0.0, by_start, 1.0)

    def tiled(matrix: np.ndarray) -> np.ndarray:
        return np.broadcast_to(matrix, (num_trajectories, *matrix.shape))

    # Columns: this start state, the next one, parameters, and what is constant.
    pending = np.zeros((num_trajectories, 0, width + 1))
    triangles = []
    for s in range(num_segments):
        seen = np.concatenate([at.by_unknowns[:, s], at.residual[:, s, :, None]], axis=2)
        rows = np.concatenate([pending, seen, tiled(_HOLD * np.eye(size, width + 1) * scale[:, None])], axis=1)
        if s < num_segments - 1:
            following = np.zeros((*rows.shape[:2], size))
            rows = np.concatenate([rows[..., :size], following, rows[..., size:]], axis=2)
            ends = at.ends_by_unknowns[:, s]
            link = [ends[..., :size], tiled(-np.eye(size)), ends[..., size:], at.gap[:, s, :, None]]
            rows = np.concatenate([_LINK * scale[:, None] * np.concatenate(link, axis=2), rows], axis=1)
        triangle = np.asarray(np.linalg.qr(rows, mode="r"))
        triangles.append(triangle[:, :size])
        pending = triangle[:, size:, size:]

    num_params = width - size
    rows = pending.reshape(-1, num_params + 1)
    alone = np.sqrt(np.sum(at.by_unknowns[..., size:] ** 2, axis=(0, 1, 2)))
    alone = np.where(alone > 0.0, alone, 1.0)
    left, strength, right = np.linalg.svd(rows[:, :num_params] / alone, full_matrices=False)
    known = strength > _RANK_TOLERANCE
    root = right[known].T / strength[known] / alone[:, None]
    params = -root @ (left[:, known].T @ rows[:, num_params])

    starts = np.zeros((num_trajectories, num_segments, size))
    later = np.tile(np.append(params, 1.0), (num_trajectories, 1))
    for s in reversed(range(num_segments)):
        triangle = triangles[s]
        right_side = -(triangle[..., size:] @ later[..., None])
        starts[:, s] = np.linalg.solve(triangle[..., :size], right_side)[..., 0]
        later = np.concatenate([starts[:, s], later[:, -num_params - 1 :]], axis=1)

    moves = np.concatenate([starts, np.broadcast_to(params, (*starts.shape[:2], num_params))], axis=2)
    return _Step(
        params=params,
        starts=starts,
        residual=(at.by_unknowns @ moves[..., None])[..., 0],
        covariance=root @ root.T,
        open_directions=right[~known] / alone,
        rank=num_trajectories * int(np.count_nonzero(by_start)) + int(np.count_nonzero(known)),
    )


def _moved(problem: _Problem, point: _Point, step: _Step, share: float) -> _Point:
    """`share` of a step on from `point`."""
    change = share * step.params
    factor = np.exp(np.where(problem.logarithmic, change, 0.0))
    values = np.where(problem.logarithmic, point.values * factor, point.values + change)
    return _Point(values, point.starts + share * step.starts)


def _variance(problem: _Problem, at: _Linearization, step: _Step) -> float:
    """Of a weighted residual, by what the unknowns cannot explain."""
    return float(np.sum(at.residual**2)) / max(problem.num_observed - step.rank, 1)


def _is_negligible(problem: _Problem, at: _Linearization, step: _Step) -> bool:
    """Whether a step moves predictions by little of their uncertainty (Bates and Watts 1981), or by rounding only."""
    uncertainty = step.rank * _variance(problem, at, step)
    return float(np.sum(step.residual**2)) <= max(1e-4 * uncertainty, problem.rounding)


def _deviations(problem: _Problem, result: _Result) -> np.ndarray:
    """``[num_entries]`` standard deviations of observation minus prediction."""
    weights = problem.weights
    squared = np.sum(result.at.residual.reshape(-1, weights.size) ** 2, axis=0)
    share = (problem.num_observed - result.step.rank) / problem.num_observed
    variance = squared / (problem.segments.num_steps * share)
    return np.sqrt(variance) / np.where(weights > 0.0, weights, 1.0)


def _report(problem: _Problem, result: _Result, num_evaluations: int) -> Fit:
    """Estimates in their own units, with intervals."""
    model, values, step = problem.model, result.point.values, result.step
    slope = problem.slope(result.point)
    covariance = _variance(problem, result.at, step) * step.covariance * slope[:, None] * slope
    error = np.sqrt(np.diag(covariance))
    open_directions = step.open_directions / np.max(np.abs(step.open_directions), axis=1, keepdims=True, initial=1e-300)
    error = np.where(np.any(np.abs(open_directions) > 1e-2, axis=0), np.inf, error)
    half = stdtrit(problem.num_observed - step.rank, 0.975) * error
    undetermined = tuple(_sentence(problem, direction) for direction in open_directions)
    for sentence in undetermined:
        warnings.warn(sentence, stacklevel=3)
    states = jax.vmap(_unravel)(
        jax.tree.map(lambda leaf: leaf[:, 0], model.template), _float32(result.point.starts[:, 0])
    )
    return Fit(
        env=model.assign(model.env, _float32(values)),
        estimate=_named(problem, values),
        standard_error=_named(problem, error),
        interval={n: (float(v - h), float(v + h)) for n, v, h in zip(problem.names, values, half, strict=True)},
        covariance=covariance,
        undetermined=undetermined,
        noise=_deviations(problem, result),
        states=states,
        num_evaluations=num_evaluations,
        converged=result.converged,
    )


def _sentence(problem: _Problem, direction: np.ndarray) -> str:
    """Says which change of parameters leaves all predictions as they are."""
    involved = np.flatnonzero(np.abs(direction) > 1e-2)
    if len(involved) == 1:
        return f"the data say nothing about {problem.names[involved[0]]}"
    changes = [f"{problem.names[i]} by {direction[i]:+.2g}{' %' if problem.logarithmic[i] else ''}" for i in involved]
    return "the data cannot tell parameters apart: no prediction changes with " + " and ".join(changes)


def _named(problem: _Problem, values: np.ndarray) -> dict[str, float]:
    return dict(zip(problem.names, values.tolist(), strict=True))


def _parameters(env: Any, parameters: Sequence[str] | Mapping[str, float]) -> tuple[PyTree, Callable, dict[str, float]]:
    """``(base, assign, start)``: ``assign(base, values)`` is an environment; start values by name."""
    if isinstance(parameters, str):
        parameters = [parameters]
    if not parameters:
        raise InputError("name at least one parameter to estimate")
    given = dict(parameters) if isinstance(parameters, Mapping) else {}
    for name, value in given.items():
        struct.check_value(f"the start value of {name}", value, float, "(-inf, inf)")
    if not hasattr(env, "step"):
        if not given:
            raise InputError("a function that builds environments needs start values: pass a mapping {name: value}")
        return None, _Build(env, tuple(given)), {name: float(value) for name, value in given.items()}

    paths, _ = jax.tree_util.tree_flatten_with_path(env)
    leaves = {
        jax.tree_util.keystr(path, simple=True, separator="."): (number, np.asarray(leaf))
        for number, (path, leaf) in enumerate(paths)
        if _is_float(leaf)
    }
    places: dict[tuple[int, tuple[int, ...]], str] = {}
    start: dict[str, float] = {}
    for name in parameters:
        stem, index = _split(name)
        number, leaf = leaves[_path(stem, leaves)]
        for entry in _entries(name, index, leaf.shape):
            label = stem + (f"[{','.join(map(str, entry))}]" if entry else "")
            if (number, entry) in places:
                raise InputError(f"parameter {label} is named twice")
            places[number, entry] = label
            start[label] = float(given[name] if name in given else leaf[entry])
    return env, _Entries(tuple(places)), start


def _split(name: str) -> tuple[str, tuple[int, ...] | None]:
    """``"mass[1]"`` into path and index."""
    match = re.fullmatch(r"([^\[\]]+)(?:\[(\d+(?:, *\d+)*)\])?", name)
    if match is None:
        raise InputError(f"a parameter is a path with an optional index, such as 'mass' or 'mass[1]', got {name!r}")
    return match[1], None if match[2] is None else tuple(int(i) for i in match[2].split(","))


def _path(stem: str, leaves: Collection[str]) -> str:
    """The path that `stem` is, or is the only one to end in."""
    if stem in leaves:
        return stem
    matches = [path for path in leaves if path.endswith(f".{stem}")]
    if len(matches) > 1:
        raise InputError(f"parameter {stem!r} may be {' or '.join(matches)}: give more of the path")
    if not matches:
        # Whoever wrote the end of a path is best served with the ends of others.
        depth = stem.count(".") + 1
        raise unknown("parameter", stem, {".".join(path.split(".")[-depth:]) for path in leaves})
    return matches[0]


def _entries(name: str, index: tuple[int, ...] | None, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The entries of an array of that shape which `name` stands for."""
    if index is None:
        return list(np.ndindex(shape))
    if len(index) != len(shape) or any(i >= n for i, n in zip(index, shape, strict=False)):
        raise InputError(f"the index of {name} is out of range: that array has shape {shape}")
    return [index]


def _check_recording(env: Environment, data: Recording, free_states: bool) -> None:
    """Raise `InputError` unless the arrays fit the environment and each other."""
    actions, observations = np.shape(data.actions), np.shape(data.observations)
    space = env.observation_space
    if not isinstance(space, Box):
        raise InputError(f"parameters can be fitted to observations in a Box, not {space}")
    if actions[2:] != env.action_space.shape or len(actions) < 2 or 0 in actions[:2]:
        wanted = ", ".join(["num_trajectories", "T", *map(str, env.action_space.shape)])
        raise InputError(f"actions must have shape [{wanted}], got {actions}")
    if observations != (actions[0], actions[1] + 1, *space.shape):
        raise InputError(
            f"observations must have shape {(actions[0], actions[1] + 1, *space.shape)}, got {observations}"
        )
    for name, array in (("actions", data.actions), ("observations", data.observations)):
        if not np.all(np.isfinite(np.asarray(array, np.float64))):
            raise InputError(f"{name} must be finite")
    if data.states is None:
        if not free_states:
            raise InputError("free_states=False needs a recording with states")
        return
    state = jax.eval_shape(lambda: env.reset(jax.random.key(0)).state)
    if jax.tree.structure(state) != jax.tree.structure(data.states) or any(
        np.shape(leaf) != (*observations[:2], *like.shape)
        for leaf, like in zip(jax.tree.leaves(data.states), jax.tree.leaves(state), strict=True)
    ):
        raise InputError("the states of the recording are not those of the environment: record with the same wrappers")


def _cut(data: Recording, segment_length: int) -> _Segments:
    actions, observed = np.asarray(data.actions), np.asarray(data.observations, np.float64)[:, 1:]
    num_trajectories, length = actions.shape[:2]
    observed = observed.reshape(num_trajectories, length, -1)
    segment_length = min(segment_length, length)
    num_segments = -(-length // segment_length)
    missing = num_segments * segment_length - length

    def cut(array: np.ndarray) -> np.ndarray:
        array = np.pad(array, [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2), mode="edge")
        return array.reshape(num_trajectories, num_segments, segment_length, *array.shape[2:])

    used = (np.arange(num_segments * segment_length) < length).reshape(num_segments, segment_length)
    return _Segments(cut(actions), cut(observed), used, observed.std(axis=(0, 1)))


def _weights(noise: Any, spread: np.ndarray) -> np.ndarray:
    """``[num_entries]``, one over the noise; an entry that never changes counts for nothing."""
    noise = np.maximum(np.broadcast_to(noise, spread.shape), _ROUNDING * spread)
    return np.where(spread > 0.0, 1.0 / np.where(spread > 0.0, noise, 1.0), 0.0)


def _float32(array: Any) -> Array:
    return jnp.asarray(array, jnp.float32)


def _is_float(leaf: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
