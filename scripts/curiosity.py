"""PPO with and without a bonus for novelty, random network distillation: a table and a picture.

All seeds of both train in one program with the same settings, those of `purerl.presets.preset("rnd", task)`; only the
weight of the bonus differs. The score is the return of complete episodes without exploration.

Usage: python scripts/curiosity.py --seeds 5 --seed 2 --out docs/curiosity.png
"""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from purerl.cpu import choose_thread_pool

choose_thread_pool()  # before jax is imported; see docs/cpu.md

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.ticker import EngFormatter  # noqa: E402

import purerl  # noqa: E402
from purerl.cli import schedules  # noqa: E402
from purerl.math.statistics import bootstrap_interval  # noqa: E402
from purerl.types import Array, PyTree  # noqa: E402


class Task(NamedTuple):
    """Environment with its options, environment steps per seed, and what the picture calls it."""

    name: str
    options: dict[str, Any]
    total_steps: int
    label: str


TASKS = {
    "deep-sea-10": Task("DeepSea-bsuite", {"size": 10}, 200_000, "DeepSea, size 10"),
    "deep-sea-20": Task("DeepSea-bsuite", {"size": 20}, 600_000, "DeepSea, size 20"),
    "mountain-car": Task("MountainCarContinuous-v0", {}, 200_000, "MountainCarContinuous"),
}
VARIANTS = {"ppo": 0.0, "rnd": 1.0}
"""Weight of the bonus."""
COLORS = {"ppo": "#777777", "rnd": "#0072B2"}


def run(task: Task, args: argparse.Namespace) -> tuple[list[int], np.ndarray]:
    """Environment steps per seed at each evaluation, and scores ``[evaluation, variant, seed]``."""
    env = purerl.make(task.name, **task.options)
    total_steps = args.total_steps or task.total_steps
    settings = dict(purerl.presets.preset("rnd", task.name).hyperparameters)
    for name, value in settings.items():
        if schedules.is_schedule(value):
            settings[name] = schedules.build(schedules.with_steps(value, total_steps))
    settings["learning_rate"] = purerl.LinearSchedule(settings["learning_rate"], 0.0, total_steps)
    agent = purerl.PPO(env=env, reward_model=purerl.RandomNetworkDistillation(), **settings)
    population = purerl.Population.grid(agent, args.seeds, {"reward_model.coef": list(VARIANTS.values())})

    def score(member: purerl.PPO, state: PyTree, key: Array) -> Array:
        policy = member.policy(state, explore=False)
        return jnp.mean(purerl.evaluate(env, policy, key, num_episodes=args.episodes).episode_return)

    key = jax.random.key(args.seed)
    keys = jax.random.split(jax.random.fold_in(key, 1), population.num_members)
    score_all = jax.jit(lambda state: population.map(score, state, keys))
    state = jax.jit(population.init)(key)
    num_iterations = -(-total_steps // agent.steps_per_iteration)
    steps, scores = [0], [score_all(state)]
    for progress in purerl.iterate(population, state, num_iterations, every=-(-num_iterations // args.evaluations)):
        steps.append(progress.env_steps)
        scores.append(score_all(progress.state))
        print(f"{task.label}, {progress.env_steps:,} steps:", np.round(scores[-1], 2).tolist(), flush=True)
    return steps, np.stack(scores).reshape(-1, len(VARIANTS), args.seeds)


def draw(results: dict[str, tuple[list[int], np.ndarray]], out: Path) -> None:
    """Learning curves: mean over seeds with its interval."""
    figure, axes = plt.subplots(1, len(results), figsize=(3.6 * len(results), 3.0), squeeze=False)
    for axis, (name, (steps, scores)) in zip(axes[0], results.items(), strict=True):
        for i, variant in enumerate(VARIANTS):
            axis.plot(steps, scores[:, i].mean(1), color=COLORS[variant], label=variant)
            interval = bootstrap_interval(scores[:, i].T)
            if interval is not None:
                axis.fill_between(steps, *interval, color=COLORS[variant], alpha=0.2, linewidth=0)
        axis.set_title(TASKS[name].label, fontsize=10)
        axis.set_xlabel("environment steps per seed")
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_ylabel("return")
    axes[0][0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(out, dpi=110)


def main() -> None:
    """Train, evaluate, report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--total-steps", type=int, help="per seed (default: by task)")
    parser.add_argument("--evaluations", type=int, default=20)
    parser.add_argument("--episodes", type=int, default=16)
    parser.add_argument("--out", type=Path, required=True, help="the picture, .png")
    args = parser.parse_args()
    results = {name: run(TASKS[name], args) for name in args.tasks}
    print("\n| task | algorithm | mean [95 % interval] | each seed |\n|---|---|---:|---|")
    for name, (_, scores) in results.items():
        for i, variant in enumerate(VARIANTS):
            last = np.sort(scores[-1, i])[::-1]
            interval = bootstrap_interval(last)
            within = "" if interval is None else f" [{interval[0]:.2f}, {interval[1]:.2f}]"
            each = ", ".join(f"{score:.2f}" for score in last)
            print(f"| {TASKS[name].label} | {variant} | {last.mean():.2f}{within} | {each} |")
    draw(results, args.out)


if __name__ == "__main__":
    main()
