"""A worker in an actor of Ray, on this machine or on another one of a cluster.

Members have nothing to say to each other, so an actor that dies concerns no one else: it is started again from the last
state that was fetched from it, at a checkpoint, and does again what it has done since. Calls give the same results
whenever they are made, so the run ends as an undisturbed one does.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from purerl import cpu
from purerl.errors import InputError
from purerl.training.isolation import Diverged
from purerl.training.parts import Lost, Parts
from purerl.training.population import Population
from purerl.types import PyTree

RESTARTS = 3
"""Times that a worker is started again for one call."""


def parts(build: Callable[[], Population], num_actors: int, deadline: float, address: str | None = None) -> Parts:
    """Members of a population in several actors.

    Args:
        build: function that makes the population; every actor calls it, so it must be picklable.
        num_actors: how many, from 1 to the number of members.
        deadline: see `Parts`.
        address: of a running cluster; None starts Ray on this machine alone.

    Raises:
        InputError: if Ray is not installed, or there is no cluster at `address`.
    """
    ray = _ray()
    if not ray.is_initialized():
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            if address is None:  # for nobody else
                ray.init(address="local", include_dashboard=False, _node_ip_address="127.0.0.1", log_to_driver=False)
            else:
                ray.init(address=address, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"--address {address}: {' '.join(str(error).split())[:200]}") from error
    return Parts(build(), num_actors, functools.partial(RayWorker, build), deadline)


def check() -> None:
    """Raise `InputError` unless Ray is installed."""
    _ray()


def _ray() -> Any:
    try:
        import ray  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError("--engine ray needs the library Ray: pip install 'purerl[ray]'") from error
    return ray


class RayWorker:
    """Members `first` to ``first + count - 1`` of a population in an actor. See `parts.Worker`."""

    def __init__(self, build: Callable[[], Population], first: int, count: int) -> None:
        self._ray = _ray()
        self._start_actor = functools.partial(self._actor, build, first, count)
        self._actor_now = self._start_actor()
        self._since: list[tuple[str, tuple]] = []  # calls since the state that a new actor would begin with
        self._state: tuple[PyTree, Diverged] | None = None
        # Calls are made one after the other, each in this thread until it has its result.
        self._thread = ThreadPoolExecutor(1)

    def submit(self, method: str, *args: Any) -> Future:
        """See `parts.Worker`. `Lost` only after `RESTARTS` restarts in a row."""
        return self._thread.submit(self._do, method, args)

    def end(self) -> None:
        """See `parts.Worker`."""
        self._ray.kill(self._actor_now)
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _actor(self, build: Callable[[], Population], first: int, count: int) -> Any:
        threads = {"NPROC": str(cpu.threads(cpu.usable_cores()))}
        actor = self._ray.remote(_Members).options(num_cpus=1, runtime_env={"env_vars": threads})
        return actor.remote(build, first, count)

    def _do(self, method: str, args: tuple) -> Any:
        restarts = 0
        while True:
            try:
                if restarts:
                    self._start_again()
                result = self._ask(method, args)
            except self._ray.exceptions.RayActorError as error:
                if restarts == RESTARTS:
                    raise Lost(str(error)) from error
                restarts += 1
            else:
                self._remember(method, args, result)
                return result

    def _ask(self, method: str, args: tuple) -> Any:
        try:
            return self._ray.get(self._actor_now.call.remote(method, args))
        except self._ray.exceptions.RayTaskError as error:
            raise error.cause from error

    def _start_again(self) -> None:
        """A new actor that has done what the old one had."""
        self._actor_now = self._start_actor()
        if self._state is not None:
            self._ask("load", self._state)
        for method, args in self._since:
            self._ask(method, args)

    def _remember(self, method: str, args: tuple, result: Any) -> None:
        if method in ("compile_init", "init", "load", "compile_evaluation", "advance"):
            self._since.append((method, args))
        elif method == "state":
            self._state = (result, self._ask("diverged", ()))
            self._since = [call for call in self._since if call[0] == "compile_evaluation"]


class _Members:
    """The actor. Imports JAX where it runs, with the threads that it has there."""

    def __init__(self, build: Callable[[], Population], first: int, count: int) -> None:
        from purerl.training.in_process import InProcess

        self._members = InProcess(build().part(first, count))

    def call(self, method: str, args: tuple) -> Any:
        return getattr(self._members, method)(*args)
