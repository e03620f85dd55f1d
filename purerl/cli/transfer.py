"""``purerl transfer``: returns of trained agents in environments that differ from those they have learned in."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from purerl.cli import plot, report
from purerl.cli.config import RunConfig
from purerl.cli.files import replace
from purerl.cli.parser import COUNTABLE, Flag, Group, parse, parse_range
from purerl.cli.run_directory import RunDirectory
from purerl.errors import InputError

USAGE = "purerl transfer DIR [DIR ...] --shift NAME=LOW:HIGH:COUNT [flags]"

ABOUT = (
    "Play with the agents of runs in environments that differ in one number: a table, a picture and a CSV file of the "
    "return against that number, mean and 95 % interval over seeds."
)

FLAGS = Group(
    "flags",
    [
        Flag(
            "shift",
            "str",
            "number of the environment and its evenly spaced values: a path as params.length=0.25:2:8, or an option as "
            "gravity=5:15:6",
            metavar="NAME=LOW:HIGH:COUNT",
        ),
        Flag("episodes", "int", "complete episodes per member and value", 64, COUNTABLE),
        Flag("seed", "int", "of the episodes, which are the same for every value and run", 0, "[0, 4294967295]"),
        Flag("out", "str", "file of the picture; the CSV file is beside it", "transfer.png", metavar="PNG"),
    ],
)


@dataclasses.dataclass(frozen=True)
class Curve:
    """Returns of the members of a run that differ by the seed alone.

    Attributes:
        label: name in table and picture.
        run: directory.
        config: of the run.
        varied: values that its members share, of a run with ``--vary``.
        returns: ``[shifts, members, episodes]``.
    """

    label: str
    run: Path
    config: RunConfig
    varied: dict[str, float]
    returns: np.ndarray

    @property
    def scores(self) -> np.ndarray:
        """Mean return ``[members, shifts]``."""
        return self.returns.mean(axis=2).T


def command(argv: Sequence[str]) -> int:
    """Run ``purerl transfer`` with the words after it; returns the exit code."""
    given, words = parse(USAGE, ABOUT, [FLAGS], argv, positional="DIR")
    if not words:
        raise InputError("name a run directory, as in: purerl transfer runs/cartpole --shift params.length=0.25:2:8")
    if "shift" not in given:
        raise InputError("say what to shift, as in: --shift params.length=0.25:2:8")
    name, values = _values(given["shift"])
    out = Path(given.get("out", "transfer.png"))
    if out.suffix.lower() != ".png":
        raise InputError(f"--out must name a .png file, got {out}")
    if not out.parent.is_dir():
        raise InputError(f"cannot write {out}: there is no directory {out.parent}")
    runs = [RunDirectory.open(Path(word)) for word in words]
    curves = _play(runs, name, values, given.get("episodes", 64), given.get("seed", 0))
    _show(curves, name, values)
    draw(curves, name, values, out)
    print(out)
    table = out.with_suffix(".csv")
    replace(table, _csv(curves, name, values).encode())
    print(table)
    return 0


def _values(text: str) -> tuple[str, list[float]]:
    """Name and values of ``--shift``."""
    name, (low, high, count) = parse_range("shift", text, "params.length=0.25:2:8", 3)
    if count != int(count) or not 2 <= count <= 1000 or not low < high:
        raise InputError(f"--shift must go from a number to a greater one in 2 to 1000 values, got {text!r}")
    step = (high - low) / (count - 1)
    # Twelve digits are more than a float32 tells apart, and free of the rounding of the sum.
    values = [float(f"{low + i * step:.12g}") for i in range(int(count))]
    if len(set(map(np.float32, values))) < count:
        raise InputError(f"--shift has values that are equal in 32 bits: {text!r}")
    return name, [int(value) if value == int(value) else value for value in values]  # as a delay or a limit needs them


def _play(
    runs: Sequence[RunDirectory], name: str, values: Sequence[float], num_episodes: int, seed: int
) -> list[Curve]:
    """Curves of all runs; those of a run with ``--vary`` one for each combination."""
    from purerl.cli import evaluation, shifts
    from purerl.cli.training import Training, load
    from purerl.training import checkpoint

    configs = [run.config() for run in runs]
    shifted = [shifts.environments(config, name, values) for config in configs]
    newest = [checkpoint.latest(run.checkpoints) for run in runs]
    for run, iteration in zip(runs, newest, strict=True):
        if iteration is None:
            raise InputError(f"{run.path} has no checkpoint yet: nothing to evaluate")
    curves = []
    for run, config, iteration, environments in zip(runs, configs, newest, shifted, strict=True):
        training = Training(config)
        state = load(run, iteration, training.shapes)  # type: ignore[arg-type]
        returns = shifts.play(
            training.population, state, environments, evaluation.final(seed), num_episodes, config.eval_batch
        )
        for number, combination in enumerate(config.combinations):
            members = slice(number * config.seeds, (number + 1) * config.seeds)
            label = plot.label(run, config, combination, runs, configs)
            curves.append(Curve(label, run.path, config, combination, returns[:, members]))
    return curves


def _show(curves: Sequence[Curve], name: str, values: Sequence[float]) -> None:
    """Print one row per value: mean and interval of every curve."""
    from purerl.cli.tables import Table
    from purerl.math.statistics import bootstrap_interval

    table = Table([name, *(curve.label for curve in curves)])
    columns = []
    for curve in curves:
        interval = bootstrap_interval(curve.scores)
        means = map(report.number, map(float, curve.scores.mean(axis=0)))
        if interval is None:
            columns.append(list(means))
            continue
        bounds = zip(*([report.number(float(bound)) for bound in side] for side in interval), strict=True)
        columns.append([f"{mean} [{low}, {high}]" for mean, (low, high) in zip(means, bounds, strict=True)])
    for row in zip(values, *columns, strict=True):
        table.add(f"{row[0]:g}", *row[1:])
    table.show()


def draw(curves: Sequence[Curve], name: str, values: Sequence[float], out: Path) -> None:
    """Draw the return against the shift: mean and interval over seeds, each seed, and the ranges of the training.

    Raises:
        InputError: if `out` cannot be written.
    """
    from purerl.math.statistics import bootstrap_interval

    with plot.picture(out, 7.5, 4.5) as figure:
        axes = figure.subplots()
        for number, curve in enumerate(curves):
            color, scores = plot.COLORS[number % len(plot.COLORS)], curve.scores
            for seed in scores:
                axes.plot(values, seed, color=color, alpha=0.25, linewidth=0.7)
            axes.plot(values, scores.mean(axis=0), color=color, linewidth=2.0, label=curve.label)
            interval = bootstrap_interval(scores, resamples=2000)
            if interval is not None:
                axes.fill_between(values, *interval, color=color, alpha=0.2, linewidth=0)
            if name in curve.config.randomize:
                # A bar above the axis, one line per curve.
                height = 0.012 * (1 + number)
                axes.plot(
                    curve.config.randomize[name],
                    [height, height],
                    color=color,
                    linewidth=3.0,
                    transform=axes.get_xaxis_transform(),
                )
        titles = {curve.config.title for curve in curves}
        axes.set_title(titles.pop() if len(titles) == 1 else "transfer")
        axes.set_xlabel(name)
        axes.set_ylabel("episode return")
        axes.margins(x=0.01)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        ranges = any(name in curve.config.randomize for curve in curves)
        parts = "line: mean, band: 95 % interval of the mean" + ", bar: range of the training" * ranges
        axes.legend(frameon=False, title=parts, title_fontsize="small", alignment="left", fontsize="small")


def _csv(curves: Sequence[Curve], name: str, values: Sequence[float]) -> str:
    """One row per curve, seed and value: the mean return over episodes."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "varied", "seed", name, "episode_return"])
    for curve in curves:
        for seed, scores in enumerate(curve.scores):
            for value, score in zip(values, scores, strict=True):
                writer.writerow([curve.run, report.named(curve.varied), seed, value, float(score)])
    return text.getvalue()
