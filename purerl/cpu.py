"""Size of XLA's CPU thread pool, chosen before JAX is imported.

On machines with two or three cores jaxlib 0.10 can hang for ever once a few seeds are vmapped: every thread of its pool
waits for work of another thread. A pool of one thread never hangs and is also the fastest for the small networks that
such machines train. JAX reads the size of its pool from the environment variable ``NPROC`` when it is imported.

A CPU that is divided into several devices hangs with a pool of as many threads as devices or fewer, because each device
occupies one while it waits. Two threads per device were enough.

The command line, the tests and the scripts call `choose_thread_pool` first. In your own program do the same before
anything imports JAX, or set ``NPROC=1`` in the shell.
"""

import os
import re
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


def virtual_devices() -> int:
    """Number of devices that the environment divides the CPU into."""
    text = os.environ.get("JAX_NUM_CPU_DEVICES", "")
    asked = re.findall(r"--xla_force_host_platform_device_count=(\d+)", os.environ.get("XLA_FLAGS", ""))
    return max([1, *(int(number) for number in (*asked, text) if number.isdecimal())])


def choose_thread_pool() -> bool:
    """Set ``NPROC`` on a machine with few cores, or one that is divided into devices; returns whether it was set.

    It is 1 with fewer than `ENOUGH_CORES` cores. Keeps an ``NPROC`` that the user has set, and does nothing if JAX is
    already imported, because it is too late then.
    """
    devices = virtual_devices()
    if "NPROC" in os.environ or "jax" in sys.modules or usable_cores() >= max(ENOUGH_CORES, 2 * devices):
        return False
    os.environ["NPROC"] = "1" if devices == 1 else str(2 * devices)
    return True
