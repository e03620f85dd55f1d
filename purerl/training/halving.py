"""Successive halving (Jamieson & Talwalkar 2016, arXiv:1502.07943): the worse members of a population stop.

Train all members for a while, keep the better half, train those twice as long, and so on: every rung costs as much as
the one before, and most steps go to the members that are worth them::

    iterations = 0
    for rung in range(4):
        iterations += 10 * 2**rung
        *_, progress = purerl.iterate(population, state, iterations)
        survivors = purerl.halve(population, progress.state, progress.metrics["episode_return"].value)
        population, state = survivors.population, survivors.state

A rung is a smaller population and compiles a program of its own; members learn what they would have learned in the
larger one, except for rounding.
"""

from __future__ import annotations

import dataclasses
import math

import jax
import numpy as np

from purerl import struct
from purerl.errors import InputError
from purerl.training.population import Population
from purerl.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Survivors:
    """Members that go on.

    Attributes:
        population: of them alone.
        state: of them alone.
        members: int ``[n]``, their numbers in the population before, ascending.
    """

    population: Population
    state: PyTree
    members: np.ndarray


def halve(population: Population, state: PyTree, fitness: Array, keep: float = 0.5) -> Survivors:
    """The better members of a population, at least one.

    Args:
        population: all members, on one device.
        state: of all members.
        fitness: ``[P]``, more is better; NaN is worse than any number.
        keep: share of the members that goes on, rounded up.

    Raises:
        InputError: if there is not one fitness for each member, or `keep` is no share.
    """
    struct.check_value("keep", keep, float, "(0, 1]")
    scores = np.asarray(fitness, np.float64)
    if scores.shape != (population.num_members,):
        raise InputError(f"fitness must have shape [{population.num_members}], got {list(scores.shape)}")
    if population.mesh is not None:
        raise InputError("halve a population before it is spread over devices: on(devices) comes last")
    number = max(1, math.ceil(keep * population.num_members))
    order = np.argsort(np.where(np.isnan(scores), -np.inf, scores), kind="stable")
    members = np.sort(order[-number:])
    varied = {name: np.asarray(values)[members] for name, values in population.varied.items()}
    state = jax.tree.map(
        lambda leaf, axis: leaf[members] if axis == 0 else leaf, state, struct.member_axes(state, shared=-1)
    )
    return Survivors(struct.replace(population, num_members=number, varied=varied), state, members)
