"""Row of the table of algorithms."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from purerl import references
from purerl.deferred_imports import deferred
from purerl.errors import InputError
from purerl.presets.settings import Preset

if TYPE_CHECKING:
    from purerl.types import Environment


@dataclasses.dataclass(frozen=True)
class Row:
    """One name of an algorithm. Several names may share a class.

    Attributes:
        name: on the command line.
        reference: its class, as ``"package.module:Class"``; imported when it is asked for.
        actions: kinds of action spaces that it is for, such as ``"discrete, continuous"``.
        summary: what it is, with its source, in one line.
        base: what belongs to the name. Rainbow, for instance, is a DQN with other settings.
        generic: settings for an environment without tuned ones, by its kind of spaces; by default `base`. An algorithm
            that is not for these spaces says so itself.
        tuned: settings by name of environment.
    """

    name: str
    reference: str
    actions: str
    summary: str
    base: Preset = dataclasses.field(default_factory=Preset)
    generic: Callable[[Environment], Preset] | None = None
    tuned: Mapping[str, Preset] = dataclasses.field(default_factory=dict)

    def load(self) -> Any:
        """The class itself.

        Raises:
            InputError: if it cannot be imported or is no algorithm.
        """
        # Flax can draw a network as a table. What it draws with takes as long to load as the rest of it.
        with deferred("rich", "rich.console", "rich.table", "rich.text", "yaml"):
            cls = references.load(self.reference)
        from purerl.types import Algorithm

        absent = references.missing(cls, Algorithm)
        if absent:
            raise InputError(
                f"{self.reference} is not an algorithm (see purerl.Algorithm): it lacks {', '.join(absent)}"
            )
        if not dataclasses.is_dataclass(cls):
            raise InputError(f"{self.reference} is not an algorithm: decorate it with @purerl.struct.dataclass")
        if "env" not in {field.name for field in dataclasses.fields(cls)}:
            raise InputError(f"{self.reference} is not an algorithm: it needs a field env")
        return cls

    def preset(self, env: str) -> Preset:
        """The settings on the environment `env`: tuned ones where there are any, else those for its kind of spaces."""
        if env in self.tuned:
            return self.tuned[env]
        if self.generic is None:
            return self.base
        import purerl

        return self.generic(purerl.make(env))
