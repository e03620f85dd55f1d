"""Search for the least-squares solution: constrained Gauss-Newton steps with a line search."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from purerl.errors import InputError
from purerl.physics.identification.elimination import Step, solve
from purerl.physics.identification.problem import Linearization, Point, Problem

# Largest factor by which a parameter may change in one step.
_LARGEST_FACTOR = 3.0
_MOST_HALVINGS = 12


@dataclasses.dataclass(frozen=True)
class Result:
    """Final point of a search, with the linear problem there."""

    point: Point
    at: Linearization
    step: Step
    converged: bool
    num_evaluations: int


def search(problem: Problem, point: Point, max_iterations: int, callback: Callable | None) -> Result:
    """Constrained Gauss-Newton method with a line search on the exact penalty function of Han (1977)."""
    named = problem.parameters.named
    here = problem.linearize(point)
    if not np.isfinite(here.merit(1.0)):
        raise InputError(f"the simulation is not finite with {named(point.values)}: start elsewhere")
    penalty, num_evaluations = 0.0, 1
    for _ in range(max_iterations):
        step = solve(here)
        if callback is not None:
            misfit = np.sqrt(np.sum(here.residual**2) / problem.num_observed)
            gap = np.sqrt(np.mean(here.gap**2)) if here.gap.size else 0.0
            callback(named(point.values), float(misfit), float(gap))
        if _is_negligible(problem, here, step):
            return Result(point, here, step, True, num_evaluations)

        slope, gap = float(np.sum(here.residual * step.residual)), float(np.linalg.norm(here.gap))
        if gap > 0.0:
            # At least the cost of the gaps as residuals.
            penalty = max(penalty, 2.0 * slope / gap, 0.5 * here.mismatch() / gap)
        found, tried = _line_search(problem, point, here, step, penalty, slope - penalty * gap)
        num_evaluations += tried
        if found is None:
            return Result(point, here, step, False, num_evaluations)
        point, here = found
    return Result(point, here, solve(here), False, num_evaluations)


def _line_search(
    problem: Problem, point: Point, here: Linearization, step: Step, penalty: float, descent: float
) -> tuple[tuple[Point, Linearization] | None, int]:
    """Backtracking line search (Armijo condition, slope `descent`): the new point, and the number of steps tried."""
    # Largest increase of the merit that may be due to rounding in the simulations.
    slack = float(np.linalg.norm(here.residual)) * np.sqrt(problem.rounding / problem.num_observed)
    largest = np.max(np.abs(step.params[problem.parameters.logarithmic]), initial=0.0)
    share = min(1.0, np.log(_LARGEST_FACTOR) / max(largest, 1e-30))
    for tried in range(_MOST_HALVINGS):
        values = problem.parameters.moved(point.values, share * step.params)
        there = Point(values, point.starts + share * step.starts)
        at = problem.linearize(there)
        if at.merit(penalty) < here.merit(penalty) + 1e-4 * share * descent + slack:
            return (there, at), tried + 1
        share *= 0.5
    return None, _MOST_HALVINGS


def variance(problem: Problem, at: Linearization, step: Step) -> float:
    """Estimated variance of a weighted residual, from the residuals that remain after the fit."""
    return float(np.sum(at.residual**2)) / max(problem.num_observed - step.rank, 1)


def deviations(problem: Problem, result: Result) -> np.ndarray:
    """Standard deviations ``[num_entries]`` of observation minus prediction."""
    weights = problem.weights
    squared = np.sum(result.at.residual.reshape(-1, weights.size) ** 2, axis=0)
    share = (problem.num_observed - result.step.rank) / problem.num_observed
    variance = squared / (problem.segments.num_steps * share)
    return np.sqrt(variance) / np.where(weights > 0.0, weights, 1.0)


def _is_negligible(problem: Problem, at: Linearization, step: Step) -> bool:
    """Whether a step and the remaining gaps change predictions by much less than their uncertainty (Bates and Watts
    1981), or by rounding only."""
    uncertainty = step.rank * variance(problem, at, step)
    return float(np.sum(step.residual**2)) + at.mismatch() <= max(1e-4 * uncertainty, problem.rounding)
