"""How much memory this process has needed at most. Linux only, like the benchmarks."""

from pathlib import Path


def peak_megabytes() -> float:
    """Peak resident memory since the program began.

    Not `resource.getrusage`: its maximum includes that of the process this one was forked from, such as a test runner.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = next(line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kilobytes) / 1024
