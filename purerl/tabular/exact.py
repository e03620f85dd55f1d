"""Exact methods for a known finite process: policy evaluation, value iteration, policy iteration.

All are pure and written for one process: use `jax.jit`, and `jax.vmap` over leaves such as the reward or `gamma`. They
compute with the precision of JAX. With 32 bits, an error of 1e-7 / (1 - gamma) of the largest value remains; inside
``with jax.enable_x64(True)`` they use the double precision of the tables.

With ``gamma=1`` values exist where every policy in question terminates with certainty.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax import lax

from purerl import struct
from purerl.tabular.checks import check_discount, check_ends, check_policy
from purerl.tabular.mdp import TabularMDP
from purerl.tabular.policies import deterministic_policy
from purerl.types import Array

MAX_ITERATIONS = 100_000
"""Bound for loops that end by a criterion."""


@struct.dataclass
class Solution:
    """Values of a process and the policy that is greedy with respect to them.

    Attributes:
        values: ``[S]``, 0 in terminal states.
        action_values: ``[S, A]``.
        policy: int32 ``[S]``, greedy actions; the first of equal ones.
        iterations: int32, sweeps of value iteration, or improvements of policy iteration.
        residual: largest change by one more sweep of value iteration, ``max |T V - V|``.
        bound: ``residual / (1 - gamma)``, which ``max |V - V*|`` does not exceed but for rounding (Puterman 1994,
            theorem 6.3.1); infinite for ``gamma=1``.
    """

    values: Array
    action_values: Array
    policy: Array
    iterations: Array
    residual: Array
    bound: Array


@struct.dataclass
class Sweeps:
    """Iterative policy evaluation, sweep by sweep.

    Attributes:
        values: ``[num_sweeps + 1, S]``, the first as given. From zeros, number ``n`` is the expected return of the
            first ``n`` steps.
        errors: ``[num_sweeps + 1]``, largest error, ``max |V_n - V|`` against `policy_evaluation`.
        ratios: ``[num_sweeps]``, each error divided by the one before: at most `gamma` but for rounding.
    """

    values: Array
    errors: Array
    ratios: Array


def action_values(mdp: TabularMDP, values: Array, gamma: float | Array) -> Array:
    """``q(s, a) = r(s, a) + gamma sum_s' p(s' | s, a) v(s')``, ``[S, A]``, for ``values [S]``."""
    return mdp.expected_reward + gamma * _expect(mdp.continuation, values)


def policy_evaluation(mdp: TabularMDP, policy: Array, gamma: float | Array) -> Array:
    """Values ``[S]`` of a policy, the solution of ``(I - gamma P) v = r`` (Sutton & Barto 2018, equation 4.4).

    Args:
        mdp: the process.
        policy: probabilities of actions ``[S, A]``.
        gamma: discount factor.

    Raises:
        InputError: for a policy that is none, or that never ends with a discount factor of 1.
    """
    check_discount(gamma)
    check_policy(mdp, policy)
    check_ends(mdp, policy, gamma)
    reward, onward = _under(mdp, policy)
    return jnp.linalg.solve(jnp.eye(mdp.num_states, dtype=onward.dtype) - gamma * onward, reward)


def policy_sweeps(
    mdp: TabularMDP, policy: Array, gamma: float | Array, num_sweeps: int, initial: Array | None = None
) -> Sweeps:
    """Iterative policy evaluation and its contraction: ``v <- r + gamma P v`` (Sutton & Barto 2018, equation 4.5).

    Args:
        mdp: the process.
        policy: probabilities of actions ``[S, A]``.
        gamma: discount factor.
        num_sweeps: how many.
        initial: first values ``[S]``; by default 0.

    Raises:
        InputError: as `policy_evaluation`.
    """
    struct.check_value("num_sweeps", num_sweeps, int, "[1, inf)")
    check_discount(gamma)
    check_policy(mdp, policy)
    reward, onward = _under(mdp, policy)
    first = jnp.zeros_like(reward) if initial is None else jnp.where(jnp.asarray(mdp.terminal), 0.0, initial)

    def sweep(values: Array, _: None) -> tuple[Array, Array]:
        values = reward + gamma * _expect(onward, values)
        return values, values

    _, later = lax.scan(sweep, first, None, length=num_sweeps)
    values = jnp.concatenate([first[None], later])
    errors = jnp.max(jnp.abs(values - policy_evaluation(mdp, policy, gamma)[None]), axis=1)
    return Sweeps(values, errors, errors[1:] / errors[:-1])


def value_iteration(
    mdp: TabularMDP, gamma: float | Array, tolerance: float = 1e-10, max_iterations: int = MAX_ITERATIONS
) -> Solution:
    """Value iteration: ``v <- max_a q(., a)`` until nothing changes (Sutton & Barto 2018, section 4.4).

    Args:
        mdp: the process.
        gamma: discount factor.
        tolerance: largest residual that ends it; never less than rounding.
        max_iterations: bound of the number of sweeps.
    """
    check_discount(gamma)
    zeros = jnp.zeros_like(mdp.expected_reward[:, 0])

    def running(loop: tuple[Array, Array, Array]) -> Array:
        values, residual, iterations = loop
        return (residual > tolerance + _rounding(values)) & (iterations < max_iterations)

    def sweep(loop: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        values, _, iterations = loop
        new = jnp.max(action_values(mdp, values, gamma), axis=1)
        return new, jnp.max(jnp.abs(new - values)), iterations + 1

    start = (zeros, jnp.full((), jnp.inf, zeros.dtype), jnp.int32(0))
    values, _, iterations = lax.while_loop(running, sweep, start)
    return _solution(mdp, values, gamma, iterations)


def policy_iteration(mdp: TabularMDP, gamma: float | Array, max_iterations: int = MAX_ITERATIONS) -> Solution:
    """Policy iteration: exact evaluation and greedy improvement in turn (Sutton & Barto 2018, section 4.3).

    It begins with the actions of the highest expected reward. An action is changed only for one that is better by more
    than rounding, so the loop cannot alternate between equal policies.

    Args:
        mdp: the process.
        gamma: discount factor; less than 1 unless every deterministic policy terminates.
        max_iterations: bound of the number of improvements.
    """
    check_discount(gamma)
    first = jnp.argmax(mdp.expected_reward, axis=1).astype(jnp.int32)

    def running(loop: tuple[Array, Array, Array]) -> Array:
        _, changed, iterations = loop
        return changed & (iterations < max_iterations)

    def improve(loop: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        policy, _, iterations = loop
        values = policy_evaluation(mdp, deterministic_policy(policy, mdp.num_actions), gamma)
        rated = action_values(mdp, values, gamma)
        kept = jnp.take_along_axis(rated, policy[:, None], axis=1)[:, 0]
        # Exact values still carry the error of the solution of the linear equations.
        better = jnp.max(rated, axis=1) > kept + 8.0 * _rounding(values) / jnp.maximum(1.0 - gamma, 1e-3)
        policy = jnp.where(better, jnp.argmax(rated, axis=1), policy).astype(jnp.int32)
        return policy, jnp.any(better), iterations + 1

    policy, _, iterations = lax.while_loop(running, improve, (first, jnp.bool_(True), jnp.int32(0)))
    values = policy_evaluation(mdp, deterministic_policy(policy, mdp.num_actions), gamma)
    return _solution(mdp, values, gamma, iterations)


def _solution(mdp: TabularMDP, values: Array, gamma: float | Array, iterations: Array) -> Solution:
    rated = action_values(mdp, values, gamma)
    residual = jnp.max(jnp.abs(jnp.max(rated, axis=1) - values))
    policy = jnp.argmax(rated, axis=1).astype(jnp.int32)
    return Solution(values, rated, policy, iterations, residual, residual / (1.0 - jnp.asarray(gamma, values.dtype)))


def _under(mdp: TabularMDP, policy: Array) -> tuple[Array, Array]:
    """Expected reward ``[S]`` and probability of the next state that is not terminal ``[S, S]`` under a policy."""
    policy = jnp.asarray(policy, mdp.expected_reward.dtype)
    onward = jnp.einsum("sa,sat->st", policy, mdp.continuation, precision=lax.Precision.HIGHEST)
    return jnp.sum(policy * mdp.expected_reward, axis=1), onward


def _expect(probabilities: Array, values: Array) -> Array:
    # By default, accelerators shorten the numbers in a product of matrices to fewer than 32 bits.
    return jnp.einsum("...t,t->...", probabilities, values, precision=lax.Precision.HIGHEST)


def _rounding(values: Array) -> Array:
    """Change of values that is no more than rounding."""
    return 2.0 * jnp.finfo(values.dtype).eps * jnp.max(jnp.abs(values))
