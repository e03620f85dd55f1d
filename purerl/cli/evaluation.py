"""Evaluation of all members of a run at once, in batches of complete episodes with one compiled program."""

from __future__ import annotations

import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from purerl import rollout
from purerl.training.in_process import InProcess
from purerl.training.parts import Parts
from purerl.types import Array

# Member i trains with fold_in(key(seed), i). No member has these numbers, so evaluation shares no randomness with
# training, and more evaluations do not change the training.
_ALONG_THE_WAY, _FINAL = 2**32 - 1, 2**32 - 2


def along_the_way(seed: int) -> Array:
    """Random key of every evaluation during training: the same start states each time make points comparable."""
    return jax.random.fold_in(jax.random.key(seed), jnp.uint32(_ALONG_THE_WAY))


def final(seed: int) -> Array:
    """Random key of the evaluation after training."""
    return jax.random.fold_in(jax.random.key(seed), jnp.uint32(_FINAL))


class Evaluator:
    """Compiled evaluation of the current state of the members.

    Attributes:
        run_seconds: seconds spent on evaluation so far.
    """

    def __init__(self, members: InProcess | Parts, batch: int, *, explore: bool) -> None:
        """Compile the evaluation, for `batch` episodes per member at a time."""
        self._members = members
        self._batch = batch
        members.compile_evaluation(batch, explore)
        self.run_seconds = 0.0

    def __call__(
        self, key: Array, num_episodes: int, stopped: Callable[[], bool] = lambda: False
    ) -> rollout.Episodes | None:
        """Play `num_episodes` per member, ``[members, num_episodes]``; None if `stopped` between two batches."""
        begun = time.perf_counter()
        batches: list[rollout.Episodes] = []
        while len(batches) * self._batch < num_episodes and not stopped():
            batches.append(self._members.evaluate(jax.random.fold_in(key, len(batches))))
        self.run_seconds += time.perf_counter() - begun
        if len(batches) * self._batch < num_episodes:
            return None
        # Episodes are chosen by number, not by time, so short ones are not preferred.
        return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1)[:, :num_episodes], *batches)
