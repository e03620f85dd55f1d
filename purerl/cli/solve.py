"""``purerl solve``: exact solution of a finite environment, or the table that a run has learned beside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from purerl.cli import flags
from purerl.cli.parser import Flag, Group, parse
from purerl.cli.run_directory import RunDirectory
from purerl.errors import InputError

USAGE = "purerl solve ENVIRONMENT [flags]\n       purerl solve DIR [flags]"
EXAMPLE = "purerl solve FrozenLake-misc"

METHODS = {"value-iteration": "value_iteration", "policy-iteration": "policy_iteration"}
"""Name on the command line to public name in `purerl.tabular`."""

OUT = Flag("out", "str", "file for a picture of values and best actions", metavar="PNG")
EXACT = Group(
    "flags",
    [
        Flag("method", "str", "exact method", "value-iteration", choices=tuple(METHODS)),
        Flag("gamma", "float", "discount factor per step", 0.99, "[0, 1]"),
        OUT,
    ],
)
LEARNED = Group("flags", [Flag("member", "int", "number of the agent that is shown", 0, "[0, inf)"), OUT])

HORIZON = 10_000
"""Steps over which learned policies are rated: enough for any discount factor below 0.999."""


def command(argv: Sequence[str]) -> int:
    """Run ``purerl solve`` with the words after it; returns the exit code."""
    about = "Solve a finite environment exactly, or compare the table that a run has learned with the solution."
    if not argv or argv[0].startswith("-"):
        if {"-h", "--help"} & set(argv):
            about += f"\nName an environment to see its flags too: {EXAMPLE} --help"
            parse(USAGE, about, [EXACT], ["--help"])
        raise InputError(f"name an environment or a run first, as in: {EXAMPLE}")
    name, *words = argv
    if Path(name).exists():
        given, _ = parse(USAGE, about, [LEARNED], words)
        _compare(RunDirectory.open(Path(name)), given)
        return 0
    from purerl.environments import make, options_of

    simulator = flags.env_group(name, options_of(name), {})
    given, _ = parse(USAGE, about, [EXACT, simulator], words)
    _solve(name, make(name, **flags.given_in(simulator, given, flags.ENV_PREFIX)), given)
    return 0


def _solve(name: str, env: Any, given: dict[str, Any]) -> None:
    """Print the exact solution."""
    import jax
    import numpy as np

    from purerl import tabular
    from purerl.cli import grid_picture

    out, method, gamma = _picture(given), given.get("method", "value-iteration"), given.get("gamma", 0.99)
    mdp = tabular.mdp_of(env)
    with jax.enable_x64(True):
        solution = jax.device_get(jax.jit(getattr(tabular, METHODS[method]))(mdp, gamma))
    if not np.all(np.isfinite(solution.values)) or solution.residual > 1e-6 * max(1.0, np.abs(solution.values).max()):
        raise InputError(
            f"{name} has no finite solution with --gamma {gamma:g}: some policy never ends; use a gamma below 1"
        )
    print(f"{name}: {mdp.num_states} states, {mdp.num_actions} actions, time limits ignored")
    bound = f", error at most {solution.bound:.1g}" if gamma < 1.0 else ""
    kind = "sweeps" if method == "value-iteration" else "improvements"
    print(f"{method} with gamma {gamma:g}: {solution.iterations} {kind}, residual {solution.residual:.1g}{bound}")
    print(grid_picture.text(mdp, solution.action_values))
    print(f"value of the start: {mdp.start @ solution.values:.6g}")
    if out:
        grid_picture.draw(mdp, {f"{name}, gamma {gamma:g}": solution.action_values}, out)
        print(out)


def _compare(run: RunDirectory, given: dict[str, Any]) -> None:
    """Print what a run has learned, beside the exact solution for the same discount factor."""
    import jax
    import numpy as np

    from purerl import tabular
    from purerl.algorithms.td_control import TDControl
    from purerl.cli import grid_picture
    from purerl.cli.tables import Table
    from purerl.cli.training import Training, load
    from purerl.learning import schedules
    from purerl.training import checkpoint

    out, config = _picture(given), run.config()
    newest = checkpoint.latest(run.checkpoints)
    if newest is None:
        raise InputError(f"{run.path} has no checkpoint yet: nothing to show")
    training = Training(config)
    agent = training.population.algorithm
    if not isinstance(agent, TDControl):
        raise InputError(
            f"{config.algorithm} learns no table: purerl solve is for q_learning, sarsa and their relatives"
        )
    member = given.get("member", 0)
    if member >= config.num_members:
        raise InputError(f"--member must be less than the number of members, {config.num_members}, got {member}")
    tables = np.asarray(load(run, newest, training.shapes).tables.values, np.float64)
    # Members may differ in the discount factor, in the scale of rewards and in the environment.
    members = [schedules.at(training.population.member(i), jax.numpy.int32(newest)) for i in range(config.num_members)]
    processes, gammas = [tabular.mdp_of(one.env) for one in members], [float(one.gamma) for one in members]
    learned = [values / float(one.reward_scale) for values, one in zip(tables, members, strict=True)]
    with jax.enable_x64(True):
        solve, rate = jax.jit(tabular.value_iteration), jax.jit(_start_value)
        solutions = [jax.device_get(solve(mdp, gamma)) for mdp, gamma in zip(processes, gammas, strict=True)]
        rated = [float(rate(*each)) for each in zip(processes, learned, gammas, strict=True)]
    print(f"{config.title} after {newest * agent.steps_per_iteration:,} steps, gamma {_span(gammas)}")
    table = Table(["member", "learned value of the start", "its greedy policy", "optimal"])
    for number, (mdp, values, value, solution) in enumerate(zip(processes, learned, rated, solutions, strict=True)):
        row = (mdp.start @ values.max(axis=-1), value, mdp.start @ solution.values)
        table.add(str(number), *(f"{entry:.4f}" for entry in row))
    table.show()
    print(f"member {member}")
    print(grid_picture.text(processes[member], learned[member]))
    if out:
        panels = {f"{config.title}, member {member}": learned[member], "optimal": solutions[member].action_values}
        grid_picture.draw(processes[member], panels, out)
        print(out)


def _start_value(mdp: Any, action_values: Any, gamma: float) -> Any:
    """Value of the start under the policy that is greedy with respect to ``action_values [S, A]``."""
    import jax.numpy as jnp

    from purerl import tabular

    policy = tabular.deterministic_policy(jnp.argmax(action_values, axis=-1), mdp.num_actions)
    return jnp.asarray(mdp.start) @ tabular.policy_sweeps(mdp, policy, gamma, HORIZON).values[-1]


def _span(numbers: Sequence[float]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _picture(given: dict[str, Any]) -> Path | None:
    """File of the picture, if one is wanted."""
    out = Path(given["out"]) if "out" in given else None
    if out is not None and out.suffix.lower() != ".png":
        raise InputError(f"--out must name a .png file, got {out}")
    return out
