"""What a person sees while training: a live bar on a terminal, plain lines elsewhere."""

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
"""Between log points, plain output says how far it is once in so many seconds."""


@dataclasses.dataclass(frozen=True)
class Point:
    """What is known at a log point.

    Attributes:
        env_steps: taken so far, per member.
        rate: environment steps per second, all members together.
        returns: of the episodes that training finished since the last point, per member; NaN where none did.
        eval_returns: of the newest evaluation, per member, or None before the first.
    """

    env_steps: int
    rate: float
    returns: np.ndarray
    eval_returns: np.ndarray | None

    @property
    def text(self) -> str:
        """Returns over members in a few characters."""
        parts = [f"return {spread(self.returns)}"]
        if self.eval_returns is not None:
            parts.append(f"eval {spread(self.eval_returns)}")
        return ", ".join(parts)


class LiveDisplay:
    """A spinner while compiling, then a bar, redrawn in place."""

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
        """Say what is going on while there is no measure of progress."""
        self._progress.update(self._task, description=text, refresh=True)

    def training(self) -> None:
        """Training begins: from here the bar measures steps."""
        self._progress.remove_task(self._task)
        self._task = self._progress.add_task("training", total=self._total, completed=self._done, steps="", left="left")
        self._progress.refresh()

    def progress(self, env_steps: int, rate: float) -> None:
        """Show how far training is, at any time; `rate` as in `Point`."""
        steps = f"{short(env_steps)}/{short(self._total)}  {short(rate)}/s"
        self._progress.update(self._task, completed=env_steps, steps=steps)

    def update(self, point: Point) -> None:
        """Show a log point."""
        self.progress(point.env_steps, point.rate)
        self._progress.update(self._task, description=point.text)

    def message(self, text: str) -> None:
        """Print a line that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)


class PlainDisplay:
    """One line per event, for files and pipes."""

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
        """See `LiveDisplay`."""
        self._write(text)

    def training(self) -> None:
        """See `LiveDisplay`."""
        self.phase("training")
        self._begun = self._written = time.perf_counter()

    def progress(self, env_steps: int, rate: float) -> None:
        """See `LiveDisplay`; says nothing more often than once in `QUIET_SECONDS`."""
        if time.perf_counter() - self._written >= QUIET_SECONDS:
            self._line(env_steps, rate)

    def update(self, point: Point) -> None:
        """See `LiveDisplay`."""
        self._line(point.env_steps, point.rate, point.text)

    def _line(self, env_steps: int, rate: float, text: str = "") -> None:
        self._written = time.perf_counter()
        elapsed = self._written - self._begun
        new = env_steps - self._done
        left = duration(elapsed * (self._total - env_steps) / new) if new else "-"
        line = f"{env_steps:,}/{self._total:,} steps  {short(rate)} steps/s  {duration(elapsed)} elapsed  {left} left"
        self._write(f"{line}  {text}".rstrip())

    def message(self, text: str) -> None:
        """See `LiveDisplay`."""
        self._write(text)


def display(total_steps: int, done_steps: int) -> LiveDisplay | PlainDisplay:
    """The display that suits where the output goes."""
    output.replace_unknown_characters()
    console = Console()
    if console.is_terminal and not console.is_dumb_terminal and os.environ.get("TERM"):
        return LiveDisplay(console, total_steps, done_steps)
    return PlainDisplay(lambda text: print(text, flush=True), total_steps, done_steps)


def spread(values: np.ndarray) -> str:
    """Mean and, over several members, standard deviation; those without a value left out."""
    values = values[np.isfinite(values)]
    if values.size == 0:
        return "-"
    mean, deviation = float(np.mean(values)), float(np.std(values))
    return plain(mean) + (f" ± {plain(deviation)}" if values.size > 1 else "")


def plain(number: float) -> str:
    """About three digits, without an exponent where one can do without."""
    size = abs(number)
    return f"{number:.0f}" if 100 <= size < 1e6 else f"{number:.1f}" if 10 <= size < 100 else f"{number:.3g}"


def short(number: float) -> str:
    """A count in at most five characters: 231k, 1.28M."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g}{unit}"
    return f"{number:.3g}"


def duration(seconds: float) -> str:
    """Hours, minutes and seconds as people write them."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
