"""System identification of a pendulum from noisy recordings: a table with 95 % intervals and a picture.

A "real" pendulum, whose mass, length and damping are unknown to the fit, is driven by random torques and observed with
noise. Multiple shooting recovers the parameters from wrong start values. The picture shows the prediction of a
trajectory that was not used, before and after the fit.

Usage: python scripts/system_identification.py --mass 1.3 --length 0.4 --noise 0.05 --out identification.png
"""

import argparse
from pathlib import Path

from purerl.cpu import choose_thread_pool

choose_thread_pool()  # before jax is imported; see docs/cpu.md

import jax  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402

from purerl import struct  # noqa: E402
from purerl.environments import smooth  # noqa: E402
from purerl.physics.identification import Fit, Recording, fit_params, random_actions, record, simulate  # noqa: E402
from purerl.types import Environment  # noqa: E402

START = {"mass": 2.0, "length": 1.0, "damping": 0.2}


def measure(env: smooth.Pendulum, args: argparse.Namespace) -> Recording:
    """Recording with noise on all observations, and without states."""
    record_key, noise_key = jax.random.split(jax.random.key(args.seed))
    policy = random_actions(env, hold=5)
    data = record(env, policy, record_key, num_trajectories=args.trajectories, length=args.steps)
    noise = args.noise * jax.random.normal(noise_key, data.observations.shape)
    return struct.replace(data, observations=data.observations + noise, states=None)


def table(truth: dict[str, float], fit: Fit) -> str:
    """Markdown table with one line per parameter."""
    lines = ["| parameter | start | truth | estimate | 95 % interval |", "|---|---:|---:|---:|---|"]
    for name, value in truth.items():
        low, high = fit.interval[name]
        lines.append(f"| {name} | {START[name]:g} | {value:g} | {fit.estimate[name]:.5f} | {low:.5f} to {high:.5f} |")
    return "\n".join(lines)


def draw(before: Environment, after: Environment, unseen: Recording, dt: float, out: Path) -> None:
    """Draw a trajectory that was not fitted, and its prediction by both simulations."""
    start = jax.tree.map(lambda leaf: leaf[:, 0], unseen.states)
    time = dt * np.arange(1, unseen.actions.shape[1] + 1)
    figure, axes = plt.subplots(2, 1, figsize=(7.5, 4.5), layout="constrained", sharex=True)
    for ax, entry, label in zip(axes, (0, 2), ("cos(angle)", "velocity (rad/s)"), strict=True):
        ax.plot(time, unseen.observations[0, 1:, entry], color="#000000", linewidth=3, alpha=0.3, label="real")
        for env, name, color in ((before, "before the fit", "#D55E00"), (after, "after the fit", "#0072B2")):
            ax.plot(time, simulate(env, start, unseen.actions)[0, :, entry], color=color, label=name)
        ax.set_ylabel(label)
        ax.margins(x=0.01)
        ax.grid(alpha=0.25, linewidth=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_title("prediction of a trajectory that was not fitted")
    axes[0].legend(loc="upper right", fontsize="small")
    axes[1].set_xlabel("time (s)")
    figure.savefig(out, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mass", type=float, default=1.3, help="mass of the real pendulum (kg, default 1.3)")
    parser.add_argument("--length", type=float, default=0.4, help="length of the real pendulum (m, default 0.4)")
    parser.add_argument("--damping", type=float, default=0.05, help="damping of the pendulum (N m s, default 0.05)")
    parser.add_argument("--noise", type=float, default=0.05, help="standard deviation of the noise (default 0.05)")
    parser.add_argument("--trajectories", type=int, default=4, help="number of trajectories (default 4)")
    parser.add_argument("--steps", type=int, default=100, help="steps of 0.05 s per trajectory (default 100)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of torques and noise (default 0)")
    parser.add_argument("--out", type=Path, default=Path("identification.png"), help="file of the picture")
    args = parser.parse_args()
    truth = {"mass": args.mass, "length": args.length, "damping": args.damping}
    real, guess = smooth.Pendulum(**truth), smooth.Pendulum(**START)

    fit = fit_params(guess, list(START), measure(real, args))
    print(table(truth, fit))
    print(f"\n{'converged' if fit.converged else 'NOT converged'} after {fit.num_evaluations} evaluations")
    unseen = record(real, random_actions(real, hold=5), jax.random.key(args.seed + 1), num_trajectories=1, length=100)
    draw(guess, fit.env, unseen, float(real.dt), args.out)
    print(args.out)


if __name__ == "__main__":
    main()
