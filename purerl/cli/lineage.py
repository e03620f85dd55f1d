"""Lineage of a run with population-based training: who took over from whom, in a file and in a picture."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from purerl import struct
from purerl.cli import plot
from purerl.cli.config import RunConfig
from purerl.cli.run_directory import RunDirectory

if TYPE_CHECKING:
    from purerl.training.population import Population


@dataclasses.dataclass(frozen=True)
class Row:
    """One exchange.

    Attributes:
        iteration: when.
        source: member that each has taken over from, ``[P]``.
        fitness: of each before the exchange, None where it is not known.
        varied: name to the values of all members afterwards.
    """

    iteration: int
    source: list[int]
    fitness: list[float | None]
    varied: dict[str, list[float]]


def read(run: RunDirectory, until: int | None = None) -> list[Row]:
    """Exchanges of a run up to an iteration, oldest first."""
    file = run.lineage
    rows = [Row(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []
    return [row for row in rows if until is None or row.iteration <= until]


def write(run: RunDirectory, rows: Sequence[Row]) -> None:
    """Write all exchanges."""
    from purerl.cli.files import replace

    replace(run.lineage, "".join(json.dumps(dataclasses.asdict(row)) + "\n" for row in rows).encode())


def with_values(population: Population, config: RunConfig, rows: Sequence[Row]) -> Population:
    """The population with the values after the last exchange."""
    if not rows:
        return population
    columns = zip(population.varied, config.vary, strict=True)
    varied = {path: np.asarray(rows[-1].varied[name], population.varied[path].dtype) for path, name in columns}
    return struct.replace(population, varied=varied)


def draw(run: RunDirectory, config: RunConfig) -> None:
    """Draw the hyper-parameters of all members over time; lines of members that were replaced end.

    Raises:
        InputError: if the picture cannot be written.
    """
    rows = read(run)
    steps_per_iteration = config.total_steps // config.num_iterations
    returns = {(row["iteration"], row["member"]): row["episode_return"] for row in run.rows()}
    known = [value for value in returns.values() if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    names = list(config.vary)
    with plot.picture(run.lineage.with_suffix(".png"), 7.5, 1.0 + 2.6 * len(names)) as figure:
        from matplotlib import colormaps
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import Normalize

        panels = np.atleast_1d(figure.subplots(len(names), sharex=True))
        shade = ScalarMappable(Normalize(low, high), colormaps["viridis"])
        points = [0, *(row.iteration for row in rows), config.num_iterations]
        for axes, name in zip(panels, names, strict=True):
            values = [config.initial(name), *(row.varied[name] for row in rows)]
            for number, (begin, end) in enumerate(itertools.pairwise(points)):
                for member, value in enumerate(values[number]):
                    score = returns.get((end, member))
                    color = shade.to_rgba(np.array(low if score is None else score))
                    axes.plot(np.array([begin, end]) * steps_per_iteration, [value, value], color=color, linewidth=1.6)
            for number, row in enumerate(rows):
                for member, source in enumerate(row.source):
                    if source != member:
                        ends = values[number][source], row.varied[name][member]
                        place = [row.iteration * steps_per_iteration] * 2
                        axes.plot(place, ends, color="0.6", linewidth=0.8, zorder=0)
            if min(map(min, values)) > 0.0:
                axes.set_yscale("log")
            axes.set_ylabel(name.replace("_", "-"))
            axes.spines[["top", "right"]].set_visible(False)
        panels[0].set_title(f"{config.title}: hyper-parameters of {config.num_members} members")
        panels[-1].set_xlabel("environment steps per member; grey: taken over from another")
        figure.colorbar(shade, ax=list(panels), label="episode return")


def final(run: RunDirectory, config: RunConfig) -> dict[str, Any]:
    """Summary of the exchanges, for `summary.json`."""
    rows = read(run)
    values = {name: rows[-1].varied[name] if rows else config.initial(name) for name in config.vary}
    replaced = sum(int(source != member) for row in rows for member, source in enumerate(row.source))
    return {"exchanges": len(rows), "replaced": replaced, "varied": values}
