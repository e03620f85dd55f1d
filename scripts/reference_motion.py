"""Ablation of reference-state initialisation (RSI) and early termination (ET), as in DeepMimic: a table and a picture.

A planar quadrotor learns to follow a motion that iLQR planned: a flip, or a gentle flight to the side. PPO trains all
four variants with all seeds in one program. All are evaluated alike, without exploration and without early termination:
from the start of the motion, and from random phases. The score is the mean reward per step; 1 is perfect.

Usage: python scripts/reference_motion.py --motions flip glide --seeds 5 --seed 1 --out docs/reference_motion.png
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from purerl.cpu import choose_thread_pool

choose_thread_pool()  # before jax is imported; see docs/cpu.md

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.ticker import EngFormatter  # noqa: E402

import purerl  # noqa: E402
from purerl import struct  # noqa: E402
from purerl.environments import (  # noqa: E402
    ImitateMotion,
    Motion,
    Term,
    TimeLimit,
    WithReward,
    record_motion,
    smooth,
)
from purerl.math.statistics import bootstrap_interval  # noqa: E402
from purerl.physics.control import ILQR  # noqa: E402
from purerl.types import Array, PyTree, TimeStep  # noqa: E402

NUM_STEPS = 50
VARIANTS = {"RSI + ET": (1.0, True), "ET": (0.0, True), "RSI": (1.0, False), "neither": (0.0, False)}
"""Probability of a random start, and whether episodes end early."""
COLORS = {"RSI + ET": "#0072B2", "ET": "#D55E00", "RSI": "#009E73", "neither": "#777777"}
ENV = smooth.Quadrotor()


class Target(NamedTuple):
    """What a planned motion is to reach, as ``goal(t) -> (x, angle)`` of the step t, and what the picture shows."""

    goal: Callable[[Array], tuple[Array, Array]]
    entry: int
    unit: float
    label: str


def _ramp(t: Array) -> Array:
    """From 0 to 1 between the steps 8 and 30, smoothly."""
    share = jnp.clip((t - 8.0) / 22.0, 0.0, 1.0)
    return share**2 * (3.0 - 2.0 * share)


TARGETS = {
    "flip": Target(lambda t: (jnp.float32(0.0), 2.0 * math.pi * _ramp(t)), 2, 2.0 * math.pi, "rotation (turns)"),
    "glide": Target(lambda t: (0.5 * _ramp(t), jnp.float32(0.0)), 0, 1.0, "x (m)"),
}


def plan(target: Target) -> Motion:
    """The motion of the quadrotor from rest, planned by iLQR."""

    def reward(state: PyTree, action: Array, timestep: TimeStep) -> Array:
        x, angle = target.goal(timestep.state.num_steps)
        s = timestep.state.env
        off = (s[0] - x) ** 2 + s[1] ** 2 + 2.0 * (s[2] - angle) ** 2 + 0.01 * jnp.sum(s[3:5] ** 2)
        return -off - 0.02 * jnp.sum(action**2)

    rest = TimeStep(
        jnp.zeros(6), jnp.float32([0, 0, 1, 0, 0, 0, 0]), jnp.float32(0.0), jnp.bool_(False), jnp.bool_(False)
    )
    # The time limit counts the steps, which the reward needs; it is never reached.
    model = WithReward(TimeLimit(ENV, 10 * NUM_STEPS), reward)
    start = struct.replace(model.reset(jax.random.key(0)).state, env=rest.state)
    planner = ILQR(horizon=NUM_STEPS, num_iterations=60)
    actions = jax.jit(lambda: planner.plan(model, start, jax.random.key(0)))().actions
    return record_motion(ENV, rest, actions, jax.random.key(0))


def pose(state: Array) -> Array:
    """Orientation as a unit vector."""
    return jnp.stack([jnp.cos(state[2]), jnp.sin(state[2])])


def rate(state: Array) -> Array:
    """Angular velocity (rad/s)."""
    return state[5:]


def rotors(state: Array) -> Array:
    """Positions of both rotors (m), the end effectors."""
    arm = ENV.arm_length * pose(state)
    return jnp.concatenate([state[:2] - arm, state[:2] + arm])


def position(state: Array) -> Array:
    """Centre of mass (m)."""
    return state[:2]


def terms(tolerance: float) -> dict[str, Term]:
    """Terms with the weights and scales of DeepMimic; early termination at 60 degrees or 1 m off."""
    return {
        "pose": Term(pose, 0.65, 2.0, tolerance),
        "velocity": Term(rate, 0.1, 0.1),
        "end_effectors": Term(rotors, 0.15, 40.0),
        "position": Term(position, 0.1, 10.0, tolerance),
    }


class Result(NamedTuple):
    """Outcome of one motion: scores ``[evaluation, variant, seed]`` after `steps`, and the last flights.

    Attributes:
        steps: environment steps per seed at each evaluation.
        start: scores from the start of the motion.
        phases: scores from random phases.
        flights: drawn quantity ``[variant, seed, NUM_STEPS]`` of the last flight from the start.
        reference: the same of the motion.
    """

    steps: list[int]
    start: np.ndarray
    phases: np.ndarray
    flights: np.ndarray
    reference: np.ndarray


def run(target: Target, args: argparse.Namespace) -> Result:
    """Train and evaluate the four variants on one motion."""
    motion = plan(target)
    task = ImitateMotion(ENV, motion, terms(1.0))
    free = ImitateMotion(ENV, motion, terms(math.inf))
    agent = purerl.PPO(
        env=task,
        network=purerl.ActorCritic(trunk=purerl.MLP((64, 64))),
        num_envs=16,
        rollout_length=128,
        num_epochs=10,
        num_minibatches=16,
        learning_rate=3e-4,
        gamma=0.95,
        entropy_coef=0.0,
        normalize_observations=True,
    )
    tolerances = [1.0 if early else math.inf for _, early in VARIANTS.values()]
    values = {
        "env.random_start": [start for start, _ in VARIANTS.values()],
        "env.terms.pose.tolerance": tolerances,
        "env.terms.position.tolerance": tolerances,
    }
    shape = (len(VARIANTS), args.seeds)
    varied = {name: np.repeat(column, args.seeds) for name, column in values.items()}
    population = purerl.Population(agent, math.prod(shape), varied)

    def assess(member: purerl.PPO, state: PyTree, key: Array) -> tuple[Array, Array, Array]:
        policy = member.policy(state, explore=False)

        def step(timestep: TimeStep, _: None) -> tuple[TimeStep, tuple[Array, Array]]:
            action = policy.act(key, policy.carry, timestep.obs)[0]
            timestep = free.step(key, timestep.state, action)
            return timestep, (timestep.reward, timestep.state.env[target.entry] / target.unit)

        first = struct.replace(free, random_start=0.0).reset(key)
        _, (rewards, flight) = jax.lax.scan(step, first, length=NUM_STEPS)
        episodes = purerl.evaluate(free, policy, key, num_episodes=args.episodes)
        return jnp.mean(rewards), jnp.mean(episodes.episode_return / episodes.episode_length), flight

    key = jax.random.key(args.seed)
    keys = jax.random.split(jax.random.fold_in(key, 1), population.num_members)
    assess_all = jax.jit(lambda state: population.map(assess, state, keys))
    state = jax.jit(population.init)(key)
    num_iterations = -(-args.total_steps // agent.steps_per_iteration)
    steps, seen = [0], [assess_all(state)]
    every = max(1, num_iterations // args.evaluations)
    for progress in purerl.iterate(population, state, num_iterations, every=every):
        steps.append(progress.env_steps)
        seen.append(assess_all(progress.state))
        mean = np.asarray(seen[-1][0]).reshape(shape).mean(1)
        print(f"{progress.env_steps:,} steps:", *(f"{v} {x:.3f}," for v, x in zip(VARIANTS, mean, strict=True)))
    start, phases, flights = (np.stack(x).reshape(-1, *shape, *np.shape(x[0])[1:]) for x in zip(*seen, strict=True))
    return Result(steps, start, phases, flights[-1], motion.states[1:, target.entry] / target.unit)


def table(name: str, result: Result) -> str:
    """Markdown table with one line per variant and every seed."""
    label = TARGETS[name].label
    lines = [
        f"| {name} | score from the start | each seed | score from random phases | each seed | {label} at the end |",
        "|---|---:|---|---:|---|---|",
    ]
    for i, variant in enumerate(VARIANTS):
        cells = [variant]
        for scores in (result.start[-1, i], result.phases[-1, i]):
            cells += [f"{scores.mean():.3f}", ", ".join(f"{x:.2f}" for x in scores)]
        cells.append(", ".join(f"{x:.2f}" for x in result.flights[i, :, -1]))
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(f"| reference | 1 | | 1 | | {result.reference[-1]:.2f} |")
    return "\n".join(lines) + "\n"


def draw(results: dict[str, Result], out: Path) -> None:
    """Draw learning curves with 95 % intervals, and the flight of the median seed of each variant."""
    figure, axes = plt.subplots(len(results), 2, figsize=(8.5, 2.7 * len(results)), layout="constrained", squeeze=False)
    for (name, result), (left, right) in zip(results.items(), axes, strict=True):
        time = float(ENV.dt) * np.arange(1, NUM_STEPS + 1)
        right.plot(time, result.reference, color="#000000", linewidth=4, alpha=0.3, label="reference")
        for i, (variant, color) in enumerate(COLORS.items()):
            scores = result.start[:, i]
            left.plot(result.steps, scores.mean(1), color=color, label=variant)
            band = bootstrap_interval(scores.T)
            if band is not None:
                left.fill_between(result.steps, *band, color=color, alpha=0.2, linewidth=0)
            median = np.argsort(scores[-1])[scores.shape[1] // 2]
            right.plot(time, result.flights[i, median], color=color)
        left.set(title=f"{name}: evaluated from the start", ylabel="mean reward per step", xlabel="steps per seed")
        left.xaxis.set_major_formatter(EngFormatter(sep=""))
        right.set(title=f"{name}: flight of the median seed", ylabel=TARGETS[name].label, xlabel="time (s)")
        for ax in (left, right):
            ax.grid(alpha=0.25, linewidth=0.6)
            ax.spines[["top", "right"]].set_visible(False)
            ax.margins(x=0.01)
            ax.legend(frameon=False)
    figure.savefig(out, dpi=75)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--motions", nargs="+", default=list(TARGETS), choices=list(TARGETS), help="what to imitate")
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds of each variant (default 5)")
    parser.add_argument("--seed", type=int, default=1, help="random seed of all runs (default 1)")
    parser.add_argument("--total-steps", type=int, default=400_000, help="environment steps per seed (default 400000)")
    parser.add_argument("--evaluations", type=int, default=10, help="number of evaluations per curve (default 10)")
    parser.add_argument("--episodes", type=int, default=256, help="episodes from random phases (default 256)")
    parser.add_argument("--out", type=Path, default=Path("reference_motion.png"), help="the picture")
    args = parser.parse_args()
    results = {}
    for name in args.motions:
        results[name] = run(TARGETS[name], args)
        print(f"\n{table(name, results[name])}")
    draw(results, args.out)


if __name__ == "__main__":
    main()
