"""Hyper-parameters that are loaded: a flag names a source, and the configuration of a run stores it with a digest.

The type that a field is annotated with says how (`SOURCES`). The configuration holds ``{"source": "/abs/demos.npz",
"sha256": "..."}``, the digest being that of all numbers loaded: a run is resumed and evaluated with the same data, or
not at all.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import importlib
import os
from collections.abc import Iterator, Mapping
from typing import Any

from purerl.errors import InputError


@dataclasses.dataclass(frozen=True)
class Source:
    """Loader of the objects of one type.

    Attributes:
        metavar: what the value of the flag is, for the help.
        loader: module and function ``load(text) -> object``, which raises `InputError`.
    """

    metavar: str
    loader: str

    def load(self, text: str) -> Any:
        """The object that `text` names."""
        module, _, name = self.loader.partition(":")
        return getattr(importlib.import_module(module), name)(text)


SOURCES = {
    "Demonstrations": Source("FILE[:N]", "purerl.cli.sources:demonstrations"),
    "Expert": Source("RUN|PLANNER|MODULE:NAME", "purerl.cli.agents:expert"),
}
"""Annotation of a field to its source, without ``| None``."""


def source_of(field: dataclasses.Field) -> Source | None:
    """The source of a field; None where it is not loaded."""
    from purerl.struct import as_written

    return SOURCES.get(as_written(field.type).removesuffix(" | None").rpartition(".")[2])


def described(algorithm: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    """`values` of fields of the class `algorithm`, with each text of a source as the configuration stores it.

    Raises:
        InputError: if something cannot be loaded.
    """
    found = {field.name: source_of(field) for field in dataclasses.fields(algorithm)}
    described = dict(values)
    for name, text in values.items():
        source = found.get(name)
        if source is not None and isinstance(text, str):
            absolute = _absolute(text)
            described[name] = {"source": absolute, "sha256": digest(source.load(absolute))}
    return described


def load(field: dataclasses.Field, word: Any) -> Any:
    """The object that a configuration describes, the inverse of `described`.

    Raises:
        InputError: if it cannot be loaded any more, or has changed.
    """
    source = source_of(field)
    if source is None or not isinstance(word, dict) or word.keys() != {"source", "sha256"}:
        raise InputError(f"{field.name} must have a source and a digest, got {word!r}")
    loaded = source.load(word["source"])
    if digest(loaded) != word["sha256"]:
        raise InputError(
            f"{word['source']} has changed since it was given as --{field.name.replace('_', '-')}: "
            "put back what was there, or train again"
        )
    return loaded


def digest(tree: Any) -> str:
    """SHA-256 of a pytree: numbers with their paths, types and shapes, and plain static fields of dataclasses.

    Functions count by their names: a change of their code is not seen.
    """
    import jax
    import numpy as np

    total = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        key = isinstance(leaf, jax.Array) and jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        array = np.asarray(jax.random.key_data(leaf) if key else leaf)
        total.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        total.update(np.ascontiguousarray(array).tobytes())
    for text in _static(tree, ""):
        total.update(text.encode())
    return total.hexdigest()


def _static(node: Any, path: str) -> Iterator[str]:
    """Static values within a pytree, with their paths, as text that is the same in every process."""
    from jax.tree_util import Partial

    if isinstance(node, Partial):
        yield f"{path} {node.func.__module__}:{node.func.__qualname__}\n"
        children: Mapping[Any, Any] = dict(enumerate(node.args)) | node.keywords
    elif dataclasses.is_dataclass(node) and not isinstance(node, type):
        children = {field.name: getattr(node, field.name) for field in dataclasses.fields(node)}
    elif isinstance(node, Mapping):
        children = node
    elif isinstance(node, list | tuple):
        children = dict(enumerate(node))
    else:
        if node is None or isinstance(node, bool | int | float | str | enum.Enum):
            yield f"{path} {node}\n"
        return
    for name, child in children.items():
        yield from _static(child, f"{path}.{name}")


def demonstrations(text: str) -> Any:
    """Demonstrations in a file, ``FILE``, or their first N episodes, ``FILE:N``; ``.npz`` may be left out."""
    from purerl.demonstrations import load_demonstrations

    path, colon, number = text.rpartition(":")
    if not colon or not number.isdecimal():
        path, number = text, ""
    if not os.path.exists(path) and os.path.exists(f"{path}.npz"):
        path = f"{path}.npz"
    loaded = load_demonstrations(path)
    return loaded.first(int(number)) if number else loaded


def _absolute(text: str) -> str:
    """`text` with an absolute path where it names something in the present directory."""
    path, _, number = text.rpartition(":")
    if not number.isdecimal():  # a name in a module, which may lie in a directory called like it
        path = text
    named = any(map(os.path.exists, (text, path, f"{text}.npz", f"{path}.npz")))
    return os.path.abspath(text) if named else text
