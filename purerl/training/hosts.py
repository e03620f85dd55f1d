"""Several processes as one machine: JAX's distributed runtime, and what a training needs beside it.

All processes run the same program on a mesh of all devices. Process 0 writes the files. A process that has died, or is
stuck, would leave the others waiting for ever: JAX waits without a limit, and its own health check ends a process
without a word. So each process shows signs of life in a folder that all of them can see, and a `Watch` ends it with a
message that names the process which everybody waits for.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from purerl.errors import InputError
from purerl.types import PyTree

LOST = 75
"""Exit code of a process that gives up waiting for another: try again later, as in ``sysexits.h``."""

BEAT_SECONDS = 0.5
"""Time between two signs of life."""

SILENT_SECONDS = 5.0
"""A process that showed none for so long has ended or is stopped."""

_HEARTBEAT_SECONDS = 24 * 3600
"""Of JAX's own health check, which would end a process without saying why."""


def connect(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Join the other processes. Must come before anything else asks JAX for devices.

    Without arguments JAX finds them in the environment of SLURM, Open MPI, Kubernetes or a TPU pod.

    Args:
        coordinator: ``host:port`` of process 0.
        num_processes: how many there are.
        process_id: number of this one, from 0.

    Raises:
        InputError: if they cannot be found, or do not answer.
    """
    given = (coordinator, num_processes, process_id)
    if any(value is not None for value in given) and None in given:
        raise InputError("give all of --coordinator, --num-processes and --process-id, or none of them on a cluster")
    if process_id is not None and num_processes is not None and not 0 <= process_id < num_processes:
        raise InputError(f"--process-id must lie in [0, {num_processes - 1}], got {process_id}")
    # On one machine nobody else needs to reach the coordinator.
    here = coordinator is not None and coordinator.rpartition(":")[0] in ("127.0.0.1", "localhost")
    # Without it JAX ends all processes when one is gone, before any of them can say which.
    jax.config.update("jax_enable_recoverability", True)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            initialization_timeout=120,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            coordinator_bind_address=coordinator if here and process_id == 0 else None,
        )
    except (ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        found = "the processes did not find each other" if coordinator else "no cluster was found here"
        remedy = "" if coordinator else "; give --coordinator HOST:PORT --num-processes N --process-id I"
        raise InputError(f"{found}: {reason}{remedy}") from error


def number() -> int:
    """Number of processes."""
    return jax.process_count()


def is_first() -> bool:
    """Whether this process is the one that writes files."""
    return jax.process_index() == 0


def fetch(tree: PyTree) -> PyTree:
    """Arrays on the host, in full in every process; those of random keys are not allowed."""
    if number() == 1:
        return jax.device_get(tree)
    from jax.experimental import multihost_utils

    def whole(leaf: Any) -> np.ndarray:
        if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
            if leaf.is_fully_replicated:
                return np.asarray(leaf.addressable_data(0))
            return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))
        return np.asarray(leaf)

    return jax.tree.map(whole, tree)


def all_ready(ready: bool) -> bool:
    """Whether all processes are; waits for each of them."""
    if number() == 1:
        return ready
    from jax.experimental import multihost_utils

    return bool(np.all(multihost_utils.process_allgather(np.array(ready))))


class Watch:
    """Deadline for everything that needs the other processes. A context manager.

    Attributes:
        deadline: seconds that one call may take.
    """

    def __init__(self, folder: Path, deadline: float) -> None:
        """Signs of life go to `folder`, which all processes can see."""
        self.deadline = deadline
        self._folder = folder
        self._calls = 0
        self._since: float | None = None
        self._ended = threading.Event()

    def __enter__(self) -> Watch:
        if number() > 1:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._beat()
            threading.Thread(target=self._run, name="watch", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """Context of one call that needs the other processes."""
        if number() == 1:
            yield
            return
        self._calls += 1
        self._since = time.monotonic()
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            # What the network reports names no process, and leaving as usual would wait for the one that is gone.
            time.sleep(SILENT_SECONDS + 2 * BEAT_SECONDS)
            self._give_up(" ".join(str(error).split())[:200])
        finally:
            self._since = None

    def agree(self, length: int, stop: bool) -> tuple[int, bool]:
        """The same two values in all processes: the length that process 0 proposes, and whether any wants to stop."""
        if number() == 1:
            return length, stop
        from jax.experimental import multihost_utils

        with self.waiting():
            proposals = multihost_utils.process_allgather(np.array([length, stop], np.int32))
        return int(proposals[0, 0]), bool(np.any(proposals[:, 1]))

    def _run(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            self._beat()
            since = self._since
            if since is not None and time.monotonic() - since > self.deadline:
                self._give_up(f"no answer for {self.deadline:g} s")

    def _beat(self) -> None:
        file = self._folder / f"{jax.process_index()}.json"
        part = file.with_suffix(".part")
        with contextlib.suppress(OSError):  # the next one may succeed
            part.write_text(json.dumps({"pid": os.getpid(), "calls": self._calls}))
            part.replace(file)

    def _give_up(self, reason: str) -> None:
        print(f"purerl: error: {self._blame()} ({reason}); continue with --resume", file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(LOST)

    def _blame(self) -> str:
        """The process that the others wait for, in words."""
        silent, behind = [], []
        for process in range(number()):
            file = self._folder / f"{process}.json"
            try:
                age, calls = time.time() - file.stat().st_mtime, json.loads(file.read_text())["calls"]
            except (OSError, ValueError, KeyError):
                age, calls = float("inf"), 0
            if process != jax.process_index():
                silent += [process] if age > SILENT_SECONDS else []
                behind += [process] if calls < self._calls else []
        if silent:
            return f"process {_listed(silent)} of {number()} has ended or is stopped"
        if behind:
            return f"process {_listed(behind)} of {number()} is stuck"
        return f"process {jax.process_index()} of {number()} has lost the others"


def _listed(numbers: list[int]) -> str:
    return ", ".join(map(str, numbers))
