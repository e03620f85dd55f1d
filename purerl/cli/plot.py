"""``purerl plot``: learning curves as a PNG."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from purerl.cli import static_sweep
from purerl.cli.config import RunConfig
from purerl.cli.files import replace
from purerl.cli.parser import Flag, Group, parse
from purerl.cli.run_directory import RunDirectory
from purerl.errors import InputError
from purerl.math.statistics import bootstrap_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

USAGE = "purerl plot DIR [DIR ...] [flags]"

FLAGS = Group(
    "flags",
    [
        Flag(
            "out",
            "str",
            "file of the picture (default learning_curve.png in the run; comparison.png for several runs)",
            metavar="PNG",
        )
    ],
)

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""Colours that colour-blind readers can distinguish (Okabe and Ito 2008)."""


def command(argv: Sequence[str]) -> int:
    """Run ``purerl plot`` with the words after it; returns the exit code."""
    about = "Draw the learning curves of runs: mean and 95 % interval over seeds, each seed, evaluations."
    given, words = parse(USAGE, about, [FLAGS], argv, positional="DIR")
    if not words:
        raise InputError("name a run directory, as in: purerl plot runs/cartpole")
    runs = [RunDirectory.open(path) for word in words for path in static_sweep.runs_in(Path(word))]
    default = runs[0].curve if len(runs) == 1 else Path("comparison.png")
    out = Path(given.get("out", default))
    if out.suffix.lower() != ".png":
        raise InputError(f"--out must name a .png file, got {out}")
    draw(runs, out)
    print(out)
    for run in runs:
        if run.lineage.exists():
            from purerl.cli import lineage

            lineage.draw(run, run.config())
            print(run.lineage.with_suffix(".png"))
    return 0


def draw(runs: Sequence[RunDirectory], out: Path) -> None:
    """Draw the learning curves of `runs` into one picture.

    Raises:
        InputError: if a run has no metrics yet, or `out` cannot be written.
    """
    configs = [run.config() for run in runs]
    curves = [
        (label(run, config, values, runs, configs), rows)
        for run, config in zip(runs, configs, strict=True)
        for values, rows in _curves(run, config)
    ]
    with picture(out, 7.5, 4.5) as figure:
        from matplotlib.ticker import EngFormatter

        axes = figure.subplots()
        for number, (name, rows) in enumerate(curves):
            _draw_curve(axes, rows, name, COLORS[number % len(COLORS)])
        titles = {config.title for config in configs}
        axes.set_title(titles.pop() if len(titles) == 1 else "learning curves")
        axes.set_xlabel("environment steps per seed")
        axes.set_ylabel("episode return")
        axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.margins(x=0.01)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        parts = "line: mean of training, band: 95 % interval of the mean, circles: evaluation"
        axes.legend(frameon=False, title=parts, title_fontsize="small", alignment="left", fontsize="small")


@contextlib.contextmanager
def picture(out: Path, width: float, height: float) -> Iterator[Figure]:
    """Context with a figure (size in inches, matplotlib's default style), which is written to `out` at the end.

    Raises:
        InputError: if `out` cannot be written.
    """
    import matplotlib
    from matplotlib.figure import Figure
    from PIL import Image

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        figure = Figure(figsize=(width, height), layout="constrained")
        yield figure
        drawn, content = io.BytesIO(), io.BytesIO()
        figure.savefig(drawn, format="png", dpi=150)
    # Lines and bands need few colours: a palette takes a third of the bytes.
    Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(content, "png", optimize=True)
    replace(out, content.getvalue())


def _curves(run: RunDirectory, config: RunConfig) -> Iterator[tuple[dict[str, float], list[dict[str, Any]]]]:
    """Rows of a run, for each combination of varied values."""
    rows = run.rows()
    if not rows:
        raise InputError(f"{run.path} has no metrics yet: nothing to draw")
    frozen = run.diverged()
    rows = [row for row in rows if row["member"] not in frozen]
    if config.pbt_every:
        yield {}, rows
        return
    for number, combination in enumerate(config.combinations):
        yield combination, [row for row in rows if row["member"] // config.seeds == number]


def label(
    run: RunDirectory,
    config: RunConfig,
    values: dict[str, float],
    runs: Sequence[RunDirectory],
    configs: Sequence[RunConfig],
) -> str:
    """Legend text that distinguishes a curve from the others."""
    unique = len({other.path.name for other in runs}) == len(runs)
    parts = [] if len(runs) == 1 else [_plain(run.path.name if unique else str(run.path))]
    if len({other.title for other in configs}) > 1:
        parts.append(config.title)
    parts += [f"{name.replace('_', '-')}={value:g}" for name, value in values.items()]
    seeds = f"{config.seeds} seed{'s' if config.seeds > 1 else ''}"
    return f"{', '.join(parts)} ({seeds})" if parts else seeds


def _plain(name: str) -> str:
    """Name escaped for a legend: matplotlib reads ``$`` as a formula and hides names that start with an underscore."""
    shown = name.encode(errors="replace").decode()
    return ("./" if name.startswith("_") else "") + shown.replace("$", r"\$")


def _draw_curve(axes: Axes, rows: Sequence[dict[str, Any]], label: str, color: str) -> None:
    steps, returns = _table(rows, "episode_return")
    present = np.isfinite(returns).any(axis=0)
    steps, returns = steps[present], returns[:, present]
    for seed in returns:
        axes.plot(steps, seed, color=color, alpha=0.25, linewidth=0.7)
    mean = np.nanmean(returns, axis=0) if returns.size else np.zeros(0)
    axes.plot(steps, mean, color=color, linewidth=2.0, label=label)
    interval = bootstrap_interval(returns, resamples=2000) if returns.size else None
    if interval is not None:
        axes.fill_between(steps, *interval, color=color, alpha=0.2, linewidth=0)
    steps, scores = _table(rows, "eval_return")
    seen = np.isfinite(scores).any(axis=0)
    if seen.any():
        axes.plot(
            steps[seen],
            np.nanmean(scores[:, seen], axis=0),
            linestyle="none",
            marker="o",
            markersize=5,
            markerfacecolor="white",
            color=color,
        )


def _table(rows: Sequence[dict[str, Any]], name: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps ``[points]`` and values ``[members, points]``; NaN where a row or value is missing."""
    steps = sorted({row["env_steps"] for row in rows})
    members = sorted({row["member"] for row in rows})
    values = np.full((len(members), len(steps)), np.nan)
    column = {step: i for i, step in enumerate(steps)}
    line = {member: i for i, member in enumerate(members)}
    for row in rows:
        if row.get(name) is not None:
            values[line[row["member"]], column[row["env_steps"]]] = row[name]
    return np.asarray(steps), values
