"""Constrained least-squares problem of multiple shooting, and its linearisation."""

from __future__ import annotations

import dataclasses

import numpy as np

from purerl.physics.identification.parameters import Parameters
from purerl.physics.identification.segments import Segments
from purerl.physics.identification.shooting import Model, float32, simulate_segments


@dataclasses.dataclass(frozen=True)
class Point:
    """Unknowns of the search: parameters ``[num_params]``, start states ``[num_trajectories, num_segments, d]``."""

    values: np.ndarray
    starts: np.ndarray


@dataclasses.dataclass(frozen=True)
class Linearization:
    """Residuals and gaps with their derivatives; R weighted residuals per segment, d entries of a start state.

    Attributes:
        residual: ``[num_trajectories, num_segments, R]``, (prediction minus observation) / noise.
        gap: ``[num_trajectories, num_segments - 1, d]``, the end of a segment minus the start of the next.
        by_unknowns: ``[num_trajectories, num_segments, R, d + num_params]``, derivatives of `residual`.
        ends_by_unknowns: ``[num_trajectories, num_segments, d, d + num_params]``, derivatives of the end states.
    """

    residual: np.ndarray
    gap: np.ndarray
    by_unknowns: np.ndarray
    ends_by_unknowns: np.ndarray

    def mismatch(self) -> float:
        """Squared change of the residuals, to first order, if each segment started at the end of the previous one."""
        change = self.by_unknowns[:, 1:, :, : self.gap.shape[-1]] @ self.gap[..., None]
        return float(np.sum(change**2))

    def merit(self, penalty: float) -> float:
        """Merit function of the line search: half the squared residual plus `penalty` times the norm of the gaps."""
        value = 0.5 * np.sum(self.residual**2) + penalty * np.linalg.norm(self.gap)
        # A next step needs finite derivatives, except those of the last segment's end, which has no successor.
        derivatives = (self.by_unknowns, self.ends_by_unknowns[:, :-1])
        usable = np.isfinite(value) and all(np.all(np.isfinite(array)) for array in derivatives)
        return float(value) if usable else np.inf


@dataclasses.dataclass(frozen=True)
class Problem:
    """Least-squares problem of the search.

    Attributes:
        model: simulation of all segments.
        parameters: parameters to estimate.
        segments: the data.
        weights: ``[num_entries]``, 1 / noise; 0 for an entry that never changes.
    """

    model: Model
    parameters: Parameters
    segments: Segments
    weights: np.ndarray

    @property
    def num_observed(self) -> int:
        """Number of observed values with a nonzero weight."""
        return self.segments.num_steps * int(np.count_nonzero(self.weights))

    @property
    def rounding(self) -> float:
        """Sum of squared weighted residuals due to rounding in float32."""
        return self.segments.rounding(self.weights)

    def linearize(self, point: Point) -> Linearization:
        """Residuals and gaps at `point`, with derivatives."""
        outcome, derivatives = simulate_segments(self.model, float32(point.values), float32(point.starts))
        (predicted, ends), (by_unknowns, ends_by_unknowns) = (
            [np.asarray(x, np.float64) for x in pair] for pair in (outcome, derivatives)
        )
        weights = self.segments.used[..., None] * self.weights
        with np.errstate(invalid="ignore", over="ignore"):  # the line search rejects steps that are too long
            residual = np.where(weights > 0.0, (predicted - self.segments.observed) * weights, 0.0)
            by_unknowns = np.where(weights[..., None] > 0.0, by_unknowns * weights[..., None], 0.0)
        scale = np.concatenate([np.ones(point.starts.shape[-1]), self.parameters.slope(point.values)])
        shape = (*residual.shape[:2], -1)
        return Linearization(
            residual.reshape(shape),
            ends[:, :-1] - point.starts[:, 1:],
            by_unknowns.reshape(*shape, scale.size) * scale,
            ends_by_unknowns * scale,
        )
