"""Wall time of a whole process that trains one PPO agent until CartPole's evaluation is at least 475, as a JSON line.

purerl is its command line as a user types it, with all it does beside training (evaluations, checkpoints, a picture);
it runs once before, so that its compilation cache is warm. Stable-Baselines3 is `sb3_solve.py`. Both play 16 complete
evaluation episodes; Stable-Baselines3 may stop as soon as an evaluation along the way is good enough, purerl trains for
all the steps it was given.
"""

import argparse
import json
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


def purerl(seed):
    """Seconds, environment steps and evaluation."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            "--total-steps",
            args.iterations,
            "--seed",
            seed,
            "--eval-episodes",
            EPISODES,
            "--out",
            f"{folder}/run",
        ]
        seconds, _ = run(["-m", "purerl", "train", "ppo", "CartPole-v1"], *words)
        summary = json.loads((Path(folder) / "run" / "summary.json").read_text())
    return seconds, summary["total_steps"], summary["eval_return"]["mean"]


def sb3(seed):
    words = ["--total-steps", args.iterations, "--seed", seed, "--good", GOOD, "--episodes", EPISODES]
    seconds, lines = run([Path(__file__).parent / "sb3_solve.py"], *words)
    return seconds, *json.loads(lines[-1])


if args.library == "purerl":
    first_seconds, *_ = purerl(args.seed + 1_000)
    seconds, env_steps, final_return = purerl(args.seed)
    compile_seconds = max(first_seconds - seconds, 0.0)  # what a cold cache adds, if it was cold
else:
    seconds, env_steps, final_return = sb3(args.seed)
    compile_seconds = 0.0
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
