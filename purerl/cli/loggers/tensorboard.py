"""Rows of metrics for TensorBoard, one curve per member."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path

from purerl.cli.loggers import Row
from purerl.errors import InputError


class Logger:
    """Writers of all members, each in a folder of its own so that their curves share the charts."""

    @staticmethod
    def check() -> None:
        """See `purerl.cli.loggers.Logger`."""
        if importlib.util.find_spec("tensorboardX") is None:
            raise InputError("--tensorboard needs the package tensorboardX: pip install 'purerl[tensorboard]'")

    def __init__(self, folder: Path, num_members: int, rows: Sequence[Row]) -> None:
        from tensorboardX import SummaryWriter

        done = rows[-1]["env_steps"] if rows else 0
        self._writers = [
            SummaryWriter(str(folder / f"member-{member}"), purge_step=done + 1) for member in range(num_members)
        ]

    def write(self, rows: Sequence[Row]) -> None:
        """See `purerl.cli.loggers.Logger`."""
        for writer, row in zip(self._writers, rows, strict=True):
            for name, value in row.items():
                if isinstance(value, float):
                    writer.add_scalar(name, value, row["env_steps"])
            writer.flush()

    def close(self) -> None:
        """See `purerl.cli.loggers.Logger`."""
        for writer in self._writers:
            writer.close()
