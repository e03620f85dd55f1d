"""Running a program of ``benchmarks/workers`` in a fresh process, and medians of what several runs of it printed."""

import json
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

WORKERS = Path(__file__).parent / "workers"


def run(python: Path | str, program: str, *words: str, env: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The JSON object in the last line that a worker printed."""
    command = [python, WORKERS / program, *words]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, timeout=600, env=env)
    return json.loads(done.stdout.splitlines()[-1])


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of each figure, over runs that all have it."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}
