"""Results of docs/tables.md: exact methods, prediction, control and inverse reinforcement learning on small processes.

Prints one table per part, with every seed, and draws three pictures: errors of prediction on the random walk and the
contraction of policy evaluation, learning curves on the cliff walk, and what two algorithms learn there.

Usage: python scripts/tables.py --seeds 5 --seed 3000 --out runs/tables
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from purerl.cpu import choose_thread_pool

choose_thread_pool()  # before jax is imported; see docs/cpu.md

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from scipy.optimize import linprog  # noqa: E402

import purerl  # noqa: E402
from purerl import Population, TDControl, TDRule, tabular  # noqa: E402
from purerl.cli import grid_picture  # noqa: E402
from purerl.cli.configure import configure  # noqa: E402

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
GAMMA = 0.99
WALK_VALUES = np.array([0, 1, 2, 3, 4, 5, 0]) / 6.0
CLIFF_START = 36


def show(title: str, headings: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table."""
    print(f"\n{title}\n\n| {' | '.join(headings)} |\n|{'---|' * len(headings)}")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def numbers(values: np.ndarray | jax.Array, digits: int = 3) -> str:
    """Numbers of all seeds."""
    return ", ".join(f"{value:.{digits}f}" for value in np.asarray(values))


def linear_program(mdp: tabular.TabularMDP) -> np.ndarray:
    """Optimal values as the least ones that no action beats (Puterman 1994, section 6.9)."""
    onward = np.asarray(mdp.continuation).reshape(-1, mdp.num_states)
    own = np.repeat(np.eye(mdp.num_states), mdp.num_actions, axis=0)
    gains = np.asarray(mdp.expected_reward).ravel()
    return linprog(np.ones(mdp.num_states), GAMMA * onward - own, -gains, bounds=(None, None)).x


def exact() -> None:
    """Three methods on the same processes, and the probability of success on the ice."""
    rows = []
    for name, options, limit in (
        ("FrozenLake-misc", {}, 100),
        ("FrozenLake-misc", {"map_name": "8x8"}, 200),
        ("FrozenLake-misc", {"is_slippery": False}, 100),
        ("grid/trap", {}, None),
    ):
        env = purerl.make(name, **options)  # type: ignore[arg-type]
        with jax.enable_x64(True):
            mdp = tabular.mdp_of(env)
            swept, improved = (
                jax.device_get(jax.jit(method)(mdp, GAMMA))
                for method in (tabular.value_iteration, tabular.policy_iteration)
            )
            policy = tabular.deterministic_policy(improved.policy, mdp.num_actions)
            success = "" if limit is None else f"{tabular.policy_sweeps(mdp, policy, 1.0, limit).values[-1, 0]:.4f}"
            reference = linear_program(mdp)
        gaps = [f"{np.max(np.abs(found - reference)):.0e}" for found in (swept.values, improved.values)]
        rate = ""
        if limit is not None:
            play = jax.jit(lambda policy, key, env=env: purerl.evaluate(env, tabular.as_policy(policy), key, 100_000))
            rate = f"{play(jnp.float32(policy), jax.random.key(0)).episode_return.mean():.4f}"
        label = " ".join([name, *(f"{option}={value}" for option, value in options.items())])
        value = f"{mdp.start @ swept.values:.6f}"
        rows.append((label, value, swept.iterations, improved.iterations, *gaps, success, rate))
    headings = ["process", "value of the start", "sweeps", "improvements", "VI - LP", "PI - LP"]
    show("Exact methods", [*headings, "success, exact", "success, 100 k episodes"], rows)


def prediction(seed: int, out: Path) -> None:
    """Root mean squared error on the random walk (Sutton & Barto 2018, example 6.2), and the contraction."""
    walk = tabular.mdp_of(purerl.make("grid/random-walk"))
    start = jnp.where(jnp.asarray(walk.terminal), 0.0, 0.5)

    def error(values: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.mean((values - jnp.float32(WALK_VALUES))[..., 1:-1] ** 2, axis=-1))

    @jax.jit
    def errors(key: jax.Array, rates: jax.Array, decays: jax.Array) -> tuple[jax.Array, jax.Array]:
        episodes = tabular.sample_trajectories(walk, tabular.uniform_policy(walk), key, 100, 150)
        sampled = jax.vmap(lambda rate: error(tabular.monte_carlo(episodes, start, 1.0, rate)))(rates)
        bootstrapped = jax.vmap(lambda rate, decay: error(tabular.td_lambda(episodes, start, 1.0, rate, decay)))
        return sampled, bootstrapped(*decays)

    sampled_rates, td = jnp.float32([0.01, 0.02, 0.03, 0.04]), jnp.float32([[0.05, 0.1, 0.15, 0.1], [0, 0, 0, 0.8]])
    keys = jax.random.split(jax.random.key(seed), 100)
    sampled, bootstrapped = (
        np.mean(found, axis=0) for found in jax.lax.map(lambda key: errors(key, sampled_rates, td), keys)
    )
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    rows = []
    for curve, rate in zip(sampled, sampled_rates, strict=True):
        left.plot(curve, color=COLORS[1], linewidth=0.5 + 30 * rate, label=f"Monte Carlo, alpha {rate:.2f}")
        rows.append((f"Monte Carlo, alpha {rate:.2f}", f"{curve[10]:.3f}", f"{curve[100]:.3f}"))
    for curve, rate, decay in zip(bootstrapped, *td, strict=True):
        label = f"TD({decay:g}), alpha {rate:.2f}"
        left.plot(curve, color=COLORS[2 if decay else 0], linewidth=0.5 + 10 * rate, label=label)
        rows.append((label, f"{curve[10]:.3f}", f"{curve[100]:.3f}"))
    left.set_title("random walk: error of the values")
    left.set_xlabel("episodes")
    left.set_ylabel("root mean squared error")
    left.legend(fontsize="x-small", frameon=False)
    with jax.enable_x64(True):
        lake = tabular.frozen_lake()
        for gamma, color in zip((0.5, 0.9, 0.99), COLORS, strict=False):
            sweeps = jax.device_get(tabular.policy_sweeps(lake, tabular.uniform_policy(lake), gamma, 60, jnp.ones(16)))
            right.semilogy(sweeps.errors, color=color, label=f"gamma {gamma:g}")
            right.semilogy(sweeps.errors[0] * gamma ** np.arange(61), color=color, linestyle=":", linewidth=1)
    right.set_title("FrozenLake: contraction of policy evaluation")
    right.set_xlabel("sweeps")
    right.set_ylabel("largest error (dotted: gamma^n)")
    right.set_ylim(1e-12, 3)
    right.legend(fontsize="small", frameon=False)
    _finish(figure, (left, right), out / "tables_prediction.png")
    show("Random walk, mean over 100 sequences", ["method", "error after 10 episodes", "after 100"], rows)


def cliff(num_seeds: int, seed: int, share: float, out: Path) -> None:
    """Sutton & Barto 2018, example 6.6: learning curves, and the best path that each algorithm knows."""
    env = purerl.make("grid/cliff-walk")
    mdp = tabular.mdp_of(env)
    figure, axes = plt.subplots(figsize=(7.5, 3.6), layout="constrained")
    rows, pictures = [], {}
    for rule, color in zip(TDRule, COLORS, strict=True):
        agent = TDControl(env, rule, learning_rate=0.5, epsilon=0.1, gamma=1.0)
        population = Population(agent, num_seeds)
        total = max(10, int(share * 2_000))  # iterations of ten steps
        state = jax.jit(population.init)(jax.random.key(seed))
        curve, steps, progress = [], [], None
        for progress in purerl.iterate(population, state, total, every=max(1, total // 40)):
            curve.append(np.asarray(progress.metrics["episode_return"].value))
            steps.append(progress.env_steps)
        assert progress is not None
        tables = np.asarray(progress.state.tables.values, np.float64)
        greedy = jnp.eye(4)[tables.argmax(axis=-1)]
        values = jax.vmap(lambda policy: tabular.policy_sweeps(mdp, policy, 1.0, 100).values[-1, CLIFF_START])(greedy)
        online = np.nanmean(curve[len(curve) // 2 :], axis=0)
        axes.plot(steps, np.nanmean(curve, axis=1), color=color, label=rule.name.lower())
        rows.append((rule.name.lower(), f"{online.mean():.1f}", numbers(online, 1), numbers(values, 0)))
        if rule in (TDRule.Q_LEARNING, TDRule.SARSA):
            pictures[f"{rule.name.lower()}: values and best actions, first seed"] = tables[0]
    axes.set_title(f"cliff walk, alpha 0.5, epsilon 0.1, mean of {num_seeds} seeds")
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of an episode in training")
    axes.set_ylim(-150, 0)
    axes.legend(fontsize="small", frameon=False)
    _finish(figure, (axes,), out / "tables_cliff.png")
    grid_picture.draw(mdp, pictures, out / "tables_paths.png")
    headings = [
        "algorithm",
        "return in training, second half",
        "each seed",
        "greedy return, each seed (-100: never ends)",
    ]
    show("Cliff walk", headings, rows)


def lake(num_seeds: int, seed: int, share: float) -> None:
    """Presets on FrozenLake beside value iteration."""
    mdp = tabular.frozen_lake()
    optimal = tabular.value_iteration(mdp, GAMMA)
    rows = [("value iteration", f"{optimal.values[0]:.3f}", "", f"{optimal.values[0]:.3f}", "")]
    for rule in TDRule:
        flags = ["--seeds", str(num_seeds), "--seed", str(seed)]
        config, _, _ = configure(rule.name.lower(), "FrozenLake-misc", flags)
        config, _, _ = configure(
            rule.name.lower(), "FrozenLake-misc", [*flags, "--total-steps", str(int(share * config.total_steps))]
        )
        population = config.population()
        state = jax.jit(population.init)(jax.random.key(seed))
        *_, last = purerl.iterate(population, state, config.num_iterations, every=config.num_iterations)
        tables = last.state.tables.values
        policies = jnp.eye(4)[tables.argmax(axis=-1)]
        values = jax.vmap(lambda policy: tabular.policy_evaluation(mdp, policy, GAMMA)[0])(policies)
        success = jax.vmap(lambda policy: tabular.policy_sweeps(mdp, policy, 1.0, 100).values[-1, 0])(policies)
        errors = jnp.max(jnp.abs(tables.max(axis=-1) - optimal.values[None]), axis=1)
        learned = numbers(tables[:, 0].max(axis=-1))
        rows.append((rule.name.lower(), learned, numbers(errors), numbers(values), numbers(success)))
    headings = ["algorithm", "learned value of the start", "largest error of a value", "value of the greedy policy"]
    show("FrozenLake, presets", [*headings, "its success within 100 steps"], rows)


def inverse(num_seeds: int, seed: int, share: float) -> None:
    """Loss of return by the best policy for a learned reward, against the number of demonstrations."""
    mdp, gamma, rows = tabular.mdp_of(purerl.make("grid/trap")), 0.95, []
    with jax.enable_x64(True):
        features = jnp.eye(mdp.num_states)
        best = tabular.value_iteration(mdp, gamma)
        expert = tabular.deterministic_policy(best.policy, 4)

        def learn(key: jax.Array, count: int) -> tuple[jax.Array, ...]:
            episodes = tabular.sample_trajectories(mdp, expert, key, count, 40)
            fit = tabular.max_entropy_irl(
                mdp,
                features,
                episodes.states,
                episodes.mask,
                gamma=gamma,
                l2=1e-3,
                num_updates=max(2, int(share * 1_000)),
            )
            learned = tabular.value_iteration(tabular.with_state_reward(mdp, fit.reward), gamma)
            policy = tabular.deterministic_policy(learned.policy, 4)
            shown = tabular.demonstrated_features(features, episodes.states, episodes.mask, gamma)
            apprentice = tabular.apprenticeship(mdp, features, shown, gamma, 20)
            returns = jax.vmap(lambda policy: mdp.start @ tabular.policy_evaluation(mdp, policy, gamma))
            mixed = apprentice.mixture @ returns(apprentice.policies)
            optimum = mdp.start @ best.values
            return optimum - returns(policy[None])[0], fit.gaps[-1], optimum - mixed, apprentice.margins[-1]

        keys = jax.random.split(jax.random.key(seed), num_seeds)
        for count in (1, 3, 10, 30, 100, 300):
            found = jax.jit(lambda keys, count=count: jax.lax.map(lambda key: learn(key, count), keys))(keys)
            rows.append((count, *(numbers(column) for column in found)))
        optimum = float(mdp.start @ best.values)
    headings = ["episodes", "MaxEnt: loss of return", "largest gap of features", "apprentice: loss of return", "margin"]
    show(f"Inverse RL on grid/trap, optimal return {optimum:.3f}", headings, rows)


def _finish(figure: Figure, panels: Sequence[Axes], out: Path) -> None:
    for axes in panels:
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(out, dpi=80)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="members of each population (default 5)")
    parser.add_argument("--seed", type=int, default=3000, help="random seed (default 3000)")
    parser.add_argument("--share", type=float, default=1.0, help="share of the steps of training (default 1)")
    parser.add_argument("--out", type=Path, default=Path("runs/tables"), help="folder of the pictures")
    parts = {
        "exact": exact,
        "prediction": lambda: prediction(args.seed, args.out),
        "cliff": lambda: cliff(args.seeds, args.seed, args.share, args.out),
        "lake": lambda: lake(args.seeds, args.seed, args.share),
        "inverse": lambda: inverse(args.seeds, args.seed, args.share),
    }
    parser.add_argument("--parts", nargs="+", choices=parts, default=[*parts], help="parts to run (default all)")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for part in args.parts:
        parts[part]()


if __name__ == "__main__":
    main()
