"""Benchmark of algorithms on environments with many seeds: a table with confidence intervals, and a picture.

Every pair is one run directory, trained with its preset and all seeds in one program. The command can be repeated:
finished runs are kept, and interrupted ones continue.

Usage: python scripts/seed_benchmark.py --algorithms ppo a2c --envs CartPole-v1 Acrobot-v1 --seeds 16 --out runs/16
"""

import argparse
import itertools
import json
import math
import sys
from pathlib import Path

from purerl.cpu import choose_thread_pool

choose_thread_pool()  # before jax is imported; see docs/cpu.md

import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.ticker import EngFormatter  # noqa: E402

from purerl import cli  # noqa: E402
from purerl.cli.plot import COLORS  # noqa: E402
from purerl.math.statistics import bootstrap_interval, summarize  # noqa: E402

LAST_EPISODES, EVALUATION_EPISODES = 100, 128


def train(algorithm: str, env: str, args: argparse.Namespace) -> Path:
    """Train or resume one algorithm on one environment; returns the run directory."""
    directory = args.out / f"{algorithm}-{env.replace('/', '-')}"
    command = ["train", algorithm, env, "--out", directory, "--seeds", args.seeds, "--seed", args.seed]
    command += ["--eval-episodes", EVALUATION_EPISODES]
    if args.total_steps is not None:
        command += ["--total-steps", args.total_steps]
    if (directory / "config.json").exists():
        command = ["train", "--resume", directory]
    if code := cli.main([str(word) for word in command]):
        sys.exit(code)
    return directory


def training_returns(rows: list[dict], members: int) -> np.ndarray:
    """Mean return of each member's last hundred training episodes (or a few more: only whole rows are used)."""
    returns = []
    for member in range(members):
        total = count = 0.0
        for row in reversed([row for row in rows if row["member"] == member]):
            if row["episodes"] and count < LAST_EPISODES:
                total += row["episode_return"] * row["episodes"]
                count += row["episodes"]
        returns.append(total / count if count else math.nan)
    return np.asarray(returns)


def table(runs: list[tuple[dict, list[dict]]]) -> str:
    """Markdown table with one line per run."""
    head = "algorithm | environment | steps | last 100 training episodes | evaluation | IQM | 95 % interval | each seed"
    lines = [f"| {head} |", "|---|---|---:|---:|---:|---:|---|---|"]
    for summary, rows in runs:
        training = summarize(training_returns(rows, summary["members"]))
        evaluation = summary["eval_return"]
        interval = "" if evaluation["ci95"] is None else "{:.2f} to {:.2f}".format(*evaluation["ci95"])
        lines.append(
            f"| {summary['algorithm']} | {summary['env']} | {summary['total_steps']:,} | {training['mean']:.2f} | "
            f"{evaluation['mean']:.2f} | {evaluation['iqm']:.2f} | {interval} | "
            f"{', '.join(f'{x:.1f}' for x in evaluation['per_member'])} |"
        )
    return "\n".join(lines) + "\n"


def draw(runs: list[tuple[dict, list[dict]]], out: Path) -> None:
    """Draw the training return against environment steps, one panel per environment, mean and 95 % interval."""
    envs = list(dict.fromkeys(summary["env"] for summary, _ in runs))
    columns = min(3, len(envs))
    shape = (-(-len(envs) // columns), columns)
    size = (7.5, 4.5) if len(envs) == 1 else (4 * columns, 2.8 * shape[0])
    figure, axes = plt.subplots(*shape, figsize=size, layout="constrained", squeeze=False)
    for env, ax in zip(envs, axes.flat, strict=False):
        here = [(summary, rows) for summary, rows in runs if summary["env"] == env]
        for (summary, rows), color in zip(here, itertools.cycle(COLORS), strict=False):
            draw_curve(ax, summary, rows, color)
        ax.set_title(f"{env}, {here[0][0]['members']} seeds", fontsize="medium")
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.grid(alpha=0.25)
    axes.flat[0].legend(fontsize="small")
    for ax in axes.flat[len(envs) :]:
        ax.set_axis_off()
    figure.supxlabel("environment steps per seed")
    figure.supylabel("episode return in training")
    figure.savefig(out, dpi=150)


def draw_curve(ax: Axes, summary: dict, rows: list[dict], color: str) -> None:
    steps = np.asarray([row["env_steps"] for row in rows if row["member"] == 0])
    returns = [[row["episode_return"] for row in rows if row["member"] == m] for m in range(summary["members"])]
    returns = np.asarray(returns, dtype=float)
    seen = np.isfinite(returns).all(axis=0)
    ax.plot(steps[seen], returns[:, seen].mean(axis=0), color=color, label=summary["algorithm"])
    band = bootstrap_interval(returns[:, seen])
    if band is not None:
        ax.fill_between(steps[seen], *band, color=color, alpha=0.2, linewidth=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algorithms", nargs="+", default=["ppo"], help="algorithms (default ppo)")
    parser.add_argument("--envs", nargs="+", default=["CartPole-v1", "Acrobot-v1"], help="environments")
    parser.add_argument("--seeds", type=int, default=8, help="number of seeds of each run (default 8)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the whole benchmark (default 0)")
    parser.add_argument("--total-steps", type=int, help="environment steps per seed (default: that of each preset)")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="output directory")
    args = parser.parse_args()
    runs = []
    for algorithm, env in itertools.product(args.algorithms, args.envs):
        directory = train(algorithm, env, args)
        summary = json.loads((directory / "summary.json").read_text())
        runs.append((summary, [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]))
    lines = table(runs)
    (args.out / "table.md").write_text(lines)
    draw(runs, args.out / "curves.png")
    print(lines, args.out / "curves.png", sep="\n")


if __name__ == "__main__":
    main()
