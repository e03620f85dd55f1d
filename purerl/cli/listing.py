"""``purerl envs`` and ``purerl algorithms``: what there is."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from purerl import presets, references
from purerl.cli.flags import agent_groups
from purerl.cli.parser import parse, show
from purerl.errors import unknown


def environments(argv: Sequence[str]) -> int:
    """Run ``purerl envs`` with the words after it; returns the exit code."""
    about = "List environments with their spaces and time limits; WORDs select names that contain one of them."
    _, words = parse("purerl envs [WORD ...]", about, [], argv, positional="WORD")
    from purerl.cli.tables import Table
    from purerl.environments import describe, environment_names
    from purerl.environments.overview import OVERVIEW

    names = environment_names()
    chosen = [name for name in names if not words or any(word.lower() in name.lower() for word in words)]
    if not chosen:
        raise unknown("environment", words[0], names)
    table = Table(["environment", "observations", "actions", "time limit"])
    for name in chosen:
        observations, actions, limit = OVERVIEW.get(name) or describe(name)
        table.add(name, str(observations), str(actions), "none" if limit is None else str(limit))
    table.show()
    return 0


def algorithms(argv: Sequence[str]) -> int:
    """Run ``purerl algorithms`` with the words after it; returns the exit code."""
    about = "List algorithms; of those NAMEd, all hyper-parameters with defaults, ranges and meaning."
    _, words = parse("purerl algorithms [NAME ...]", about, [], argv, positional="NAME")
    for row in list(map(presets.row, words)):
        _show_details(row)
    if words:
        print("Defaults tuned for an environment: purerl train ALGORITHM ENVIRONMENT --help")
    else:
        _show_overview()
    return 0


def _show_overview() -> None:
    from purerl.cli.tables import Table

    table = Table(["algorithm", "kind", "actions", "meaning"])
    for family, rows in presets.FAMILIES.items():
        for row in rows:
            table.add(row.name, family, row.actions, row.summary)
    table.show()
    print("Hyper-parameters and network of one: purerl algorithms NAME")


def _show_details(row: presets.Row) -> None:
    from purerl.cli.tables import Table

    algorithm = row.load()
    if references.is_reference(row.name):
        print(f"{row.name}: {(inspect.getdoc(algorithm) or 'no documentation').splitlines()[0]}")
    else:
        print(f"{row.name}: {row.summary}; {row.actions} actions")
    for group in agent_groups(row.name, algorithm, row.base):
        table = Table([group.title, "default", "range", "meaning"])
        for flag in group.flags:
            allowed = "on, off" if flag.kind == "bool" else ", ".join(flag.choices) or flag.within
            optional = " or none" if "None" in flag.kind else ""
            table.add(flag.flag, show(flag.default), allowed + optional, flag.help)
        table.show()
