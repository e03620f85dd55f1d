"""Grid worlds of textbooks, and drawings of your own; their tables are `purerl.tabular.TabularMDP`."""

from __future__ import annotations

import dataclasses
from typing import Any

from purerl.environments.options import COMMON, Option
from purerl.environments.wrappers import TimeLimit
from purerl.errors import InputError, unknown
from purerl.tabular.grids import MOVES, Rewards, grid

PREFIX = "grid/"


@dataclasses.dataclass(frozen=True)
class _World:
    drawing: str
    episode_length: int
    rewards: Rewards = dataclasses.field(default_factory=Rewards)
    slip: float = 0.0
    wind: tuple[int, ...] = ()
    moves: tuple[str, ...] = tuple(MOVES)


_WORLDS = {
    # Sutton & Barto 2018, example 6.6.
    "grid/cliff-walk": _World(
        """
        ............
        ............
        ............
        SCCCCCCCCCCG
        """,
        episode_length=500,
        rewards=Rewards(step=-1.0, goal=-1.0, cliff=-100.0),
    ),
    # Russell & Norvig 2010, figure 17.1, with a hundred times its rewards.
    "grid/trap": _World(
        """
        ...G
        .#.T
        S...
        """,
        episode_length=100,
        rewards=Rewards(step=-4.0, goal=100.0, trap=-100.0),
        slip=0.2,
    ),
    # Sutton & Barto 2018, example 6.2: values 1/6 to 5/6 for random moves.
    "grid/random-walk": _World("T..S..G", episode_length=1000, rewards=Rewards(trap=0.0), moves=("left", "right")),
    # Sutton & Barto 2018, example 6.5: the shortest way takes 15 steps.
    "grid/windy": _World(
        """
        ..........
        ..........
        ..........
        S......G..
        ..........
        ..........
        ..........
        """,
        episode_length=500,
        rewards=Rewards(step=-1.0, goal=-1.0),
        wind=(0, 0, 0, 1, 1, 1, 2, 2, 1, 0),
    ),
    # Sutton & Barto 2018, figure 8.2: the shortest way takes 14 steps.
    "grid/maze": _World(
        """
        .......#G
        ..#....#.
        S.#....#.
        ..#......
        .....#...
        .........
        """,
        episode_length=500,
    ),
}


def names() -> list[str]:
    """Names ``"grid/<name>"`` of all environments of this suite."""
    return list(_WORLDS)


def is_known(name: str) -> bool:
    """Whether there is an environment called ``"grid/<name>"``."""
    return name in _WORLDS


def make(name: str, *, episode_length: int | None = None, differentiable: bool = False, **options: Any) -> TimeLimit:
    """Grid world ``"grid/<name>"`` with a time limit.

    Args:
        name: name with the prefix.
        episode_length: time limit in steps; by default 100 to 1000, see `time_limit`.
        differentiable: must be False; there is no gradient through discrete states.
        options: rewards by kind of cell, ``slip``, and the text of a ``drawing`` of your own, see `options`.

    Raises:
        InputError: for an unknown option, a value that makes no sense, or a text that is no drawing.
    """
    if differentiable:
        raise InputError(f"{name} passes no gradient from action to reward: its states and actions are discrete")
    known = _options_of(name)
    for option in options:
        if option not in known:
            raise unknown(f"option of {name}", option, {*known, *COMMON})
    world = _WORLDS[name]
    rewards = {f.name: options.get(f"{f.name}_reward", getattr(world.rewards, f.name)) for f in _KINDS}
    drawing = options.get("drawing", "")
    if not isinstance(drawing, str):
        raise InputError(f"drawing of {name} must be text, as Path(file).read_text() gives it, got {drawing!r}")
    mdp = grid(
        drawing or world.drawing,
        rewards=Rewards(**rewards),
        slip=options.get("slip", world.slip),
        wind=() if drawing else world.wind,
        moves=world.moves,
    )
    return TimeLimit(mdp, world.episode_length if episode_length is None else episode_length)


def options(name: str) -> dict[str, Option]:
    """Rewards by kind of cell, slip and drawing."""
    return _options_of(name)


def time_limit(name: str) -> int:
    """Default time limit in steps."""
    return _WORLDS[name].episode_length


def frame_stack(name: str) -> int:
    """Default number of stacked observations: 1."""
    return 1


_KINDS = dataclasses.fields(Rewards)


def _options_of(name: str) -> dict[str, Option]:
    world = _WORLDS[name]
    return {
        "slip": Option(world.slip, "probability of a move to one side of the chosen direction", "[0, 1]"),
        **{
            f"{f.name}_reward": Option(getattr(world.rewards, f.name), f.metadata["help"], f.metadata["within"])
            for f in _KINDS
        },
        "drawing": Option("", "file with a drawing of your own in place of this grid", kind="file"),
    }
