"""Progress display of a training: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from purerl.cli import output

QUIET_SECONDS = 60.0
"""Seconds between two lines of progress in plain output, if log points are further apart."""


@dataclasses.dataclass(frozen=True)
class Point:
    """Progress and returns at a log point.

    Attributes:
        env_steps: environment steps so far, per member.
        rate: environment steps per second, all members together.
        returns: mean returns of training episodes that ended since the last point, per member; NaN if none ended.
        eval_returns: mean returns of the newest evaluation, per member, or None before the first.
    """

    env_steps: int
    rate: float
    returns: np.ndarray
    eval_returns: np.ndarray | None

    @property
    def text(self) -> str:
        """Mean and standard deviation of the returns over members, as text."""
        parts = [f"return {spread(self.returns)}"]
        if self.eval_returns is not None:
            parts.append(f"eval {spread(self.eval_returns)}")
        return ", ".join(parts)


class LiveDisplay:
    """Live display on a terminal: a spinner while compiling, then a progress bar."""

    def __init__(self, console: Console, total_steps: int, done_steps: int) -> None:
        self._console = console
        self._total, self._done = total_steps, done_steps
        self._progress = Progress(
            SpinnerColumn("dots" if console.encoding.startswith("utf") else "line"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[steps]}"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            expand=True,
        )
        self._task = self._progress.add_task("", total=None, steps="", left="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def phase(self, text: str) -> None:
        """Show the name of a phase without a measure of progress."""
        self._progress.update(self._task, description=text, refresh=True)

    def training(self) -> None:
        """Start the progress bar of the training."""
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task("training", total=self._total, completed=self._done, steps="", left="left")
        self._progress.refresh()

    def progress(self, env_steps: int, rate: float) -> None:
        """Show the progress of the training between log points; `rate` as in `Point`."""
        steps = f"{short(env_steps)}/{short(self._total)}  {short(rate)}/s"
        self._progress.update(self._task, completed=env_steps, steps=steps)

    def update(self, point: Point) -> None:
        """Show a log point."""
        self.progress(point.env_steps, point.rate)
        self._progress.update(self._task, description=point.text)

    def message(self, text: str) -> None:
        """Print a permanent line."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class PlainDisplay:
    """Plain display for files and pipes: one line per event."""

    def __init__(self, write: Callable[[str], None], total_steps: int, done_steps: int) -> None:
        self._write = write
        self._total, self._done = total_steps, done_steps
        self._begun = self._written = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def phase(self, text: str) -> None:
        """Print the name of a phase."""
        self._write(text)

    def training(self) -> None:
        """Print that the training starts."""
        self.phase("training")
        self._begun = self._written = time.perf_counter()

    def progress(self, env_steps: int, rate: float) -> None:
        """Print the progress of the training, at most once in `QUIET_SECONDS`."""
        if time.perf_counter() - self._written >= QUIET_SECONDS:
            self._line(env_steps, rate)

    def update(self, point: Point) -> None:
        """Print a log point."""
        self._line(point.env_steps, point.rate, point.text)

    def _line(self, env_steps: int, rate: float, text: str = "") -> None:
        self._written = time.perf_counter()
        elapsed = self._written - self._begun
        new = env_steps - self._done
        left = duration(elapsed * (self._total - env_steps) / new) if new else "-"
        line = f"{env_steps:,}/{self._total:,} steps  {short(rate)} steps/s  {duration(elapsed)} elapsed  {left} left"
        self._write(f"{line}  {text}".rstrip())

    def message(self, text: str) -> None:
        """Print a line."""
        self._write(text)


def display(total_steps: int, done_steps: int) -> LiveDisplay | PlainDisplay:
    """Live display if the output is a terminal, else plain display."""
    output.replace_unknown_characters()
    console = Console()
    if console.is_terminal and not console.is_dumb_terminal and os.environ.get("TERM"):
        return LiveDisplay(console, total_steps, done_steps)
    return PlainDisplay(lambda text: print(text, flush=True), total_steps, done_steps)


def spread(values: np.ndarray) -> str:
    """Mean and (of several values) standard deviation as text, without NaN and infinity."""
    values = values[np.isfinite(values)]
    if values.size == 0:
        return "-"
    mean, deviation = float(np.mean(values)), float(np.std(values))
    return plain(mean) + (f" ± {plain(deviation)}" if values.size > 1 else "")


def plain(number: float) -> str:
    """Number as text with about three digits, without an exponent from 10 to a million."""
    size = abs(number)
    return f"{number:.0f}" if 100 <= size < 1e6 else f"{number:.1f}" if 10 <= size < 100 else f"{number:.3g}"


def short(number: float) -> str:
    """Count as text of at most five characters: 231k, 1.28M."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g}{unit}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """Duration as text: hours, minutes and seconds."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
