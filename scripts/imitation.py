"""Behaviour cloning against DAgger where the expert's starts were narrow: returns over the number of labels.

The expert, a run on Pendulum, is recorded from starts near upright alone and from all starts. DAgger asks the same
expert in the states of the learner. All agents are evaluated from all starts, five seeds each::

    purerl train sac Pendulum-v1 --seed 71 --out runs/pendulum
    python scripts/imitation.py runs/pendulum --seed 2000 --out docs/imitation.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

import purerl
from purerl import struct
from purerl.cli.agents import load_agent
from purerl.cli.run_directory import RunDirectory
from purerl.learning.cloning import Loss

STEPS = 200  # of an episode
RATE = 3e-3  # step size of Adam at the beginning


@struct.dataclass
class UprightStarts:
    """Pendulum whose start is the most upright one of 64."""

    env: purerl.Environment

    @property
    def observation_space(self):
        return self.env.observation_space

    @property
    def action_space(self):
        return self.env.action_space

    def reset(self, key):
        starts = jax.vmap(self.env.reset)(jax.random.split(key, 64))
        best = jnp.argmax(starts.obs[:, 0])  # the cosine of the angle
        return jax.tree.map(lambda leaf: leaf[best], starts)

    def step(self, key, state, action):
        return self.env.step(key, state, action)


def returns(population, state, num_episodes, seed):
    """Mean return of every member from all starts, without exploration."""

    @jax.jit
    def play(population, state, keys):
        def one(member, state, key):
            return purerl.evaluate(member.env, member.policy(state, explore=False), key, num_episodes)

        return population.map(one, state, keys).episode_return.mean(axis=1)

    keys = jax.random.split(jax.random.fold_in(jax.random.key(seed), 2**31), population.num_members)
    return np.asarray(play(population, state, keys))


def cloned(env, demonstrations, updates, args):
    """Returns after behaviour cloning with so many updates."""
    agent = purerl.BC(env=env, demonstrations=demonstrations, held_out=0.0, loss=Loss.SQUARED_ERROR)
    iterations = max(1, updates * agent.minibatch_rows // agent.steps_per_iteration)
    rate = purerl.LinearSchedule(RATE, 0.0, float(iterations * agent.steps_per_iteration))
    agent = struct.replace(agent, learning_rate=rate)
    population = purerl.Population(agent, args.seeds)
    state = jax.jit(population.init)(jax.random.key(args.seed))
    *_, progress = purerl.iterate(population, state, iterations, every=iterations)
    return returns(population, progress.state, args.episodes, args.seed)


def aggregated(env, expert, labels, updates, args):
    """Returns of DAgger after these numbers of labels."""
    agent = purerl.DAgger(
        env=env,
        expert=expert,
        num_envs=2,
        rollout_length=STEPS // 2,
        updates_per_iteration=max(1, updates * STEPS // labels[-1]),
        buffer_size=labels[-1],
        loss=Loss.SQUARED_ERROR,
        learning_rate=purerl.LinearSchedule(RATE, 0.1 * RATE, float(labels[-1])),
        beta=purerl.LinearSchedule(1.0, 0.0, float(STEPS)),  # the expert acts in the first iteration alone
    )
    population = purerl.Population(agent, args.seeds)
    state = jax.jit(population.init)(jax.random.key(args.seed))
    found = []
    for progress in purerl.iterate(population, state, labels[-1] // STEPS, every=1):
        if progress.iteration * STEPS in labels:
            found.append(returns(population, progress.state, args.episodes, args.seed))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("expert", type=Path, help="run on Pendulum-v1")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=2000)
    parser.add_argument("--labels", type=int, nargs="+", default=[400, 1600, 3200], help="multiples of 200, ascending")
    parser.add_argument("--updates", type=int, default=20_000)
    parser.add_argument("--episodes", type=int, default=32)
    parser.add_argument("--out", type=Path, default=Path("imitation.png"))
    args = parser.parse_args()

    agent = load_agent(RunDirectory.open(args.expert))
    env, key = purerl.make("Pendulum-v1"), jax.random.key(args.seed)
    curves = {"bc, demonstrations from upright starts": [], "bc, demonstrations from all starts": []}
    for name, start_env in zip(curves, (UprightStarts(env), env), strict=True):
        demonstrations = purerl.record(start_env, agent.policy, key, args.labels[-1] // STEPS, STEPS)
        print(f"{name}: expert's return {demonstrations.returns.mean():.1f}")
        for labels in args.labels:
            curves[name].append(cloned(env, demonstrations.first(labels // STEPS), args.updates, args))
    curves["dagger"] = aggregated(env, agent.policy, args.labels, args.updates, args)
    for name, points in curves.items():
        for labels, values in zip(args.labels, points, strict=True):
            print(f"{name}, {labels} labels: {' '.join(f'{value:.1f}' for value in values)}")
    draw(curves, args.labels, args.out)


def draw(curves, labels, out):
    """Mean and range over seeds against the number of labels."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for name, points in curves.items():
        values = np.stack(points)
        axes.plot(labels, values.mean(axis=1), marker="o", label=name)
        axes.fill_between(labels, values.min(axis=1), values.max(axis=1), alpha=0.2)
    axes.set(xlabel="labelled steps", ylabel="return from all starts", title="Pendulum-v1: mean and range over seeds")
    axes.legend()
    axes.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(out, dpi=100)


if __name__ == "__main__":
    main()
