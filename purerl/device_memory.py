"""Memory of the device, and memory needed by arrays before they are allocated."""

from __future__ import annotations

import math
import os
from pathlib import Path

import jax

from purerl.errors import InputError
from purerl.types import PyTree


def num_bytes(tree: PyTree) -> int:
    """Number of bytes of all leaves; shapes from `jax.eval_shape` are enough."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def device_bytes() -> int:
    """Memory of the first device in bytes; on CPU that of the machine or container."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"]
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        text = Path(path).read_text().strip() if Path(path).exists() else ""
        limits += [int(text)] if text.isdigit() else []
    return min(limits)


def check_fits(needed: int, what: str, remedy: str, fitting: str = "") -> None:
    """Raise `InputError` if `needed` bytes are more than the device has.

    Args:
        needed: number of bytes.
        what: for the message: name of what needs them, with the calculation.
        remedy: for the message: name of the option to reduce.
        fitting: for the message: what would fit.
    """
    limit = device_bytes()
    if needed > limit:
        there = f"there are {limit / 1e9:,.1f} GB"
        there += f", {fitting}" if fitting else ""
        raise InputError(f"{what} needs {needed / 1e9:,.1f} GB, and {there}: make {remedy} smaller")
