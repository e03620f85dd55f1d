"""Gauss-Newton step: solution of the linearised problem by elimination, segment by segment."""

from __future__ import annotations

import dataclasses

import numpy as np

from purerl.physics.identification.problem import Linearization

# Derivatives in float32 have about six digits. A direction whose effect is less than this fraction of the effects of
# its single parameters is rounding, not information.
_RANK_TOLERANCE = 1e-5
# Weights of the linearised constraints and of the start states' prior, relative to that of a segment's observations.
_LINK, _HOLD = 1e6, 1e-4


@dataclasses.dataclass(frozen=True)
class Step:
    """Constrained Gauss-Newton step, and the covariance and rank of its linear problem.

    Parameters are in the coordinates of the search.

    Attributes:
        params: ``[num_params]``, change of the parameters.
        starts: ``[num_trajectories, num_segments, d]``, change of the start states.
        residual: ``[num_trajectories, num_segments, R]``, change of the residuals, to first order.
        covariance: ``[num_params, num_params]`` for residuals of variance 1, without the open directions.
        open_directions: ``[num_open, num_params]``, directions on which no residual depends.
        rank: number of unknowns that the residuals determine.
    """

    params: np.ndarray
    starts: np.ndarray
    residual: np.ndarray
    covariance: np.ndarray
    open_directions: np.ndarray
    rank: int


def solve(at: Linearization) -> Step:
    """Minimise the linearised residuals subject to the linearised constraints (no gaps between segments).

    Start states are eliminated one after the other, each by an orthogonal transformation of the rows in which it
    appears (as in a square-root information filter, Bierman 1977). Substitution of the constraints ("condensing") would
    multiply derivatives over the whole trajectory; elimination is stable even for unstable dynamics. Constraints are
    rows of large weight. Rows of small weight limit changes of start states that the data do not determine.
    """
    num_trajectories, _, size, width = at.ends_by_unknowns.shape
    num_params = width - size
    by_start = np.sqrt(np.mean(np.sum(at.by_unknowns[..., :size] ** 2, axis=2), axis=(0, 1)))
    triangles, rows = _eliminate(at, np.where(by_start > 0.0, by_start, 1.0))

    alone = np.sqrt(np.sum(at.by_unknowns[..., size:] ** 2, axis=(0, 1, 2)))
    alone = np.where(alone > 0.0, alone, 1.0)
    left, strength, right = np.linalg.svd(rows[:, :num_params] / alone, full_matrices=False)
    known = strength > _RANK_TOLERANCE
    root = right[known].T / strength[known] / alone[:, None]
    params = -root @ (left[:, known].T @ rows[:, num_params])

    starts = _substitute(triangles, params)
    moves = np.concatenate([starts, np.broadcast_to(params, (*starts.shape[:2], num_params))], axis=2)
    return Step(
        params=params,
        starts=starts,
        residual=(at.by_unknowns @ moves[..., None])[..., 0],
        covariance=root @ root.T,
        open_directions=right[~known] / alone,
        rank=num_trajectories * int(np.count_nonzero(by_start)) + int(np.count_nonzero(known)),
    )


def _eliminate(at: Linearization, scale: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Triangular systems for each start state given the later unknowns, and the remaining rows for the parameters.

    Args:
        at: the linear problem.
        scale: ``[d]``, sensitivity of the residuals to each entry of a start state.

    Returns:
        For each segment ``[num_trajectories, d, columns]`` with the columns: this start state, the next one (except for
        the last segment), parameters, constant; and rows ``[num_rows, num_params + 1]``.
    """
    num_trajectories, num_segments, size, width = at.ends_by_unknowns.shape

    def tiled(matrix: np.ndarray) -> np.ndarray:
        return np.broadcast_to(matrix, (num_trajectories, *matrix.shape))

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
    return triangles, pending.reshape(-1, width - size + 1)


def _substitute(triangles: list[np.ndarray], params: np.ndarray) -> np.ndarray:
    """Changes of the start states ``[num_trajectories, num_segments, d]`` by back substitution, last segment first."""
    num_trajectories, size = triangles[0].shape[:2]
    fixed = np.tile(np.append(params, 1.0), (num_trajectories, 1))
    starts, later = [], fixed
    for triangle in reversed(triangles):
        right_side = -(triangle[..., size:] @ later[..., None])
        starts.append(np.linalg.solve(triangle[..., :size], right_side)[..., 0])
        later = np.concatenate([starts[-1], fixed], axis=1)
    return np.stack(starts[::-1], axis=1)
