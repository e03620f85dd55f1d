"""Rows of metrics as a table that spreadsheets read: ``csv/metrics.csv``, empty cells for what does not exist."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from purerl.cli.files import writing
from purerl.cli.loggers import Row


class Logger:
    """One file with a line per log point and member; varied values are columns such as ``varied.learning_rate``."""

    @staticmethod
    def check() -> None:
        """See `purerl.cli.loggers.Logger`."""

    def __init__(self, folder: Path, num_members: int, rows: Sequence[Row]) -> None:
        self._path = folder / "metrics.csv"
        self._writer: csv.DictWriter | None = None
        with writing(self._path):
            folder.mkdir(exist_ok=True)
            self._file = self._path.open("w", newline="")
        self.write(rows)

    def write(self, rows: Sequence[Row]) -> None:
        """See `purerl.cli.loggers.Logger`."""
        with writing(self._path):
            for row in map(_flat, rows):
                if self._writer is None:
                    self._writer = csv.DictWriter(self._file, list(row))
                    self._writer.writeheader()
                self._writer.writerow(row)
            self._file.flush()

    def close(self) -> None:
        """See `purerl.cli.loggers.Logger`."""
        self._file.close()


def _flat(row: Row) -> dict[str, Any]:
    flat = {}
    for name, value in row.items():
        flat |= {f"{name}.{key}": inner for key, inner in value.items()} if isinstance(value, dict) else {name: value}
    return flat
