"""Population-based training against a random sweep with as many steps: a table of every repeat.

Both begin with the same random hyper-parameters of PPO and the same random keys; only the exchanges differ. Scores are
returns of complete episodes without exploration, after the training. Runs are kept in `--out` and not trained again.

Usage: python scripts/pbt.py --envs Acrobot-v1 Pendulum-v1 --repeats 4
"""

import argparse
from pathlib import Path

from purerl.cpu import choose_thread_pool

choose_thread_pool()  # before jax is imported; see docs/cpu.md

import numpy as np  # noqa: E402

from purerl.cli import main as purerl  # noqa: E402
from purerl.cli.run_directory import RunDirectory  # noqa: E402

STEPS = {"Acrobot-v1": 100_000, "Pendulum-v1": 300_000}
VARY = {"learning-rate": "random-log:1e-5:1e-1", "entropy-coef": "random-log:1e-4:1e-1", "gae-lambda": "random:0.8:1"}


def train(env: str, repeat: int, args: argparse.Namespace, *, exchanges: bool) -> np.ndarray:
    """Final score of each member."""
    out = Path(args.out) / f"{env}-{'pbt' if exchanges else 'sweep'}-{repeat}"
    if not (out / "summary.json").exists():
        steps = args.total_steps or STEPS.get(env, 300_000)
        words = ["train", "ppo", env, "--seed", repeat, "--total-steps", steps, "--no-anneal", "--eval-every", 0]
        for name, values in VARY.items():
            words += ["--vary", f"{name}={values}:{args.members}"]
        # About thirty exchanges.
        words += ["--log-every", args.every, *(["--pbt-every", args.every] if exchanges else [])]
        words += ["--eval-episodes", args.episodes, "--out", out, "--overwrite"]
        if code := purerl(list(map(str, words))):
            raise SystemExit(code)
    summary = RunDirectory.open(out).summary()
    assert summary is not None
    return np.array([np.nan if score is None else score for score in summary["eval_return"]["per_member"]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--envs", nargs="+", default=list(STEPS), help="environments (default %(default)s)")
    parser.add_argument("--repeats", type=int, default=4, help="seeds of the whole comparison (default %(default)s)")
    parser.add_argument("--members", type=int, default=16, help="members of each population (default %(default)s)")
    parser.add_argument("--every", type=int, default=6, help="iterations between exchanges (default %(default)s)")
    parser.add_argument("--total-steps", type=int, help="environment steps per member (default by environment)")
    parser.add_argument("--episodes", type=int, default=64, help="of the last evaluation (default %(default)s)")
    parser.add_argument("--out", default="runs/pbt", help="directory of the runs (default %(default)s)")
    args = parser.parse_args()
    rows = []
    for env in args.envs:
        for repeat in range(args.repeats):
            pbt, sweep = (train(env, repeat, args, exchanges=exchanges) for exchanges in (True, False))
            numbers = (np.nanmedian(pbt), np.nanmedian(sweep), np.nanmax(pbt), np.nanmax(sweep))
            rows.append(f"| {env} | {repeat} | {' | '.join(f'{number:.1f}' for number in numbers)} |")
    print("| environment | repeat | median PBT | median sweep | best PBT | best sweep |")
    print("|---|---|---:|---:|---:|---:|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
