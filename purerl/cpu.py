"""Size of XLA's CPU thread pool, chosen before JAX is imported.

On machines with two or three cores jaxlib 0.10 can hang for ever once a few seeds are vmapped: every thread of its pool
waits for work of another thread. A pool of one thread never hangs and is also the fastest for the small networks that
such machines train. JAX reads the size of its pool from the environment variable ``NPROC`` when it is imported.

The command line, the tests and the scripts call `choose_thread_pool` first. In your own program do the same before
anything imports JAX, or set ``NPROC=1`` in the shell.
"""

import os
import sys

ENOUGH_CORES = 4
"""Number of cores from which on JAX's own choice is kept: no hang was ever seen there."""


def usable_cores() -> int:
    """Number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux; elsewhere a process may use all cores
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads(num_processes: int) -> int:
    """Thread pool size for each of `num_processes`: its share of the cores, or 1 if the share is less than 4."""
    share = usable_cores() // num_processes
    return share if share >= ENOUGH_CORES else 1


def choose_thread_pool() -> bool:
    """Set ``NPROC=1`` on a machine with fewer than `ENOUGH_CORES` cores; returns whether it was set.

    Keeps an ``NPROC`` that the user has set, and does nothing if JAX is already imported, because it is too late then.
    """
    if "NPROC" in os.environ or "jax" in sys.modules or usable_cores() >= ENOUGH_CORES:
        return False
    os.environ["NPROC"] = "1"
    return True
