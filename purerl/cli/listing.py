"""``purerl envs`` and ``purerl algorithms``: what there is."""

from __future__ import annotations

from collections.abc import Sequence

from purerl.cli.config import ALGORITHMS, algorithm_class
from purerl.cli.flags import hyperparameter_group, network_group
from purerl.cli.parser import parse, show
from purerl.errors import unknown
from purerl.presets import base

OVERVIEW = {
    "ppo": ("discrete, continuous", "small clipped policy updates from fresh rollouts (Schulman et al. 2017)"),
    "a2c": ("discrete, continuous", "one gradient step from each short rollout (Mnih et al. 2016)"),
    "impala": ("discrete, continuous", "a2c from actions of older policies, with V-trace (Espeholt et al. 2018)"),
    "reinforce": ("discrete, continuous", "Monte-Carlo policy gradient with a choice of baselines (Williams 1992)"),
    "npg": ("discrete, continuous", "trpo without its line search: steps of a given KL divergence (Kakade 2001)"),
    "trpo": (
        "discrete, continuous",
        "steps along the natural gradient, as long as a KL divergence allows (Schulman et al. 2015)",
    ),
    "dqn": ("discrete", "Q-learning from replay against a slow target network (Mnih et al. 2015)"),
    "rainbow": ("discrete", "dqn with the six improvements of Hessel et al. 2018"),
    "pqn": ("discrete", "Q-learning without replay or target network, from many environments (Gallici et al. 2024)"),
    "ddpg": ("continuous", "deterministic policy gradient from replay (Lillicrap et al. 2016)"),
    "td3": ("continuous", "ddpg with twin critics, smoothed targets and a delayed policy (Fujimoto et al. 2018)"),
    "sac": ("continuous", "entropy-regularised actor and twin critics from replay (Haarnoja et al. 2018)"),
    "discrete_sac": (
        "discrete",
        "sac with exact expectations over actions (Christodoulou 2019); ppo where every step costs",
    ),
    "apg": ("continuous", "backpropagation of the return through differentiable dynamics"),
    "shac": ("continuous", "the same through a short window with a learned value at its end (Xu et al. 2022)"),
}
"""Name of an algorithm to the action spaces that it is for and what it is."""


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
    about = "List algorithms; of those NAMEd, all hyper-parameters with defaults, ranges and meaning."
    _, words = parse("purerl algorithms [NAME ...]", about, [], argv, positional="NAME")
    for word in words:
        if word not in ALGORITHMS:
            raise unknown("algorithm", word, ALGORITHMS)
    for name in words:
        _show_details(name)
    if words:
        print("Defaults tuned for an environment: purerl train ALGORITHM ENVIRONMENT --help")
    else:
        _show_overview()
    return 0


def _show_overview() -> None:
    from purerl.cli.tables import Table

    table = Table(["algorithm", "actions", "meaning"])
    for name in ALGORITHMS:
        table.add(name, *OVERVIEW[name])
    table.show()
    print("Hyper-parameters and network of one: purerl algorithms NAME")


def _show_details(name: str) -> None:
    from purerl.cli.tables import Table

    actions, meaning = OVERVIEW[name]
    print(f"{name}: {meaning}; {actions} actions")
    algorithm, start = algorithm_class(name), base(name)
    for group in (hyperparameter_group(name, algorithm, start), network_group(algorithm, start)):
        table = Table([group.title, "default", "range", "meaning"])
        for flag in group.flags:
            allowed = "on, off" if flag.kind == "bool" else ", ".join(flag.choices) or flag.within
            optional = " or none" if "None" in flag.kind else ""
            table.add(flag.flag, show(flag.default), allowed + optional, flag.help)
        table.show()
