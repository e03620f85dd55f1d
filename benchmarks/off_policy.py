"""DQN on CartPole, SAC and TD3 on Pendulum: purerl beside rejax 0.1.3, same hyper-parameters, same JAX, A B A B.

One environment, one update per step; the random steps before learning are not counted. Each job runs in a fresh
process; compile time is apart; what counts is the ratio within one round, because machines drift.

Usage: python -m benchmarks.off_policy [--rounds 5] [--algorithm dqn sac td3]
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

from benchmarks import peers
from purerl.cpu import choose_thread_pool, usable_cores

HERE = Path(__file__).parent
# (algorithm, seeds, buffer size, steps of each seed for purerl, for rejax). Speeds are compared, so each may run for as
# long as takes seconds: rejax's sampling takes time in proportion to the buffer.
JOBS = [
    ("dqn", 1, 100_000, 50_000, 5_000),
    ("dqn", 8, 100_000, 10_000, 1_000),
    ("dqn", 64, 100_000, 2_000, 100),
    ("dqn", 1, 10_000, 50_000, 20_000),
    ("sac", 1, 100_000, 5_000, 3_000),
    ("sac", 8, 100_000, 1_000, 500),
    ("sac", 64, 100_000, 200, 50),
    ("td3", 1, 100_000, 10_000, 5_000),
    ("td3", 8, 100_000, 2_000, 500),
    ("td3", 64, 100_000, 400, 50),
]


def measure(python: Path, worker: str, algorithm: str, seeds: int, buffer_size: int, steps: int) -> dict:
    flags = ["--algorithm", algorithm, "--seeds", seeds, "--buffer-size", buffer_size, "--total-steps", steps]
    command = [python, HERE / "workers" / f"{worker}_off_policy.py", *map(str, flags)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
    run = json.loads(done.stdout.splitlines()[-1])
    return {**run, "steps_per_second": run["env_steps"] / run["run_seconds"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each job (default 5); medians are reported")
    parser.add_argument("--algorithm", nargs="+", default=["dqn", "sac", "td3"], help="which (default all)")
    args = parser.parse_args()
    choose_thread_pool()  # for both: the workers inherit it
    pythons = {"purerl": Path(sys.executable), "rejax": peers.peer_python("rejax")}
    rows = []
    for algorithm, seeds, buffer_size, *lengths in JOBS:
        if algorithm not in args.algorithm:
            continue
        runs = {name: [] for name in pythons}
        for _ in range(args.rounds):
            for (name, python), steps in zip(pythons.items(), lengths, strict=True):
                runs[name].append(measure(python, name, algorithm, seeds, buffer_size, steps))
        ratios = [
            ours["steps_per_second"] / theirs["steps_per_second"]
            for ours, theirs in zip(runs["purerl"], runs["rejax"], strict=True)
        ]
        row = {"algorithm": algorithm, "seeds": seeds, "buffer_size": buffer_size}
        row |= {"ratio": statistics.median(ratios), "ratios": ratios}
        for name, measured in runs.items():
            row[name] = {key: statistics.median(run[key] for run in measured) for key in measured[0]}
        rows.append(row)
        speed = {name: row[name]["steps_per_second"] for name in pythons}
        compiling = {name: row[name]["compile_seconds"] for name in pythons}
        print(
            f"{algorithm:4s} {seeds:3d} seeds, buffer {buffer_size:8,d}: purerl {speed['purerl']:9,.0f} steps/s, rejax "
            f"{speed['rejax']:9,.0f} steps/s, ratio {row['ratio']:.2f} (from {min(ratios):.2f} to {max(ratios):.2f}), "
            f"compiling {compiling['purerl']:.1f} s and {compiling['rejax']:.1f} s",
            flush=True,
        )
    report = {
        "machine": {"processor": platform.machine(), "cores": usable_cores(), "NPROC": os.environ.get("NPROC")},
        "versions": {
            "python": platform.python_version(),
            "jax": importlib.metadata.version("jax"),
            "rejax": peers.versions()["rejax"],
        },
        "rows": rows,
    }
    out = HERE / "results" / "off_policy.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
