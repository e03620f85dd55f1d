"""The flags of ``purerl train``: those of every run, and those made from an algorithm and an environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from purerl.cli.config import ACTIVATIONS, HEADS, TRUNKS, hyperparameters, kind_of
from purerl.cli.parser import Flag, Group

ENV_PREFIX = "env."

RUN = Group(
    "run",
    [
        Flag("seeds", "int", "agents trained side by side in one program", default=1, within="[1, inf)"),
        Flag("seed", "int", "of all randomness; member i draws from it and its number", 0, "[0, 4294967295]"),
        Flag("total_steps", "int", "environment steps per seed, rounded up to whole iterations", within="[1, inf)"),
        Flag("anneal", "bool", "let the learning rate fall linearly to 0 over the run", default=True),
        Flag(
            "vary",
            "str",
            "train --seeds agents for each of several values of a hyper-parameter, as learning-rate=1e-3,3e-4 or "
            "env.params.gravity=9.8,12; give it again for all combinations",
            metavar="NAME=VALUE,...",
            repeated=True,
        ),
        Flag("out", "str", "directory of the run (default a new one under runs/)", metavar="DIR"),
        Flag("overwrite", "bool", "replace the run in that directory"),
        Flag("resume", "str", "continue the run in DIR from its newest checkpoint", metavar="DIR"),
        Flag(
            "eval_episodes",
            "int",
            "episodes of the final evaluation, per member (default 128, fewer where evaluations would take more than "
            "5 % of the time)",
            within="[1, inf)",
        ),
        Flag(
            "eval_every",
            "int",
            "iterations between evaluations along the way, 0 for none (default 10 evaluations, fewer where they would "
            "take more than 5 % of the time)",
            within="[0, inf)",
        ),
        Flag("log_every", "int", "iterations per row of metrics (default 50 rows)", within="[1, inf)"),
        Flag("checkpoint_every", "int", "iterations between checkpoints (default 10 checkpoints)", within="[1, inf)"),
        Flag("tensorboard", "bool", "write TensorBoard files too"),
    ],
)


def with_defaults(group: Group, defaults: Mapping[str, Any]) -> Group:
    """The same flags with the defaults of a preset."""
    return Group(
        group.title, [dataclasses.replace(flag, default=defaults.get(flag.name, flag.default)) for flag in group.flags]
    )


def hyperparameter_group(name: str, algorithm: Any, preset: Mapping[str, Any]) -> Group:
    """One flag per number or switch among the fields of the class `algorithm`."""
    return Group(
        f"hyper-parameters of {name}",
        [
            Flag(
                field.name,
                kind_of(field) or "",
                field.metadata["help"],
                default=preset.get(field.name, field.default),
                within=field.metadata["within"],
            )
            for field in hyperparameters(algorithm)
        ],
    )


def network_group(network: Mapping[str, Any]) -> Group:
    """Flags of the network; `network` has the defaults to show (see `config.complete_network`)."""
    shown = {**TRUNKS["cnn"], **TRUNKS["mlp"], **HEADS, **network}
    positive = "[1, inf)"
    return Group(
        "network",
        [
            Flag("trunk", "str", "kind of trunk", shown["trunk"], choices=tuple(TRUNKS)),
            Flag("hidden_sizes", "int", "width of each dense layer", shown["hidden_sizes"], positive, many=True),
            Flag("channels", "int", "of each convolution of a cnn", shown["channels"], positive, many=True),
            Flag("kernel", "int", "height and width of the convolutions", shown["kernel"], positive, many=True),
            Flag("activation", "str", "after each layer", shown["activation"], choices=ACTIVATIONS),
            Flag("shared", "bool", "policy and value share one trunk", shown["shared"]),
            Flag("squash", "bool", "send continuous actions through tanh", shown["squash"]),
        ],
    )


def env_group(env: str, options: Mapping[str, Any], preset: Mapping[str, Any]) -> Group:
    """One ``--env.`` flag per option of the environment; its default says of what kind it is."""
    return Group(f"environment {env}", [_option(name, preset.get(name, value)) for name, value in options.items()])


def _option(name: str, default: Any) -> Flag:
    kinds = ((bool, "bool"), (int, "int"), (float, "float"), (str, "str"))
    one = default[0] if isinstance(default, tuple) and default else default
    kind = next((kind for type_, kind in kinds if isinstance(one, type_)), "any | None")
    return Flag(ENV_PREFIX + name, kind, f"option {name!r}", default, many=isinstance(default, tuple))
