"""PPO on CartPole: purerl beside rejax 0.1.3, same hyper-parameters, same JAX, whole training timed, in turn A B A B.

rejax needs gymnax 0.0.9, so it gets a virtual environment of its own, made on the first run. Each job runs in a fresh
process; compile time is apart; what counts is the ratio within one run, because machines drift.

Usage: python -m benchmarks.ppo_vs_rejax [--rounds 5]
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks.peers import peer_python
from purerl.cpu import choose_thread_pool, usable_cores

HERE = Path(__file__).parent
# (environments, iterations of 128 steps, seeds)
JOBS = [(4, 400, 1), (256, 20, 1), (2048, 3, 1), (4, 100, 8)]


def measure(python: Path, worker: str, num_envs: int, iterations: int, seeds: int) -> dict:
    flags = ["--num-envs", str(num_envs), "--iterations", str(iterations), "--seeds", str(seeds)]
    command = [python, HERE / "workers" / f"{worker}_ppo.py", *flags]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each job (default 5); medians are reported")
    args = parser.parse_args()
    choose_thread_pool()  # for both: the workers inherit it
    pythons = {"purerl": Path(sys.executable), "rejax": peer_python("rejax")}
    rows = []
    for num_envs, iterations, seeds in JOBS:
        runs = {name: [] for name in pythons}
        for _ in range(args.rounds):
            for name, python in pythons.items():
                runs[name].append(measure(python, name, num_envs, iterations, seeds))
        ratios = [
            theirs["run_seconds"] / ours["run_seconds"]
            for ours, theirs in zip(runs["purerl"], runs["rejax"], strict=True)
        ]
        row = {"num_envs": num_envs, "seeds": seeds, "ratio": statistics.median(ratios), "ratios": ratios}
        for name, measured in runs.items():
            row[name] = {key: statistics.median(run[key] for run in measured) for key in measured[0]}
        rows.append(row)
        steps = {name: row[name]["env_steps"] / row[name]["run_seconds"] for name in pythons}
        compiling = {name: row[name]["compile_seconds"] for name in pythons}
        print(
            f"{num_envs:5d} environments, {seeds} seeds: purerl {steps['purerl']:9,.0f} steps/s, rejax "
            f"{steps['rejax']:9,.0f} steps/s, ratio {row['ratio']:.2f} (from {min(ratios):.2f} to {max(ratios):.2f}), "
            f"compiling {compiling['purerl']:.1f} s and {compiling['rejax']:.1f} s",
            flush=True,
        )
    report = {
        "machine": {"processor": platform.machine(), "cores": usable_cores(), "NPROC": os.environ.get("NPROC")},
        "versions": {"python": platform.python_version(), "jax": importlib.metadata.version("jax"), "rejax": "0.1.3"},
        "rows": rows,
    }
    out = HERE / "results" / "ppo_vs_rejax.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
