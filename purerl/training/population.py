"""Many agents as one: a population is itself an algorithm."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh

from purerl import device_memory, numeric, paths, struct
from purerl.environments.influence import check_acts
from purerl.errors import InputError
from purerl.learning.minibatches import ROWS_IN_CACHE
from purerl.training import placement
from purerl.types import Algorithm, Array, Environment, Metrics, Policy, PyTree

WIDTH_IN_CACHE = 64
"""Width of layers for which `ROWS_IN_CACHE` rows fit; of wider ones fit fewer."""

MEMORY_SETTINGS = "the number of seeds, num_envs, rollout_length or buffer_size"
"""Settings that decide how much memory is needed, for messages."""


@struct.dataclass
class Population:
    """Members that differ by seed, and by any numeric hyper-parameter or physics parameter, trained in one program.

    Only what differs is stored once per member; the rest is shared, which keeps the arithmetic of large shared
    parameters (a robot's model) unbatched. So it is with the state: leaves have a leading ``[P]``, but for those that
    are declared shared (`iteration`, the place where a replay is written next). Member `i` draws its randomness from
    ``fold_in(key, i)``: it learns the same whether it has 7 companions or 63.

    Attributes:
        algorithm: what the members have in common.
        num_members: how many there are, P.
        varied: dotted path of a field or dictionary entry to its values, an array ``[P, ...]`` or a list of P:
            ``"learning_rate"``, ``"env.params.gravity"`` (gymnax), ``"env.env.params.gravity"`` (Brax, inside its time
            limit). Kept as arrays of float32, int32 or bool.
        first_member: number of the first one, where these are a part of a larger population (see `part`).
        mesh: devices that members are spread over (see `on`); None for one device.
    """

    algorithm: Algorithm
    num_members: int = struct.field(static=True, help="agents trained side by side", within="[1, inf)")
    varied: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    first_member: int = struct.field(default=0, static=True, help="number of the first one", within="[0, inf)")
    mesh: Mesh | None = struct.field(default=None, static=True, help="devices")

    def __post_init__(self) -> None:
        struct.check_fields(self)
        if not isinstance(self.varied, Mapping) or not all(isinstance(name, str) for name in self.varied):
            raise InputError(f"varied must map names such as 'learning_rate' to values, got {self.varied!r}")
        columns = {name: self._column(name, values) for name, values in self.varied.items()}
        object.__setattr__(self, "varied", columns)
        # The members' own checks see all values at once.
        self._member(columns)
        inner = [name.removeprefix("algorithm.") for name in columns]  # that of an agent in shards
        physics = [name.removeprefix("env.") for name in inner if name.startswith("env.")]
        if physics:
            check_acts(self.algorithm.env, physics)

    @classmethod
    def grid(cls, algorithm: Algorithm, num_seeds: int, values: Mapping[str, Sequence[float]]) -> Population:
        """`num_seeds` members for every combination of `values` (dotted field name to the values to try).

        Members are ordered with the seeds innermost: the first `num_seeds` members share the first combination.
        """
        for name, tried in values.items():
            if not isinstance(tried, Sequence | np.ndarray | jax.Array) or isinstance(tried, str):
                raise InputError(f"varied {name!r} needs a list of values to try, got {tried!r}")
            if not len(tried):
                raise InputError(f"varied {name!r} needs at least one value to try, got {tried!r}")
        struct.check_value("num_seeds", num_seeds, int, "[1, inf)")
        num_members = num_seeds * math.prod(len(tried) for tried in values.values())
        struct.check_value("num_seeds * combinations of values", num_members, int, "[1, inf)")
        combinations = itertools.product(*values.values())
        return cls.combined(algorithm, num_seeds, [dict(zip(values, each, strict=True)) for each in combinations])

    @classmethod
    def combined(cls, algorithm: Algorithm, num_seeds: int, combinations: Sequence[Mapping[str, float]]) -> Population:
        """`num_seeds` members for each of `combinations` (dotted field name to value), in their order.

        All combinations have the same names. Members are ordered with the seeds innermost.
        """
        struct.check_value("num_seeds", num_seeds, int, "[1, inf)")
        struct.check_value("number of combinations", len(combinations), int, "[1, inf)")
        varied = {}
        for name in combinations[0]:
            column = [combination[name] for combination in combinations for _ in range(num_seeds)]
            if numeric.dtype_of(paths.number_at(algorithm, name)).kind == "i":
                column = [int(value) if isinstance(value, float) and value.is_integer() else value for value in column]
            varied[name] = column
        return cls(algorithm, num_seeds * len(combinations), varied)

    def on(self, devices: Sequence[Any]) -> Population:
        """The same population spread over `devices`: its members, and the shards of each if there are more devices.

        What is learned is the same on any number of devices, except for rounding. Members do not communicate.

        Raises:
            InputError: if members and shards cannot be divided equally among so many devices.
        """
        return struct.replace(self, mesh=placement.mesh(self.num_members, placement.num_shards(self), devices))

    @property
    def env(self) -> Environment:
        """The environment of the members, as far as they share it."""
        return self.algorithm.env

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of one iteration, per member."""
        return self.algorithm.steps_per_iteration

    @property
    def minibatch_rows(self) -> int:
        """Rows that the members' networks see at once while learning, if all are computed together."""
        return self.num_members * self.algorithm.minibatch_rows

    @property
    def warmup_iterations(self) -> int:
        """Iterations that `init` does."""
        return self.algorithm.warmup_iterations

    def init(self, key: Array) -> PyTree:
        """The members' states, ``[P]`` but for what they share.

        Raises:
            InputError: if they cannot fit into the memory of the device. Under `jax.jit`, before anything compiles.
        """
        numbers = self.first_member + jnp.arange(self.num_members)
        keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(numbers)

        def init(here: Population, keys: Array) -> PyTree:
            state = here.map(lambda member, key: member.init(key), keys)
            size = device_memory.num_bytes(state)
            each = size // here.num_members
            device_memory.check_fits(
                size,
                f"the state of {here.num_members} members x {each / 1e9:,.3g} GB",
                MEMORY_SETTINGS,
                f"at most {device_memory.device_bytes() // each} members fit",
            )
            axes = struct.member_axes(state, shared=-1)
            return jax.tree.map(lambda leaf, axis: leaf if axis == 0 else leaf[0], state, axes)

        return self._on_devices(init, keys)

    def step(self, state: PyTree) -> tuple[PyTree, Metrics]:
        """One iteration of every member."""
        return self.map(lambda member, state: member.step(state), state, out_axes=(struct.member_axes(state), 0))

    def policy(self, state: PyTree, *, explore: bool) -> Policy:
        """The members' policies, ``[P]``; use them inside `jax.vmap` or `map`."""
        return self.map(lambda member, state: member.policy(state, explore=explore), state)

    def map(self, function: Callable[..., Any], *args: PyTree, out_axes: PyTree = 0) -> PyTree:
        """``function(member, *args)`` for every member; `args` and result have a leading ``[P]``, states as in `init`.

        Args:
            function: of one member and its own part of each argument.
            args: states, keys or anything else.
            out_axes: as `jax.vmap` takes it.
        """

        def members(here: Population, *args: PyTree) -> Any:
            return jax.vmap(
                lambda varied, args: function(here._member(varied), *args),
                in_axes=(0, struct.member_axes(args)),
                out_axes=out_axes,
                axis_size=here.num_members,
            )(dict(here.varied), args)

        return self._on_devices(members, *args)

    def _on_devices(self, function: Callable[..., Any], *args: PyTree) -> Any:
        """``function(population, *args)``, on each device for the members that are there."""
        if self.mesh is None:
            return function(self, *args)

        def here(varied: PyTree, args: tuple[PyTree, ...]) -> Any:
            return function(Population(self.algorithm, num_here, varied), *args)

        num_here = self.num_members // placement.num_member_devices(self.mesh)
        varied = jax.tree.map(jnp.asarray, dict(self.varied))
        return placement.spread(here, self.mesh)(varied, args)

    def in_groups(
        self, function: Callable[[Algorithm, PyTree], tuple[PyTree, PyTree]], state: PyTree
    ) -> tuple[PyTree, PyTree]:
        """Apply ``function(agent, state) -> (state, output)`` to one group of members after the other.

        On a CPU, so many members make a group as fit into caches: 64 seeds of TD3 train 1.8 times as fast in
        groups of four. On an accelerator all are computed together.

        Args:
            function: of a population, or of a plain algorithm where a group is a single member.
            state: of all members. It is changed in place where `jax.jit` was given it to consume; one group of several
                is in a copy of its own meanwhile.

        Returns:
            The state of all members and their outputs ``[P]``.
        """
        if self.mesh is not None:
            return self._on_devices(lambda here, state: here.in_groups(function, state), state)
        size = self.group_size
        if size == self.num_members > 1:
            return function(self, state)
        axes = struct.member_axes(state, shared=-1)
        varied = jax.tree.map(jnp.asarray, dict(self.varied))

        def group(whole: PyTree, first: Array) -> tuple[PyTree, PyTree]:
            # What is shared has been moved on by the group before; each begins with what it was.
            given = jax.tree.map(lambda now, before, axis: now if axis == 0 else before, whole, state, axes)
            if size == 1:
                agent = self._member({name: values[first] for name, values in varied.items()})
                part, output = function(agent, self.member_state(given, first))
                put = lax.dynamic_update_index_in_dim
            else:
                mine = {name: lax.dynamic_slice_in_dim(values, first, size) for name, values in varied.items()}
                part, output = function(Population(self.algorithm, size, mine), self.part_state(given, first, size))
                put = lax.dynamic_update_slice_in_dim
            whole = jax.tree.map(
                lambda leaf, new, axis: put(leaf, new, first, 0) if axis == 0 else new, whole, part, axes
            )
            return whole, output

        state, outputs = lax.scan(group, state, jnp.arange(0, self.num_members, size))
        if size > 1:
            outputs = jax.tree.map(lambda leaf: leaf.reshape(self.num_members, *leaf.shape[2:]), outputs)
        return state, outputs

    @property
    def group_size(self) -> int:
        """Members that `in_groups` takes at a time: the divisor of their number that is nearest to what fits."""
        if jax.default_backend() != "cpu":
            return self.num_members
        fitting = max(1.0, ROWS_IN_CACHE / (self.algorithm.minibatch_rows * self._relative_width()))
        divisors = [size for size in range(1, self.num_members + 1) if self.num_members % size == 0]
        return min(divisors, key=lambda size: abs(math.log(size / fitting)))

    def _relative_width(self) -> float:
        """Width of the widest layer of the networks, in units of `WIDTH_IN_CACHE`; at least 1."""
        state = jax.eval_shape(self.algorithm.init, jax.random.key(0))
        axes = struct.shard_axes(state, equal=-1)
        leaves = zip(*map(jax.tree.leaves, (state, axes)), strict=True)
        kernels = [math.sqrt(leaf.size) for leaf, axis in leaves if axis == -1 and leaf.ndim >= 2]
        return max([1.0, *(width / WIDTH_IN_CACHE for width in kernels)])

    def member(self, index: int) -> Any:
        """One member alone, with its own values of what varies."""
        return self._member({name: values[index] for name, values in self.varied.items()})

    def member_state(self, state: PyTree, index: int | Array) -> PyTree:
        """The state of one member alone."""
        return jax.tree.map(
            lambda leaf, axis: leaf[index] if axis == 0 else leaf, state, struct.member_axes(state, shared=-1)
        )

    def part(self, first: int, count: int) -> Population:
        """Members `first` to ``first + count - 1`` as a population: they learn the same as in the whole one."""
        varied = {name: values[first : first + count] for name, values in self.varied.items()}
        return Population(self.algorithm, count, varied, self.first_member + first, self.mesh)

    def part_state(self, state: PyTree, first: int | Array, count: int) -> PyTree:
        """The state of these members, for `part`."""
        return jax.tree.map(
            lambda leaf, axis: lax.dynamic_slice_in_dim(leaf, first, count) if axis == 0 else leaf,
            state,
            struct.member_axes(state, shared=-1),
        )

    def _column(self, name: str, values: Any) -> Array | np.ndarray:
        """The members' `values` of what is called `name`, as one array of its dtype."""
        number = paths.number_at(self.algorithm, name)
        dtype = numeric.dtype_of(number)
        if isinstance(values, jax.Array) and values.dtype == dtype:
            column = values
        else:
            column = numeric.fitting(f"varied {name!r}", values, dtype)
        if column.shape[:1] != (self.num_members,):
            raise InputError(
                f"varied {name!r} needs a value for each of {self.num_members} members, got shape {column.shape}"
            )
        if column.shape[1:] != np.shape(number):
            raise InputError(
                f"varied {name!r} needs values of shape {np.shape(number)}, got {column.shape[1:]} for each member"
            )
        return column

    def _member(self, varied: Mapping[str, Any]) -> Any:
        member = self.algorithm
        for name, value in varied.items():
            member = paths.replaced(member, name, value)
        return member


def in_groups(
    algorithm: Algorithm, function: Callable[[Algorithm, PyTree], tuple[PyTree, PyTree]], state: PyTree
) -> tuple[PyTree, PyTree]:
    """Apply ``function(agent, state) -> (state, output)`` to an algorithm, or to the groups of a population.

    See `Population.in_groups`.
    """
    grouped = algorithm.in_groups if isinstance(algorithm, Population) else lambda of, state: of(algorithm, state)
    return grouped(function, state)
