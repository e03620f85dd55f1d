"""Checks of what methods on finite processes are given. Values inside of a transformation of JAX pass."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax.core import Tracer

from purerl import struct
from purerl.errors import InputError
from purerl.tabular.mdp import TabularMDP

_ROUNDING = 1e-5


def check_discount(gamma: Any) -> None:
    """Raise `InputError` unless `gamma` lies in [0, 1]."""
    struct.check_value("gamma", gamma, float, "[0, 1]")


def check_policy(mdp: TabularMDP, policy: Any) -> None:
    """Raise `InputError` unless `policy` holds probabilities of actions ``[S, A]``."""
    shape = (mdp.num_states, mdp.num_actions)
    if np.shape(policy) != shape:
        raise InputError(f"policy must have shape [states, actions] = {list(shape)}, got {list(np.shape(policy))}")
    if isinstance(policy, Tracer):
        return
    table = np.asarray(policy)
    if not np.all(table >= 0.0) or np.any(np.abs(table.sum(axis=1) - 1.0) > _ROUNDING):
        state = int(np.argmax(~np.all(table >= 0.0, axis=1) | (np.abs(table.sum(axis=1) - 1.0) > _ROUNDING)))
        raise InputError(f"policy must hold probabilities that sum to 1 in each state, got {table[state]} in {state}")


def check_ends(mdp: TabularMDP, policy: Any, gamma: Any) -> None:
    """Raise `InputError` if ``gamma`` is 1 and the policy does not end from some state: it has no value there."""
    if any(isinstance(value, Tracer) for value in (policy, gamma, mdp.transition, mdp.terminal)) or np.any(gamma != 1):
        return
    onward = np.einsum("sa,sat->st", np.asarray(policy), np.asarray(mdp.transition)) > 0.0
    ends = np.array(mdp.terminal)
    for _ in range(mdp.num_states):
        ends |= onward @ ends
    if not np.all(ends):
        raise InputError(
            f"with gamma = 1 the policy has no value: from state {int(np.argmin(ends))} it never ends; use a gamma "
            "below 1"
        )


def check_features(mdp: TabularMDP, features: Any) -> None:
    """Raise `InputError` unless `features` are finite numbers ``[S, F]``."""
    shape = np.shape(features)
    if len(shape) != 2 or shape[0] != mdp.num_states or not shape[1]:
        raise InputError(f"features must have shape [states, features] with {mdp.num_states} states, got {list(shape)}")
    if not isinstance(features, Tracer) and not np.all(np.isfinite(np.asarray(features))):
        raise InputError("features must be finite in every entry")
