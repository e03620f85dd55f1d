"""Saving and restoring a whole state with orbax. Knows pytrees, not algorithms.

A checkpoint is a flat mapping from the path of each leaf to its array: a state that no longer fits is told apart
leaf by leaf. A save is complete or absent: a process killed half-way leaves the previous checkpoint as the latest.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl.errors import InputError
from purerl.types import PyTree

KEEP = 2
"""How many of the newest checkpoints stay on disk."""

PIECE_BYTES = 2 * 2**20
"""Large arrays are compressed in pieces of at least this size: in parallel, and without a copy of the whole."""


def save(directory: str | Path, iteration: int, state: PyTree) -> None:
    """Write `state` as the checkpoint of `iteration` and drop all but the `KEEP` newest.

    Returns when the files are complete; `state` may be donated afterwards.

    Raises:
        InputError: if it cannot be written, be it that the disk is full or that this checkpoint exists already.
    """
    _write(directory, iteration, jax.device_get(_arrays(state)))


class Checkpointer:
    """Saves while training goes on.

    `save` returns once it has copied the state, and a thread writes the copy::

        with Checkpointer(directory) as checkpointer:
            for progress in iterate(algorithm, state, num_iterations, every):
                checkpointer.save(progress.iteration, progress.state)

    Leaving the block waits until the files are complete. One save is under way at a time, so host memory holds one copy
    of the state, besides the state itself where the CPU is the device. The copy stays until the end.

    A save that fails is told by whichever call comes next; earlier checkpoints stay as they are.
    """

    def __init__(self, directory: str | Path) -> None:
        self._directory = directory
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._saving: Future[None] | None = None
        # Kept from save to save: the system takes longer to find memory than it takes to fill it.
        self._buffers: dict[str, np.ndarray] = {}

    def save(self, iteration: int, state: PyTree, then: Callable[[], None] = lambda: None) -> None:
        """Begin to write `state` as the checkpoint of `iteration`, after the save before is complete.

        `state` may be donated as soon as this returns.

        Args:
            iteration: which checkpoint this is.
            state: what to save.
            then: called by the thread when the files are complete.

        Raises:
            InputError: if the save before failed.
        """
        self.wait()
        self._saving = self._thread.submit(_write, self._directory, iteration, self._copy(state), then)

    def wait(self) -> None:
        """Return when the files of the last save are complete.

        Raises:
            InputError: if it failed.
        """
        if self._saving is None:
            return
        wait([self._saving])  # Ctrl-C may interrupt this; whoever calls next goes on waiting
        saving, self._saving = self._saving, None
        saving.result()

    def close(self) -> None:
        """Wait for the last save and end the thread.

        Raises:
            InputError: if the save failed.
        """
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    def _copy(self, state: PyTree) -> dict[str, np.ndarray]:
        arrays = _arrays(state)
        # All transfers from an accelerator start at once. On the CPU there is none: NumPy looks at the device's memory.
        host = jax.device_get(arrays)
        for name in [name for name, leaf in arrays.items() if _in_host_memory(leaf)]:
            buffer = self._buffers.get(name)
            if buffer is None or buffer.shape != host[name].shape or buffer.dtype != host[name].dtype:
                buffer = self._buffers[name] = np.empty_like(host[name])
            np.copyto(buffer, host[name])
            host[name] = buffer
        return host

    def __enter__(self) -> Checkpointer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


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
        kinds = dict.fromkeys(shapes, ocp.RestoreArgs(restore_type=np.ndarray))
        arrays = manager.restore(iteration, args=ocp.args.PyTreeRestore(shapes, restore_args=kinds))
    # Each array is let go as soon as it is on the device.
    leaves = [_like(leaf, arrays.pop(name)) if leaf.size else jnp.zeros(leaf.shape, leaf.dtype) for name, leaf in named]
    return jax.tree.unflatten(jax.tree.structure(template), leaves)


def _write(
    directory: str | Path, iteration: int, arrays: dict[str, np.ndarray], then: Callable[[], None] = lambda: None
) -> None:
    try:
        with _manager(directory, create=True) as manager:
            import orbax.checkpoint as ocp

            pieces = {name: ocp.SaveArgs(chunk_byte_size=_piece_bytes(array)) for name, array in arrays.items()}
            manager.save(iteration, args=ocp.args.PyTreeSave(arrays, save_args=pieces), force=True)
            manager.wait_until_finished()
    except Exception as error:
        # A full disk and the like surface from deep inside the storage library, as all kinds of exceptions, with all
        # that was going on before the cause.
        reason = ": ".join(" ".join(str(error).split()).split(": ")[-2:])
        raise InputError(f"cannot write the checkpoint of iteration {iteration} to {directory}: {reason}") from error
    then()


def _piece_bytes(array: np.ndarray) -> int:
    """How large pieces to ask orbax for.

    It takes the next smaller divisor of whichever axis is the longest, until pieces are as small as asked for. Where a
    length is prime it would end at single rows, a million of them. So ask for what the longest axis alone can give; an
    array whose longest axis does not divide is stored whole.
    """
    *_, second, length = sorted((1, 1, *array.shape))
    row_bytes = array.nbytes // length
    small = [n for n in range(1, math.isqrt(length) + 1) if length % n == 0]
    fitting = [n for n in (*small, *(length // n for n in small)) if n >= second and n * row_bytes >= PIECE_BYTES]
    return min(fitting, default=length) * row_bytes


def _arrays(state: PyTree) -> dict[str, jax.Array]:
    return {name: _data(leaf) for name, leaf in _named_leaves(state) if leaf.size}


def _in_host_memory(leaf: jax.Array) -> bool:
    return not isinstance(leaf, jax.Array) or any(device.platform == "cpu" for device in leaf.devices())


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
        (jax.tree_util.keystr(path, simple=True, separator=".") + _stream(leaf), leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]


def _stream(leaf: jax.Array) -> str:
    """Suffix of the name of a leaf that is a random key of another kind than JAX's usual one.

    The numbers behind two kinds of keys may have one shape, and yet begin other streams.
    """
    kind = _key_kind(leaf) if _is_key(leaf) else "threefry2x32"
    return "" if kind == "threefry2x32" else f".{kind}"


def _is_key(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_kind(leaf: jax.Array) -> Any:
    # Of an array, because a template may be made of shapes, which JAX does not ask.
    return jax.random.key_impl(jnp.zeros((), leaf.dtype))


def _data(leaf: jax.Array) -> jax.Array:
    """The numbers behind a leaf; a random key is an opaque type that other tools cannot read."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _like(leaf: jax.Array, array: np.ndarray) -> jax.Array:
    on_device = jax.device_put(array)  # jnp.asarray would copy twice
    return jax.random.wrap_key_data(on_device, impl=_key_kind(leaf)) if _is_key(leaf) else on_device


def _manager(directory: str | Path, create: bool = False):
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax narrates every file, and each error twice
    options = ocp.CheckpointManagerOptions(
        max_to_keep=KEEP, create=create, cleanup_tmp_directories=create, enable_async_checkpointing=False
    )
    # Orbax would copy all arrays once more, lest they change during the save.
    numpy = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, numpy))
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    return ocp.CheckpointManager(Path(directory).absolute(), item_handlers=handler, options=options)
