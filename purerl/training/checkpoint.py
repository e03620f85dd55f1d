"""Checkpoints of a whole state with orbax: any pytree, independent of the algorithm.

A checkpoint is a flat mapping from the path of each leaf to its array, so an error can name the leaves that do not fit.
A save is complete or absent: if the process is killed during a save, the previous checkpoint is the latest.
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
from purerl.training import hosts
from purerl.types import PyTree

KEEP = 2
"""Number of newest checkpoints that stay on disk."""

PIECE_BYTES = 2 * 2**20
"""Smallest chunk of a large array in bytes. Chunks are compressed in parallel, without a copy of the whole array."""


def save(directory: str | Path, iteration: int, state: PyTree) -> None:
    """Write `state` as the checkpoint of `iteration` and delete all but the `KEEP` newest.

    Returns when the files are complete; `state` may be donated afterwards.

    Raises:
        InputError: if it cannot be written, for example because the disk is full or the checkpoint exists already.
    """
    _write(directory, iteration, hosts.fetch(_arrays(state)))


class Checkpointer:
    """Asynchronous saving: training goes on while a thread writes the checkpoint.

    `save` returns as soon as it has copied the state; a thread writes the copy::

        with Checkpointer(directory) as checkpointer:
            for progress in iterate(algorithm, state, num_iterations, every):
                checkpointer.save(progress.iteration, progress.state)

    Leaving the block waits until the files are complete. Only one save is in progress at a time, so host memory holds
    one copy of the state (in addition to the state itself on CPU). The copy's memory is kept until the end.

    If a save fails, the next call raises the error; earlier checkpoints stay as they are.
    """

    def __init__(self, directory: str | Path, *, writes: bool = True) -> None:
        """Checkpoints go to `directory`; not from a process that only takes part in fetching the state."""
        self._directory = directory
        self._writes = writes
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._saving: Future[None] | None = None
        # Kept from save to save: allocating this memory takes longer than filling it.
        self._buffers: dict[str, np.ndarray] = {}

    def save(self, iteration: int, state: PyTree, then: Callable[[], None] = lambda: None) -> None:
        """Start to write `state` as the checkpoint of `iteration`, after the previous save is complete.

        `state` may be donated as soon as this returns.

        Args:
            iteration: number of the checkpoint.
            state: pytree to save.
            then: called by the thread when the files are complete.

        Raises:
            InputError: if the previous save failed.
        """
        self.wait()
        copy = self._copy(state)
        if self._writes:
            self._saving = self._thread.submit(_write, self._directory, iteration, copy, then)

    def wait(self) -> None:
        """Wait until the files of the last save are complete.

        Raises:
            InputError: if the save failed.
        """
        if self._saving is None:
            return
        wait([self._saving])  # Ctrl-C may interrupt this; then the next call waits
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
        # All transfers from an accelerator start at once. On CPU nothing is copied: NumPy reads the device's memory.
        host = hosts.fetch(arrays)
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
    """Iteration of the newest complete checkpoint, or None if there is none."""
    if not Path(directory).is_dir():
        return None
    with _manager(directory) as manager:
        return manager.latest_step()


def restore(directory: str | Path, iteration: int, template: PyTree) -> PyTree:
    """State that was saved at `iteration`.

    Args:
        directory: directory of the checkpoints.
        iteration: number of the checkpoint.
        template: a state of the same structure, or its shapes from `jax.eval_shape`.

    Raises:
        InputError: if the checkpoint does not exist or its leaves differ from those of `template`.
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
    # Each host array is freed as soon as it is on the device.
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
        # The storage library reports a full disk and similar problems as many kinds of exceptions, with a long context
        # before the cause. The last two parts of the text name the cause.
        reason = ": ".join(" ".join(str(error).split()).split(": ")[-2:])
        raise InputError(f"cannot write the checkpoint of iteration {iteration} to {directory}: {reason}") from error
    then()


def _piece_bytes(array: np.ndarray) -> int:
    """Chunk size in bytes to request from orbax.

    Orbax divides the currently longest axis by its next divisor until chunks are as small as requested. With an axis of
    prime length it would end at single rows, a million of them. So the request is a size that the longest axis alone
    can give; an array whose longest axis has no suitable divisor is stored whole.
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
    # In orbax's store a slash in a name would mean a folder.
    return [
        (jax.tree_util.keystr(path, simple=True, separator=".") + _stream(leaf), leaf)
        for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    ]


def _stream(leaf: jax.Array) -> str:
    """Suffix of a leaf's name if it is a random key of another kind than JAX's default.

    Keys of two kinds may have data of the same shape, but they start different random streams.
    """
    kind = _key_kind(leaf) if _is_key(leaf) else "threefry2x32"
    return "" if kind == "threefry2x32" else f".{kind}"


def _is_key(leaf: jax.Array) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _key_kind(leaf: jax.Array) -> Any:
    # `key_impl` needs an array; a template may consist of shapes only.
    return jax.random.key_impl(jnp.zeros((), leaf.dtype))


def _data(leaf: jax.Array) -> jax.Array:
    """Plain array of a leaf; a random key is an opaque type that other tools cannot read."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _like(leaf: jax.Array, array: np.ndarray) -> jax.Array:
    on_device = jax.device_put(array)  # jnp.asarray would copy twice
    return jax.random.wrap_key_data(on_device, impl=_key_kind(leaf)) if _is_key(leaf) else on_device


def _manager(directory: str | Path, create: bool = False):
    import orbax.checkpoint as ocp

    logging.getLogger("absl").setLevel(logging.CRITICAL)  # orbax logs every file, and each error twice
    # One process writes whole arrays, without waiting for others. Orbax then wants to find the directory.
    if create:
        Path(directory).mkdir(parents=True, exist_ok=True)
    alone = ocp.options.MultiprocessingOptions(
        primary_host=jax.process_index(),
        active_processes={jax.process_index()},
        barrier_sync_key_prefix=f"process{jax.process_index()}",
    )
    options = ocp.CheckpointManagerOptions(
        max_to_keep=KEEP,
        create=False,
        cleanup_tmp_directories=create,
        enable_async_checkpointing=False,
        multiprocessing_options=alone,
    )
    # Orbax would copy all arrays once more, in case they change during the save.
    numpy = ocp.type_handlers.NumpyHandler(deepcopy_host_arrays=False)
    registry = ocp.type_handlers.create_type_handler_registry((np.ndarray, numpy))
    handler = ocp.PyTreeCheckpointHandler(type_handler_registry=registry)
    return ocp.CheckpointManager(Path(directory).absolute(), item_handlers=handler, options=options)
