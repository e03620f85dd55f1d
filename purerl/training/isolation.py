"""Isolation of members that diverge: one whose policy is no longer finite keeps the last policy that was.

What is watched and kept are the leaves of the state that the policy consists of: its parameters, and the statistics
that standardise observations. A critic or an optimiser that is not finite shows there with the next update. To the
program all members do the same work: a frozen one goes on acting with its last finite policy, and whatever the rest of
its state becomes is not used. Its metrics count nothing. All others learn as without it.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax.extend.core import Literal

from purerl import struct
from purerl.types import Algorithm, Array, Metrics, PyTree

NEVER = -1
"""Iteration of members that have not diverged."""


@struct.dataclass
class Diverged:
    """Members whose update was not finite.

    Attributes:
        iteration: int32 ``[P]`` or scalar, number of the first iteration whose result was not finite; `NEVER` for none.
        leaf: int32 of the same shape, number of the first such leaf among `names`.
    """

    iteration: Array
    leaf: Array

    @classmethod
    def nobody(cls, shape: tuple[int, ...]) -> Diverged:
        """No member of ``shape``."""
        return cls(jnp.full(shape, NEVER, jnp.int32), jnp.zeros(shape, jnp.int32))


def names(algorithm: Algorithm, state: PyTree) -> list[str]:
    """Names of the leaves of a state that are watched, such as ``params.params.actor_head.kernel``."""
    paths = jax.tree_util.tree_leaves_with_path(state)
    return [
        jax.tree_util.keystr(path, simple=True, separator=".")
        for (path, _), is_watched in zip(paths, watched(algorithm, state), strict=True)
        if is_watched
    ]


def watched(algorithm: Algorithm, state: PyTree) -> list[bool]:
    """Which leaves of a state its policy consists of; all that are learned where it is computed from them."""
    shapes = jax.eval_shape(lambda state: state, state)
    program = jax.make_jaxpr(lambda state: algorithm.policy(state, explore=False))(shapes).jaxpr
    used = {variable for variable in program.outvars if not isinstance(variable, Literal)}
    learned = _learned(shapes)
    in_policy = [variable in used and kept for variable, kept in zip(program.invars, learned, strict=True)]
    return in_policy if any(in_policy) else learned


def unusual(state: PyTree, which: Sequence[bool], shape: tuple[int, ...]) -> Array:
    """Whether each watched leaf ``[num_leaves, *shape]`` has numbers that are not finite, and is meant to."""
    return _not_finite(_chosen(state, which), shape)


def isolate(
    before: PyTree, after: PyTree, metrics: Metrics, diverged: Diverged, which: Sequence[bool], unusual: Array
) -> tuple[PyTree, Metrics, Diverged]:
    """Freeze the members that the last iteration has made diverge, and those that were frozen before.

    Args:
        before: state before the iteration.
        after: state after it.
        metrics: of the iteration.
        diverged: members frozen before it.
        which: see `watched`.
        unusual: see `unusual`, at the beginning of the training.

    Returns:
        State, metrics and frozen members after it.
    """
    shape = diverged.iteration.shape
    old, new = _chosen(before, which), _chosen(after, which)
    broken = _not_finite(new, shape) & ~unusual
    first = (diverged.iteration == NEVER) & jnp.any(broken, axis=0)
    diverged = Diverged(
        jnp.where(first, after.iteration, diverged.iteration),
        jnp.where(first, jnp.argmax(broken, axis=0).astype(jnp.int32), diverged.leaf),
    )
    frozen = diverged.iteration != NEVER
    kept = iter(jnp.where(_beside(frozen, leaf), was, leaf) for was, leaf in zip(old, new, strict=True))
    leaves, structure = jax.tree.flatten(after)
    leaves = [next(kept) if is_watched else leaf for leaf, is_watched in zip(leaves, which, strict=True)]
    metrics = jax.tree.map(lambda leaf: jnp.where(frozen, 0.0, leaf), metrics)
    return jax.tree.unflatten(structure, leaves), metrics, diverged


def _learned(state: PyTree) -> list[bool]:
    """Floating-point leaves that all shards of an agent share (see `struct.shard_axes`), counters apart."""
    own = jax.tree.leaves(struct.shard_axes(state, equal=-1))
    shared = jax.tree.leaves(struct.member_axes(state, shared=-1))
    floating = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in jax.tree.leaves(state)]
    return [a == -1 and b == 0 and c for a, b, c in zip(own, shared, floating, strict=True)]


def _chosen(state: PyTree, which: Sequence[bool]) -> list[Array]:
    return [leaf for leaf, is_watched in zip(jax.tree.leaves(state), which, strict=True) if is_watched]


def _not_finite(leaves: list[Array], shape: tuple[int, ...]) -> Array:
    checks = [~jnp.all(jnp.isfinite(leaf), axis=tuple(range(len(shape), leaf.ndim))) for leaf in leaves]
    return jnp.stack(checks) if checks else jnp.zeros((1, *shape), bool)


def _beside(frozen: Array, leaf: Array) -> Array:
    return frozen.reshape(frozen.shape + (1,) * (leaf.ndim - frozen.ndim))
