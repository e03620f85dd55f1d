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
    Row(
        "dagger",
        "purerl.algorithms.dagger:DAgger",
        "discrete, continuous",
        "bc on the states of the learner, labelled by the expert (Ross et al. 2011)",
        base=Preset(hyperparameters={"beta": "linear:1:0:10%"}, total_steps=51_200),
    ),
)
