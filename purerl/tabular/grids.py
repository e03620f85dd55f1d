"""Grid worlds drawn as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from purerl import struct
from purerl.errors import InputError, unknown
from purerl.tabular.mdp import TabularMDP

CELLS = {
    "S": "start; several are equally likely",
    ".": "free",
    "#": "wall",
    "G": "goal, terminal",
    "T": "trap, terminal",
    "C": "cliff, from which one returns to a start",
}
"""Characters of a drawing and their meaning."""

MOVES = {"left": (0, -1), "down": (1, 0), "right": (0, 1), "up": (-1, 0)}
"""Name of an action to its step in rows and columns, in the order of FrozenLake's actions."""

_WALL, _CLIFF = "#", "C"
_NOWHERE_TO_ACT = "GT#C"
"""Cells where an episode ends, and those that nobody is ever in."""


@dataclasses.dataclass(frozen=True)
class Rewards:
    """Reward for entering a cell, by its kind. A move that a wall or the edge stops enters the cell where it began."""

    step: float = struct.field(default=0.0, help="reward for entering a start or a free cell", within="(-inf, inf)")
    goal: float = struct.field(default=1.0, help="reward for entering a goal", within="(-inf, inf)")
    trap: float = struct.field(default=-1.0, help="reward for entering a trap", within="(-inf, inf)")
    cliff: float = struct.field(default=-100.0, help="reward for entering a cliff", within="(-inf, inf)")

    def __post_init__(self) -> None:
        struct.check_fields(self)

    def of(self, cell: str) -> float:
        """Reward for entering `cell`, a character of `CELLS`."""
        return {"G": self.goal, "T": self.trap, "C": self.cliff}.get(cell, self.step)


def grid(
    text: str | Sequence[str],
    *,
    rewards: Rewards = Rewards(),
    slip: float = 0.0,
    wind: Sequence[int] = (),
    moves: Sequence[str] = tuple(MOVES),
) -> TabularMDP:
    """Grid world drawn as `text`: one line per row, one character of `CELLS` per cell.

    State ``row * columns + column`` is a cell; walls and cliffs are states that nobody is in, and count as terminal. An
    action moves by one cell; walls and edges stop it. With probability `slip` the move goes to one of the two sides of
    the chosen direction instead, each with half of it (Russell & Norvig 2010, section 17.1, has ``slip=0.2``).

    Args:
        text: the drawing, also as a sequence of lines; indentation and empty lines around it are ignored.
        rewards: reward for entering a cell.
        slip: probability of a move to a side.
        wind: cells by which each column shifts a move upwards (Sutton & Barto 2018, example 6.5); none by default.
        moves: names of the actions, some of `MOVES`.

    Raises:
        InputError: for lines of different length, an unknown character, or a drawing without a start.
    """
    lines = _lines(text)
    rows, columns = len(lines), len(lines[0])
    struct.check_value("slip", slip, float, "[0, 1]")
    winds = tuple(wind) or (0,) * columns
    if len(winds) != columns:
        raise InputError(f"wind must have one entry for each of {columns} columns, got {list(winds)}")
    for shift in winds:
        struct.check_value("wind", shift, int, "(-inf, inf)")
    if not moves:
        raise InputError("moves must name at least one action")
    for move in moves:
        if move not in MOVES:
            raise unknown("move", move, MOVES)
    cells = "".join(lines)
    start = np.array([cell == "S" for cell in cells], float)
    start /= start.sum()
    size = len(cells)
    transition, reward = np.zeros((size, len(moves), size)), np.zeros((size, len(moves), size))

    def enter(row: int, column: int, direction: tuple[int, int]) -> int:
        """Cell that a move from a cell leads to."""
        target = _inside(row + direction[0], rows), _inside(column + direction[1], columns)
        if lines[target[0]][target[1]] == _WALL:
            target = row, column
        blown = _inside(target[0] - winds[column], rows), target[1]
        row, column = target if lines[blown[0]][blown[1]] == _WALL else blown
        return row * columns + column

    for state, cell in enumerate(cells):
        for action, move in enumerate(moves):
            if cell in _NOWHERE_TO_ACT:
                transition[state, action, state] = 1.0
                continue
            ahead = MOVES[move]
            sides = (ahead[1], ahead[0]), (-ahead[1], -ahead[0])
            for direction, probability in ((ahead, 1.0 - slip), (sides[0], slip / 2), (sides[1], slip / 2)):
                entered = enter(*divmod(state, columns), direction)
                # Whoever falls is back at a start at once, with the reward of the fall.
                onward = start if cells[entered] == _CLIFF else np.eye(size)[entered]
                transition[state, action] += probability * onward
                reward[state, action] += probability * onward * rewards.of(cells[entered])
    # Several ways may lead to one cell: the reward of a transition is their mean.
    reward /= np.where(transition > 0.0, transition, 1.0)
    terminal = np.array([cell in _NOWHERE_TO_ACT for cell in cells])
    return TabularMDP(transition, reward, start, terminal, tuple(moves), lines)


def _lines(text: str | Sequence[str]) -> tuple[str, ...]:
    """Lines of a drawing, checked."""
    if not isinstance(text, str) and not (isinstance(text, Sequence) and all(isinstance(line, str) for line in text)):
        raise InputError(f"a drawing must be text or a list of lines, got {text!r}")
    given = text.splitlines() if isinstance(text, str) else list(text)
    lines = tuple(line.strip() for line in given)
    while lines and not lines[0]:
        lines = lines[1:]
    while lines and not lines[-1]:
        lines = lines[:-1]
    if not lines or len(set(map(len, lines))) > 1:
        lengths = ", ".join(map(str, map(len, lines))) or "none"
        raise InputError(f"a drawing must have lines of equal length, got lines of {lengths} characters")
    for cell in "".join(lines):
        if cell not in CELLS:
            allowed = ", ".join(f"{known!r} ({meaning})" for known, meaning in CELLS.items())
            raise InputError(f"unknown character {cell!r} in a drawing: use {allowed}")
    if not any("S" in line for line in lines):
        raise InputError("a drawing needs a start, the character 'S'")
    return lines


def _inside(index: int, length: int) -> int:
    return min(max(index, 0), length - 1)
