"""Values and greedy actions on a grid, as text and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from purerl.cli.plot import picture
from purerl.tabular import TabularMDP

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIGNS = {"left": "<", "down": "v", "right": ">", "up": "^"}
"""Actions in text; the first letter stands for another one."""

_STEPS = {"left": (-1, 0), "down": (0, 1), "right": (1, 0), "up": (0, -1)}
"""Actions in pictures, as steps to the right and downwards."""

_TIE = 1e-6
"""Difference of the values of actions that counts as none, relative to the largest value."""


def best_actions(action_values: np.ndarray) -> np.ndarray:
    """Whether an action is among the best of its state, but for rounding: bool ``[S, A]``."""
    best = action_values.max(axis=1, keepdims=True)
    return action_values >= best - _TIE * max(1.0, float(np.abs(action_values).max()))


def text(mdp: TabularMDP, action_values: np.ndarray) -> str:
    """Values and best actions ``[S, A]`` of a process with a drawing, as two grids of text."""
    columns, best = len(mdp.drawing[0]), best_actions(action_values)
    signs = [SIGNS.get(name, name[:1]) for name in mdp.action_names]
    values, actions = [], []
    for state, cell in enumerate("".join(mdp.drawing)):
        ended = bool(np.asarray(mdp.terminal)[state])
        values.append(cell if ended else f"{action_values[state].max():.3g}")
        actions.append(cell if ended else "".join(sign for sign, good in zip(signs, best[state], strict=True) if good))
    return f"values\n{_aligned(values, columns)}\nbest actions\n{_aligned(actions, columns)}"


def draw(mdp: TabularMDP, tables: Mapping[str, np.ndarray], out: Path) -> None:
    """Draw values as colours and numbers, and an arrow for each best action, into one picture.

    Args:
        mdp: a process with a drawing.
        tables: title to action values ``[S, A]``; each gets a panel, all with the same colours.
        out: file of the picture.

    Raises:
        InputError: if `out` cannot be written.
    """
    rows, columns = len(mdp.drawing), len(mdp.drawing[0])
    ended = np.asarray(mdp.terminal)
    shown = [np.ma.masked_where(ended, table.max(axis=1)) for table in tables.values()]
    low, high = min(float(values.min()) for values in shown), max(float(values.max()) for values in shown)
    side = 0.75 if columns <= 10 else 0.5
    with picture(out, max(3.0, side * columns) + 0.6, len(tables) * (max(0.8, side * rows) + 0.4)) as figure:
        panels = np.ravel(figure.subplots(len(tables), 1))
        for axes, (title, table), values in zip(panels, tables.items(), shown, strict=True):
            image = axes.imshow(values.reshape(rows, columns), cmap="viridis", vmin=low, vmax=max(high, low + 1e-9))
            axes.set_title(title, fontsize="medium")
            axes.set_xticks([])
            axes.set_yticks([])
            axes.set_facecolor("#dddddd")
            best = best_actions(table)
            for state, cell in enumerate("".join(mdp.drawing)):
                y, x = divmod(state, columns)
                if cell == "#":
                    axes.fill([x - 0.5, x + 0.5, x + 0.5, x - 0.5], [y - 0.5, y - 0.5, y + 0.5, y + 0.5], "#555555")
                    continue
                if ended[state]:
                    axes.text(x, y, cell, ha="center", va="center", weight="bold")
                    continue
                ink = "white" if values[state] < low + 0.6 * (high - low) else "black"
                axes.text(x, y + 0.46, f"{values[state]:.3g}", ha="center", va="bottom", color=ink, fontsize=7)
                if cell == "S":
                    axes.text(x - 0.46, y - 0.46, "S", ha="left", va="top", color=ink, fontsize=7)
                _arrows(axes, x, y, [n for n, good in zip(mdp.action_names, best[state], strict=True) if good], ink)
            figure.colorbar(image, ax=axes, shrink=0.9)


def _arrows(axes: Axes, x: int, y: int, actions: Sequence[str], ink: str) -> None:
    for action in actions:
        if action in _STEPS:
            right, down = _STEPS[action]
            axes.annotate(
                "",
                xy=(x + 0.32 * right, y - 0.05 + 0.32 * down),
                xytext=(x, y - 0.05),
                arrowprops={"arrowstyle": "->", "color": ink, "shrinkA": 0, "shrinkB": 0},
            )


def _aligned(cells: Sequence[str], columns: int) -> str:
    width = max(map(len, cells))
    lines = [cells[begin : begin + columns] for begin in range(0, len(cells), columns)]
    return "\n".join("  " + "  ".join(cell.rjust(width) for cell in line) for line in lines)
