"""Estimates of returns and advantages: one trajectory in, one trajectory out.

Every array is ``[T]``, one entry per step, in order; `jax.vmap` serves batches. Two flags with two jobs: `terminated`
stops bootstrapping (no future reward exists), ``done = terminated | truncated`` cuts the trace (the next entry belongs
to another episode). ``next_value`` is the value of the true successor observation, never of one after a reset. Where a
flag rules a number out it is dropped, not multiplied by zero, so it may be infinite or NaN.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Shapes are checked in tests only: see tests/conftest.py.
Number = Float[Array, ""]
Scalar = float | Number
Steps = Float[Array, " T"]
Flags = Bool[Array, " T"]


def gae(
    reward: Steps,
    value: Steps,
    next_value: Steps,
    terminated: Flags,
    done: Flags,
    gamma: Scalar,
    gae_lambda: Scalar,
) -> Steps:
    """Generalised advantage estimation (Schulman et al. 2016, "High-dimensional continuous control ...", eq. 16).

    ::

        delta_t = r_t + gamma (1 - terminated_t) V(s_{t+1}) - V(s_t)
        A_t     = delta_t + gamma lambda (1 - done_t) A_{t+1}

    with ``A = 0`` after the last step.

    Args:
        reward: ``[T]``.
        value: ``[T]``, ``V(s_t)``.
        next_value: ``[T]``, ``V(s_{t+1})`` of the true successor.
        terminated: ``[T]`` bool.
        done: ``[T]`` bool.
        gamma: discount per step.
        gae_lambda: 0 trusts the values (one-step advantage), 1 the rewards (Monte-Carlo return minus value).

    Returns:
        The advantage ``[T]``; adding `value` gives `lambda_returns`.
    """
    delta = reward + gamma * jnp.where(terminated, 0.0, next_value) - value

    def backward(advantage: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        delta_t, done_t = step
        advantage = delta_t + gamma * gae_lambda * jnp.where(done_t, 0.0, advantage)
        return advantage, advantage

    _, advantage = jax.lax.scan(backward, jnp.zeros_like(delta[-1]), (delta, done), reverse=True)
    return advantage


def lambda_returns(
    reward: Steps,
    next_value: Steps,
    terminated: Flags,
    done: Flags,
    gamma: Scalar,
    lambda_: Scalar,
) -> Steps:
    """TD(lambda) targets (Sutton & Barto 2018, "Reinforcement Learning", eq. 12.20 with state values).

    ::

        G_t = r_t + gamma (1 - terminated_t) [(1 - lambda) V(s_{t+1}) + lambda G_{t+1}]

    where ``V(s_{t+1})`` stands in for ``G_{t+1}`` after a truncated step and after the last one.

    Args:
        reward: ``[T]``.
        next_value: ``[T]``, ``V(s_{t+1})`` of the true successor.
        terminated: ``[T]`` bool.
        done: ``[T]`` bool.
        gamma: discount per step.
        lambda_: 0 gives one-step targets, 1 the discounted sum of rewards with a bootstrap where it is cut.

    Returns:
        The target ``[T]`` for ``V(s_t)``.
    """

    def backward(target: Array, step: tuple[Array, Array, Array, Array]) -> tuple[Array, Array]:
        reward_t, next_value_t, terminated_t, done_t = step
        ahead = (1.0 - lambda_) * next_value_t + lambda_ * jnp.where(done_t, next_value_t, target)
        target = reward_t + gamma * jnp.where(terminated_t, 0.0, ahead)
        return target, target

    _, target = jax.lax.scan(backward, next_value[-1], (reward, next_value, terminated, done), reverse=True)
    return target


def vtrace(
    reward: Steps,
    value: Steps,
    next_value: Steps,
    terminated: Flags,
    done: Flags,
    ratio: Steps,
    gamma: Scalar,
    lambda_: Scalar,
    rho_bar: Scalar,
    c_bar: Scalar,
) -> tuple[Steps, Steps]:
    """V-trace: targets and advantages from another policy's actions (Espeholt et al. 2018, arXiv:1802.01561, eq. 1).

    ::

        delta_t = rho_t (r_t + gamma (1 - terminated_t) V(s_{t+1}) - V(s_t)),     rho_t = min(rho_bar, ratio_t)
        v_t     = V(s_t) + delta_t + gamma c_t (1 - done_t) (v_{t+1} - V(s_{t+1})),  c_t = lambda min(c_bar, ratio_t)
        A_t     = rho_t (r_t + gamma (1 - terminated_t) v_{t+1} - V(s_t))

    where ``V(s_{t+1})`` stands in for ``v_{t+1}`` after a truncated step and after the last one. `rho_bar` settles
    whose values are learned, from those of the acting policy (near 0) to those of the target policy (infinite); `c_bar`
    only how fast. With ratios of 1, targets are `lambda_returns`, and with ``lambda_ = 1`` advantages are those of
    `gae`; with less they look one step further than `gae` before `lambda_` sets in, as the paper has it (section 4.2).

    Args:
        reward: ``[T]``.
        value: ``[T]``, ``V(s_t)``.
        next_value: ``[T]``, ``V(s_{t+1})`` of the true successor.
        terminated: ``[T]`` bool.
        done: ``[T]`` bool.
        ratio: ``[T]``, how many times as probable the action is to the policy that learns than to the one that acted.
        gamma: discount per step.
        lambda_: decay of traces (remark 2 of the paper).
        rho_bar: largest weight of a temporal difference.
        c_bar: largest factor of a trace.

    Returns:
        ``(v, A)``: the target ``[T]`` for ``V(s_t)`` and the advantage ``[T]`` of the action taken.
    """
    delta = reward + gamma * jnp.where(terminated, 0.0, next_value) - value
    rho = jnp.minimum(rho_bar, ratio)
    c = jnp.where(done, 0.0, lambda_ * jnp.minimum(c_bar, ratio))

    def backward(correction: Array, step: tuple[Array, Array, Array, Array]) -> tuple[Array, tuple[Array, Array]]:
        delta_t, rho_t, c_t, done_t = step
        ahead = gamma * jnp.where(done_t, 0.0, correction)
        correction = rho_t * delta_t + c_t * ahead  # v_t - V(s_t)
        return correction, (correction, rho_t * (delta_t + ahead))

    _, (correction, advantage) = jax.lax.scan(backward, jnp.zeros_like(delta[-1]), (delta, rho, c, done), reverse=True)
    return value + correction, advantage


def window_return(reward: Steps, next_value: Steps, terminated: Flags, done: Flags, gamma: Scalar) -> Number:
    """Discounted return of a window plus the value at its end (Xu et al. 2022, "Accelerated policy ...", eq. 5).

    ::

        sum over episodes e in the window of  sum_{k < n} gamma^k r_{e+k} + gamma^n V(s_{e+n})

    where an episode counts from where it begins, or the window does, for the ``n`` steps until it ends, or the window
    does. There is no value after a terminated step. Everything is differentiable, in `next_value` too. To cut the
    window into several, set `done` where they end.

    Args:
        reward: ``[T]``.
        next_value: ``[T]``, ``V(s_{t+1})`` of the true successor.
        terminated: ``[T]`` bool.
        done: ``[T]`` bool.
        gamma: discount per step.

    Returns:
        A scalar.
    """
    last = jnp.arange(len(reward)) == len(reward) - 1
    bootstrap = jnp.where((done | last) & ~terminated, next_value, 0.0)
    return jnp.sum(window_discounts(done, gamma) * (reward + gamma * bootstrap))


def window_discounts(done: Flags, gamma: Scalar) -> Steps:
    """``gamma^k`` for the k-th step since an episode began, or the window did: the weights of `window_return`.

    Args:
        done: ``[T]`` bool.
        gamma: discount per step.

    Returns:
        The discount ``[T]``.
    """

    def forward(discount: Array, done_t: Array) -> tuple[Array, Array]:
        return jnp.where(done_t, 1.0, discount * gamma), discount

    _, discount = jax.lax.scan(forward, jnp.float32(1.0), done)
    return discount


def discounted_return(reward: Steps, done: Flags, gamma: Scalar, initial: Scalar) -> tuple[Number, Steps]:
    """The discounted sum of past rewards, whose deviation is the scale of rewards (Engstrom et al. 2020, section 2).

    ::

        R_t = gamma (1 - done_{t-1}) R_{t-1} + r_t

    It runs forward, so that it is known while an episode is still going on.

    Args:
        reward: ``[T]``.
        done: ``[T]`` bool.
        gamma: discount per step.
        initial: scalar, what an earlier call returned as `final`; 0 at the start of an episode.

    Returns:
        ``(final, R)``: the scalar to carry on with, already 0 if the last step ended an episode, and ``R [T]``.
    """

    def forward(past: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        reward_t, done_t = step
        total = gamma * past + reward_t
        return jnp.where(done_t, 0.0, total), total

    return jax.lax.scan(forward, jnp.asarray(initial, reward.dtype), (reward, done))
