"""The rows of ``metrics.jsonl`` for TensorBoard, one curve per member."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from purerl.errors import InputError


def check() -> None:
    """Raise `InputError` if the files cannot be written here."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise InputError("--tensorboard needs the package tensorboardX: pip install 'purerl[tensorboard]'")


class TensorBoard:
    """Writers of all members, each in a folder of its own so that their curves share the charts."""

    def __init__(self, path: Path, num_members: int, done_steps: int) -> None:
        from tensorboardX import SummaryWriter

        # On resuming, hide what a killed process logged beyond its last checkpoint.
        self._writers = [
            SummaryWriter(str(path / f"member-{member}"), purge_step=done_steps + 1) for member in range(num_members)
        ]

    def write(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Write the rows of one log point, in the order of members."""
        for writer, row in zip(self._writers, rows, strict=True):
            for name, value in row.items():
                if isinstance(value, float):
                    writer.add_scalar(name, value, row["env_steps"])
            writer.flush()

    def close(self) -> None:
        """Finish the files."""
        for writer in self._writers:
            writer.close()
