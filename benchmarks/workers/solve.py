"""Wall time of a whole process that trains one PPO agent until CartPole's evaluation is at least 475, as a JSON line.

Both libraries train by a short script with the same settings (`purerl_solve.py`, `sb3_solve.py`), which stops at the
first of the evaluations, of 16 complete episodes every 5,000 steps or so, that is good enough. The script of purerl
runs once before, so that its compilation cache is warm.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

GOOD = 475.0
EPISODES = 16

parser = argparse.ArgumentParser()
parser.add_argument("--library", choices=("purerl", "sb3"))
parser.add_argument("--iterations", type=int, help="environment steps at most")
parser.add_argument("--quick", action="store_true", help="take any evaluation")
parser.add_argument("--seed", type=int, default=0)
args = parser.parse_args()


def run(command, *words):
    """Run a Python program to its end: seconds of wall time, and the lines that it printed."""
    begun = time.perf_counter()
    done = subprocess.run([sys.executable, *command, *map(str, words)], check=True, stdout=subprocess.PIPE, text=True)
    return time.perf_counter() - begun, done.stdout.splitlines()


def solve(seed):
    """Seconds, environment steps and evaluation."""
    words = ["--total-steps", args.iterations, "--seed", seed, "--good", GOOD, "--episodes", EPISODES]
    seconds, lines = run([Path(__file__).parent / f"{args.library}_solve.py"], *words)
    return seconds, *json.loads(lines[-1])


compile_seconds = first_seconds = 0.0
if args.library == "purerl":
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / "purerl-benchmark-cache"))
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
    first_seconds, *_ = solve(args.seed)
seconds, env_steps, final_return = solve(args.seed)
if args.library == "purerl":
    compile_seconds = max(first_seconds - seconds, 0.0)  # what a cold cache adds, if it was cold
if final_return < GOOD and not args.quick:
    sys.exit(f"the evaluation is {final_return} after {env_steps} steps, less than {GOOD}")
measured = {
    "compile_seconds": compile_seconds,
    "run_seconds": seconds,
    "env_steps": env_steps,
    "final_return": final_return,
    # Of the children. This process is small, so it does not matter that their maximum includes its own.
    "peak_megabytes": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
}
print(json.dumps(measured))
