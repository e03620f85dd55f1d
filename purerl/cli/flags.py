"""The flags of ``purerl train``: those of every run, and those made from an algorithm and an environment."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from purerl.cli.fields import (
    annotation_of,
    choices_of,
    default_of,
    help_of,
    hyperparameters,
    is_required,
    kind_of,
    plain_defaults,
    within_of,
    word_of,
)
from purerl.cli.loggers import LOGGERS
from purerl.cli.network import ACTIVATIONS, KINDS, complete_network, default_network, parameters, part_class, parts
from purerl.cli.objects import PREFIXES, complete_object
from purerl.cli.parser import COUNTABLE, Flag, Group
from purerl.cli.sources import source_of
from purerl.presets import Preset

if TYPE_CHECKING:
    from purerl.environments.options import Option

ENV_PREFIX = "env."

RUN = Group(
    "run",
    [
        Flag("seeds", "int", "agents trained side by side in one program", default=1, within="[1, inf)"),
        Flag("seed", "int", "random seed; member i uses a key made from it and i", 0, "[0, 4294967295]"),
        Flag(
            "total_steps",
            "int",
            "environment steps per seed, rounded up to whole iterations",
            within="[1, inf)",
        ),
        Flag("anneal", "bool", "let the learning rate fall linearly to 0 over the run", default=True),
        Flag(
            "vary",
            "str",
            "train --seeds agents for each of several values of a hyper-parameter: learning-rate=1e-3,3e-4, "
            "env.params.gravity=lin:5:15:6 (even), learning-rate=log:1e-4:1e-2:8 (geometric), or draws, "
            "gamma=random:0.9:0.999:16, learning-rate=random-log:1e-5:1e-2:16; give it again for all combinations, but "
            "draws go together",
            metavar="NAME=VALUES",
            repeated=True,
        ),
        Flag(
            "randomize",
            "str",
            "draw a parameter of the environment uniformly from a range, anew for every episode, as "
            "params.gravity=8:12; give it again for several",
            metavar="NAME=LOW:HIGH",
            repeated=True,
        ),
        Flag(
            "processes",
            "str",
            "number of processes that share the members, each on its own core; auto: as many as there are cores",
            default="1",
            metavar="N|auto",
        ),
        Flag(
            "pbt_every",
            "int",
            "iterations between exchanges of population-based training, a multiple of --log-every: the worst quarter "
            "of the members takes over parameters and --vary values of the best, the values times or divided by 1.25",
            within="[1, inf)",
        ),
        Flag(
            "on_divergence",
            "str",
            "what to do with a member whose update is not finite: freeze it at its last finite state and train the "
            "others on, or stop the run",
            default="freeze",
            choices=("freeze", "stop"),
        ),
        Flag(
            "engine",
            "str",
            "what --processes are: processes of this machine, or actors of Ray, which are started again if they die",
            default="local",
            choices=("local", "ray"),
        ),
        Flag("address", "str", "address of a Ray cluster, as auto or ray://HOST:PORT (default this machine alone)"),
        Flag(
            "devices",
            "str",
            "number of devices (GPUs, TPU cores) that share the members, and the shards of each; all: as many as can",
            default="1",
            metavar="N|all",
        ),
        Flag(
            "shards",
            "int",
            "parts that the environments of each member are divided into, which average their gradients: one member "
            "can then train on several devices",
            default=1,
            within="[1, inf)",
        ),
        Flag(
            "distributed",
            "bool",
            "be one of several processes, on one or more machines, that share the devices of all; found through SLURM, "
            "Open MPI, Kubernetes or a TPU pod, or with the next three flags",
        ),
        Flag("coordinator", "str", "address of process 0 where there is no cluster", metavar="HOST:PORT"),
        Flag("num_processes", "int", "number of processes where there is no cluster", within="[1, inf)"),
        Flag("process_id", "int", "number of this process, from 0, where there is no cluster", within="[0, inf)"),
        Flag(
            "deadline",
            "float",
            "longest time in seconds to wait for another process; then the run ends with its number and can be resumed",
            default=600.0,
            within="(0, inf)",
        ),
        Flag("out", "str", "directory of the run (default a new one under runs/)", metavar="DIR"),
        Flag("overwrite", "bool", "replace the run in that directory"),
        Flag("resume", "str", "continue the run in DIR from its newest checkpoint", metavar="DIR"),
        Flag(
            "eval_episodes",
            "int",
            "episodes of the final evaluation, per member (default 128, fewer in short runs)",
            within=COUNTABLE,
        ),
        Flag(
            "eval_every",
            "int",
            "iterations between evaluations along the way, 0 for none (default about 20 evaluations, 5 in short runs)",
            within="[0, inf)",
        ),
        Flag("log_every", "int", "iterations per row of metrics (default 50 rows)", within="[1, inf)"),
        Flag("checkpoint_every", "int", "iterations between checkpoints (default 10 checkpoints)", within="[1, inf)"),
        *(Flag(name, "bool", meaning) for name, meaning in LOGGERS.items()),
    ],
)


def with_defaults(group: Group, defaults: Mapping[str, Any]) -> Group:
    """The same flags with the defaults of a preset."""
    return Group(
        group.title, [dataclasses.replace(flag, default=defaults.get(flag.name, flag.default)) for flag in group.flags]
    )


def agent_groups(name: str, algorithm: Any, preset: Preset) -> list[Group]:
    """Flags of hyper-parameters, objects and network of the class `algorithm`, as far as it has them."""
    groups = [
        hyperparameter_group(name, algorithm, preset),
        *(object_group(part, algorithm, preset) for part in PREFIXES),
        network_group(algorithm, preset),
    ]
    return [group for group in groups if group.flags]


def hyperparameter_group(name: str, algorithm: Any, preset: Preset) -> Group:
    """One flag per number, switch or choice among the fields of the class `algorithm`, with a preset's defaults."""
    defaults = plain_defaults(algorithm) | preset.hyperparameters
    return Group(
        f"hyper-parameters of {name}",
        [_of_field(field, defaults.get(field.name)) for field in hyperparameters(algorithm)],
    )


def object_group(part: str, algorithm: Any, preset: Preset) -> Group:
    """Flags of the object in the field `part` of the class `algorithm`, with a preset's defaults; none without one."""
    defaults = complete_object(algorithm, part, getattr(preset, part), {})
    return Group(part.replace("_", " "), _kind_flags(part, defaults, PREFIXES[part]) if defaults else [])


def network_group(algorithm: Any, preset: Preset) -> Group:
    """Flags of the network that the class `algorithm` uses, with the defaults of a preset."""
    module, defaults = default_network(algorithm), complete_network(algorithm, preset.network, {})
    group = []
    if module is None:
        return Group("network", group)
    for part in parts(module):
        group += _kind_flags(part, defaults)
    return Group("network", group + [_of_field(field, defaults[field.name]) for field in parameters(module)])


def _kind_flags(part: str, defaults: Mapping[str, Any], prefix: str = "") -> list[Flag]:
    """The flag that chooses the kind of `part`, and those of its parameters, which begin with `prefix`."""
    spoken = part.replace("_", " ")
    return [
        Flag(part, "str", f"kind of {spoken}", defaults[part], choices=tuple(KINDS[part])),
        *_part_flags(part, defaults, prefix),
    ]


def _part_flags(part: str, defaults: Mapping[str, Any], prefix: str) -> list[Flag]:
    """One flag for each parameter of any kind of `part`; several kinds may share one."""
    fields: dict[str, dataclasses.Field] = {}
    owners: dict[str, list[str]] = {}
    for kind in KINDS[part]:
        for field in parameters(part_class(part, kind)):
            fields.setdefault(field.name, field)
            owners.setdefault(field.name, []).append(kind)
    flags = []
    for name, field in fields.items():
        flag = _of_field(field, word_of(defaults.get(name, default_of(field))))
        flag = dataclasses.replace(flag, name=prefix + name)
        if len(owners[name]) < len(KINDS[part]):
            kinds = f"--{part.replace('_', '-')} {' or '.join(owners[name])}"
            flag = dataclasses.replace(flag, help=f"with {kinds}: {flag.help}")
        flags.append(flag)
    return flags


def given_in(group: Group, given: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values `given` for the flags of one group, by their names without `prefix`."""
    return {flag.name.removeprefix(prefix): given[flag.name] for flag in group.flags if flag.name in given}


def _of_field(field: dataclasses.Field, default: Any) -> Flag:
    """The flag that sets a field of an algorithm or a network."""
    annotation, meaning, within = annotation_of(field), help_of(field), within_of(field)
    if annotation.startswith("Callable"):
        return Flag(field.name, "str", meaning, default, choices=ACTIVATIONS)
    source = source_of(field)
    if source is not None:
        return Flag(field.name, "str", meaning + (" (required)" if is_required(field) else ""), metavar=source.metavar)
    many = annotation.startswith("tuple")
    kind = "int" if many else kind_of(field) or ""
    return Flag(field.name, kind, meaning, default, within, choices_of(field), many)


def env_group(env: str, options: Mapping[str, Option], preset: Mapping[str, Any]) -> Group:
    """One ``--env.`` flag per option of the environment; its kind or its default says of what kind it is."""
    flags = [_option(name, option, preset.get(name, option.default)) for name, option in options.items()]
    return Group(f"environment {env}", flags)


def _option(name: str, option: Option, default: Any) -> Flag:
    kinds = ((bool, "bool"), (int, "int"), (float, "float"), (str, "str"))
    one = default[0] if isinstance(default, tuple) and default else default
    kind = next((kind for type_, kind in kinds if isinstance(one, type_)), "any | None")
    return Flag(
        ENV_PREFIX + name,
        option.kind or kind,
        option.help or f"option {name!r}",
        default,
        option.within,
        many=isinstance(default, tuple),
    )
