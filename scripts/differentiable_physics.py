"""Comparison of gradients through the dynamics (SHAC, APG) with gradients from samples (PPO) on one task.

Each algorithm trains all its seeds in one program, with its preset, and is evaluated during training without
exploration. The picture shows the return against environment steps and against time. The table shows the steps and
seconds that each needed for 95 % of PPO's improvement from its first to its last return. Times are training alone;
compile time is a separate column. Other flags, such as ``--env.backend spring``, are passed to each algorithm as to
``purerl train``.

Usage: python scripts/differentiable_physics.py --env smooth/cartpole-swingup --seeds 5 --out runs/physics
"""

import argparse
import dataclasses
import json
from pathlib import Path

from purerl.cpu import choose_thread_pool

choose_thread_pool()  # before jax is imported; see docs/cpu.md

import jax  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.ticker import EngFormatter  # noqa: E402

import purerl  # noqa: E402
from purerl.cli.configure import configure  # noqa: E402
from purerl.math.statistics import bootstrap_interval  # noqa: E402

COLORS = {"shac": "#D55E00", "apg": "#009E73", "ppo": "#0072B2"}


@dataclasses.dataclass(frozen=True)
class Curve:
    """Learning curve of an algorithm: at each evaluation the steps per seed, seconds for all seeds, and returns."""

    steps: list[int]
    seconds: list[float]
    returns: list[list[float]]
    compile_seconds: float

    @property
    def mean(self) -> np.ndarray:
        return np.mean(self.returns, axis=1)

    def first(self, bar: float) -> int | None:
        """Index of the first evaluation from which on the mean over seeds stays at or above `bar`, or None."""
        below = np.flatnonzero(self.mean < bar)
        first = 0 if len(below) == 0 else int(below[-1]) + 1
        return first if first < len(self.steps) else None


def train(algorithm: str, args: argparse.Namespace, flags: list[str]) -> Curve:
    words = ["--seeds", str(args.seeds), "--seed", str(args.seed), *flags]
    steps = dict(word.split("=") for word in args.total_steps)
    if algorithm in steps:
        words += ["--total-steps", steps[algorithm]]
    config, _, _ = configure(algorithm, args.env, words)
    population = config.population()

    @jax.jit
    def assess(population, state, key):
        def one(member, state, key):
            return purerl.evaluate(member.env, member.policy(state, explore=False), key, args.episodes).episode_return

        return population.map(one, state, jax.random.split(key, args.seeds)).mean(axis=1)

    key = jax.random.key(config.seed)
    state = jax.jit(population.init)(key)
    curve = Curve([0], [0.0], [np.asarray(assess(population, state, jax.random.fold_in(key, 1))).tolist()], 0.0)
    every = max(1, config.num_iterations // args.evaluations)
    for progress in purerl.iterate(population, state, config.num_iterations, every=every):
        returns = np.asarray(assess(population, progress.state, jax.random.fold_in(key, 1)))
        curve.steps.append(progress.env_steps)
        curve.seconds.append(progress.run_seconds)
        curve.returns.append(returns.tolist())
        curve = dataclasses.replace(curve, compile_seconds=progress.compile_seconds)
        print(
            f"{algorithm}: {progress.env_steps:,} steps, {progress.run_seconds:.1f} s, "
            f"return {returns.mean():.1f} ({returns.min():.1f} to {returns.max():.1f})",
            flush=True,
        )
    return curve


def table(curves: dict[str, Curve]) -> str:
    """Markdown table: final returns, steps and seconds to 95 % of the gain of PPO (or of the last algorithm)."""
    reference = curves["ppo" if "ppo" in curves else list(curves)[-1]].mean
    bar = float(0.05 * reference[0] + 0.95 * reference[-1])
    lines = [
        "| | steps | final return | each seed | compiling, s | training, s | "
        f"steps to {bar:.1f} | seconds to {bar:.1f} |",
        "|---|---:|---:|---|---:|---:|---:|---:|",
    ]
    for name, curve in curves.items():
        at = curve.first(bar)
        reached = "never | never" if at is None else f"{curve.steps[at]:,} | {curve.seconds[at]:.1f}"
        each = ", ".join(f"{x:.1f}" for x in curve.returns[-1])
        lines.append(
            f"| {name.upper()} | {curve.steps[-1]:,} | {curve.mean[-1]:.1f} | {each} | {curve.compile_seconds:.1f} | "
            f"{curve.seconds[-1]:.1f} | {reached} |"
        )
    return "\n".join(lines) + "\n"


def draw(curves: dict[str, Curve], title: str, out: Path) -> None:
    """Draw the return against steps and against seconds, means and 95 % intervals over seeds."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained", sharey=True)
    for name, curve in curves.items():
        band = bootstrap_interval(np.asarray(curve.returns).T)
        for ax, x in zip(axes, (curve.steps, curve.seconds), strict=True):
            ax.plot(x[1:], curve.mean[1:], color=COLORS[name], label=name.upper())
            if band is not None:
                ax.fill_between(x[1:], *(edge[1:] for edge in band), color=COLORS[name], alpha=0.2, linewidth=0)
    for ax, label in zip(axes, ("environment steps per seed", "seconds of training, all seeds"), strict=True):
        ax.set_xscale("log")
        ax.set_xlabel(label)
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))
        ax.grid(alpha=0.25)
    axes[0].set_ylabel("return without exploring")
    axes[0].legend()
    figure.suptitle(title)
    figure.savefig(out, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="smooth/cartpole-swingup", help="a differentiable environment")
    parser.add_argument("--algorithms", nargs="+", default=list(COLORS), choices=list(COLORS), help="algorithms")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds of each algorithm (default 5)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of all runs (default 0)")
    parser.add_argument(
        "--total-steps",
        nargs="+",
        default=[],
        metavar="NAME=STEPS",
        help="environment steps per seed of an algorithm (default: those of the presets)",
    )
    parser.add_argument("--evaluations", type=int, default=25, help="number of evaluations per curve (default 25)")
    parser.add_argument("--episodes", type=int, default=32, help="episodes per evaluation and seed (default 32)")
    parser.add_argument("--out", type=Path, default=Path("runs/physics"), help="output directory")
    args, flags = parser.parse_known_args()
    args.out.mkdir(parents=True, exist_ok=True)
    curves = {name: train(name, args, flags) for name in args.algorithms}
    lines = table(curves)
    (args.out / "table.md").write_text(lines)
    (args.out / "curves.json").write_text(json.dumps({name: dataclasses.asdict(c) for name, c in curves.items()}))
    draw(curves, f"{args.env}, {args.seeds} seeds", args.out / "curves.png")
    print(lines, args.out / "curves.png", sep="\n")


if __name__ == "__main__":
    main()
