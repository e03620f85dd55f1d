"""A worker in a process of this machine, on `concurrent.futures`.

Each process has a pool of threads of its own, no larger than its share of the cores.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from typing import Any

from purerl import cpu
from purerl.training.in_process import InProcess
from purerl.training.parts import Lost, Parts
from purerl.training.population import Population


def parts(build: Callable[[], Population], num_processes: int, deadline: float) -> Parts:
    """Members of a population in several processes.

    Args:
        build: function that makes the population; every process calls it, so it must be picklable.
        num_processes: number of processes, from 1 to the number of members.
        deadline: see `Parts`.
    """
    # JAX reads it when the new processes import JAX.
    os.environ["NPROC"] = str(cpu.threads(num_processes))
    return Parts(build(), num_processes, functools.partial(LocalWorker, build), deadline)


class LocalWorker:
    """Members `first` to ``first + count - 1`` of a population in a process of its own. See `parts.Worker`."""

    def __init__(self, build: Callable[[], Population], first: int, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._process = ProcessPoolExecutor(1, context, _begin, (build, first, count))
        with _signals_blocked():
            self._pid = self._process.submit(os.getpid)  # starts it

    def submit(self, method: str, *args: Any) -> Future:
        """See `parts.Worker`."""
        answer: Future = Future()
        try:
            self._process.submit(_call, method, args).add_done_callback(functools.partial(_pass_on, answer))
        except BrokenProcessPool as error:
            answer.set_exception(_lost(error))
        return answer

    def end(self) -> None:
        """See `parts.Worker`. SIGTERM is blocked in the process, see `_signals_blocked`."""
        with contextlib.suppress(BrokenProcessPool, ProcessLookupError):
            os.kill(self._pid.result(), signal.SIGKILL)
        self._process.shutdown(cancel_futures=True)


def _lost(error: BaseException) -> Lost:
    lost = Lost(str(error))
    lost.__cause__ = error
    return lost


def _pass_on(answer: Future, done: Future) -> None:
    if done.cancelled():
        answer.cancel()
        return
    error = done.exception()
    if error is None:
        answer.set_result(done.result())
    else:
        answer.set_exception(_lost(error) if isinstance(error, BrokenProcessPool) else error)


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


# In the process

_members: InProcess


def _begin(build: Callable[[], Population], first: int, count: int) -> None:
    """Build the part; end with the main process, whose death the executor would not notice."""
    global _members
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _members = InProcess(build().part(first, count))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(method: str, args: tuple) -> Any:
    return getattr(_members, method)(*args)
