"""Parameters that act: a number that no reset and no step reads cannot be varied, fitted or randomised."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable
from typing import Any

import jax
from jax.interpreters import partial_eval

from purerl.errors import InputError
from purerl.types import Environment


def check_acts(env: Environment, names: Iterable[str]) -> None:
    """Refuse parameters that change nothing.

    Args:
        env: the environment.
        names: dotted paths of leaves in it, or of what holds leaves, such as ``"params.gravity"``.

    Raises:
        InputError: if no reset and no step of `env` reads any of what a name stands for; names the nearest that acts.
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
            # Libraries rename what they copy: the end of a path says most.
            ends = {path.rsplit(".", 1)[-1]: path for path in reversed(acting)}
            close = difflib.get_close_matches(name.rsplit(".", 1)[-1], ends, n=1)
            hint = f"; {ends[close[0]]} does act" if close else ""
            raise InputError(f"{name} of {env!r} changes nothing: no reset and no step reads it{hint}")


def dotted(path: tuple[Any, ...]) -> str:
    """A path of JAX's as people write it: ``params.link.inertia.mass``."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


@functools.lru_cache(maxsize=64)
def _read(structure: Any, shapes: tuple[tuple[tuple[int, ...], Any], ...]) -> tuple[bool, ...]:
    """For every leaf of an environment, whether a reset or a step depends on it. Traces both, runs and compiles none.

    It depends on what is left of the program when every instruction without influence on a result is taken out.
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
