"""Outer search with Optuna: each trial is one program that trains several seeds, and its score is their mean.

What shapes a program (network, number of environments) and what does not are searched together. Trials are runs in the
directory `--out`, beside the study, which goes on where it stopped. Needs ``pip install optuna``.

Usage: python scripts/outer_search.py --trials 20 --out runs/search
"""

import argparse
import sys
from pathlib import Path

from purerl.cpu import choose_thread_pool

choose_thread_pool()  # before jax is imported; see docs/cpu.md

from purerl.cli import main as purerl  # noqa: E402
from purerl.cli.run_directory import RunDirectory  # noqa: E402

try:
    import optuna  # pyright: ignore[reportMissingImports]
except ImportError:
    sys.exit("this script needs the library Optuna: pip install optuna")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="CartPole-v1", help="environment (default %(default)s)")
    parser.add_argument("--trials", type=int, default=20, help="trials in all (default %(default)s)")
    parser.add_argument("--seeds", type=int, default=4, help="seeds of each trial (default %(default)s)")
    parser.add_argument("--total-steps", type=int, default=50_000, help="steps per seed (default %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("runs/search"), help="directory (default %(default)s)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    def score(trial: optuna.Trial) -> float:
        flags = {
            "learning-rate": trial.suggest_float("learning-rate", 1e-5, 1e-1, log=True),
            "gae-lambda": trial.suggest_float("gae-lambda", 0.8, 1.0),
            "num-envs": trial.suggest_categorical("num-envs", [4, 16]),
            "hidden-sizes": trial.suggest_categorical("hidden-sizes", ["64", "64 64"]),
        }
        out = args.out / f"trial-{trial.number}"
        words = ["train", "ppo", args.env, "--seeds", args.seeds, "--total-steps", args.total_steps, "--eval-every", 0]
        words += ["--out", out, "--overwrite"]
        for name, value in flags.items():
            words += [f"--{name}", *str(value).split()]
        if code := purerl(list(map(str, words))):
            raise SystemExit(code)
        summary = RunDirectory.open(out).summary()
        assert summary is not None
        mean = summary["eval_return"]["mean"]
        if mean is None:
            raise optuna.TrialPruned("all members diverged")
        return mean

    study = optuna.create_study(
        study_name="purerl", direction="maximize", storage=f"sqlite:///{args.out}/study.db", load_if_exists=True
    )
    study.optimize(score, n_trials=max(0, args.trials - len(study.trials)))
    print(f"best of {len(study.trials)} trials: {study.best_value:.1f} with {study.best_params}")


if __name__ == "__main__":
    main()
