"""Apprenticeship learning by inverse reinforcement learning (Abbeel & Ng 2004, the projection method of section 3.1).

A reward that is linear in features with weights of norm 1 cannot tell two policies apart whose expected features are
equal. So it is enough to find policies whose mixture has the expected features of the expert.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from purerl import struct
from purerl.errors import InputError
from purerl.tabular.checks import check_discount, check_features, check_policy
from purerl.tabular.exact import value_iteration
from purerl.tabular.inverse import with_state_reward
from purerl.tabular.mdp import TabularMDP
from purerl.tabular.policies import deterministic_policy, uniform_policy
from purerl.types import Array


@struct.dataclass
class Apprentice:
    """Policies whose mixture has nearly the expected features of an expert.

    Attributes:
        policies: probabilities of actions ``[n + 1, S, A]``; the first is uniform.
        mixture: ``[n + 1]``, probability of following each policy for a whole episode.
        features: ``[n + 1, F]``, expected discounted features of each policy.
        weights: ``[n, F]``, weights of the reward in each iteration.
        margins: ``[n + 1]``, distance between the features of the expert and those of the mixture so far: no reward
            with weights of norm 1 tells them apart by more.
    """

    policies: Array
    mixture: Array
    features: Array
    weights: Array
    margins: Array


def expected_features(mdp: TabularMDP, policy: Array, features: Array, gamma: float | Array) -> Array:
    """``E[sum_t gamma^t phi(s_{t+1})]``, expected discounted features of the states entered, ``[F]``.

    Args:
        mdp: the process.
        policy: probabilities of actions ``[S, A]``.
        features: ``[S, F]``.
        gamma: discount factor, less than 1 unless the policy terminates.
    """
    check_discount(gamma)
    check_policy(mdp, policy)
    check_features(mdp, features)
    exact = lax.Precision.HIGHEST
    policy = jnp.asarray(policy, mdp.continuation.dtype)
    onward = jnp.einsum("sa,sat->st", policy, mdp.continuation, precision=exact)
    visits = jnp.linalg.solve(jnp.eye(mdp.num_states, dtype=onward.dtype) - gamma * onward.T, jnp.asarray(mdp.start))
    entered = jnp.einsum("s,sa,sat->t", visits, policy, jnp.asarray(mdp.transition), precision=exact)
    return jnp.einsum("t,tf->f", entered, jnp.asarray(features), precision=exact)


def apprenticeship(
    mdp: TabularMDP, features: Array, expert: Array, gamma: float | Array, num_iterations: int = 20
) -> Apprentice:
    """Policies whose mixture matches the expected features of an expert.

    Each iteration solves the process for the reward that separates the expert best from the mixture so far, and moves
    the mixture to the projection of the expert onto the line to the new policy.

    Args:
        mdp: the process; its reward is not used.
        features: of each state, for entering it ``[S, F]``.
        expert: expected discounted features of the expert ``[F]``, as `demonstrated_features` estimates them.
        gamma: discount factor, less than 1.
        num_iterations: number of policies beside the first, n.
    """
    check_features(mdp, features)
    struct.check_value("num_iterations", num_iterations, int, "[1, inf)")
    features, expert = jnp.asarray(features), jnp.asarray(expert)
    if expert.shape != features.shape[1:]:
        raise InputError(f"expert must have one entry per feature, {features.shape[1]}, got {list(expert.shape)}")
    first = uniform_policy(mdp)

    def improve(loop: tuple[Array, Array], number: Array) -> tuple[tuple[Array, Array], tuple[Array, ...]]:
        mean, mixture = loop
        weights = expert - mean
        solution = value_iteration(with_state_reward(mdp, features @ weights), gamma)
        policy = deterministic_policy(solution.policy, mdp.num_actions)
        achieved = expected_features(mdp, policy, features, gamma)
        direction = achieved - mean
        length = jnp.sum(direction**2)
        share = jnp.where(length > 0.0, jnp.sum(direction * weights) / jnp.where(length > 0.0, length, 1.0), 0.0)
        share = jnp.clip(share, 0.0, 1.0)
        mixture = ((1.0 - share) * mixture).at[number].add(share)
        return (mean + share * direction, mixture), (policy, achieved, weights, jnp.linalg.norm(weights))

    beginning = expected_features(mdp, first, features, gamma)
    mixture = jnp.zeros(num_iterations + 1, beginning.dtype).at[0].set(1.0)
    (mean, mixture), (policies, achieved, weights, margins) = lax.scan(
        improve, (beginning, mixture), jnp.arange(1, num_iterations + 1)
    )
    return Apprentice(
        policies=jnp.concatenate([first[None].astype(policies.dtype), policies]),
        mixture=mixture,
        features=jnp.concatenate([beginning[None], achieved]),
        weights=weights,
        margins=jnp.append(margins, jnp.linalg.norm(expert - mean)),
    )
