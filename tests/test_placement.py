"""Populations on several devices."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from purerl.training import placement

TESTS = Path(__file__).parent


@pytest.mark.parametrize(
    ("members", "shards", "numbers"),
    [(8, 1, [1, 2, 4, 8]), (1, 4, [1, 2, 4]), (3, 2, [1, 2, 3, 6]), (6, 4, [1, 2, 3, 4, 6, 8])],
)
def test_possible_numbers_of_devices(members, shards, numbers):
    assert placement.possible(members, shards, 8) == numbers


def test_on_four_devices():
    """JAX divides a CPU into devices before its first use, so this needs a process of its own."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=4"
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-n",
        "0",
        str(TESTS / "on_four_devices.py"),
    ]
    done = subprocess.run(
        words, cwd=TESTS.parent, env={**os.environ, "XLA_FLAGS": flags, "NPROC": "8"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-6000:]
