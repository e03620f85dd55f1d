"""Suites of environments: modules with one protocol each, found by the prefix of a name."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

from purerl import references
from purerl.environments.options import Option
from purerl.types import Environment

SUITES = ("smooth", "pixels", "gymnax", "brax")
"""Modules of this package that are suites, in the order in which ``purerl envs`` lists them."""


class Suite(Protocol):
    """What the module of a suite has. Names come with the prefix."""

    PREFIX: str
    """Beginning of all names; empty for one suite, which gets the names that no other prefix fits."""

    def names(self) -> list[str]:
        """Every environment that can be made without a download. Should not import the simulator."""
        ...

    def is_known(self, name: str) -> bool:
        """Whether there is an environment of that name."""
        ...

    def make(
        self, name: str, *, episode_length: int | None = None, differentiable: bool = False, **options: Any
    ) -> Environment:
        """The environment `name`, one that `is_known`.

        Args:
            name: with the prefix.
            episode_length: time limit in steps; None for the usual one, which `time_limit` tells.
            differentiable: whether `jax.grad` must work through `step`.
            options: of that environment, see `options`.

        Raises:
            InputError: for an option that it does not have or a value that makes no sense.
        """
        ...

    def options(self, name: str) -> dict[str, Option]:
        """The options of `name`, beside those that every environment has."""
        ...

    def time_limit(self, name: str) -> int | None:
        """Steps after which an episode is cut unless asked otherwise; None for never."""
        ...

    def frame_stack(self, name: str) -> int:
        """Observations that the agent sees at once unless asked otherwise."""
        ...


def suites() -> list[Suite]:
    """All suites. Importing their modules loads no simulator."""
    return [_suite(module) for module in SUITES]


def suite_of(name: str) -> Suite | None:
    """The suite that has the environment `name`; None if none has.

    A name such as ``"mypackage.envs:MyEnv"`` is that of a class of the user's own.
    """
    if references.is_reference(name):
        return _suite("own")
    suite = max((suite for suite in suites() if name.startswith(suite.PREFIX)), key=lambda suite: len(suite.PREFIX))
    return suite if suite.is_known(name) else None


def _suite(module: str) -> Suite:
    return cast(Suite, importlib.import_module(f"purerl.environments.{module}"))
