"""Population-based training (Jaderberg et al. 2017, arXiv:1711.09846): exploit and explore between chunks.

Members of one population train side by side, each with its own hyper-parameters. From time to time the worst take over
what the best have learned, with their hyper-parameters slightly changed. All members keep their environments, replays
and random keys. Hyper-parameters are leaves of the program, so it is compiled once for the whole run::

    pbt = purerl.PBT()
    for progress in purerl.iterate(population, state, num_iterations, every=50):
        fitness = progress.metrics["episode_return"].value
        exchange = pbt.exchange(population, progress.state, fitness, jax.random.fold_in(key, progress.iteration))

`exchange.population` and `exchange.state` are what the next call of `iterate` goes on with.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl import struct
from purerl.errors import InputError
from purerl.training import placement
from purerl.training.population import Population
from purerl.types import Array, PyTree


@dataclasses.dataclass(frozen=True)
class Exchange:
    """Outcome of one exchange.

    Attributes:
        population: members with their new hyper-parameters.
        state: of all members.
        source: int ``[P]``, member that each has taken over from; its own number where it has gone on.
    """

    population: Population
    state: PyTree
    source: np.ndarray


@struct.dataclass
class PBT:
    """Truncation selection and perturbation (section 4.1 of the paper)."""

    fraction: float = struct.field(
        default=0.25, static=True, help="share of members that are replaced, by as many of the best", within="(0, 0.5]"
    )
    factor: float = struct.field(
        default=1.25,
        static=True,
        help="hyper-parameters taken over are multiplied by this or divided",
        within="[1, inf)",
    )

    def __post_init__(self) -> None:
        struct.check_fields(self)

    def exchange(self, population: Population, state: PyTree, fitness: Array, key: Array) -> Exchange:
        """The worst take over from the best.

        Args:
            population: with hyper-parameters that vary.
            state: of all members.
            fitness: ``[P]``, more is better; NaN is worse than any number, and never taken over.
            key: randomness.

        Raises:
            InputError: if nothing varies, physics do, or there are fewer than two members.
        """
        bounds = limits(population)
        selected = min(max(1, int(self.fraction * population.num_members)), population.num_members // 2)
        # Where members lie on several devices, so they do afterwards.
        mesh = population.mesh
        out = None if mesh is None else (None, placement.shardings(state, mesh), None)
        varied, state, source = jax.jit(_exchange, static_argnums=(5, 6, 7), out_shardings=out)(
            jax.tree.map(jnp.asarray, dict(population.varied)),
            state,
            jnp.asarray(fitness, jnp.float32),
            key,
            self.factor,
            selected,
            tuple(sorted(bounds.items())),
            tuple(sorted(name for name, values in population.varied.items() if np.asarray(values).dtype.kind == "i")),
        )
        varied = jax.device_get(varied)
        return Exchange(struct.replace(population, varied=varied), state, np.asarray(source))


def limits(population: Population) -> dict[str, tuple[float, float]]:
    """Least and greatest value of each hyper-parameter that varies, as its field declares them.

    Raises:
        InputError: if nothing varies, physics do, or there are fewer than two members.
    """
    if population.num_members < 2:
        raise InputError("population-based training needs at least 2 members, got 1")
    if not population.varied:
        raise InputError("population-based training needs hyper-parameters that vary: give a population some")
    found = {}
    for name in population.varied:
        if name.removeprefix("algorithm.").startswith("env."):
            raise InputError(f"{name} is a number of the environment: a member cannot take over the physics of another")
        found[name] = _limits_at(population.algorithm, name)
    return found


def _limits_at(node: Any, name: str) -> tuple[float, float]:
    """Interval that the last field on the way to `name` declares; that of a schedule counts for its numbers."""
    within = ""
    for part in name.split("."):
        if dataclasses.is_dataclass(node):
            field = {field.name: field for field in dataclasses.fields(node)}[part]
            within = field.metadata.get("within", "") or within
        node = node[part] if isinstance(node, Mapping) else getattr(node, part)
    if not within:
        return -math.inf, math.inf
    low, high = (float(bound) for bound in within[1:-1].split(","))
    low = low if within[0] == "[" else float(np.nextafter(np.float32(low), np.float32(np.inf)))
    high = high if within[-1] == "]" else float(np.nextafter(np.float32(high), np.float32(-np.inf)))
    return low, high


def _exchange(
    varied: dict[str, Array],
    state: PyTree,
    fitness: Array,
    key: Array,
    factor: float,
    selected: int,
    bounds: tuple[tuple[str, tuple[float, float]], ...],
    whole: tuple[str, ...],
) -> tuple[dict[str, Array], PyTree, Array]:
    source_key, explore_key = jax.random.split(key)
    numbers = jnp.arange(len(fitness))
    finite = jnp.isfinite(fitness)
    order = jnp.argsort(jnp.where(finite, fitness, -jnp.inf))
    worst, best = order[:selected], order[-selected:]
    drawn = best[jax.random.randint(source_key, (selected,), 0, selected)]
    better = finite[drawn] & ~(fitness[worst] >= fitness[drawn])  # true for a fitness of NaN
    source = numbers.at[worst].set(jnp.where(better, drawn, worst))
    replaced = source != numbers

    def take(leaf: Array, own: int, member: int) -> Array:
        return leaf[source] if own == -1 and member == 0 else leaf

    axes = struct.shard_axes(state, equal=-1), struct.member_axes(state, shared=-1)
    state = jax.tree.map(take, state, *axes)
    changed = {}
    for (name, (low, high)), name_key in zip(bounds, jax.random.split(explore_key, len(bounds)), strict=True):
        values = varied[name][source]
        up = jax.random.bernoulli(name_key, 0.5, values.shape)
        moved = jnp.where(up, values * factor, values / factor)
        if name in whole:  # a whole number moves by one at least
            moved = jnp.where(up, jnp.maximum(jnp.round(moved), values + 1), jnp.minimum(jnp.round(moved), values - 1))
        moved = jnp.clip(moved, low, high).astype(values.dtype)
        changed[name] = jnp.where(replaced.reshape(-1, *(1,) * (values.ndim - 1)), moved, values)
    return changed, state, source
