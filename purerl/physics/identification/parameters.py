"""Parameters to estimate: names, their places in an environment's leaves, and the coordinates of the search."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl import struct
from purerl.environments.influence import check_acts, dotted
from purerl.errors import InputError, unknown
from purerl.math import float_leaves
from purerl.types import Array, Environment, PyTree


@dataclasses.dataclass(frozen=True)
class Parameters:
    """Parameters to estimate, and the coordinates of the search.

    Attributes:
        base: the environment whose leaves are the parameters; None if `assign` builds a new environment.
        assign: ``assign(base, values [num_params]) -> env``; hashable.
        names: names of the parameters.
        start: ``[num_params]``, start values of the search.
        logarithmic: ``[num_params]`` bool, whether the coordinate of the search is the logarithm.
    """

    base: PyTree
    assign: Callable[[PyTree, Array], Environment]
    names: tuple[str, ...]
    start: np.ndarray
    logarithmic: np.ndarray

    def named(self, values: np.ndarray) -> dict[str, float]:
        """Values by the names of their parameters."""
        return dict(zip(self.names, values.tolist(), strict=True))

    def slope(self, values: np.ndarray) -> np.ndarray:
        """Derivatives ``[num_params]`` of the parameters with respect to their coordinates in the search."""
        return np.where(self.logarithmic, values, 1.0)

    def moved(self, values: np.ndarray, change: np.ndarray) -> np.ndarray:
        """Values after a `change` of their coordinates; they may be infinite."""
        with np.errstate(over="ignore"):  # an overflow gives infinity, which is right
            factor = np.exp(np.where(self.logarithmic, change, 0.0))
        return np.where(self.logarithmic, values * factor, values + change)


@dataclasses.dataclass(frozen=True)
class _Entries:
    """Assignment of values to entries ``(leaf, index in it)`` of an environment's leaves."""

    places: tuple[tuple[int, tuple[int, ...]], ...]

    def __call__(self, env: PyTree, values: Array) -> PyTree:
        leaves, structure = jax.tree.flatten(env)
        for position, (leaf, index) in enumerate(self.places):
            leaves[leaf] = jnp.asarray(leaves[leaf]).at[index].set(values[position])
        return jax.tree.unflatten(structure, leaves)


@dataclasses.dataclass(frozen=True)
class _Build:
    """Construction of an environment by the user's function from values by name."""

    function: Callable[[dict[str, Array]], Environment]
    names: tuple[str, ...]

    def __call__(self, env: None, values: Array) -> Environment:
        return self.function({name: values[position] for position, name in enumerate(self.names)})


def find_parameters(
    env: Environment | Callable[[dict[str, Array]], Environment],
    names: Sequence[str] | Mapping[str, float],
    signed: Collection[str],
) -> Parameters:
    """Parameters for the arguments of `fit_params`."""
    names = [names] if isinstance(names, str) else names
    if not names:
        raise InputError("name at least one parameter to estimate")
    given = dict(names) if isinstance(names, Mapping) else {}
    for name, value in given.items():
        struct.check_value(f"the start value of {name}", value, float, "(-inf, inf)")
    base, assign, start = _leaves(env, names, given) if hasattr(env, "step") else _arguments(env, given)
    signed = [signed] if isinstance(signed, str) else signed
    for name in signed:
        if name not in start:
            raise unknown("signed parameter", name, start)
    logarithmic = [value != 0.0 and name not in signed for name, value in start.items()]
    return Parameters(base, assign, tuple(start), np.asarray(list(start.values()), np.float64), np.asarray(logarithmic))


def _arguments(function: Any, given: dict[str, float]) -> tuple[None, _Build, dict[str, float]]:
    """``(base, assign, start)`` for a function that builds environments; start values by name."""
    if not given:
        raise InputError("a function that builds environments needs start values: pass a mapping {name: value}")
    return None, _Build(function, tuple(given)), {name: float(value) for name, value in given.items()}


def _leaves(env: Any, names: Iterable[str], given: dict[str, float]) -> tuple[PyTree, _Entries, dict[str, float]]:
    """``(base, assign, start)`` for entries in the leaves of `env`; start values by name."""
    paths, _ = jax.tree_util.tree_flatten_with_path(env)
    leaves = {
        dotted(path): (number, np.asarray(leaf))
        for number, (path, leaf) in enumerate(paths)
        if float_leaves.is_float(leaf)
    }
    places: dict[tuple[int, tuple[int, ...]], str] = {}
    start: dict[str, float] = {}
    for name in names:
        stem, index = _split(name)
        path = _path(stem, leaves)
        check_acts(env, [path])
        number, leaf = leaves[path]
        for entry in _entries(name, index, leaf.shape):
            label = stem + (f"[{','.join(map(str, entry))}]" if entry else "")
            if (number, entry) in places:
                raise InputError(f"parameter {label} is named twice")
            places[number, entry] = label
            start[label] = float(given[name] if name in given else leaf[entry])
    return env, _Entries(tuple(places)), start


def _split(name: str) -> tuple[str, tuple[int, ...] | None]:
    """Path and index of a name such as ``"mass[1]"``."""
    match = re.fullmatch(r"([^\[\]]+)(?:\[(\d+(?:, *\d+)*)\])?", name)
    if match is None:
        raise InputError(f"a parameter is a path with an optional index, such as 'mass' or 'mass[1]', got {name!r}")
    return match[1], None if match[2] is None else tuple(int(i) for i in match[2].split(","))


def _path(stem: str, leaves: Collection[str]) -> str:
    """Path that equals `stem`, or the only path that ends in it."""
    if stem in leaves:
        return stem
    matches = [path for path in leaves if path.endswith(f".{stem}")]
    if len(matches) > 1:
        raise InputError(f"parameter {stem!r} may be {' or '.join(matches)}: give more of the path")
    if not matches:
        # Compare with ends of paths that have as many parts.
        depth = stem.count(".") + 1
        raise unknown("parameter", stem, {".".join(path.split(".")[-depth:]) for path in leaves})
    return matches[0]


def _entries(name: str, index: tuple[int, ...] | None, shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Indices of the entries of an array of that shape that `name` stands for."""
    if index is None:
        return list(np.ndindex(shape))
    if len(index) != len(shape) or any(i >= n for i, n in zip(index, shape, strict=False)):
        raise InputError(f"the index of {name} is out of range: that array has shape {shape}")
    return [index]
