"""Agents of runs, from their newest checkpoints, and other experts."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from purerl import references
from purerl.cli import control
from purerl.cli.config import RunConfig
from purerl.cli.run_directory import RunDirectory
from purerl.errors import InputError


@dataclasses.dataclass(frozen=True)
class Agent:
    """A trained agent.

    Attributes:
        config: of its run.
        env: that it learned in, with its own parameters.
        policy: how it acts.
        member: which one of the run it is.
        steps: environment steps that it has learned from.
    """

    config: RunConfig
    env: Any
    policy: Any
    member: int
    steps: int


def load_agent(run: RunDirectory, member: int | None = None, *, explore: bool = False) -> Agent:
    """One member of `run`.

    Args:
        run: the run.
        member: its number; None for the one with the highest last evaluation, the first of equals, 0 without any.
        explore: whether it is to act as in training.

    Raises:
        InputError: if the run has no checkpoint or no such member, or cannot be read.
    """
    import jax

    from purerl.cli.training import Training, load
    from purerl.training import checkpoint

    config = run.config()
    newest = checkpoint.latest(run.checkpoints)
    if newest is None:
        raise InputError(f"{run.path} has no checkpoint yet: there is no agent to act")
    if member is not None and not 0 <= member < config.num_members:
        raise InputError(f"--member must lie in [0, {config.num_members - 1}], the members of {run.path}, got {member}")
    number = _best(run) if member is None else member
    training = Training(config)
    state = load(run, newest, training.shapes)
    both = training.population.map(lambda agent, state: (agent.env, agent.policy(state, explore=explore)), state)
    env, policy = jax.tree.map(lambda leaf: leaf[number], both)
    return Agent(config, env, policy, number, newest * training.population.steps_per_iteration)


def _best(run: RunDirectory) -> int:
    last = {row["member"]: row["eval_return"] for row in run.rows() if row.get("eval_return") is not None}
    return max(sorted(last.keys() - run.diverged().keys()), key=lambda member: last[member], default=0)


def expert(text: str) -> Any:
    """Policy or planner: the best agent of a run, a planner by its name with its defaults, or ``module:name``.

    What a module calls so may be a `purerl.Policy`, a planner, or a function from an observation to an action.

    Raises:
        InputError: if there is none.
    """
    if text in control.CONTROLLERS:
        return control.planner_class(text)()
    if os.path.exists(text):
        return load_agent(RunDirectory.open(Path(text))).policy
    if not references.is_reference(text):
        raise InputError(
            f"no expert {text!r}: it must be the directory of a run, a planner ({', '.join(control.CONTROLLERS)}), "
            "or mypackage.mymodule:name"
        )
    found = references.find(text)
    from purerl.physics.control import Planner
    from purerl.types import Policy

    if isinstance(found, Policy | Planner) and not isinstance(found, type):
        return found
    if not callable(found) or isinstance(found, type):
        raise InputError(f"{text} is no purerl.Policy, no planner and no function, but {type(found).__name__}")
    from jax.tree_util import Partial

    return Policy(Partial(_act, Partial(found)))


def _act(function: Callable[[Any], Any], key: Any, carry: Any, obs: Any) -> tuple[Any, Any, dict]:
    import jax.numpy as jnp

    return jnp.asarray(function(obs)), carry, {}


def open_run(word: str) -> RunDirectory:
    """The run in the directory that `word` names.

    Raises:
        InputError: if there is none, saying so also where an environment was meant.
    """
    path = Path(word)
    if path.exists():
        return RunDirectory.open(path)
    from purerl.environments import environment_options

    try:
        environment_options(word)
    except InputError as error:
        raise InputError(f"no run in {word}: there is no such directory; nor is it an environment: {error}") from error
    raise InputError(
        f"no run in {word}: it is an environment, say how to act there with --controller "
        f"{' or '.join(control.CONTROLLERS)}"
    )
