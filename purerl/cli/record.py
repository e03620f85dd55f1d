"""``purerl record``: whole episodes of a run's agent, or of a planner, as a file of demonstrations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from purerl.cli import control
from purerl.cli.parser import COUNTABLE, Flag, Group, parse
from purerl.errors import InputError

USAGE = (
    "purerl record DIR --out FILE [flags]\n       purerl record ENVIRONMENT --controller CONTROLLER --out FILE [flags]"
)

_COMMON = [
    Flag("episodes", "int", "complete episodes", 10, COUNTABLE),
    Flag("out", "str", "file of demonstrations to write; .npz is added where it is missing (required)", metavar="FILE"),
    Flag("overwrite", "bool", "replace the file if there is one"),
    Flag("max_steps", "int", "most steps of an episode (default the time limit, or 1000)", within=COUNTABLE),
    Flag("seed", "int", "random seed of the episodes", 0, "[0, 4294967295]"),
    control.CONTROLLER,
]
_RUN = Group(
    "flags",
    [
        *_COMMON,
        Flag("member", "int", "which agent (default the one with the highest last evaluation)", within="[0, inf)"),
        Flag("stochastic", "bool", "explore as in training: actions sampled, noisy or epsilon-greedy"),
    ],
)


def command(argv: Sequence[str]) -> int:
    """Run ``purerl record`` with the words after it; returns the exit code."""
    controller = control.named(argv)
    if controller is not None:
        return _of_planner(controller, argv)
    about = "Write whole episodes of a run's agent to a file, to learn from with --demonstrations FILE."
    given, words = parse(USAGE, about, [_RUN], argv, positional="DIR")
    if len(words) != 1:
        raise InputError(f"name one run directory, as in: purerl record runs/cartpole --out demos (got {len(words)})")
    path = _target(given)
    from purerl.cli.agents import load_agent, open_run

    run = open_run(words[0])
    explore = given.get("stochastic", False)
    agent = load_agent(run, given.get("member"), explore=explore)
    config = agent.config
    how = ", exploring" if explore else ""
    source = f"{config.algorithm}, member {agent.member} of {run.path} after {agent.steps:,} steps{how}"
    _write(agent.env, agent.policy, given, path, config.env, config.env_options, source)
    return 0


def _of_planner(controller: str, argv: Sequence[str]) -> int:
    about = f"Write whole episodes of {controller}, which plans again at every step, to a file of demonstrations."
    group = Group("flags", _COMMON)
    built = control.build(
        USAGE, about, "purerl record Pendulum-v1 --out demos --controller mppi", group, controller, argv
    )
    path = _target(built.given)
    from purerl.physics.control import ObserveBoth, mpc_policy, on_state

    policy = on_state(mpc_policy(built.planner, built.env))
    _write(ObserveBoth(built.env), policy, built.given, path, built.name, built.options, f"planner {built.planner}")
    return 0


def _target(given: Mapping[str, Any]) -> Path:
    if "out" not in given:
        raise InputError("name the file to write, as in: --out demos.npz")
    path = Path(given["out"])
    if path.is_dir():
        raise InputError(f"--out must name a file, and {path} is a directory: try {path / 'demos.npz'}")
    path = path if path.suffix == ".npz" else path.with_name(f"{path.name}.npz")
    if not path.parent.is_dir():
        raise InputError(f"cannot write {path}: there is no directory {path.parent}")
    if path.exists() and not given.get("overwrite", False):
        raise InputError(f"{path} exists already: choose another --out, or give --overwrite to replace it")
    return path


def _write(
    env: Any, policy: Any, given: Mapping[str, Any], path: Path, name: str, options: Mapping[str, Any], source: str
) -> None:
    """Play, write and print."""
    import jax
    import numpy as np

    from purerl.cli import report
    from purerl.demonstrations import record
    from purerl.environments import options_of
    from purerl.math.statistics import summarize

    limits = {name: option.default for name, option in options_of(name).items()} | dict(options)
    max_steps = given.get("max_steps", limits.get("episode_length") or 1000)
    key, episodes = jax.random.key(given.get("seed", 0)), given.get("episodes", 10)
    demonstrations = record(env, policy, key, episodes, max_steps, name=name, options=options, source=source)
    demonstrations.save(path)
    print(f"{source}: {demonstrations.num_episodes} episodes, {demonstrations.num_rows:,} steps -> {path}")
    print(f"return: {report.statistics(summarize(np.asarray(demonstrations.returns)[:, None]))}")
