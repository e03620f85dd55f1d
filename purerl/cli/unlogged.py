"""The metrics since the last row, for a run that stops between log points: with them the next row is complete.

One file for each checkpoint that needs it, written before the checkpoint is complete and kept until the row is written.
"""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path

import numpy as np

from purerl.cli.files import replace, writing
from purerl.errors import InputError
from purerl.types import Mean, Metrics


def write(folder: Path, iteration: int, metrics: Metrics) -> None:
    """Write the metrics that belong to the checkpoint of `iteration`."""
    content = io.BytesIO()
    np.savez(
        content, **{f"{name}.{part}": value for name, mean in metrics.items() for part, value in vars(mean).items()}
    )
    with writing(folder):
        folder.mkdir(exist_ok=True)
    replace(folder / f"{iteration}.npz", content.getvalue())


def read(folder: Path, iteration: int) -> Metrics | None:
    """Partial metrics written for `iteration`; None where a row has it all.

    Raises:
        InputError: if the file is damaged.
    """
    path = folder / f"{iteration}.npz"
    if not path.exists():
        return None
    parts = [field.name for field in dataclasses.fields(Mean)]
    try:
        with np.load(path) as arrays:
            names = dict.fromkeys(name.rpartition(".")[0] for name in arrays.files)
            return {name: Mean(**{part: arrays[f"{name}.{part}"] for part in parts}) for name in names}
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read {path}: {' '.join(str(error).split())}") from error


def forget(folder: Path, iteration: int) -> None:
    """Remove what belongs to checkpoints before that of `iteration`."""
    for path in folder.glob("*.npz"):
        if int(path.stem) < iteration:
            path.unlink(missing_ok=True)
