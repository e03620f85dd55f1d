"""Check that a parameter has an effect: a reset or a step must read it if it is varied, fitted or randomised."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable
from typing import Any

import jax
from jax.interpreters import partial_eval

from purerl.description import describe
from purerl.errors import InputError
from purerl.types import Environment


def check_acts(env: Environment, names: Iterable[str]) -> None:
    """Refuse parameters without any effect.

    Args:
        env: the environment.
        names: dotted paths of leaves or subtrees, such as ``"params.gravity"``.

    Raises:
        InputError: if no reset and no step of `env` reads any leaf of a name; the message suggests a similar name
            that has an effect.
    """
    names = tuple(names)
    if not names:
        return
    leaves, structure = jax.tree_util.tree_flatten_with_path(env)
    shapes = tuple((jax.numpy.shape(leaf), jax.numpy.result_type(leaf)) for _, leaf in leaves)
    read = _read(structure, shapes)
    paths = [dotted(path) for path, _ in leaves]
    for name in names:
        held = [acts for path, acts in zip(paths, read, strict=True) if f"{path}.".startswith(f"{name}.")]
        if held and not any(held):
            acting = [path for path, acts in zip(paths, read, strict=True) if acts]
            # Libraries store copies under other paths: the last part of a path is the most informative.
            ends = {path.rsplit(".", 1)[-1]: path for path in reversed(acting)}
            close = difflib.get_close_matches(name.rsplit(".", 1)[-1], ends, n=1)
            hint = f"; {ends[close[0]]} does act" if close else ""
            raise InputError(f"{name} of {describe(env, 10**6)} changes nothing: no reset and no step reads it{hint}")


def dotted(path: tuple[Any, ...]) -> str:
    """Dotted name of a JAX key path, such as ``params.link.inertia.mass``."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


@functools.lru_cache(maxsize=64)
def _read(structure: Any, shapes: tuple[tuple[tuple[int, ...], Any], ...]) -> tuple[bool, ...]:
    """Whether a reset or a step depends on each leaf of an environment. Traces both; runs and compiles nothing.

    A leaf is read if the program still uses it after dead code elimination.
    """

    def both(leaves: list[Any], reset_key: Any, step_key: Any, state: Any, action: Any) -> Any:
        env = jax.tree.unflatten(structure, leaves)
        return env.reset(reset_key), env.step(step_key, state, action)

    def example(leaves: list[Any], reset_key: Any, action_key: Any) -> Any:
        env = jax.tree.unflatten(structure, leaves)
        return env.reset(reset_key).state, env.action_space.sample(action_key)

    leaves = [jax.ShapeDtypeStruct(shape, dtype) for shape, dtype in shapes]
    key = jax.eval_shape(lambda: jax.random.key(0))
    state, action = jax.eval_shape(example, leaves, key, key)
    program = jax.make_jaxpr(both)(leaves, key, key, state, action).jaxpr
    _, used = partial_eval.dce_jaxpr(program, [True] * len(program.outvars))
    return tuple(used[: len(leaves)])
