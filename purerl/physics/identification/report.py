"""Report of a fit: estimates with their uncertainty, and parameters that the data do not determine."""

from __future__ import annotations

import dataclasses
import warnings

import jax
import numpy as np
from scipy.special import stdtrit

from purerl.physics.identification.parameters import Parameters
from purerl.physics.identification.problem import Problem
from purerl.physics.identification.search import Result, deviations, variance
from purerl.physics.identification.shooting import float32, unravel
from purerl.types import Environment, PyTree


@dataclasses.dataclass(frozen=True)
class Fit:
    """Result of `fit_params`.

    Attributes:
        env: the environment with the estimated parameters.
        estimate: value of each parameter.
        standard_error: standard error of each estimate; infinite for parameters that the data do not determine.
        interval: 95 % confidence interval of each parameter, by Student's t; symmetric in the logarithm if the
            logarithm was fitted, so that it does not contain 0.
        covariance: ``[num_params, num_params]``, covariance of the estimates in the order of `estimate`, including the
            uncertainty of the start states, which are estimated too.
        undetermined: one sentence for each direction in parameter space that the data do not determine.
        noise: ``[num_entries]``, standard deviation of observation minus prediction, per entry.
        states: ``[num_trajectories, ...]`` in every leaf, start states of the trajectories, estimated or given.
        num_evaluations: number of simulations of the whole recording with derivatives.
        converged: whether another step would hardly change the predictions. If not, do not trust the rest: the search
            got stuck, for example because impacts make the misfit jump.
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


def report(problem: Problem, result: Result, num_evaluations: int) -> Fit:
    """Result of a search as estimates in the parameters' own units, with intervals."""
    model, parameters, values, step = problem.model, problem.parameters, result.point.values, result.step
    covariance = variance(problem, result.at, step) * step.covariance
    error = np.sqrt(np.diag(covariance))
    open_directions = step.open_directions / np.max(np.abs(step.open_directions), axis=1, keepdims=True, initial=1e-300)
    error = np.where(np.any(np.abs(open_directions) > 1e-2, axis=0), np.inf, error)
    half = stdtrit(problem.num_observed - step.rank, 0.975) * error
    # Intervals are computed in the coordinates of the search, in which the problem is closer to linear.
    bounds = np.sort([parameters.moved(values, -half), parameters.moved(values, half)], axis=0)
    slope = parameters.slope(values)
    undetermined = tuple(_sentence(parameters, direction) for direction in open_directions)
    for sentence in undetermined:
        warnings.warn(sentence, stacklevel=3)
    states = jax.vmap(unravel)(
        jax.tree.map(lambda leaf: leaf[:, 0], model.template), float32(result.point.starts[:, 0])
    )
    return Fit(
        env=model.assign(model.env, float32(values)),
        estimate=parameters.named(values),
        standard_error=parameters.named(np.abs(slope) * error),
        interval=dict(zip(parameters.names, map(tuple, bounds.T.tolist()), strict=True)),
        covariance=covariance * slope[:, None] * slope,
        undetermined=undetermined,
        noise=deviations(problem, result),
        states=states,
        num_evaluations=num_evaluations,
        converged=result.converged,
    )


def _sentence(parameters: Parameters, direction: np.ndarray) -> str:
    """Sentence about a change of parameters that does not change any prediction."""
    involved = np.flatnonzero(np.abs(direction) > 1e-2)
    if len(involved) == 1:
        return f"the data say nothing about {parameters.names[involved[0]]}"
    units = np.where(parameters.logarithmic, " %", "")
    changes = [f"{parameters.names[i]} by {direction[i]:+.2g}{units[i]}" for i in involved]
    return "the data cannot tell parameters apart: no prediction changes with " + " and ".join(changes)
