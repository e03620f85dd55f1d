"""The table of algorithms: names, classes, and settings that are known to learn.

One `Row` says all that the rest of purerl must know about an algorithm: public names, the command line, its help and
`preset` read it. Nothing here imports JAX before a class or an environment is asked for.

A preset says what differs from an algorithm's own defaults. ``preset("ppo", "CartPole-v1")`` is what
``purerl train ppo CartPole-v1`` uses; every value can be changed by a flag.
"""

from __future__ import annotations

from purerl import references
from purerl.errors import unknown
from purerl.presets import evolution, first_order, imitation, off_policy, on_policy, tabular
from purerl.presets.row import Row
from purerl.presets.settings import Preset

__all__ = ["ALGORITHMS", "FAMILIES", "Preset", "Row", "base", "preset", "row"]

FAMILIES: dict[str, tuple[Row, ...]] = {
    "on-policy": on_policy.ROWS,
    "off-policy": off_policy.ROWS,
    "first-order": first_order.ROWS,
    "tabular": tabular.ROWS,
    "imitation": imitation.ROWS,
    "gradient-free": evolution.ROWS,
}
"""Rows by what an algorithm learns from: fresh rollouts, a replay, gradients through the dynamics, single steps
kept in a table of action values, an expert, or the returns of whole episodes alone."""

ALGORITHMS: dict[str, Row] = {row.name: row for rows in FAMILIES.values() for row in rows}
"""Name on the command line to row. The only look-up of an algorithm by name."""


def row(name: str) -> Row:
    """The row of `name`, or a new one for a class of the user's own, given as ``"package.module:Class"``.

    Raises:
        InputError: if there is no algorithm of that name.
    """
    if references.is_reference(name):
        return Row(name, name, actions="", summary="")
    if name not in ALGORITHMS:
        raise unknown("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name]


def base(algorithm: str) -> Preset:
    """Settings that every preset of `algorithm` starts from.

    Raises:
        InputError: if there is no such algorithm.
    """
    return row(algorithm).base


def preset(algorithm: str, env: str) -> Preset:
    """The settings for `algorithm` on `env`: tuned ones where there are any, else those for its kind of spaces.

    Args:
        algorithm: such as ``"ppo"``.
        env: any name that `purerl.make` knows.

    Raises:
        InputError: if either is unknown.
    """
    return row(algorithm).preset(env)
