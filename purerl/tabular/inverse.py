"""Maximum-entropy inverse reinforcement learning on a known finite process (Ziebart et al. 2008).

The reward of entering a state is linear in its features, ``r(s') = w . phi(s')``; with one-hot features each state has
a weight of its own. Demonstrations are explained by the policy with the largest causal entropy among those that match
their features (Ziebart et al. 2010, theorem 1), over a horizon of T steps::

    q_t(s, a) = sum_s' p(s' | s, a) (r(s') + gamma v_{t+1}(s')),   v_t(s) = log sum_a exp q_t(s, a),   v_T = 0
    pi_t(a | s) = exp(q_t(s, a) - v_t(s))

The weights minimise the convex ``E[v_0(s_0)] - w . f``, with the mean discounted sum ``f`` of features in the
demonstrations. Its gradient is the expected minus the demonstrated features (2008, equation 6). With ``gamma=1`` and
deterministic dynamics it is the negative log-likelihood of the demonstrations under ``p(path) ~ exp(return)`` (equation
2); with stochastic dynamics equation 4 of 2008 is an approximation, and the causal form is exact.

The reward is known up to what no demonstration can tell: for instance a constant, where all episodes are equally long.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.core import Tracer
from jax.tree_util import Partial

from purerl import struct
from purerl.errors import InputError
from purerl.tabular.checks import check_discount, check_features
from purerl.tabular.exact import action_values
from purerl.tabular.mdp import TabularMDP
from purerl.types import Array


@struct.dataclass
class RewardFit:
    """Reward learned from demonstrations.

    Attributes:
        weights: ``[F]``.
        reward: ``[S]``, reward of entering each state, ``features @ weights``.
        losses: ``[num_updates]``, objective before each update.
        gaps: ``[num_updates]``, largest difference between expected and demonstrated features, before each update.
    """

    weights: Array
    reward: Array
    losses: Array
    gaps: Array


def with_state_reward(mdp: TabularMDP, reward: Array) -> TabularMDP:
    """The same process with ``reward [S]`` for entering each state."""
    shape = (mdp.num_states, mdp.num_actions, mdp.num_states)
    return struct.replace(mdp, reward=jnp.broadcast_to(jnp.asarray(reward)[None, None], shape))


def reward_function(features: Array, weights: Array) -> Partial:
    """Reward for `purerl.environments.LearnedReward` around a `TabularMDP`, also within a time limit.

    Args:
        features: ``[S, F]``.
        weights: ``[F]``; leaves, as are the features.
    """
    return Partial(_linear_reward, jnp.asarray(features, jnp.float32), jnp.asarray(weights, jnp.float32))


def _linear_reward(features: Array, weights: Array, obs: Array, action: Array, next_obs: Array) -> Array:
    return jnp.sum(features[next_obs] * weights)


def soft_value_iteration(mdp: TabularMDP, horizon: int, gamma: float | Array = 1.0) -> tuple[Array, Array]:
    """Values and policies of maximum causal entropy over `horizon` steps; see the module for the equations.

    Returns:
        Values ``[horizon, S]`` and probabilities of actions ``[horizon, S, A]`` at each step, from the first on.
    """

    def backup(later: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        rated = action_values(mdp, later, gamma)
        values = jnp.where(jnp.asarray(mdp.terminal), 0.0, jax.nn.logsumexp(rated, axis=1))
        return values, (values, jax.nn.softmax(rated, axis=1))

    zeros = jnp.zeros_like(mdp.expected_reward[:, 0])
    return lax.scan(backup, zeros, None, length=horizon, reverse=True)[1]


def expected_visits(mdp: TabularMDP, policies: Array, start: Array, gamma: float | Array = 1.0) -> Array:
    """Expected discounted number of times ``[S]`` that each state is entered (Ziebart et al. 2008, algorithm 1).

    Args:
        mdp: the process.
        policies: probabilities of actions at each step ``[T, S, A]``.
        start: distribution of the first state ``[S]``.
        gamma: discount factor.
    """

    def step(loop: tuple[Array, Array], policy: Array) -> tuple[tuple[Array, Array], Array]:
        present, discount = loop
        moves = jnp.where(jnp.asarray(mdp.terminal), 0.0, present)[:, None] * policy
        entered = jnp.einsum("sa,sat->t", moves, jnp.asarray(mdp.transition), precision=lax.Precision.HIGHEST)
        return (entered, discount * gamma), discount * entered

    start = jnp.asarray(start, policies.dtype)
    return jnp.sum(lax.scan(step, (start, jnp.ones((), policies.dtype)), policies)[1], axis=0)


def demonstrated_features(features: Array, states: Array, mask: Array, gamma: float | Array = 1.0) -> Array:
    """Mean over episodes of the discounted sum of features of the states entered, ``[F]``.

    Args:
        features: ``[S, F]``.
        states: numbers of states ``[N, T + 1]``.
        mask: whether each step was taken ``[N, T]``.
        gamma: discount factor.
    """
    features = jnp.asarray(features)
    discounts = jnp.asarray(gamma, features.dtype) ** jnp.arange(mask.shape[1], dtype=features.dtype)
    weights = jnp.where(mask, discounts[None], 0.0)
    total = jnp.einsum("nt,ntf->f", weights, features[states[:, 1:]], precision=lax.Precision.HIGHEST)
    return total / states.shape[0]


def max_entropy_loss(
    weights: Array, mdp: TabularMDP, features: Array, states: Array, mask: Array, gamma: float | Array = 1.0
) -> Array:
    """``E[v_0(s_0)] - w . f`` for ``weights [F]``; the other arguments are those of `max_entropy_irl`."""
    reward = jnp.asarray(features) @ weights
    values, _ = soft_value_iteration(with_state_reward(mdp, reward), mask.shape[1], gamma)
    return jnp.mean(values[0][states[:, 0]]) - jnp.sum(
        weights * demonstrated_features(jnp.asarray(features), states, mask, gamma)
    )


def max_entropy_irl(
    mdp: TabularMDP,
    features: Array,
    states: Array,
    mask: Array,
    *,
    gamma: float | Array = 1.0,
    num_updates: int = 500,
    learning_rate: float | Array = 0.1,
    l2: float | Array = 0.0,
) -> RewardFit:
    """Weights of the reward that explains demonstrations best, by Adam on the convex objective of the module.

    Args:
        mdp: the process; its reward is not used.
        features: of each state ``[S, F]``.
        states: numbers of states in the demonstrations ``[N, T + 1]``.
        mask: whether each step was taken ``[N, T]``; a prefix of each row.
        gamma: discount factor of returns and features.
        num_updates: number of gradient steps.
        learning_rate: step size of Adam.
        l2: weight of ``|w|^2 / 2``; bounds the weights where the demonstrations are those of a deterministic policy.

    Raises:
        InputError: for arrays whose shapes do not fit, or states that the process does not have.
    """
    check_demonstrations(mdp, features, states, mask)
    check_discount(gamma)
    struct.check_value("num_updates", num_updates, int, "[1, inf)")
    struct.check_value("learning_rate", learning_rate, float, "(0, inf)")
    struct.check_value("l2", l2, float, "[0, inf)")
    features, states, mask = jnp.asarray(features), jnp.asarray(states), jnp.asarray(mask)
    optimizer = optax.adam(learning_rate)

    def loss(weights: Array) -> Array:
        penalty = 0.5 * l2 * jnp.sum(weights**2)
        return max_entropy_loss(weights, mdp, features, states, mask, gamma) + penalty

    def update(learner: tuple[Array, Any], _: None) -> tuple[tuple[Array, Any], tuple[Array, Array]]:
        weights, opt_state = learner
        value, gradient = jax.value_and_grad(loss)(weights)
        step, opt_state = optimizer.update(gradient, opt_state)
        gap = jnp.max(jnp.abs(gradient - l2 * weights))
        return (jnp.asarray(optax.apply_updates(weights, step)), opt_state), (value, gap)

    zeros = jnp.zeros(features.shape[1], features.dtype)
    (weights, _), (losses, gaps) = lax.scan(update, (zeros, optimizer.init(zeros)), None, length=num_updates)
    return RewardFit(weights, features @ weights, losses, gaps)


def check_demonstrations(mdp: TabularMDP, features: Any, states: Any, mask: Any) -> None:
    """Raise `InputError` unless the arrays fit each other and the process (see `max_entropy_irl`)."""
    check_features(mdp, features)
    if np.ndim(mask) != 2 or np.shape(states) != (np.shape(mask)[0], np.shape(mask)[1] + 1):
        raise InputError(
            "states and mask must have shapes [N, T + 1] and [N, T], got "
            f"{list(np.shape(states))} and {list(np.shape(mask))}"
        )
    if isinstance(states, Tracer) or isinstance(mask, Tracer):
        return
    taken = np.asarray(mask).astype(bool)
    if not taken.size or np.any(taken[:, 1:] & ~taken[:, :-1]):
        raise InputError("mask must be true for the first steps of each episode and false for the rest")
    if not np.all((np.asarray(states) >= 0) & (np.asarray(states) < mdp.num_states)):
        raise InputError(f"states must lie in [0, {mdp.num_states - 1}], got {np.min(states)} to {np.max(states)}")
