"""Environments that differ in one number, and the returns of trained agents in each of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import purerl
from purerl import paths, rollout
from purerl.cli.config import RunConfig
from purerl.environments import options_of
from purerl.environments.influence import check_acts, dotted
from purerl.environments.ranges import along
from purerl.environments.wrappers import with_leaves
from purerl.errors import InputError, unknown
from purerl.training.population import Population
from purerl.types import Array, Environment, PyTree


def environments(config: RunConfig, name: str, values: Sequence[float]) -> list[Environment]:
    """Environments of a run with other values of one number; its other random parameters have their nominal values.

    Args:
        config: of the run.
        name: option of the environment, such as ``observation_noise``, or the dotted path of a number in it, such as
            ``params.length``.
        values: values of that number.

    Raises:
        InputError: for an unknown name, a number that follows from others or has no effect, a value that is not
            allowed, or other spaces than those that the agents have learned in.
    """
    if any(varied.startswith("env.") for varied in config.vary):
        raise InputError("the members of a run with --vary env. have environments of their own: nothing to shift")
    nominal, options = config.nominal_env(), options_of(config.env)
    if name in options:
        if isinstance(options[name].default, bool | str | tuple):
            raise InputError(f"--shift {name}: it is no number")
        shifted = [purerl.make(config.env, **{**config.env_options, name: value}) for value in values]
    else:
        if "." not in name and not hasattr(nominal, name):
            raise unknown(f"option of {config.env} in --shift", name, options)
        shifted = [paths.replaced(nominal, name, value) for value in along(nominal, name, values)]
    for env in shifted:
        for space, known in (
            (env.observation_space, nominal.observation_space),
            (env.action_space, nominal.action_space),
        ):
            if (type(space), space.shape, space.dtype) != (type(known), known.shape, known.dtype):
                raise InputError(f"--shift {name}: agents that know {known} cannot act on {space}")
    return shifted


@dataclasses.dataclass(frozen=True)
class Group:
    """Environments of one structure, which one program plays together.

    Attributes:
        places: their places among all.
        env: one of them.
        columns: values ``[len(places), ...]`` of the leaves that differ, by path.
    """

    places: list[int]
    env: Environment
    columns: dict[str, Array]


def play(
    population: Population, state: PyTree, shifted: Sequence[Environment], key: Array, num_episodes: int, batch: int
) -> np.ndarray:
    """Undiscounted returns ``[shifts, members, num_episodes]`` of the agents without exploration.

    A member plays with equal random numbers in every environment. Environments of one structure are computed in one
    program, `batch` episodes at a time.
    """
    returns = np.zeros((len(shifted), population.num_members, num_episodes), np.float32)
    for group in groups(shifted):
        for first in range(0, num_episodes, batch):
            batch_key = jax.random.fold_in(key, first)
            played = np.asarray(_play(population, state, group.env, group.columns, batch_key, batch))
            last = min(first + batch, num_episodes)
            returns[group.places, :, first:last] = np.moveaxis(played, 0, 1)[:, :, : last - first]
    return returns


@partial(jax.jit, static_argnames="batch")
def _play(
    population: Population, state: PyTree, env: Environment, columns: dict[str, Array], key: Array, batch: int
) -> Array:
    """Returns ``[members, shifts, batch]``."""

    def member(agent: Any, state: PyTree, key: Array) -> Array:
        policy = agent.policy(state, explore=False)

        def shift(values: dict[str, Array]) -> Array:
            return rollout.evaluate(with_leaves(env, values), policy, key, batch).episode_return

        return jax.vmap(shift)(columns) if columns else shift({})[None]

    keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(jnp.arange(population.num_members))
    return population.map(member, state, keys)


def groups(shifted: Sequence[Environment]) -> list[Group]:
    """The environments, those of one structure together."""
    places: dict[Any, list[int]] = {}
    for place, env in enumerate(shifted):
        shapes = [(np.shape(leaf), np.result_type(leaf)) for leaf in jax.tree.leaves(env)]
        places.setdefault((jax.tree.structure(env), *shapes), []).append(place)
    groups = []
    for members in places.values():
        same = [shifted[place] for place in members]
        names = [dotted(path) for path, _ in jax.tree_util.tree_flatten_with_path(same[0])[0]]
        leaves = zip(*map(jax.tree.leaves, same), strict=True)
        columns = {
            name: jnp.stack(values)
            for name, values in zip(names, leaves, strict=True)
            if any(value is not values[0] and not np.array_equal(value, values[0]) for value in values)
        }
        check_acts(same[0], columns)
        groups.append(Group(members, same[0], columns))
    return groups
