"""Demonstrations in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from purerl import struct
from purerl.errors import InputError
from purerl.spaces import Box, Discrete, Space
from purerl.types import Array


@struct.dataclass
class Demonstrations:
    """Whole episodes, one after the other in flat arrays ``[num_rows, ...]``; a pytree.

    Attributes:
        obs: what the expert saw.
        action: what it did, in the environment's own units.
        reward: float32, undiscounted.
        terminated: bool, see `purerl.TimeStep`.
        truncated: bool, see `purerl.TimeStep`.
        next_obs: the true successor of each row, also at the end of an episode.
        starts: int32 ``[num_episodes]``, first row of each episode, ascending from 0.
        observation_space: of one row of `obs`.
        action_space: of one row of `action`.
        env: name of the environment; empty where it has none.
        env_options: options of the environment as JSON text.
        source: where they came from, for people.
    """

    obs: Array | np.ndarray
    action: Array | np.ndarray
    reward: Array | np.ndarray
    terminated: Array | np.ndarray
    truncated: Array | np.ndarray
    next_obs: Array | np.ndarray
    starts: Array | np.ndarray
    observation_space: Space = struct.field(static=True)
    action_space: Space = struct.field(static=True)
    env: str = struct.field(default="", static=True)
    env_options: str = struct.field(default="{}", static=True)
    source: str = struct.field(default="", static=True)

    @property
    def num_rows(self) -> int:
        """Steps of all episodes together."""
        return self.reward.shape[0]

    @property
    def num_episodes(self) -> int:
        """Number of episodes."""
        return self.starts.shape[0]

    @property
    def lengths(self) -> np.ndarray:
        """Steps of each episode, ``[num_episodes]``."""
        return np.diff(np.append(np.asarray(self.starts), self.num_rows))

    @property
    def returns(self) -> np.ndarray:
        """Undiscounted return of each episode, float32 ``[num_episodes]``."""
        return np.add.reduceat(np.asarray(self.reward, np.float64), np.asarray(self.starts)).astype(np.float32)

    def first(self, num_episodes: int) -> Demonstrations:
        """The first `num_episodes` episodes.

        Raises:
            InputError: if there are not so many.
        """
        struct.check_value("num_episodes", num_episodes, int, "[1, inf)")
        if num_episodes > self.num_episodes:
            raise InputError(f"there are {self.num_episodes} demonstrated episodes, {num_episodes} were asked for")
        end = int(np.sum(self.lengths[:num_episodes]))
        rows = {name: getattr(self, name)[:end] for name in ROWS}
        return struct.replace(self, **rows, starts=self.starts[:num_episodes])

    def save(self, path: str | Path) -> None:
        """Write a file that `purerl.load_demonstrations` reads; an existing one is replaced at once.

        Raises:
            InputError: if it cannot be written.
        """
        from purerl.demonstrations.files import save

        save(self, path)

    def check_spaces(self, env: Any) -> None:
        """Raise `InputError` unless they are of an environment with the spaces of `env`.

        Bounds of observations may differ: nothing is scaled by them.
        """
        theirs, ours = self.observation_space, env.observation_space
        where = f" of {self.env}" if self.env else ""
        same = (
            theirs == ours if isinstance(ours, Discrete) else (theirs.shape, theirs.dtype) == (ours.shape, ours.dtype)
        )
        if not same or type(theirs) is not type(ours):
            raise InputError(f"the demonstrations{where} have observations {theirs}, the environment has {ours}")
        if self.action_space != env.action_space:
            raise InputError(
                f"the demonstrations{where} have actions {self.action_space}, the environment has {env.action_space}"
            )

    def check(self) -> None:
        """Raise `InputError` unless arrays, spaces and boundaries of episodes fit together. Looks at every number."""
        if not self.num_rows:
            raise InputError("there is not a single demonstrated step")
        kinds = {
            "obs": (self.observation_space.shape, self.observation_space.dtype),
            "action": (self.action_space.shape, self.action_space.dtype),
            "reward": ((), np.dtype(np.float32)),
            "terminated": ((), np.dtype(bool)),
            "truncated": ((), np.dtype(bool)),
            "next_obs": (self.observation_space.shape, self.observation_space.dtype),
        }
        for name, (shape, dtype) in kinds.items():
            array = np.asarray(getattr(self, name))
            if array.shape != (self.num_rows, *shape) or array.dtype != dtype:
                raise InputError(
                    f"{name} must be {dtype} {[self.num_rows, *shape]}, got {array.dtype} {list(array.shape)}"
                )
            if np.issubdtype(dtype, np.floating) and not np.all(np.isfinite(array)):
                raise InputError(f"{name} has numbers that are not finite")
        starts = np.asarray(self.starts)
        if starts.ndim != 1 or starts.dtype != np.int32 or not starts.size or starts[0] != 0:
            raise InputError("starts must be int32 [num_episodes] and begin with 0")
        if np.any(np.diff(starts) <= 0) or starts[-1] >= self.num_rows:
            raise InputError("starts must ascend, each within the rows")
        ends = np.zeros(self.num_rows, bool)
        ends[np.append(starts[1:], self.num_rows) - 1] = True
        if np.any(ends != (np.asarray(self.terminated) | np.asarray(self.truncated))):
            raise InputError("each episode must be terminated or truncated at its last step, and at no other")
        _check_actions(self.action_space, np.asarray(self.action))


ROWS = ("obs", "action", "reward", "terminated", "truncated", "next_obs")
"""Names of the arrays with one entry per step."""


def on_host(demonstrations: Demonstrations) -> Demonstrations:
    """The same with arrays of NumPy."""
    return jax.tree.map(np.asarray, demonstrations)


def _check_actions(space: Space, action: np.ndarray) -> None:
    low, high = space.bounds if isinstance(space, Box) else (0, space.n - 1)
    # Physics may hand an action back with the last bit rounded.
    slack = 1e-5 * np.maximum(1.0, np.abs(action)) if np.issubdtype(action.dtype, np.floating) else 0
    if np.any(action < low - slack) or np.any(action > high + slack):
        raise InputError(f"action has values outside of {space}")
