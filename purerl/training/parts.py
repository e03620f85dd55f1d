"""Training of a population in parts, each at a worker that answers the calls which `InProcess` answers.

Members do not communicate, so two cores can train twice as many. In one process this does not work: the threads of
XLA's pool mostly wait for each other, and those of a small pool can wait for ever. Only calls and results pass between
a worker and this process. Workers of this machine are in `purerl.training.local_worker`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from operator import itemgetter
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from purerl import struct
from purerl.errors import InputError
from purerl.rollout import Episodes
from purerl.training import loop
from purerl.training.isolation import Diverged
from purerl.training.population import MEMORY_SETTINGS, Population
from purerl.types import Array, Metrics, PyTree


class Lost(Exception):
    """A worker has ended."""


class Worker(Protocol):
    """A part of the members of a population, somewhere else."""

    def submit(self, method: str, *args: Any) -> Future:
        """Begin ``InProcess.method(*args)``. The result raises `Lost` if the worker has ended."""
        ...

    def end(self) -> None:
        """End the worker, even if it is working."""
        ...


class Parts:
    """Members of a population at several workers, with the interface of `InProcess`. A context manager.

    Each member learns the same as in one process, except for rounding: sums are computed in another order.
    """

    def __init__(
        self, population: Population, num_parts: int, hire: Callable[[int, int], Worker], deadline: float
    ) -> None:
        """Start the workers.

        Args:
            population: all members.
            num_parts: number of workers, from 1 to the number of members.
            hire: ``hire(first, count)`` starts the worker of so many members from `first` on.
            deadline: longest time in seconds that a worker may take for one call that does not compile.
        """
        self._population = population
        self._parts = _parts(population.num_members, num_parts)
        self._deadline = deadline
        self._workers: list[Worker] = []
        try:
            for part in self._parts:
                self._workers.append(hire(*part))
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Parts:
        return self

    def __exit__(self, *_: object) -> None:
        """End the workers, even if they are working."""
        for worker in self._workers:
            worker.end()

    def compile_init(self) -> None:
        """Compile the program of `init`, see `InProcess.compile_init`."""
        self._call("compile_init", compiles=True)

    def init(self, key: Array) -> float:
        """Initialise the state, see `InProcess.init`; returns the seconds of the slowest worker."""
        return max(self._call("init", key))

    def load(self, state: PyTree, diverged: Diverged | None = None) -> None:
        """Continue from `state`, see `InProcess.load`."""
        frozen = jax.device_get(loop.nobody(self._population) if diverged is None else diverged)
        states = [self._population.part_state(state, *part) for part in self._parts]
        self._call_each("load", list(zip(states, self._divided(frozen), strict=True)))

    def state(self) -> PyTree:
        """Copy of the current state, see `InProcess.state`."""
        states = self._call("state")
        axes = struct.member_axes(states[0], shared=-1)
        return jax.tree.map(lambda axis, *leaves: leaves[0] if axis else jnp.concatenate(leaves), axes, *states)

    def diverged(self) -> Diverged:
        """Members that are frozen, see `InProcess.diverged`."""
        return _concatenate(self._call("diverged"))

    def advance(self, num_iterations: int, metrics: Metrics | None = None) -> Metrics:
        """Train for `num_iterations`, see `InProcess.advance`."""
        args = [(num_iterations, part) for part in self._divided(metrics)]
        return _concatenate(self._call_each("advance", args, compiles=num_iterations == 0))

    def compile_evaluation(self, num_episodes: int, explore: bool) -> None:
        """Compile the program of `evaluate`, see `InProcess.compile_evaluation`."""
        self._call("compile_evaluation", num_episodes, explore, compiles=True)

    def evaluate(self, key: Array) -> Episodes:
        """Play complete episodes with each member, see `InProcess.evaluate`."""
        return _concatenate(self._call("evaluate", key))

    def _divided(self, tree: PyTree) -> list[PyTree]:
        """Parts of a tree of arrays ``[P, ...]``."""
        return [jax.tree.map(itemgetter(slice(first, first + count)), tree) for first, count in self._parts]

    def _call(self, method: str, *args: Any, compiles: bool = False) -> list[Any]:
        """Results of ``InProcess.method(*args)`` of all workers."""
        return self._call_each(method, [args] * len(self._workers), compiles=compiles)

    def _call_each(self, method: str, args: Sequence[tuple], *, compiles: bool = False) -> list[Any]:
        answers = [worker.submit(method, *own) for worker, own in zip(self._workers, args, strict=True)]
        results = []
        for number, answer in enumerate(answers):
            try:
                results.append(answer.result(timeout=None if compiles else self._deadline))
            except Lost as error:
                raise InputError(
                    f"{self._name(number)} was killed, perhaps because memory ran out: continue with --resume; if it "
                    f"happens again, make {MEMORY_SETTINGS} smaller, or use fewer processes"
                ) from error
            except TimeoutError as error:
                raise InputError(
                    f"{self._name(number)} gave no answer for {self._deadline:g} s: continue with --resume, and give "
                    "--deadline if it only needs more time"
                ) from error
        return results

    def _name(self, number: int) -> str:
        first, count = self._parts[number]
        members = f"member {first}" if count == 1 else f"members {first} to {first + count - 1}"
        return f"training process {number} of {len(self._parts)} ({members})"


def _parts(num_members: int, num_parts: int) -> list[tuple[int, int]]:
    """First member and number of members of each part: contiguous, with sizes that differ by at most one."""
    bounds = [num_members * i // num_parts for i in range(num_parts + 1)]
    return [(first, end - first) for first, end in itertools.pairwise(bounds)]


def _concatenate(trees: Sequence[PyTree]) -> Any:
    """Tree of arrays ``[P, ...]``, concatenated from those of the parts."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *trees)
