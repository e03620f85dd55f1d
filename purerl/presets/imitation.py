"""Rows of algorithms that learn from an expert, with their settings."""

from __future__ import annotations

from purerl.presets.row import Row
from purerl.presets.settings import Preset

ROWS = (
    Row(
        "bc",
        "purerl.algorithms.bc:BC",
        "discrete, continuous",
        "behaviour cloning: maximum likelihood of an expert's actions",
        base=Preset(total_steps=500_000),
    ),
)
