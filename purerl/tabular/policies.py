"""Policies in tables: probabilities of actions ``[S, A]``, greedy and epsilon-greedy ones of action values, acting."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from purerl.tabular.mdp import TabularMDP, draw
from purerl.types import Array, Policy, PyTree


def uniform_policy(mdp: TabularMDP) -> Array:
    """Probabilities ``[S, A]`` of the policy that prefers nothing."""
    return jnp.full((mdp.num_states, mdp.num_actions), 1.0 / mdp.num_actions)


def deterministic_policy(actions: Array, num_actions: int) -> Array:
    """Probabilities ``[S, A]`` of the policy that takes ``actions [S]``."""
    return jax.nn.one_hot(actions, num_actions)


def epsilon_greedy(action_values: Array, epsilon: float | Array) -> Array:
    """Probabilities of actions, the shape of `action_values` ``[..., A]``.

    A random action with probability `epsilon`, else one of the best, all equally likely.
    """
    best = action_values == jnp.max(action_values, axis=-1, keepdims=True)
    greedy = best / jnp.sum(best, axis=-1, keepdims=True)
    return ((1.0 - epsilon) * greedy + epsilon / action_values.shape[-1]).astype(action_values.dtype)


def as_policy(probabilities: Array) -> Policy:
    """Policy for a `TabularMDP` that draws actions from ``probabilities [S, A]``."""
    return Policy(Partial(_act, jnp.asarray(probabilities, jnp.float32)))


def _act(probabilities: Array, key: Array, carry: PyTree, obs: Array) -> tuple[Array, PyTree, dict[str, Array]]:
    return draw(key, probabilities[obs]), carry, {}
