"""Training and evaluation of a population in this process: population and state behind one interface.

`Parts` (in `parts`) has the same interface for a population that is divided among several processes.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl import rollout
from purerl.errors import InputError
from purerl.training import hosts, loop, placement
from purerl.training.isolation import NEVER, Diverged
from purerl.training.pbt import PBT, Exchange
from purerl.training.population import Population
from purerl.types import Array, Metrics, PyTree


class InProcess:
    """Members of a population in this process. Start with `compile_init` and `init`, or with `load`."""

    def __init__(self, population: Population) -> None:
        self._population = placement.everywhere(population, population.mesh)
        self._state: PyTree = None
        self._diverged = loop.nobody(population)
        self._no_metrics: Metrics | None = None
        self._init: Any = None
        self._evaluation: Any = None

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing: there are no processes to end."""

    def compile_init(self) -> None:
        """Compile the program of `init`."""
        self._init = _init.lower(self._population, self._everywhere(jax.random.key(0))).compile()

    def init(self, key: Array) -> float:
        """Initialise the state, including a random warm-up if there is one; returns the seconds that it took."""
        begun = time.perf_counter()
        self._state = jax.block_until_ready(self._init(self._population, self._everywhere(key)))
        return time.perf_counter() - begun

    def load(self, state: PyTree, diverged: Diverged | None = None) -> None:
        """Continue from `state`, which is donated, with the members frozen that have `diverged` before."""
        self._state = placement.place(state, self._population.mesh)
        self._diverged = loop.nobody(self._population) if diverged is None else diverged

    def diverged(self) -> Diverged:
        """Members that are frozen, ``[P]`` on the host."""
        return hosts.fetch(self._diverged)

    def state(self) -> PyTree:
        """Current state; the next `advance` reuses its memory."""
        return self._state

    def advance(self, num_iterations: int, metrics: Metrics | None = None) -> Metrics:
        """Train for `num_iterations`; 0 iterations only compile.

        Args:
            num_iterations: number of iterations.
            metrics: accumulated metrics of earlier iterations to add to; None starts with none.

        Returns:
            Metrics ``[P]`` on the host, including those of the earlier iterations.

        Raises:
            InputError: if `metrics` are not those of this algorithm.
        """
        if self._no_metrics is None:
            self._no_metrics = loop.no_metrics(self._population, self._state)
        metrics = self._no_metrics if metrics is None else metrics
        if jax.tree.structure(metrics) != jax.tree.structure(self._no_metrics):
            raise InputError(f"metrics must be {', '.join(self._no_metrics)}, got {', '.join(metrics)}")
        metrics, diverged = placement.place((metrics, self._diverged), self._population.mesh)
        self._state, metrics, self._diverged = loop.advance(
            self._population, self._state, np.int32(num_iterations), metrics, diverged
        )
        return hosts.fetch(jax.block_until_ready((self._state, metrics))[1])

    def exchange(self, pbt: PBT, fitness: Array, key: Array) -> Exchange:
        """One exchange of population-based training, see `PBT.exchange`; programs stay as they are."""
        outcome = pbt.exchange(self._population, self._state, fitness, key)
        self._population, self._state = outcome.population, outcome.state
        frozen = self.diverged()
        # Who has taken over from a sound member is sound.
        own = jnp.asarray(outcome.source == np.arange(len(outcome.source)))
        self._diverged = Diverged(jnp.where(own, frozen.iteration, NEVER), frozen.leaf)
        return outcome

    def compile_evaluation(self, num_episodes: int, explore: bool) -> None:
        """Compile the program of `evaluate`: `num_episodes` per member in one call, exploring or not."""
        program = partial(_evaluate, num_episodes=num_episodes, explore=explore)
        example = self._population, self._state, self._keys(jax.random.key(0))
        self._evaluation = jax.jit(program).lower(*example).compile()

    def evaluate(self, key: Array) -> rollout.Episodes:
        """Play complete episodes with each member, ``[P, num_episodes]`` on the host."""
        return hosts.fetch(self._evaluation(self._population, self._state, self._keys(key)))

    def _keys(self, key: Array) -> Array:
        first, count = self._population.first_member, self._population.num_members
        # Key i of a split does not depend on the number of keys, so a member's key does not depend on the others.
        return placement.place(jax.random.split(key, first + count)[first:], self._population.mesh)

    def _everywhere(self, key: Array) -> Array:
        return placement.everywhere(key, self._population.mesh)


@jax.jit
def _init(population: Population, key: Array) -> PyTree:
    return population.init(key)


def _evaluate(
    population: Population, state: PyTree, keys: Array, *, num_episodes: int, explore: bool
) -> rollout.Episodes:
    def play(member: Any, state: PyTree, key: Array) -> rollout.Episodes:
        return rollout.evaluate(member.env, member.policy(state, explore=explore), key, num_episodes)

    return population.map(play, state, keys)
