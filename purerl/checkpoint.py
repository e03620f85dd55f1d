"""Saving and restoring a whole state with orbax. Knows pytrees, not algorithms.

A checkpoint is a flat mapping from the path of each leaf to its array: a state that no longer fits is told apart
leaf by leaf. A save is complete or absent: a process killed half-way leaves the previous checkpoint as the latest.
"""

from __future__ import annotations

import logging
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from purerl.errors import InputError
from purerl.types import PyTree

KEEP = 2
"""How many of the newest checkpoints stay on disk."""


def save(directory: str | Path, iteration: int, state: PyTree) -> None:
    """Write `state` as the checkpoint of `iteration` and drop all but the `KEEP` newest.

    Returns when the files are complete; `state` may be donated afterwards.
    """
    arrays = {name: np.asarray(_data(leaf)) for name, leaf in _named_leaves(state) if leaf.size}
    with _manager(directory, create=True) as manager:
        import orbax.checkpoint as ocp

        manager.save(iteration, args=ocp.args.StandardSave(arrays), force=True)
        manager.wait_until_finished()


def latest(directory: str | Path) -> int | None:
    """The newest complete checkpoint's iteration, or None if there is none."""
    if not Path(directory).is_dir():
        return None
    with _manager(directory) as manager:
        return manager.latest_step()


def restore(directory: str | Path, iteration: int, template: PyTree) -> PyTree:
    """Read back the state saved at `iteration`.

    Args:
        directory: where checkpoints are.
        iteration: which one.
        template: a state of the same structure, or its shapes from `jax.eval_shape`.

    Raises:
        InputError: if the checkpoint does not exist or its leaves are not those of `template`.
    """
    named = _named_leaves(template)
    shapes = {name: jax.eval_shape(_data, leaf) for name, leaf in named if leaf.size}
    with _manager(directory) as manager:
        import orbax.checkpoint as ocp

        if iteration not in manager.all_steps():
            raise InputError(f"no checkpoint of iteration {iteration} in {directory}: there are {manager.all_steps()}")
        saved = manager.item_metadata(iteration)
        _check_fit(directory, {name: (tuple(meta.shape), meta.dtype) for name, meta in saved.items()}, shapes)
        arrays = manager.restore(iteration, args=ocp.args.StandardRestore(shapes))
    leaves = [_like(leaf, arrays[name]) if leaf.size else jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in named]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _check_fit(directory: str | Path, saved: dict, wanted: dict) -> None:
    for name in sorted(saved.keys() | wanted.keys()):
        here = tuple(wanted[name].shape) if name in wanted else None
        there = saved[name][0] if name in saved else None
        if here != there or saved[name][1] != wanted[name].dtype:
            absent = "nothing"
            raise InputError(
                f"the checkpoint in {directory} does not fit this program: {name} is "
                f"{absent if there is None else f'{saved[name][1]}{list(there)}'} there and "
                f"{absent if here is None else f'{wanted[name].dtype}{list(here)}'} here"
            )


def _named_leaves(tree: PyTree) -> list[tuple[str, jax.Array]]:
    # Orbax keeps leaves in a store where a slash would mean a folder.
    return [
        (jax.tree_util.keystr(path, simple=True, separator="."), leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]


def _is_key(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _data(leaf: jax.Array) -> jax.Array:
    """The numbers behind a leaf; a random key is an opaque type that other tools cannot read."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _like(leaf: jax.Array, array: jax.Array) -> jax.Array:
    array = jnp.asarray(array)
    return jax.random.wrap_key_data(array) if _is_key(leaf) else array


def _manager(directory: str | Path, create: bool = False):
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.ERROR)  # orbax narrates every file at INFO and WARNING
    options = ocp.CheckpointManagerOptions(max_to_keep=KEEP, create=create, enable_async_checkpointing=False)
    handler = ocp.StandardCheckpointHandler()
    return ocp.CheckpointManager(Path(directory).absolute(), item_handlers=handler, options=options)
