"""A population together with its state: all that a session of training asks of it, in plain calls.

`purerl.processes.Processes` answers the same calls for a population that is spread over several processes.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from purerl import rollout, runner
from purerl.errors import InputError
from purerl.population import Population
from purerl.types import Array, Metrics, PyTree


class Members:
    """The members of a population in this process. Begin with `compile_init` and `init`, or with `load`."""

    def __init__(self, population: Population) -> None:
        self._population = population
        self._state: PyTree = None
        self._no_metrics: Metrics | None = None
        self._init: Any = None
        self._evaluation: Any = None

    def __enter__(self) -> Members:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing: the process stays."""

    def compile_init(self) -> None:
        """Get ready to `init`."""
        self._init = _init.lower(self._population, jax.random.key(0)).compile()

    def init(self, key: Array) -> float:
        """Begin afresh, with the random warm-up if there is one; returns the seconds that it took."""
        begun = time.perf_counter()
        self._state = jax.block_until_ready(self._init(self._population, key))
        return time.perf_counter() - begun

    def load(self, state: PyTree) -> None:
        """Go on from `state`, which is consumed."""
        self._state = state

    def state(self) -> PyTree:
        """The state now, whose memory `advance` uses again."""
        return self._state

    def advance(self, num_iterations: int, metrics: Metrics | None = None) -> Metrics:
        """Train for `num_iterations`, of which 0 only compile.

        Args:
            num_iterations: how many.
            metrics: of the iterations before, to go on from; None begins anew.

        Returns:
            Metrics ``[P]`` on the host, those of the iterations before included.

        Raises:
            InputError: if `metrics` are not those of this algorithm.
        """
        if self._no_metrics is None:
            self._no_metrics = runner.no_metrics(self._population, self._state)
        metrics = self._no_metrics if metrics is None else metrics
        if jax.tree.structure(metrics) != jax.tree.structure(self._no_metrics):
            raise InputError(f"metrics must be {', '.join(self._no_metrics)}, got {', '.join(metrics)}")
        self._state, metrics = runner.advance(self._population, self._state, jnp.int32(num_iterations), metrics)
        return jax.device_get(jax.block_until_ready((self._state, metrics))[1])

    def compile_evaluation(self, num_episodes: int, explore: bool) -> None:
        """Get ready to `evaluate` with `num_episodes` per member at a time, exploring or not."""
        program = partial(_evaluate, num_episodes=num_episodes, explore=explore)
        example = self._population, self._state, self._keys(jax.random.key(0))
        self._evaluation = jax.jit(program).lower(*example).compile()

    def evaluate(self, key: Array) -> rollout.Episodes:
        """Play the complete episodes that `key` gives each member, ``[P, num_episodes]`` on the host."""
        return jax.device_get(self._evaluation(self._population, self._state, self._keys(key)))

    def _keys(self, key: Array) -> Array:
        first, count = self._population.first_member, self._population.num_members
        # Key i of a split does not depend on how many there are, so a member's does not depend on its companions.
        return jax.random.split(key, first + count)[first:]


@jax.jit
def _init(population: Population, key: Array) -> PyTree:
    return population.init(key)


def _evaluate(
    population: Population, state: PyTree, keys: Array, *, num_episodes: int, explore: bool
) -> rollout.Episodes:
    def play(member: Any, state: PyTree, key: Array) -> rollout.Episodes:
        return rollout.evaluate(member.env, member.policy(state, explore=explore), key, num_episodes)

    return population.map(play, state, keys)
