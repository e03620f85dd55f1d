"""Segments of a recording for multiple shooting."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from purerl.physics.identification.recording import Recording

# Relative accuracy of simulated observations in float32, as a fraction of their standard deviation.
_ROUNDING = 3e-6


@dataclasses.dataclass(frozen=True)
class Segments:
    """Recording cut into segments of equal length; the last segment is padded.

    Attributes:
        actions: ``[num_trajectories, num_segments, segment_length, ...]``.
        observed: ``[num_trajectories, num_segments, segment_length, num_entries]``, observations after each action.
        used: ``[num_segments, segment_length]`` bool, False for padding.
        spread: ``[num_entries]``, standard deviation of each entry of an observation over the recording.
    """

    actions: np.ndarray
    observed: np.ndarray
    used: np.ndarray
    spread: np.ndarray

    @property
    def num_steps(self) -> int:
        """Number of recorded steps of all trajectories."""
        return len(self.observed) * int(np.count_nonzero(self.used))

    def weights(self, noise: float | Sequence[float] | np.ndarray) -> np.ndarray:
        """Weights ``[num_entries]``: 1 / noise; 0 for an entry that never changes."""
        noise = np.maximum(np.broadcast_to(noise, self.spread.shape), _ROUNDING * self.spread)
        return np.where(self.spread > 0.0, 1.0 / np.where(self.spread > 0.0, noise, 1.0), 0.0)

    def rounding(self, weights: np.ndarray) -> float:
        """Sum of squared weighted residuals due to rounding in float32."""
        return self.num_steps * float(np.sum((_ROUNDING * weights * self.spread) ** 2))


def cut(data: Recording, segment_length: int) -> Segments:
    """Segments of `segment_length` steps, or of the whole length if that is less."""
    actions, observed = np.asarray(data.actions), np.asarray(data.observations, np.float64)[:, 1:]
    num_trajectories, length = actions.shape[:2]
    observed = observed.reshape(num_trajectories, length, -1)
    segment_length = min(segment_length, length)
    num_segments = -(-length // segment_length)
    missing = num_segments * segment_length - length

    def split(array: np.ndarray) -> np.ndarray:
        array = np.pad(array, [(0, 0), (0, missing)] + [(0, 0)] * (array.ndim - 2), mode="edge")
        return array.reshape(num_trajectories, num_segments, segment_length, *array.shape[2:])

    used = (np.arange(num_segments * segment_length) < length).reshape(num_segments, segment_length)
    return Segments(split(actions), split(observed), used, observed.std(axis=(0, 1)))
