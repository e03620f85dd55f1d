"""Ablation of reference-state initialisation (RSI) and early termination (ET), as in DeepMimic: a table and a picture.

A planar quadrotor learns to follow a motion that iLQR planned, a flip or a gentle flight to the side, or Brax's hopper
a jump that MPPI planned. PPO trains all four variants with all seeds in one program. All are evaluated alike, without
exploration and without early termination: from the start of the motion, and from random phases. The score is the mean
reward per step; 1 is perfect.

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
from purerl.physics.control import ILQR, MPPI  # noqa: E402
from purerl.types import Array, Environment, PyTree, TimeStep  # noqa: E402

VARIANTS = {"RSI + ET": (1.0, True), "ET": (0.0, True), "RSI": (1.0, False), "neither": (0.0, False)}
"""Probability of a random start, and whether episodes end early."""
COLORS = {"RSI + ET": "#0072B2", "ET": "#D55E00", "RSI": "#009E73", "neither": "#777777"}


class Study(NamedTuple):
    """A motion to imitate, and what the picture shows of it.

    Attributes:
        env: the environment.
        motion: the motion.
        terms: terms of the reward, with the weights and scales of DeepMimic and the tolerances of early termination.
        shown: quantity in the picture, of a state.
        label: its name.
        dt: time of a step (s).
    """

    env: Environment
    motion: Motion
    terms: dict[str, Term]
    shown: Callable[[PyTree], Array]
    label: str
    dt: float


QUADROTOR = smooth.Quadrotor()


def _ramp(t: Array) -> Array:
    """From 0 to 1 between the steps 8 and 30, smoothly."""
    share = jnp.clip((t - 8.0) / 22.0, 0.0, 1.0)
    return share**2 * (3.0 - 2.0 * share)


def plan_flight(goal: Callable[[Array], tuple[Array, Array]]) -> Motion:
    """Motion of the quadrotor from rest to the goals ``(x, angle)`` of each step, planned by iLQR."""

    def reward(state: PyTree, action: Array, timestep: TimeStep) -> Array:
        x, angle = goal(timestep.state.num_steps)
        s = timestep.state.env
        off = (s[0] - x) ** 2 + s[1] ** 2 + 2.0 * (s[2] - angle) ** 2 + 0.01 * jnp.sum(s[3:5] ** 2)
        return -off - 0.02 * jnp.sum(action**2)

    rest = TimeStep(
        jnp.zeros(6), jnp.float32([0, 0, 1, 0, 0, 0, 0]), jnp.float32(0.0), jnp.bool_(False), jnp.bool_(False)
    )
    # The time limit counts the steps, which the reward needs; it is never reached.
    model = WithReward(TimeLimit(QUADROTOR, 500), reward)
    start = struct.replace(model.reset(jax.random.key(0)).state, env=rest.state)
    planner = ILQR(horizon=50, num_iterations=60)
    actions = jax.jit(lambda: planner.plan(model, start, jax.random.key(0)))().actions
    return record_motion(QUADROTOR, rest, actions, jax.random.key(0))


def plan_jump(env: Environment) -> Motion:
    """Jump of the hopper by half a metre, planned by MPPI with noise that shrinks."""

    def reward(state: PyTree, action: Array, timestep: TimeStep) -> Array:
        joints, t = timestep.state.env.pipeline_state, timestep.state.num_steps
        height = joints.q[1]
        in_the_air = 20.0 * jnp.clip(height, -0.5, 1.0)
        on_the_ground = -10.0 * height**2 - 0.02 * jnp.sum(joints.qd[:3] ** 2) * (t > 85)
        posture = 2.0 * jnp.cos(joints.q[2]) - 2.0 * joints.q[0] ** 2 - 0.01 * jnp.sum(action**2)
        return jnp.where((t >= 25) & (t < 60), in_the_air, on_the_ground) + posture

    model = WithReward(TimeLimit(env, 1000), reward)
    start = jax.jit(model.reset)(jax.random.key(0))
    actions = jnp.zeros((110, 3))
    planned = jax.jit(lambda planner, key, initial: planner.plan(model, start.state, key, initial).actions)
    for key, noise in zip(jax.random.split(jax.random.key(1), 5), (0.7, 0.5, 0.3, 0.2, 0.1), strict=True):
        actions = planned(MPPI(horizon=110, num_samples=128, num_iterations=40, noise_std=noise), key, actions)
    begin = struct.replace(start, state=start.state.env)
    return jax.jit(lambda actions: record_motion(env, begin, actions, jax.random.key(0)))(actions)


def pose(state: Array) -> Array:
    """Orientation of the quadrotor as a unit vector."""
    return jnp.stack([jnp.cos(state[2]), jnp.sin(state[2])])


def rotors(state: Array) -> Array:
    """Positions of both rotors (m), the end effectors of the quadrotor."""
    arm = QUADROTOR.arm_length * pose(state)
    return jnp.concatenate([state[:2] - arm, state[:2] + arm])


def joint_pose(state: PyTree) -> Array:
    """Angles of torso and joints of the hopper as unit vectors."""
    angles = state.pipeline_state.q[2:]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)])


# Early termination at 60 degrees (a chord of 1) or 1 m off.
FLYING = {
    "pose": Term(pose, 0.65, 2.0, 1.0),
    "velocity": Term(lambda state: state[5:], 0.1, 0.1),
    "end_effectors": Term(rotors, 0.15, 40.0),
    "position": Term(lambda state: state[:2], 0.1, 10.0, 1.0),
}
JUMPING = {
    "pose": Term(joint_pose, 0.65, 2.0, 1.0),
    "velocity": Term(lambda state: state.pipeline_state.qd[2:], 0.1, 0.1),
    "end_effectors": Term(lambda state: state.pipeline_state.x.pos[-1], 0.15, 40.0),
    "position": Term(lambda state: state.pipeline_state.q[:2], 0.1, 10.0, 0.3),
}


def flip() -> Study:
    """The quadrotor dips, jumps and turns once around."""
    motion = plan_flight(lambda t: (jnp.float32(0.0), 2.0 * math.pi * _ramp(t)))
    return Study(QUADROTOR, motion, FLYING, lambda state: state[2] / (2.0 * math.pi), "rotation (turns)", 0.05)


def glide() -> Study:
    """The quadrotor moves half a metre to the side."""
    motion = plan_flight(lambda t: (0.5 * _ramp(t), jnp.float32(0.0)))
    return Study(QUADROTOR, motion, FLYING, lambda state: state[0], "x (m)", 0.05)


def jump() -> Study:
    """The hopper jumps half a metre high."""
    env = purerl.make("brax/hopper", backend="spring", terminate_when_unhealthy=False)
    env = env.env  # type: ignore[attr-defined] # without the time limit
    return Study(env, plan_jump(env), JUMPING, lambda state: state.pipeline_state.q[1], "height (m)", 0.01)


STUDIES = {"flip": flip, "glide": glide, "jump": jump}


class Result(NamedTuple):
    """Outcome of one motion: scores ``[evaluation, variant, seed]`` after `steps`, and the last episodes.

    Attributes:
        study: what was imitated.
        steps: environment steps per seed at each evaluation.
        start: scores from the start of the motion.
        phases: scores from random phases.
        paths: shown quantity ``[variant, seed, T]`` in the last episode from the start.
        reference: the same of the motion.
    """

    study: Study
    steps: list[int]
    start: np.ndarray
    phases: np.ndarray
    paths: np.ndarray
    reference: np.ndarray


def run(study: Study, args: argparse.Namespace) -> Result:
    """Train and evaluate the four variants on one motion."""
    motion = study.motion
    endless = {name: struct.replace(term, tolerance=math.inf) for name, term in study.terms.items()}
    task, free = ImitateMotion(study.env, motion, study.terms), ImitateMotion(study.env, motion, endless)
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
    values = {"env.random_start": [start for start, _ in VARIANTS.values()]}
    for name, term in study.terms.items():
        tolerance = float(term.tolerance)
        values[f"env.terms.{name}.tolerance"] = [tolerance if early else math.inf for _, early in VARIANTS.values()]
    shape = (len(VARIANTS), args.seeds)
    varied = {name: np.repeat(column, args.seeds) for name, column in values.items()}
    population = purerl.Population(agent, math.prod(shape), varied)

    def assess(member: purerl.PPO, state: PyTree, key: Array) -> tuple[Array, Array, Array]:
        policy = member.policy(state, explore=False)

        def step(timestep: TimeStep, _: None) -> tuple[TimeStep, tuple[Array, Array]]:
            action = policy.act(key, policy.carry, timestep.obs)[0]
            timestep = free.step(key, timestep.state, action)
            return timestep, (timestep.reward, study.shown(timestep.state.env))

        first = struct.replace(free, random_start=0.0).reset(key)
        _, (rewards, path) = jax.lax.scan(step, first, length=motion.num_states - 1)
        episodes = purerl.evaluate(free, policy, key, num_episodes=args.episodes)
        return jnp.mean(rewards), jnp.mean(episodes.episode_return / episodes.episode_length), path

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
    start, phases, paths = (np.stack(x).reshape(-1, *shape, *np.shape(x[0])[1:]) for x in zip(*seen, strict=True))
    return Result(study, steps, start, phases, paths[-1], np.asarray(jax.vmap(study.shown)(motion.states))[1:])


def table(name: str, result: Result) -> str:
    """Markdown table with one line per variant and every seed."""
    label = result.study.label
    lines = [
        f"| {name} | score from the start | each seed | score from random phases | each seed | {label} at the end |",
        "|---|---:|---|---:|---|---|",
    ]
    for i, variant in enumerate(VARIANTS):
        cells = [variant]
        for scores in (result.start[-1, i], result.phases[-1, i]):
            cells += [f"{scores.mean():.3f}", ", ".join(f"{x:.2f}" for x in scores)]
        cells.append(", ".join(f"{x:.2f}" for x in result.paths[i, :, -1]))
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(f"| reference | 1 | | 1 | | {result.reference[-1]:.2f} |")
    return "\n".join(lines) + "\n"


def draw(results: dict[str, Result], out: Path) -> None:
    """Draw learning curves with 95 % intervals, and the path of the median seed of each variant."""
    figure, axes = plt.subplots(len(results), 2, figsize=(8.5, 2.7 * len(results)), layout="constrained", squeeze=False)
    for (name, result), (left, right) in zip(results.items(), axes, strict=True):
        time = result.study.dt * np.arange(1, len(result.reference) + 1)
        right.plot(time, result.reference, color="#000000", linewidth=4, alpha=0.3, label="reference")
        for i, (variant, color) in enumerate(COLORS.items()):
            scores = result.start[:, i]
            left.plot(result.steps, scores.mean(1), color=color, label=variant)
            band = bootstrap_interval(scores.T)
            if band is not None:
                left.fill_between(result.steps, *band, color=color, alpha=0.2, linewidth=0)
            median = np.argsort(scores[-1])[scores.shape[1] // 2]
            right.plot(time, result.paths[i, median], color=color)
        left.set(title=f"{name}: evaluated from the start", ylabel="mean reward per step", xlabel="steps per seed")
        left.xaxis.set_major_formatter(EngFormatter(sep=""))
        right.set(title=f"{name}: path of the median seed", ylabel=result.study.label, xlabel="time (s)")
        for ax in (left, right):
            ax.grid(alpha=0.25, linewidth=0.6)
            ax.spines[["top", "right"]].set_visible(False)
            ax.margins(x=0.01)
            ax.legend(frameon=False)
    figure.savefig(out, dpi=75)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--motions", nargs="+", default=["flip", "glide"], choices=list(STUDIES), help="what to imitate"
    )
    parser.add_argument("--seeds", type=int, default=5, help="number of seeds of each variant (default 5)")
    parser.add_argument("--seed", type=int, default=1, help="random seed of all runs (default 1)")
    parser.add_argument("--total-steps", type=int, default=400_000, help="environment steps per seed (default 400000)")
    parser.add_argument("--evaluations", type=int, default=10, help="number of evaluations per curve (default 10)")
    parser.add_argument("--episodes", type=int, default=256, help="episodes from random phases (default 256)")
    parser.add_argument("--out", type=Path, default=Path("reference_motion.png"), help="the picture")
    args = parser.parse_args()
    results = {}
    for name in args.motions:
        results[name] = run(STUDIES[name](), args)
        print(f"\n{table(name, results[name])}")
    draw(results, args.out)


if __name__ == "__main__":
    main()
