"""Evaluating all members of a run at once, in batches of complete episodes that share one compiled program."""

from __future__ import annotations

import math
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from purerl import rollout
from purerl.population import Population
from purerl.types import Array, PyTree

# Member i trains with fold_in(key(seed), i). These are no member's number, so evaluation shares no randomness with
# training, and looking more often changes nothing.
_ALONG_THE_WAY, _FINAL = 2**32 - 1, 2**32 - 2


def along_the_way(seed: int) -> Array:
    """The key of every evaluation during training: the same episodes each time make points comparable."""
    return jax.random.fold_in(jax.random.key(seed), jnp.uint32(_ALONG_THE_WAY))


def final(seed: int) -> Array:
    """The key of the evaluation after training."""
    return jax.random.fold_in(jax.random.key(seed), jnp.uint32(_FINAL))


class Evaluator:
    """A compiled evaluation; policies of other states of the same shape need no new one.

    Attributes:
        compile_seconds: what compiling took.
        run_seconds: spent evaluating so far.
    """

    def __init__(self, population: Population, state: PyTree, batch: int, *, explore: bool) -> None:
        """Compile for `population` and states like `state`, `batch` episodes per member at a time."""
        self._population = population
        self._batch = batch
        begun = time.perf_counter()
        program = partial(_evaluate, num_episodes=batch, explore=explore)
        self._program = jax.jit(program).lower(population, state, jax.random.key(0)).compile()
        self.compile_seconds = time.perf_counter() - begun
        self.run_seconds = 0.0
        self.last_seconds = 0.0

    def __call__(self, state: PyTree, key: Array, num_episodes: int, seconds: float = math.inf) -> rollout.Episodes:
        """Play `num_episodes` per member, ``[members, num_episodes]``; if `seconds` are few, fewer whole batches."""
        begun = time.perf_counter()
        batches: list[rollout.Episodes] = []
        while len(batches) * self._batch < num_episodes:
            batch_key = jax.random.fold_in(key, len(batches))
            batches.append(jax.device_get(self._program(self._population, state, batch_key)))
            self.last_seconds = time.perf_counter() - begun
            if self.last_seconds * (len(batches) + 1) > seconds * len(batches):
                break
        self.run_seconds += self.last_seconds
        # Episodes are chosen by number, before any is played: short ones have no better chance.
        return jax.tree.map(lambda *leaves: np.concatenate(leaves, axis=1)[:, :num_episodes], *batches)


def _evaluate(
    population: Population, state: PyTree, key: Array, *, num_episodes: int, explore: bool
) -> rollout.Episodes:
    def play(member, state: PyTree, key: Array) -> rollout.Episodes:
        return rollout.evaluate(member.env, member.policy(state, explore=explore), key, num_episodes)

    return population.map(play, state, jax.random.split(key, population.num_members))
