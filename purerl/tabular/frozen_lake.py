"""Tables of environments that are known to be finite: gymnax's FrozenLake and every `TabularMDP` in wrappers."""

from __future__ import annotations

from typing import Any

import numpy as np

from purerl.errors import InputError
from purerl.tabular.grids import MOVES
from purerl.tabular.mdp import TabularMDP
from purerl.types import Environment

_HOLE, _GOAL = 2, 3
"""Tiles of gymnax's FrozenLake."""


def frozen_lake(**options: Any) -> TabularMDP:
    """Tables of gymnax's ``FrozenLake-misc``, enumerated from its map, without its time limit.

    Args:
        options: of the environment, such as ``map_name="8x8"``, ``is_slippery=False`` or ``success_rate=0.5``.

    Raises:
        InputError: for an option that it does not have.
    """
    from purerl.environments import make

    return mdp_of(make("FrozenLake-misc", **options))


def mdp_of(env: Environment) -> TabularMDP:
    """Tables of an environment: itself for a `TabularMDP`, enumerated for gymnax's FrozenLake; time limits are ignored.

    Raises:
        InputError: for any other environment.
    """
    from purerl.environments.gymnax import GymnaxEnvironment
    from purerl.environments.wrappers import TimeLimit

    inner: Any = env
    while isinstance(inner, TimeLimit):
        inner = inner.env
    if isinstance(inner, TabularMDP):
        return inner
    if isinstance(inner, GymnaxEnvironment) and inner.name == "FrozenLake-misc":
        return _enumerate(inner.factory(**dict(inner.options)))
    kind = inner.name if isinstance(inner, GymnaxEnvironment) else type(inner).__name__
    raise InputError(f"{kind} has no tables: use FrozenLake-misc, an environment of grid/ or a TabularMDP")


def _enumerate(simulator: Any) -> TabularMDP:
    tiles = np.asarray(simulator.desc)
    rows, columns = tiles.shape
    size, num_moves = tiles.size, len(MOVES)
    transition = np.zeros((size, num_moves, size))
    sides = (1.0 - simulator.success_rate) / 2.0
    # gymnax's actions are cyclic: one below and one above are the two sides of a direction.
    chances = {0: simulator.success_rate, -1: sides, 1: sides} if simulator.is_slippery else {0: 1.0}
    terminal = np.isin(tiles.reshape(-1), (_HOLE, _GOAL))
    for state in range(size):
        for action in range(num_moves):
            if terminal[state]:
                transition[state, action, state] = 1.0
                continue
            for offset, probability in chances.items():
                down, right = list(MOVES.values())[(action + offset) % num_moves]
                row = np.clip(state // columns + down, 0, rows - 1)
                column = np.clip(state % columns + right, 0, columns - 1)
                transition[state, action, row * columns + column] += probability
    goal, hole, frozen = np.asarray(simulator.reward_schedule, float)
    entered = np.select([tiles.reshape(-1) == _GOAL, tiles.reshape(-1) == _HOLE], [goal, hole], frozen)
    start = np.eye(size)[int(np.argmax(tiles.reshape(-1) == 0))]
    drawing = tuple("".join("S.HG"[tile] for tile in row) for row in tiles)
    return TabularMDP(transition, np.broadcast_to(entered, transition.shape), start, terminal, tuple(MOVES), drawing)
