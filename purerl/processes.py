"""A population spread over processes, each of which trains a part of it.

Members have nothing to say to each other, so two cores can train twice as many; but not in one process, where the
threads of XLA's pool mostly wait for one another, and where those of a small pool can wait for ever. Here each process
has a pool of its own, no larger than its share of the cores, and all that passes between them are calls and results.
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
from purerl.members import Members
from purerl.population import SMALLER, Population
from purerl.rollout import Episodes
from purerl.types import Array, Metrics, PyTree


class Processes:
    """What `purerl.members.Members` is, with the members in several processes. To be used as a context manager.

    Each member learns what it would in one process, but for the rounding of sums that are computed in another order.
    """

    def __init__(self, build: Callable[[], Population], num_processes: int) -> None:
        """Start the processes.

        Args:
            build: makes the population; every process calls it, so it must be something that `pickle` takes.
            num_processes: at least 1 and at most as many as there are members.
        """
        self._population = build()
        self._parts = _parts(self._population.num_members, num_processes)
        # JAX reads it when it is imported: there, not here.
        os.environ["NPROC"] = str(cpu.threads(num_processes))
        context = multiprocessing.get_context("spawn")
        self._workers = []
        try:
            with _signals_held_back():
                for first, count in self._parts:
                    pipe, remote = context.Pipe()
                    process = context.Process(target=_serve, args=(remote, build, first, count), daemon=True)
                    process.start()
                    self._workers.append((process, pipe))
                    remote.close()  # or nobody would notice that the process is gone
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes, whatever they are doing."""
        for process, pipe in self._workers:
            pipe.close()
            process.kill()  # a milder signal waits for ever, see `_signals_held_back`
        for process, _ in self._workers:
            process.join()

    def compile_init(self) -> None:
        """As `Members.compile_init`."""
        self._call("compile_init")

    def init(self, key: Array) -> float:
        """As `Members.init`; the seconds of the slowest process."""
        return max(self._call("init", key))

    def load(self, state: PyTree) -> None:
        """As `Members.load`."""
        self._call_each("load", [(self._population.part_state(state, *part),) for part in self._parts])

    def state(self) -> PyTree:
        """As `Members.state`, but a copy."""
        states = self._call("state")
        axes = struct.member_axes(states[0], shared=-1)
        return jax.tree.map(lambda axis, *leaves: leaves[0] if axis else jnp.concatenate(leaves), axes, *states)

    def advance(self, num_iterations: int, metrics: Metrics | None = None) -> Metrics:
        """As `Members.advance`."""
        slices = [itemgetter(slice(first, first + count)) for first, count in self._parts]
        parts = [(num_iterations, jax.tree.map(part, metrics)) for part in slices]
        return _together(self._call_each("advance", parts))

    def compile_evaluation(self, num_episodes: int, explore: bool) -> None:
        """As `Members.compile_evaluation`."""
        self._call("compile_evaluation", num_episodes, explore)

    def evaluate(self, key: Array) -> Episodes:
        """As `Members.evaluate`."""
        return _together(self._call("evaluate", key))

    def _call(self, method: str, *args: Any) -> list[Any]:
        """The results of ``Members.method(*args)`` in all processes."""
        return self._call_each(method, [args] * len(self._workers))

    def _call_each(self, method: str, args: Sequence[tuple]) -> list[Any]:
        try:
            for (_, pipe), own in zip(self._workers, args, strict=True):
                pipe.send((method, own))
            answers = [pipe.recv() for _, pipe in self._workers]
        except (EOFError, OSError) as error:
            raise InputError(
                f"a process of the training was killed, for want of memory perhaps: make {SMALLER} smaller, or train "
                "in fewer processes"
            ) from error
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """Start processes that requests to stop do not reach.

    A terminal and a batch system send them to all processes of a job; what they mean is decided by the one that calls.
    """
    resource_tracker.ensure_running()  # is started with the first process, and would let them through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _parts(num_members: int, num_processes: int) -> list[tuple[int, int]]:
    """First member and number of members of each process: neighbours, in shares that differ by one at most."""
    bounds = [num_members * i // num_processes for i in range(num_processes + 1)]
    return [(first, end - first) for first, end in itertools.pairwise(bounds)]


def _together(trees: Sequence[PyTree]) -> Any:
    """One tree of arrays ``[P, ...]`` from those of the parts."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *trees)


def _serve(pipe: Connection, build: Callable[[], Population], first: int, count: int) -> None:
    """The life of a process: answer calls until nobody calls any more."""
    members = Members(build().part(first, count))
    with contextlib.suppress(EOFError, OSError):  # whoever called is gone
        while True:
            method, args = pipe.recv()
            try:
                answer = getattr(members, method)(*args)
            except Exception as error:
                answer = error
            pipe.send(answer)
