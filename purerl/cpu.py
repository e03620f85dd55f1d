"""The CPU thread pool, chosen before JAX is imported.

On machines with two or three cores jaxlib 0.10 can hang for ever once a few seeds are vmapped: every thread of its pool
sleeps, each waiting for work that another would have to do. A pool of one thread never hangs and is also the fastest
for the small networks that such machines train. JAX reads the size of its pool from ``NPROC`` when it is imported.

The command line, the tests and the scripts call `choose_thread_pool` first thing. In a program of your own do the same
before anything imports JAX, or set ``NPROC=1`` in the shell.
"""

import os
import sys

ENOUGH_CORES = 4
"""From so many cores on JAX keeps its own choice: no hang was ever seen there."""


def usable_cores() -> int:
    """How many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):  # Linux; elsewhere a process may use them all
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def threads(num_processes: int) -> int:
    """How large a pool each of so many processes should have: its share of the cores, or one where that is a few."""
    share = usable_cores() // num_processes
    return share if share >= ENOUGH_CORES else 1


def choose_thread_pool() -> bool:
    """Set ``NPROC=1`` on a machine with fewer than `ENOUGH_CORES` cores and say whether that was done.

    Leaves a user's own ``NPROC`` alone, and does nothing once JAX is imported, when it would be too late.
    """
    if "NPROC" in os.environ or "jax" in sys.modules or usable_cores() >= ENOUGH_CORES:
        return False
    os.environ["NPROC"] = "1"
    return True
