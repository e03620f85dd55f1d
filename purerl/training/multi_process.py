"""Training of a population in several processes, each with a part of its members.

Members do not communicate, so two cores can train twice as many. In one process this does not work: the threads of
XLA's pool mostly wait for each other, and those of a small pool can wait for ever. Here each process has a pool of its
own, no larger than its share of the cores. Only calls and results pass between the processes.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from operator import itemgetter
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl import cpu, struct
from purerl.errors import InputError
from purerl.rollout import Episodes
from purerl.training import loop
from purerl.training.in_process import InProcess
from purerl.training.isolation import Diverged
from purerl.training.population import MEMORY_SETTINGS, Population
from purerl.types import Array, Metrics, PyTree


class MultiProcess:
    """Members of a population in several processes, with the interface of `InProcess`. A context manager.

    Each member learns the same as in one process, except for rounding: sums are computed in another order.
    """

    def __init__(self, build: Callable[[], Population], num_processes: int) -> None:
        """Start the processes.

        Args:
            build: function that makes the population; every process calls it, so it must be picklable.
            num_processes: number of processes, from 1 to the number of members.
        """
        self._population = build()
        self._parts = _parts(self._population.num_members, num_processes)
        # JAX reads it when the new processes import JAX.
        os.environ["NPROC"] = str(cpu.threads(num_processes))
        context = multiprocessing.get_context("spawn")
        self._workers = []
        try:
            with _signals_blocked():
                for first, count in self._parts:
                    pipe, remote = context.Pipe()
                    process = context.Process(target=_serve, args=(remote, build, first, count), daemon=True)
                    process.start()
                    self._workers.append((process, pipe))
                    remote.close()  # otherwise `recv` would not fail when the process has ended
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> MultiProcess:
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, even if they are working."""
        for process, pipe in self._workers:
            pipe.close()
            process.kill()  # SIGTERM is blocked in them, see `_signals_blocked`
        for process, _ in self._workers:
            process.join()

    def compile_init(self) -> None:
        """Compile the program of `init`, see `InProcess.compile_init`."""
        self._call("compile_init")

    def init(self, key: Array) -> float:
        """Initialise the state, see `InProcess.init`; returns the seconds of the slowest process."""
        return max(self._call("init", key))

    def load(self, state: PyTree, diverged: Diverged | None = None) -> None:
        """Continue from `state`, see `InProcess.load`."""
        frozen = loop.nobody(self._population) if diverged is None else diverged
        parts = [(first, first + count) for first, count in self._parts]
        own = [jax.tree.map(itemgetter(slice(*part)), jax.device_get(frozen)) for part in parts]
        states = [self._population.part_state(state, *part) for part in self._parts]
        self._call_each("load", list(zip(states, own, strict=True)))

    def diverged(self) -> Diverged:
        """Members that are frozen, see `InProcess.diverged`."""
        return _concatenate(self._call("diverged"))

    def state(self) -> PyTree:
        """Copy of the current state, see `InProcess.state`."""
        states = self._call("state")
        axes = struct.member_axes(states[0], shared=-1)
        return jax.tree.map(lambda axis, *leaves: leaves[0] if axis else jnp.concatenate(leaves), axes, *states)

    def advance(self, num_iterations: int, metrics: Metrics | None = None) -> Metrics:
        """Train for `num_iterations`, see `InProcess.advance`."""
        slices = [itemgetter(slice(first, first + count)) for first, count in self._parts]
        parts = [(num_iterations, jax.tree.map(part, metrics)) for part in slices]
        return _concatenate(self._call_each("advance", parts))

    def compile_evaluation(self, num_episodes: int, explore: bool) -> None:
        """Compile the program of `evaluate`, see `InProcess.compile_evaluation`."""
        self._call("compile_evaluation", num_episodes, explore)

    def evaluate(self, key: Array) -> Episodes:
        """Play complete episodes with each member, see `InProcess.evaluate`."""
        return _concatenate(self._call("evaluate", key))

    def _call(self, method: str, *args: Any) -> list[Any]:
        """Results of ``InProcess.method(*args)`` in all processes."""
        return self._call_each(method, [args] * len(self._workers))

    def _call_each(self, method: str, args: Sequence[tuple]) -> list[Any]:
        try:
            for (_, pipe), own in zip(self._workers, args, strict=True):
                pipe.send((method, own))
            answers = [pipe.recv() for _, pipe in self._workers]
        except (EOFError, OSError) as error:
            raise InputError(
                "a training process was killed, perhaps because memory ran out: "
                f"make {MEMORY_SETTINGS} smaller, or use fewer processes"
            ) from error
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    """Context in which new processes inherit a block of SIGINT, SIGTERM and SIGHUP.

    A terminal or a batch system sends these signals to all processes of a job; only the main process reacts to them.
    """
    resource_tracker.ensure_running()  # starts with the first process otherwise, and that would unblock the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _parts(num_members: int, num_processes: int) -> list[tuple[int, int]]:
    """First member and number of members of each process: contiguous parts whose sizes differ by at most one."""
    bounds = [num_members * i // num_processes for i in range(num_processes + 1)]
    return [(first, end - first) for first, end in itertools.pairwise(bounds)]


def _concatenate(trees: Sequence[PyTree]) -> Any:
    """Tree of arrays ``[P, ...]``, concatenated from those of the parts."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *trees)


def _serve(pipe: Connection, build: Callable[[], Population], first: int, count: int) -> None:
    """Main function of a process: answer calls until the pipe is closed."""
    members = InProcess(build().part(first, count))
    with contextlib.suppress(EOFError, OSError):  # the main process has ended
        while True:
            method, args = pipe.recv()
            try:
                answer = getattr(members, method)(*args)
            except Exception as error:
                answer = error
            pipe.send(answer)
