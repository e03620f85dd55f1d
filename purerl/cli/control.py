"""``purerl evaluate ENVIRONMENT --controller ...``: play complete episodes with a planner instead of trained agents."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from purerl.cli import flags
from purerl.cli.parser import COUNTABLE, Flag, Group, parse
from purerl.errors import InputError, unknown
from purerl.presets import Preset

CONTROLLERS = {"shooting": "Shooting", "ilqr": "ILQR", "mppi": "MPPI"}
"""Name on the command line to public name in `purerl.control`. The only look-up of a planner by name."""

CONTROLLER = Flag(
    "controller",
    "str",
    "planner that acts instead of a trained agent; its model is the environment itself",
    choices=tuple(CONTROLLERS),
)

_RUN = Group(
    "flags",
    [
        CONTROLLER,
        Flag("episodes", "int", "number of complete episodes", 8, COUNTABLE),
        Flag("seed", "int", "random seed", 0, "[0, 4294967295]"),
    ],
)
_EXAMPLE = "purerl evaluate Pendulum-v1 --controller mppi"
_HELP = {"-h", "--help"}


def named(argv: Sequence[str]) -> str | None:
    """Value of ``--controller`` in `argv`; None if it is missing."""
    for i, word in enumerate(argv):
        name, equals, value = word.partition("=")
        if name == CONTROLLER.flag:
            return value if equals else "".join(argv[i + 1 : i + 2])
    return None


@dataclasses.dataclass(frozen=True)
class Built:
    """A planner in an environment, as flags describe them.

    Attributes:
        name: of the environment.
        options: of the environment, those that were given.
        env: the environment.
        planner: the planner.
        given: values of all flags that were given.
    """

    name: str
    options: dict[str, Any]
    env: Any
    planner: Any
    given: dict[str, Any]


def build(usage: str, about: str, example: str, run: Group, controller: str, argv: Sequence[str]) -> Built:
    """Parse the words of a command with a controller.

    Args:
        usage: first line of the help.
        about: second paragraph of the help.
        example: of such a command.
        run: flags of the command itself.
        controller: see `named`.
        argv: the words after the command.
    """
    if controller not in CONTROLLERS:
        raise unknown(f"{CONTROLLER.flag} value", controller, CONTROLLERS)
    planner_type = planner_class(controller)
    planner_group = flags.hyperparameter_group(controller, planner_type, Preset())
    if not argv or argv[0].startswith("-"):
        if _HELP & set(argv):
            about += f"\nName an environment to see its flags too: {example} --help"
            parse(usage, about, [run, planner_group], ["--help"])
        raise InputError(f"name the environment first, as in: {example}")
    env_name, *words = argv
    if (Path(env_name) / "config.json").is_file():
        raise InputError(f"{env_name} is a run with trained agents: leave out --controller, or name an environment")
    from purerl.environments import make, options_of

    env_group = flags.env_group(env_name, options_of(env_name), {})
    given, _ = parse(usage, about, [run, planner_group, env_group], words)
    options = flags.given_in(env_group, given, flags.ENV_PREFIX)
    return Built(
        env_name, options, make(env_name, **options), planner_type(**flags.given_in(planner_group, given)), given
    )


def command(usage: str, controller: str, argv: Sequence[str]) -> int:
    """Run ``purerl evaluate`` with a controller; returns the exit code.

    Args:
        usage: first line of the help.
        controller: see `named`.
        argv: the words after ``purerl evaluate``.
    """
    about = f"Play complete episodes with {controller}, which plans again at every step."
    built = build(usage, about, _EXAMPLE, _RUN, controller, argv)
    title = f"{controller} on {built.name}"
    _play(title, built.planner, built.env, built.given.get("episodes", 8), built.given.get("seed", 0))
    return 0


def _play(title: str, planner: Any, env: Any, num_episodes: int, seed: int) -> None:
    """Play episodes and print their statistics."""
    import jax
    import numpy as np

    from purerl import rollout
    from purerl.cli import report
    from purerl.cli.progress import duration
    from purerl.cli.tables import Table
    from purerl.math.statistics import summarize
    from purerl.physics.control import ObserveState, mpc_policy

    def play(planner: Any, env: Any, key: jax.Array) -> rollout.Episodes:
        return rollout.evaluate(ObserveState(env), mpc_policy(planner, env), key, num_episodes)

    begun = time.perf_counter()
    lowered = jax.jit(play).lower(planner, env, jax.random.key(seed))
    print(f"{title}, {num_episodes} episodes: compiling", flush=True)
    program = lowered.compile()
    compiled = time.perf_counter()
    print(f"playing, after {duration(compiled - begun)} of compiling", flush=True)
    played = jax.device_get(program(planner, env, jax.random.key(seed)))
    seconds = time.perf_counter() - compiled

    table = Table(["return", "deviation", "lowest", "highest", "length"])
    returns, num_steps = played.episode_return, int(np.sum(played.episode_length))
    numbers = (np.mean(returns), np.std(returns), np.min(returns), np.max(returns))
    table.add(*map(report.number, map(float, numbers)), f"{np.mean(played.episode_length):.1f}")
    table.show()
    print(f"return: {report.statistics(summarize(returns))}")
    print(f"done in {duration(seconds)}: {num_steps:,} steps, {1e3 * seconds / num_steps:.2g} ms each")


def planner_class(controller: str) -> Any:
    """The class behind a name in `CONTROLLERS`."""
    from purerl.physics import control

    return getattr(control, CONTROLLERS[controller])
