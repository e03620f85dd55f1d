"""Running the workers, each in a fresh process, in turn A B A B as machines drift; medians and ratios of rounds."""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.jobs import CONTESTANTS, OURS, Job
from benchmarks.worker import WORKERS

PATIENCE = 600.0  # seconds that one worker may take


class WorkerError(Exception):
    """Why one contestant has no figures, in one line."""


def prepare(jobs: list[Job]) -> dict[str, Path | str]:
    """For each peer that takes part in `jobs`: the interpreter of its environment, or why there is none."""
    wanted = {CONTESTANTS[name].peer for job in jobs for name in job.iterations} - {None}
    pythons: dict[str, Path | str] = {}
    for peer in sorted(name for name in wanted if name):
        try:
            pythons[peer] = peers.peer_python(peer)
        except (subprocess.CalledProcessError, OSError) as error:
            pythons[peer] = f"cannot be installed: {error}"
            print(f"{peer} {pythons[peer]}", flush=True)
    return pythons


def measure(job: Job, rounds: int, quick: bool, pythons: Mapping[str, Path | str]) -> dict[str, Any]:
    """All contestants of one job, every round in the same order. One that fails sits out the rounds that remain."""
    runs: dict[str, list[dict]] = {name: [] for name in job.iterations}
    errors: dict[str, str] = {}
    for number in range(rounds):
        for name in job.iterations:
            if name in errors:
                continue
            try:
                runs[name].append(_run(job, name, number, quick, pythons))
            except WorkerError as error:
                errors[name] = str(error)
                print(f"  round {number + 1}: {name} failed: {error}", flush=True)
            else:
                print(f"  round {number + 1}: {_line(name, runs[name][-1])}", flush=True)
    return summarize(job, runs, errors)


def summarize(job: Job, runs: Mapping[str, list[dict]], errors: Mapping[str, str]) -> dict[str, Any]:
    """Medians of each contestant, and how many times as fast purerl was in each round."""
    ours = next((runs[name] for name in OURS if runs.get(name)), [])
    contestants = {}
    for name, done in runs.items():
        row: dict[str, Any] = {"runs": done}
        if name in errors:
            row["error"] = errors[name]
        if done:
            row["median"] = {key: _median([run[key] for run in done]) for key in done[0]}
        # Not strict: who failed later has fewer rounds.
        row["ratios"] = [_ratio(job, our, their) for our, their in zip(ours, done, strict=False)]
        if row["ratios"]:
            row["ratio"] = statistics.median(row["ratios"])
        contestants[name] = row
    return {"title": job.title, "by_seconds": job.by_seconds, "contestants": contestants}


def _ratio(job: Job, ours: Mapping[str, float], theirs: Mapping[str, float]) -> float:
    """How many times as fast purerl is. For a floor: the part of purerl's time that it makes up."""
    if job.by_seconds:
        return theirs["run_seconds"] / ours["run_seconds"]
    return ours["steps_per_second"] / theirs["steps_per_second"]


def _run(job: Job, name: str, seed: int, quick: bool, pythons: Mapping[str, Path | str]) -> dict[str, Any]:
    contestant = CONTESTANTS[name]
    python = sys.executable if contestant.peer is None else pythons[contestant.peer]
    if isinstance(python, str) and contestant.peer is not None:
        raise WorkerError(python)
    program, *own = contestant.worker
    command = [str(python), str(WORKERS / program), *own]
    for flag, value in {**job.flags, "iterations": job.quick if quick else job.iterations[name], "seed": seed}.items():
        command += [f"--{flag}", str(value)]
    if quick:
        command += job.quick_flags
    begun = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=_environment(job))
    except subprocess.TimeoutExpired as error:
        raise WorkerError(f"took more than {PATIENCE:.0f} s") from error
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"ended with status {done.returncode}"]
        raise WorkerError(lines[-1])
    wall = time.perf_counter() - begun
    try:
        run = json.loads(done.stdout.splitlines()[-1])
    except (IndexError, json.JSONDecodeError) as error:
        raise WorkerError(f"printed no result: {done.stdout.strip()[-200:]!r}") from error
    return {**run, "steps_per_second": run["env_steps"] / run["run_seconds"], "process_seconds": wall}


def _environment(job: Job) -> dict[str, str]:
    """PyTorch gets as many threads as JAX was told to use."""
    threads = str(job.threads) if job.threads else os.environ.get("NPROC")
    return {**os.environ, **({"NPROC": threads, "OMP_NUM_THREADS": threads} if threads else {})}


def _median(values: list[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return statistics.median(present) if present else None


def _line(name: str, run: Mapping[str, Any]) -> str:
    return (
        f"{name:22s} {run['steps_per_second']:12,.0f} steps/s in {run['run_seconds']:6.2f} s, compiling "
        f"{run['compile_seconds']:5.1f} s, {run['peak_megabytes']:6,.0f} MB, process {run['process_seconds']:5.1f} s"
    )
