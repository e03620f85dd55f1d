"""Devices of a population: a mesh of its members and of the shards of each.

Members have nothing to say to each other: each device computes its own, and the program contains no communication.
Shards of one agent reduce their gradients (see `purerl.math.reductions`); that is all they exchange. A state has the
same shapes on any number of devices, so a checkpoint fits them all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from purerl import struct
from purerl.errors import InputError
from purerl.math.reductions import SHARD_DEVICES
from purerl.types import PyTree

MEMBERS = "members"
"""Name of the axis of the mesh that members are spread over."""


def possible(num_members: int, num_shards: int, most: int) -> list[int]:
    """Numbers of devices, up to `most`, that members and shards can be divided among equally."""
    return [number for number in range(1, most + 1) if _member_devices(num_members, num_shards, number)]


def mesh(num_members: int, num_shards: int, devices: Sequence[Any]) -> Mesh | None:
    """Mesh of all `devices`, members first; None for a single device.

    Raises:
        InputError: if they cannot be used equally.
    """
    number = len(devices)
    along_members = _member_devices(num_members, num_shards, number)
    if not along_members:
        shards = f" of {num_shards} shards each" if num_shards > 1 else ""
        numbers = possible(num_members, num_shards, number)
        raise InputError(
            f"{num_members} members{shards} cannot be divided equally among {number} devices: possible are "
            f"{', '.join(map(str, numbers))}"
        )
    if number == 1:
        return None
    along_shards = number // along_members
    names = (MEMBERS, SHARD_DEVICES) if along_shards > 1 else (MEMBERS,)
    grid = np.asarray(devices).reshape((along_members, along_shards)[: len(names)])
    return Mesh(grid, names, axis_types=(AxisType.Auto,) * len(names))


def _member_devices(num_members: int, num_shards: int, devices: int) -> int:
    """The largest number of devices that members can be divided among while the rest divides the shards; 0 if none."""
    numbers = (number for number in range(devices, 0, -1) if devices % number == 0)
    return next((n for n in numbers if num_members % n == 0 and num_shards % (devices // n) == 0), 0)


def num_shards(population: Any) -> int:
    """Shards of each member of a population."""
    return getattr(population.algorithm, "num_shards", 1)


def num_member_devices(mesh: Mesh) -> int:
    """Number of devices that members are divided among."""
    return mesh.shape[MEMBERS]


def spread(function: Callable[..., Any], mesh: Mesh) -> Callable[..., Any]:
    """``function(*args)`` on each device of `mesh`, for the members and shards that are there."""

    def everywhere(*args: PyTree) -> Any:
        in_specs = specs(args, mesh)
        outputs = jax.eval_shape(function, *jax.tree.map(lambda leaf, spec: _part(leaf, spec, mesh), args, in_specs))
        # The check of varying values would have JAX reduce gradients by itself, over devices but not over shards.
        mapped = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=specs(outputs, mesh), check_vma=False)
        return mapped(*args)

    return everywhere


def _part(leaf: Any, spec: PartitionSpec, mesh: Mesh) -> jax.ShapeDtypeStruct:
    """Shape of what one device has of `leaf`."""
    parts = [1 if name is None else mesh.shape[name] for name in spec]
    parts += [1] * (leaf.ndim - len(parts))
    shape = tuple(size // part for size, part in zip(leaf.shape, parts, strict=True))
    return jax.ShapeDtypeStruct(shape, leaf.dtype)


def specs(tree: PyTree, mesh: Mesh) -> PyTree:
    """Partition of each leaf: along members unless all share it, and along shards where they have their own."""
    over_shards = SHARD_DEVICES in mesh.shape

    def spec(_: Any, member: int, shard: int) -> PartitionSpec:
        names = [MEMBERS] if member == 0 else []
        return PartitionSpec(*names, SHARD_DEVICES) if over_shards and shard == 0 else PartitionSpec(*names)

    return jax.tree.map(spec, tree, struct.member_axes(tree, shared=-1), struct.shard_axes(tree, equal=-1))


def shardings(tree: PyTree, mesh: Mesh) -> PyTree:
    """Sharding of each leaf, see `specs`."""
    return jax.tree.map(lambda spec: NamedSharding(mesh, spec), specs(tree, mesh))


def place(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """The same tree, each part of its arrays on the device that computes with it; on any number of hosts.

    Every host gives the whole tree, and all the same.
    """
    if mesh is None:
        return tree
    return jax.tree.map(_put, tree, shardings(tree, mesh))


def everywhere(tree: PyTree, mesh: Mesh | None) -> PyTree:
    """The same tree with its arrays in full on every device, as programs on several hosts need them; numbers stay."""
    if mesh is None:
        return tree
    sharding = NamedSharding(mesh, PartitionSpec())
    return jax.tree.map(lambda leaf: _put(leaf, sharding) if isinstance(leaf, jax.Array | np.ndarray) else leaf, tree)


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and leaf.sharding == sharding:
        return leaf
    if not jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.device_put(leaf, sharding)
    # JAX puts plain numbers on devices of several hosts, but no keys.
    data = jax.device_put(np.asarray(jax.random.key_data(leaf)), sharding)
    return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
