"""One agent whose environments are divided into shards: data-parallel training.

Each shard collects experience in environments of its own and computes gradients from it; all move the same parameters
along the mean of their gradients. An algorithm is written for one shard, and whatever must be equal on all shards goes
through `purerl.math.reductions`. Results depend on the number of shards, never on the number of devices that they are
computed on (see `purerl.training.placement`), except for rounding.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from purerl import struct
from purerl.errors import InputError
from purerl.math.reductions import SHARDS, from_first_shard, num_shard_devices, shard_number, sum_over_shards
from purerl.types import Algorithm, Array, Environment, Metrics, Policy, PyTree

DIVIDED = ("num_envs", "batch_size", "buffer_size", "warmup_steps")
"""Hyper-parameters that count for the whole agent, of which each shard has its part."""


@struct.dataclass
class Shards:
    """An algorithm whose agent consists of `num_shards` shards, each with the hyper-parameters of `algorithm`.

    The state is that of the algorithm. Environments in flight, replays and random keys have a leading ``[num_shards]``;
    parameters, statistics and counters, which are equal on all shards, are stored once.
    """

    algorithm: Algorithm
    num_shards: int = struct.field(static=True, help="parts of one agent's environments", within="[1, inf)")

    def __post_init__(self) -> None:
        struct.check_fields(self)

    @classmethod
    def divide(cls, algorithm: Algorithm, num_shards: int) -> Shards:
        """Divide an agent: `num_envs`, `batch_size`, `buffer_size` and `warmup_steps` are totals, as they were.

        Raises:
            InputError: if one of these cannot be divided, or the algorithm cannot.
        """
        struct.check_value("num_shards", num_shards, int, "[1, inf)")
        totals = {name: value for name in DIVIDED if isinstance(value := getattr(algorithm, name, None), int)}
        if not totals:
            raise InputError(f"{type(algorithm).__name__} cannot be divided into shards: it has no {DIVIDED[0]}")
        for name, total in totals.items():
            if total % num_shards:
                nearest = max(1, round(total / num_shards)) * num_shards
                raise InputError(
                    f"{name} = {total} cannot be divided among {num_shards} shards: the nearest is {nearest}"
                )
        parts = {name: total // num_shards for name, total in totals.items()}
        agent = cls(struct.replace(algorithm, **parts), num_shards)  # type: ignore[type-var]
        jax.eval_shape(lambda key: agent.step(agent.init(key)), jax.random.key(0))
        return agent

    @property
    def env(self) -> Environment:
        """Environment that it learns on."""
        return self.algorithm.env

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of one iteration, of all shards."""
        return self.num_shards * self.algorithm.steps_per_iteration

    @property
    def minibatch_rows(self) -> int:
        """Rows that networks process together while learning, on one device."""
        return self._shards_here * self.algorithm.minibatch_rows

    @property
    def warmup_iterations(self) -> int:
        """Iterations that `init` does."""
        return self.algorithm.warmup_iterations

    def init(self, key: Array) -> PyTree:
        """Equal parameters on all shards; environments and random keys of their own."""

        def one(_: Array) -> PyTree:
            state = self.algorithm.init(jax.random.fold_in(key, shard_number()))
            return jax.tree.map(
                lambda leaf, axis: leaf if axis == 0 else from_first_shard(leaf),
                state,
                struct.shard_axes(state, equal=-1),
            )

        axes = struct.shard_axes(jax.eval_shape(self.algorithm.init, key))
        return jax.vmap(one, out_axes=axes, axis_name=SHARDS)(jnp.arange(self._shards_here))

    def policy(self, state: PyTree, *, explore: bool) -> Policy:
        """The policy, which all shards share."""
        return self._map(lambda state: self.algorithm.policy(state, explore=explore), state, None)

    def step(self, state: PyTree) -> tuple[PyTree, Metrics]:
        """One iteration of each shard.

        Raises:
            InputError: if the algorithm changes something on each shard by itself that must be equal on all.
        """

        def one(state: PyTree) -> tuple[PyTree, Metrics]:
            state, metrics = self.algorithm.step(state)
            return state, sum_over_shards(metrics)

        return self._map(one, state, (struct.shard_axes(state), None))

    def _map(self, function: Any, state: PyTree, out_axes: Any) -> Any:
        mapped = jax.vmap(function, in_axes=(struct.shard_axes(state),), out_axes=out_axes, axis_name=SHARDS)
        try:
            return mapped(state)
        except ValueError as error:
            # What an output axis of None asks for is that nothing of one shard is in it.
            if "out_axes" not in str(error):
                raise
            raise InputError(
                f"{type(self.algorithm).__name__} cannot be divided into shards: what must be equal on all shards "
                "would differ, because an update lacks a mean over the shards (see purerl.math.reductions)"
            ) from error

    @property
    def _shards_here(self) -> int:
        return self.num_shards // num_shard_devices()
