"""The network of a run as plain data, and the flax module that it describes.

A network has parts that come in several kinds (a trunk; for action values a head too), and numbers and switches of its
own. The fields of these classes say what can be set, what it means and which values are allowed.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from typing import Any

from purerl.cli.fields import annotation_of, choices_of, default_of, kind_of, word_of
from purerl.errors import InputError, unknown

KINDS = {
    "trunk": {"mlp": "networks.MLP", "cnn": "networks.CNN"},
    "memory": {"none": "layers.memory.NoMemory", "gru": "layers.memory.GRU", "lstm": "layers.memory.LSTM"},
    "head": {
        "mean": "layers.value_heads.ExpectedValue",
        "c51": "layers.value_heads.C51",
        "quantile": "layers.value_heads.QuantileRegression",
    },
    "optimizer": {
        "adam": "learning.optimizers.Adam",
        "adamw": "learning.optimizers.AdamW",
        "radam": "learning.optimizers.RAdam",
        "rmsprop": "learning.optimizers.RMSProp",
    },
    "reward_model": {
        "environment": "experience.reward_models.EnvironmentReward",
        "gail": "learning.discriminator.Discriminator",
        "rnd": "learning.random_network_distillation.RandomNetworkDistillation",
    },
}
"""Part of a network or algorithm to its kinds: name on the command line and class in `purerl`."""

ACTIVATIONS = ("elu", "gelu", "relu", "silu", "tanh")


def default_network(algorithm: Any) -> Any:
    """The module that the class `algorithm` uses when it is given none; None where it is not one of purerl's networks.

    Algorithms of the user's own may have no network, or one of their own, which plain data does not describe.
    """
    default = next((field.default for field in dataclasses.fields(algorithm) if field.name == "network"), None)
    return default if type(default).__module__.startswith("purerl.") and dataclasses.is_dataclass(default) else None


def parts(module: Any) -> list[str]:
    """The parts of a network that come in several kinds and are of one of them now."""
    return [
        field.name
        for field in dataclasses.fields(module)
        if field.name in KINDS and kind_name(field.name, getattr(module, field.name)) is not None
    ]


def parameters(module: Any) -> list[dataclasses.Field]:
    """The fields of a network or part that plain data can set: numbers, switches, sizes and activations."""
    return [
        field
        for field in dataclasses.fields(module)
        if kind_of(field) or annotation_of(field).startswith(("tuple[int", "Callable"))
    ]


def part_class(part: str, kind: str) -> Any:
    """The class behind a name in `KINDS`.

    Raises:
        InputError: if there is no such kind.
    """
    if kind not in KINDS[part]:
        raise unknown(f"{_flag(part)} value", kind, KINDS[part])
    module, _, name = KINDS[part][kind].rpartition(".")
    return getattr(importlib.import_module(f"purerl.{module}"), name)


def complete_network(algorithm: Any, preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of a network: the algorithm's defaults, a preset's instead, and what was `given` instead of those.

    Defaults and preset parameters of a part count only for their own kind of it.

    Raises:
        InputError: if something was given that this network, or this kind of part, does not have.
    """
    default = default_network(algorithm)
    known: dict[str, Any] = {}
    for part in [] if default is None else parts(default):
        known |= complete_part(part, getattr(default, part), preset, given)
    own = {} if default is None else plain_values(default)
    known |= {name: preset.get(name, value) for name, value in own.items()}
    for name in given:
        if name not in known:
            raise misplaced(name, known)
    return {**known, **given}


def build_network(algorithm: Any, network: Mapping[str, Any]) -> Any:
    """The module that `network` describes; what it leaves out has the algorithm's defaults.

    Raises:
        InputError: if it has something that the algorithm's network does not have, or a value is not allowed.
    """
    default = default_network(algorithm)
    values = complete_network(algorithm, {}, network)
    built = {field.name: values[field.name] for field in parameters(default)}
    for part in parts(default):
        cls = part_class(part, values[part])
        built[part] = cls(**{p.name: _real(p, values[p.name]) for p in parameters(cls)})
    return dataclasses.replace(default, **built)


def complete_part(part: str, default: Any, preset: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Kind and parameters of one part (see `complete_network`)."""
    usual = kind_name(part, default)
    preferred = preset.get(part, usual)
    kind = given.get(part, preferred)
    cls = part_class(part, kind)
    values = plain_values(default) if kind == usual else plain_defaults(cls)
    if kind == preferred:
        values |= {name: preset[name] for name in values if name in preset}
    return {part: kind, **values}


def kind_name(part: str, module: Any) -> str | None:
    """The name of the kind of `part` that `module` is; None for a class of the user's own."""
    return next((kind for kind in KINDS[part] if part_class(part, kind) is type(module)), None)


def plain_values(module: Any) -> dict[str, Any]:
    """Field name to plain value."""
    return {field.name: _plain(field, getattr(module, field.name)) for field in parameters(module)}


def plain_defaults(cls: Any) -> dict[str, Any]:
    """Field name to the plain value of its default; None where there is none."""
    return {field.name: _plain(field, default_of(field)) for field in parameters(cls)}


def _plain(field: dataclasses.Field, value: Any) -> Any:
    if annotation_of(field).startswith("Callable"):
        import flax.linen as nn

        name = next((name for name in ACTIVATIONS if getattr(nn, name) is value), None)
        if name is None:
            raise InputError(f"{field.name} of the network must be one of {', '.join(ACTIVATIONS)}, got {value!r}")
        return name
    return word_of(value) if choices_of(field) else value


def _real(field: dataclasses.Field, value: Any) -> Any:
    if annotation_of(field).startswith("Callable"):
        import flax.linen as nn

        if value not in ACTIVATIONS:
            raise unknown(f"{field.name} value", value, ACTIVATIONS)
        return getattr(nn, value)
    return value


def misplaced(name: str, known: Mapping[str, Any], prefix: str = "") -> InputError:
    """Error for a parameter that a network or object lacks; it may belong to another kind of part.

    Flags of parameters begin with `prefix`.
    """
    for part in KINDS.keys() & known.keys():
        if any(name == field.name for kind in KINDS[part] for field in parameters(part_class(part, kind))):
            kind = known[part]
            own = ", ".join(_flag(prefix + field.name) for field in parameters(part_class(part, kind)))
            return InputError(
                f"{_flag(prefix + name)} is not for {_flag(part)} {kind}, which has {own or 'no parameters'}"
            )
    return unknown("parameter of the network", name, known)


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
