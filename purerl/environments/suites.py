"""Suites of environments: modules with one protocol each, found by the prefix of a name."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

from purerl import references
from purerl.environments.options import Option
from purerl.types import Environment

SUITES = (
    "smooth",
    "grid",
    "pixels",
    "gymnax",
    "brax",
)
"""Modules of this package that are suites, in the order in which ``purerl envs`` lists them."""


class Suite(Protocol):
    """Interface of the module of a suite. Names include the prefix."""

    PREFIX: str
    """Prefix of all names; one suite has an empty prefix and gets all names without another suite's prefix."""

    def names(self) -> list[str]:
        """Names of all environments that need no download. It should not import the simulator."""
        ...

    def is_known(self, name: str) -> bool:
        """Whether there is an environment of that name."""
        ...

    def make(
        self, name: str, *, episode_length: int | None = None, differentiable: bool = False, **options: Any
    ) -> Environment:
        """Environment with a name for which `is_known` is true.

        Args:
            name: name with the prefix.
            episode_length: time limit in steps; None for the default, see `time_limit`.
            differentiable: whether `jax.grad` must work through `step`.
            options: options of the environment, see `options`.

        Raises:
            InputError: for an option that it does not have or a value that makes no sense.
        """
        ...

    def options(self, name: str) -> dict[str, Option]:
        """Options of an environment, without those that every environment has."""
        ...

    def time_limit(self, name: str) -> int | None:
        """Default time limit in steps, or None."""
        ...

    def frame_stack(self, name: str) -> int:
        """Default number of stacked observations."""
        ...


def load_suites() -> list[Suite]:
    """List of all suites. The import of their modules does not import a simulator."""
    return [_suite(module) for module in SUITES]


def suite_of(name: str) -> Suite | None:
    """Suite of an environment, or None for an unknown name.

    A name such as ``"mypackage.envs:MyEnv"`` stands for a class of the user.
    """
    if references.is_reference(name):
        return _suite("own")
    suite = max(
        (suite for suite in load_suites() if name.startswith(suite.PREFIX)), key=lambda suite: len(suite.PREFIX)
    )
    return suite if suite.is_known(name) else None


def _suite(module: str) -> Suite:
    return cast(Suite, importlib.import_module(f"purerl.environments.{module}"))
