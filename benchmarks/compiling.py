"""How long each algorithm takes to compile, with the settings of ``purerl train``, and what a warm cache leaves of it.

Each is traced and compiled in a fresh process with an empty compilation cache, then in another with what the first left
there. Seconds of tracing and lowering (Python), of compiling (XLA), and of both with a warm cache, medians.

Usage: python -m benchmarks.compiling [--algorithms NAME ...] [--rounds 3]
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

from benchmarks import worker
from benchmarks.report import machine
from purerl.cpu import choose_thread_pool
from purerl.presets import ALGORITHMS

HERE = Path(__file__).parent
ENVIRONMENTS = dict.fromkeys(ALGORITHMS, "CartPole-v1") | dict.fromkeys(
    ("ddpg", "td3", "sac", "apg", "shac"), "Pendulum-v1"
)
HEADINGS = ("algorithm", "environment", "tracing, s", "compiling, s", "both, warm cache, s")


def measure(algorithm: str, rounds: int) -> dict[str, float]:
    """Medians over `rounds`."""
    runs = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            env = {
                **os.environ,
                "JAX_COMPILATION_CACHE_DIR": cache,
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.1",
            }
            words = ("compiling.py", algorithm, ENVIRONMENTS[algorithm])
            cold, warm = (worker.run(sys.executable, *words, env=env) for _ in range(2))
        runs.append({**cold, "warm": warm["tracing"] + warm["compiling"]})
    return worker.medians(runs)


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compiling",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = list(ALGORITHMS)
    parser.add_argument("--algorithms", nargs="+", choices=names, default=names, metavar="NAME", help=", ".join(names))
    parser.add_argument("--rounds", type=int, default=3, help="compilations of each (default 3)")
    args = parser.parse_args()
    choose_thread_pool()  # the workers inherit it
    lines = [f"| {' | '.join(HEADINGS)} |", "|---|---|---:|---:|---:|"]
    print("\n".join(lines), flush=True)
    measured = {}
    for algorithm in args.algorithms:
        measured[algorithm] = seconds = measure(algorithm, args.rounds)
        figures = " | ".join(f"{seconds[key]:.1f}" for key in ("tracing", "compiling", "warm"))
        lines.append(f"| `{algorithm}` | {ENVIRONMENTS[algorithm]} | {figures} |")
        print(lines[-1], flush=True)
    if args.algorithms == names:
        out = HERE / "results" / "compiling.json"
        out.write_text(json.dumps({"machine": machine(), "seconds": measured}, indent=1) + "\n")
        out.with_suffix(".md").write_text("\n".join(lines) + "\n")
        print(f"written: {out}, and beside it the table (.md)")


if __name__ == "__main__":
    main()
