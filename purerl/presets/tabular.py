"""Rows of algorithms that learn a table of action values, with their settings."""

from __future__ import annotations

from purerl.presets.row import Row
from purerl.presets.settings import Preset

# Q-learning learns about the best policy while it explores. SARSA learns about its own, which must become the best one
# while the step size is still large enough to follow.
_OFF_POLICY = {"learning_rate": "linear:0.1:0", "epsilon": "linear:1:0.01:50%"}
_ON_POLICY = {"learning_rate": "linear:0.5:0", "epsilon": "linear:0.3:0:70%"}


def _row(name: str, summary: str, on_ice: dict[str, str]) -> Row:
    base = Preset(hyperparameters={"rule": name}, total_steps=100_000, anneal=False)
    # Sutton & Barto 2018, example 6.6.
    cliff = {"learning_rate": 0.5, "epsilon": 0.1, "gamma": 1.0}
    return Row(
        name,
        "purerl.algorithms.td_control:TDControl",
        "discrete",
        summary,
        base=base,
        tuned={
            "FrozenLake-misc": base.extended(hyperparameters=on_ice, total_steps=1_000_000),
            "grid/cliff-walk": base.extended(hyperparameters=cliff, total_steps=20_000),
        },
    )


ROWS = (
    _row("q_learning", "value of the best next action, in a table (Watkins & Dayan 1992)", _OFF_POLICY),
    _row("sarsa", "value of the next action taken, in a table (Rummery & Niranjan 1994)", _ON_POLICY),
    _row("expected_sarsa", "expected value of the next action, in a table (van Seijen et al. 2009)", _ON_POLICY),
    _row("double_q_learning", "two tables: one chooses, the other rates (van Hasselt 2010)", _OFF_POLICY),
)
