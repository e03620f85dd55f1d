"""``purerl envs`` and ``purerl algorithms``: what there is."""

from __future__ import annotations

from collections.abc import Sequence

from purerl.cli.config import ALGORITHMS, algorithm_class
from purerl.cli.flags import hyperparameter_group
from purerl.cli.parser import parse, show
from purerl.errors import unknown


def environments(argv: Sequence[str]) -> int:
    """Run ``purerl envs`` with the words after it; returns the exit code."""
    about = "List environments with their spaces and time limits; WORDs select names that contain one of them."
    _, words = parse("purerl envs [WORD ...]", about, [], argv, positional="WORD")
    from rich.console import Console

    from purerl.cli.tables import Table
    from purerl.environments import describe, environment_names

    names = environment_names()
    chosen = [name for name in names if not words or any(word.lower() in name.lower() for word in words)]
    if not chosen:
        raise unknown("environment", words[0], names)
    table = Table(["environment", "observations", "actions", "time limit"])
    with Console(stderr=True).status("") as status:  # building all robots takes a while; shown on terminals only
        for name in chosen:
            status.update(name)
            observations, actions, limit = describe(name)
            table.add(name, str(observations), str(actions), "none" if limit is None else str(limit))
    table.show()
    return 0


def algorithms(argv: Sequence[str]) -> int:
    """Run ``purerl algorithms`` with the words after it; returns the exit code."""
    about = "List algorithms with their hyper-parameters, defaults, ranges and meaning."
    _, words = parse("purerl algorithms [NAME ...]", about, [], argv, positional="NAME")
    from purerl.cli.tables import Table

    for word in words:
        if word not in ALGORITHMS:
            raise unknown("algorithm", word, ALGORITHMS)
    for name in words or ALGORITHMS:
        algorithm = algorithm_class(name)
        meaning = algorithm.__doc__.split(". ")[0].removesuffix(".")
        print(f"{name}: {meaning}")
        table = Table(["flag", "default", "range", "meaning"])
        for flag in hyperparameter_group(name, algorithm, {}).flags:
            words_allowed = "on, off" if flag.kind == "bool" else flag.within
            optional = " or none" if "None" in flag.kind else ""
            table.add(flag.flag, show(flag.default), words_allowed + optional, flag.help)
        table.show()
    print("Defaults tuned for an environment: purerl train ALGORITHM ENVIRONMENT --help")
    return 0
