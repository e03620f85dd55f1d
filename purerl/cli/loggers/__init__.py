"""Loggers: what a training writes its rows of metrics to, beside ``metrics.jsonl``. One module each."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

Row = Mapping[str, Any]
"""One row of ``metrics.jsonl``, see `purerl.cli.run_directory`."""

LOGGERS = {
    "tensorboard": "write TensorBoard files too",
    "csv": "write a table of comma-separated values too",
}
"""Name to meaning. The name is that of the module, of its flag, and of the folder in the run that it writes to."""


class Logger(Protocol):
    """Class of that name in the module of each logger."""

    @staticmethod
    def check() -> None:
        """Raise `InputError` if it cannot work here, for want of a package perhaps. Called before anything compiles."""
        ...

    def __init__(self, folder: Path, num_members: int, rows: Sequence[Row]) -> None:
        """Open.

        Args:
            folder: to write to; may not exist yet.
            num_members: of the population.
            rows: those that the run already has. What was logged beyond them, by a process that was killed, goes.
        """
        ...

    def write(self, rows: Sequence[Row]) -> None:
        """Write the rows of one log point, in the order of members."""
        ...

    def close(self) -> None:
        """Finish the files."""
        ...


def load(name: str) -> type[Logger]:
    """The class behind a name in `LOGGERS`."""
    return importlib.import_module(f"purerl.cli.loggers.{name}").Logger
