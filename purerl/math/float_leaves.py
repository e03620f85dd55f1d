"""Floating-point leaves of a state, for derivatives with respect to it. Counters, flags and keys stay unchanged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

from purerl.types import Array, PyTree


def is_float(leaf: Any) -> bool:
    """Whether a leaf has floating-point numbers."""
    return jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def is_finite(leaf: Array) -> Array:
    """Whether each entry is a finite number; true for leaves that are not floating-point."""
    return jnp.isfinite(leaf) if is_float(leaf) else jnp.ones(leaf.shape, bool)


def stay_finite(before: PyTree, after: PyTree) -> Array:
    """Whether all numbers that were finite before a step are still finite: bool scalar.

    Numbers that were infinite before do not count: some simulators store infinities on purpose.
    """
    kept = jax.tree.map(lambda old, new: jnp.all(is_finite(new) | ~is_finite(old)), before, after)
    return jnp.all(jnp.stack([jnp.bool_(True), *jax.tree.leaves(kept)]))


def split(tree: PyTree) -> tuple[list[Array], Callable[[Sequence[Array]], PyTree]]:
    """Floating-point leaves of `tree`, and a function that rebuilds the tree from new leaves."""
    leaves, structure = jax.tree.flatten(tree)
    places = [i for i, leaf in enumerate(leaves) if is_float(leaf)]

    def rebuild(floats: Sequence[Array]) -> PyTree:
        changed = dict(zip(places, floats, strict=True))
        return jax.tree.unflatten(structure, [changed.get(i, leaf) for i, leaf in enumerate(leaves)])

    return [leaves[i] for i in places], rebuild


def ravel(tree: PyTree) -> tuple[Array, Callable[[Array], PyTree]]:
    """Vector of all floating-point numbers in `tree`, and a function that rebuilds the tree from a new vector."""
    floats, rebuild = split(tree)
    vector, unravel = ravel_pytree(floats)
    return vector, lambda vector: rebuild(unravel(vector))
