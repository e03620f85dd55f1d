"""Returns and advantages against slow twins that sum over future steps one by one, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import TypeCheckError

from purerl.math import returns

LENGTH = 9
gae = jax.jit(returns.gae)
lambda_returns = jax.jit(returns.lambda_returns)
discounted_return = jax.jit(returns.discounted_return)
window_return = jax.jit(returns.window_return)

seeds = st.integers(0, 2**32 - 1)
unit = st.floats(0.0, 1.0, width=32)
# 0: goes on, 1: terminated, 2: truncated; mostly goes on.
endings = st.lists(st.sampled_from([0, 0, 0, 0, 1, 2]), min_size=LENGTH, max_size=LENGTH)


def trajectory(seed, ending=(0,) * LENGTH):
    """Reward, value, next_value (unrelated to value, as after a reset it is), terminated, done."""
    rng = np.random.default_rng(seed)
    reward, value, next_value = rng.normal(size=(3, LENGTH)).astype(np.float32)
    ending = np.asarray(ending)
    return reward, value, next_value, ending == 1, ending > 0


def arrays(*args):
    """The same as arrays of JAX."""
    return map(jnp.asarray, trajectory(*args))


def slow_gae(reward, value, next_value, terminated, done, gamma, gae_lambda):
    """A_t is the sum of (gamma lambda)^k delta_{t+k} up to the end of the episode."""
    advantage = np.zeros(len(reward))
    for t in range(len(reward)):
        for k in range(t, len(reward)):
            bootstrap = 0.0 if terminated[k] else float(next_value[k])
            delta = float(reward[k]) + gamma * bootstrap - float(value[k])
            advantage[t] += (gamma * gae_lambda) ** (k - t) * delta
            if done[k]:
                break
    return advantage


def n_step_return(reward, next_value, terminated, t, n, gamma):
    total = sum(gamma**k * float(reward[t + k]) for k in range(n))
    return total if terminated[t + n - 1] else total + gamma**n * float(next_value[t + n - 1])


def slow_lambda_returns(reward, next_value, terminated, done, gamma, lambda_):
    """n-step returns weighted by lambda^(n-1), the rest on the longest (Sutton & Barto, eq. 12.3)."""
    target = np.zeros(len(reward))
    for t in range(len(reward)):
        longest = next((k - t + 1 for k in range(t, len(reward)) if done[k]), len(reward) - t)
        for n in range(1, longest):
            weight = (1.0 - lambda_) * lambda_ ** (n - 1)
            target[t] += weight * n_step_return(reward, next_value, terminated, t, n, gamma)
        target[t] += lambda_ ** (longest - 1) * n_step_return(reward, next_value, terminated, t, longest, gamma)
    return target


@settings(deadline=None, max_examples=60)
@given(seeds, endings, unit, unit)
def test_gae_is_the_discounted_sum_of_deltas(seed, ending, gamma, gae_lambda):
    steps = trajectory(seed, ending)
    actual = gae(*steps, gamma, gae_lambda)
    np.testing.assert_allclose(actual, slow_gae(*steps, gamma, gae_lambda), rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=60)
@given(seeds, endings, unit, unit)
def test_lambda_returns_average_the_n_step_returns(seed, ending, gamma, lambda_):
    reward, _, next_value, terminated, done = trajectory(seed, ending)
    actual = lambda_returns(reward, next_value, terminated, done, gamma, lambda_)
    expected = slow_lambda_returns(reward, next_value, terminated, done, gamma, lambda_)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(seeds, endings, unit, unit)
def test_lambda_return_is_advantage_plus_value_within_an_unbroken_stream_of_values(seed, ending, gamma, lambda_):
    reward, value, next_value, terminated, done = trajectory(seed, ending)
    # The identity needs V(s_{t+1}) to be next_value[t] and value[t+1] alike, except where a new episode begins.
    value[1:] = np.where(done[:-1], value[1:], next_value[:-1])
    target = lambda_returns(reward, next_value, terminated, done, gamma, lambda_)
    advantage = gae(reward, value, next_value, terminated, done, gamma, lambda_)
    np.testing.assert_allclose(target, advantage + value, rtol=1e-5, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(seeds, endings, unit, st.floats(-5.0, 5.0, width=32))
def test_discounted_return_looks_back_to_the_start_of_the_episode(seed, ending, gamma, initial):
    reward, _, _, _, done = trajectory(seed, ending)
    final, actual = discounted_return(reward, done, gamma, initial)
    expected = np.zeros(LENGTH)
    for t in range(LENGTH):
        for k in range(t, -1, -1):
            if k < t and done[k]:
                break
            expected[t] += gamma ** (t - k) * float(reward[k])
        else:
            expected[t] += gamma ** (t + 1) * initial
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(final, 0.0 if done[-1] else expected[-1], rtol=1e-5, atol=1e-5)


def test_discounted_return_in_two_pieces_is_the_same_as_in_one():
    reward, _, _, _, done = arrays(0, (0, 0, 1, 0, 0, 2, 0, 0, 0))
    final, whole = returns.discounted_return(reward, done, 0.9, 1.5)
    for cut in (3, 4):  # after the end of an episode, and within one
        carried, head = returns.discounted_return(reward[:cut], done[:cut], 0.9, 1.5)
        last, tail = returns.discounted_return(reward[cut:], done[cut:], 0.9, carried)
        np.testing.assert_array_equal(np.concatenate([head, tail]), whole)
        assert last == final


def test_trajectories_of_different_lengths_are_found_in_tests():
    reward, value, next_value, terminated, done = trajectory(0)
    with pytest.raises(TypeCheckError, match="next_value"):
        returns.gae(reward, value, next_value[1:], terminated, done, 0.9, 0.8)
    with pytest.raises(TypeCheckError, match="done"):
        returns.window_return(reward, next_value, terminated, 1.0 * done, 0.9)


def test_gae_lambda_one_is_monte_carlo_return_minus_value():
    reward, value, next_value, terminated, done = trajectory(1, (0, 0, 0, 1, 0, 0, 0, 0, 1))
    monte_carlo = np.zeros(LENGTH)
    for t in range(LENGTH):
        end = 3 if t <= 3 else 8
        monte_carlo[t] = sum(0.9 ** (k - t) * reward[k] for k in range(t, end + 1))
    # Only the successor values of the last steps drop out by themselves; inside, they must be those of `value`.
    next_value[:-1] = value[1:]
    np.testing.assert_allclose(
        gae(reward, value, next_value, terminated, done, 0.9, 1.0), monte_carlo - value, atol=1e-5
    )


def test_gae_lambda_zero_is_the_one_step_error():
    reward, value, next_value, terminated, done = trajectory(2, (0, 1, 0, 2, 0, 0, 1, 2, 0))
    delta = reward + 0.9 * np.where(terminated, 0.0, next_value) - value
    np.testing.assert_allclose(gae(reward, value, next_value, terminated, done, 0.9, 0.0), delta, rtol=1e-6, atol=1e-6)


def test_time_limit_bootstraps_and_failure_does_not():
    one, zero = np.ones(3, np.float32), np.zeros(3, np.float32)
    end = np.array([False, True, False])
    truncated = lambda_returns(one, 10 * one, zero.astype(bool), end, 0.5, 1.0)
    np.testing.assert_allclose(truncated, [1 + 0.5 * (1 + 0.5 * 10), 1 + 0.5 * 10, 1 + 0.5 * 10])
    terminated = lambda_returns(one, 10 * one, end, end, 0.5, 1.0)
    np.testing.assert_allclose(terminated, [1 + 0.5, 1.0, 1 + 0.5 * 10])


def test_gradient_of_gae_stops_where_the_episode_does():
    reward, value, next_value, terminated, done = arrays(3, (0, 0, 0, 2, 0, 0, 0, 0, 0))
    first = lambda r, n, v: returns.gae(r, v, n, terminated, done, 0.9, 0.8)[0]  # noqa: E731
    by_reward, by_next_value, by_value = jax.jit(jax.grad(first, (0, 1, 2)))(reward, next_value, value)
    weight = np.where(np.arange(LENGTH) <= 3, 0.72 ** np.arange(LENGTH), 0.0)
    np.testing.assert_allclose(by_reward, weight, rtol=1e-5)
    np.testing.assert_allclose(by_next_value, 0.9 * weight, rtol=1e-5)
    np.testing.assert_allclose(by_value, -weight, rtol=1e-5)


@pytest.mark.parametrize("name", ["gamma", "lambda"])
@pytest.mark.parametrize("estimator", [returns.gae, returns.lambda_returns])
def test_gradient_by_discounts_agrees_with_finite_differences(estimator, name):
    reward, value, next_value, terminated, done = arrays(4, (0, 0, 1, 0, 0, 0, 2, 0, 0))
    steps = (reward, value, next_value) if estimator is returns.gae else (reward, next_value)
    at = {"gamma": 0.9, "lambda": 0.8}

    def total(x):
        gamma, lambda_ = (x, at["lambda"]) if name == "gamma" else (at["gamma"], x)
        return jnp.sum(estimator(*steps, terminated, done, gamma, lambda_))

    slow = slow_gae if estimator is returns.gae else slow_lambda_returns

    def slow_total(x):
        gamma, lambda_ = (x, at["lambda"]) if name == "gamma" else (at["gamma"], x)
        return np.sum(slow(*steps, terminated, done, gamma, lambda_))

    numeric = (slow_total(at[name] + 1e-5) - slow_total(at[name] - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(total))(at[name]), numeric, rtol=1e-4)


def test_values_that_a_flag_rules_out_may_be_anything():
    reward, value, next_value, terminated, done = arrays(5, (0, 0, 1, 0, 0, 0, 0, 0, 1))
    poisoned = np.where(terminated, np.nan, next_value).astype(np.float32)

    def total(n):
        target = returns.lambda_returns(reward, n, terminated, done, 0.9, 0.8)
        return jnp.sum(returns.gae(reward, value, n, terminated, done, 0.9, 0.8) + target)

    both = jax.jit(jax.value_and_grad(total))
    clean_total, clean_grad = both(next_value)
    dirty_total, dirty_grad = both(poisoned)
    assert clean_total == dirty_total
    np.testing.assert_array_equal(clean_grad, dirty_grad)
    assert np.all(np.asarray(clean_grad)[terminated] == 0.0)


def test_batches_by_vmap_and_strong_float32_throughout():
    members = [trajectory(seed, np.roll([0, 0, 1, 0, 2, 0, 0, 0, 0], seed)) for seed in range(3)]
    batch = [np.stack(x) for x in zip(*members, strict=True)]
    together = jax.jit(jax.vmap(lambda *steps: returns.gae(*steps, 0.9, 0.8)))(*batch)
    for i, alone in enumerate(members):
        np.testing.assert_allclose(together[i], gae(*alone, 0.9, 0.8), rtol=1e-6, atol=1e-6)
    reward, value, next_value, terminated, done = (jnp.asarray(x[0]) for x in batch)
    outputs = (
        returns.gae(reward, value, next_value, terminated, done, 0.9, 0.8),
        returns.lambda_returns(reward, next_value, terminated, done, 0.9, 0.8),
        *returns.discounted_return(reward, done, 0.9, 0.0),
    )
    assert all(x.dtype == jnp.float32 and not x.weak_type for x in outputs)


# A window seen from its start


def slow_window_return(reward, next_value, terminated, done, gamma):
    """Episode by episode: discounted rewards, and the value where it was cut."""
    total, start = 0.0, 0
    while start < len(reward):
        end = next((k for k in range(start, len(reward)) if done[k]), len(reward) - 1)
        total += n_step_return(reward, next_value, terminated, start, end - start + 1, gamma)
        start = end + 1
    return total


@settings(max_examples=50, deadline=None)
@given(seeds, endings, unit)
def test_window_return(seed, ending, gamma):
    reward, _, next_value, terminated, done = trajectory(seed, ending)
    expected = slow_window_return(reward, next_value, terminated, done, gamma)
    next_value = np.where(terminated, np.nan, next_value).astype(np.float32)
    np.testing.assert_allclose(
        window_return(reward, next_value, terminated, done, gamma), expected, rtol=1e-5, atol=1e-5
    )


def test_window_return_passes_gradients_to_the_values_that_count():
    reward, _, next_value, terminated, done = trajectory(0, [0, 0, 2, 0, 1, 0, 0, 0, 0])
    grad = jax.grad(window_return, argnums=1)(reward, next_value, terminated, done, 0.9)
    np.testing.assert_allclose(grad, [0, 0, 0.9**3, 0, 0, 0, 0, 0, 0.9**4], rtol=1e-6)


# V-trace


vtrace = jax.jit(returns.vtrace)
bounds = st.sampled_from([0.3, 1.0, 2.0, np.inf])


def slow_vtrace(reward, value, next_value, terminated, done, ratio, gamma, lambda_, rho_bar, c_bar):
    """Equation 1 as a sum over the steps ahead, and the advantage from the target one step ahead (section 4.2)."""
    target, advantage = np.array(value, np.float64), np.zeros(len(reward))
    for t in range(len(reward)):
        trace = 1.0
        for k in range(t, len(reward)):
            bootstrap = 0.0 if terminated[k] else float(next_value[k])
            delta = min(rho_bar, ratio[k]) * (reward[k] + gamma * bootstrap - value[k])
            target[t] += gamma ** (k - t) * trace * delta
            if done[k]:
                break
            trace *= lambda_ * min(c_bar, ratio[k])
    for t in range(len(reward)):
        last = done[t] or t == len(reward) - 1
        ahead = 0.0 if terminated[t] else next_value[t] if last else target[t + 1]
        advantage[t] = min(rho_bar, ratio[t]) * (reward[t] + gamma * ahead - value[t])
    return target, advantage


def off_policy(seed, ending):
    """A trajectory within which next_value is the value of the next step, and its probability ratios."""
    reward, value, next_value, terminated, done = trajectory(seed, ending)
    next_value[:-1] = np.where(done[:-1], next_value[:-1], value[1:])
    ratio = np.exp(np.random.default_rng(seed + 1).normal(size=LENGTH)).astype(np.float32)
    return reward, value, next_value, terminated, done, ratio


@settings(deadline=None, max_examples=60)
@given(seeds, endings, unit, unit, bounds, bounds)
def test_vtrace_is_the_sum_of_weighted_errors(seed, ending, gamma, lambda_, rho_bar, c_bar):
    steps = off_policy(seed, ending)
    expected = slow_vtrace(*steps, gamma, lambda_, rho_bar, c_bar)
    for actual, slow in zip(vtrace(*steps, gamma, lambda_, rho_bar, c_bar), expected, strict=True):
        np.testing.assert_allclose(actual, slow, rtol=1e-4, atol=1e-4)


@settings(deadline=None, max_examples=30)
@given(seeds, endings, unit)
def test_vtrace_of_the_policys_own_actions_is_the_n_step_return(seed, ending, gamma):
    reward, value, next_value, terminated, done, ratio = off_policy(seed, ending)
    target, advantage = vtrace(reward, value, next_value, terminated, done, np.ones_like(ratio), gamma, 1.0, 1.0, 1.0)
    n_step = lambda_returns(reward, next_value, terminated, done, gamma, 1.0)
    np.testing.assert_allclose(target, n_step, rtol=1e-5, atol=1e-5)
    generalised = gae(reward, value, next_value, terminated, done, gamma, 1.0)
    np.testing.assert_allclose(advantage, generalised, rtol=1e-5, atol=1e-5)


def test_vtrace_without_bounds_weighs_returns_by_importance():
    """Two steps, values of 0: rewards count by how much more probable the actions up to them are."""
    reward, ratio = np.float32([2.0, 3.0]), np.float32([1.5, 4.0])
    zero, end = np.zeros(2, np.float32), np.array([False, True])
    target, advantage = vtrace(reward, zero, zero, end, end, ratio, 0.5, 1.0, np.inf, np.inf)
    np.testing.assert_allclose(target, [1.5 * 2.0 + 0.5 * 1.5 * 4.0 * 3.0, 4.0 * 3.0])
    np.testing.assert_allclose(advantage, [1.5 * (2.0 + 0.5 * 4.0 * 3.0), 4.0 * 3.0])
    target, advantage = vtrace(reward, zero, zero, end, end, ratio, 0.5, 1.0, 2.0, 1.0)
    np.testing.assert_allclose(target, [1.5 * 2.0 + 0.5 * 1.0 * 2.0 * 3.0, 2.0 * 3.0])
    np.testing.assert_allclose(advantage, [1.5 * (2.0 + 0.5 * 2.0 * 3.0), 2.0 * 3.0])


@pytest.mark.parametrize(("rho_bar", "value"), [(np.inf, 0.7), (1.0, 0.4), (1e-3, 0.2)])
def test_vtrace_learns_the_value_of_a_policy_between_the_two(rho_bar, value):
    """Two arms pay 0 and 1; the second is drawn with 0.2 and wanted with 0.7. The fixed point is that of section 4.1.

    Without a bound that is the value of the policy that learns, with a small one of the policy that acted.
    """
    acting, learning = np.array([0.8, 0.2]), np.array([0.3, 0.7])
    weight = np.minimum(rho_bar * acting, learning)
    assert weight[1] / weight.sum() == pytest.approx(value)

    def expected_error(value):
        value, zero, end = np.float32([value]), np.zeros(1, np.float32), np.array([True])
        targets = [
            vtrace(np.float32([arm]), value, zero, end, end, np.float32([ratio]), 0.9, 1.0, rho_bar, 1.0)[0][0]
            for arm, ratio in enumerate(learning / acting)
        ]
        return acting @ np.array(targets) - value[0]

    np.testing.assert_allclose(expected_error(value), 0.0, atol=1e-6)
    np.testing.assert_allclose(expected_error(value + 0.1), -0.1 * weight.sum(), atol=1e-6)


def test_values_that_a_flag_rules_out_of_vtrace_may_be_anything():
    reward, value, next_value, terminated, done, ratio = map(jnp.asarray, off_policy(5, (0, 0, 1, 0, 0, 2, 0, 0, 1)))
    poisoned = np.where(terminated, np.nan, next_value).astype(np.float32)
    huge = np.where(done, np.inf, ratio).astype(np.float32)  # cannot be a factor of what follows

    def total(next_value, value, ratio):
        return sum(
            jnp.sum(x)
            for x in returns.vtrace(reward, value, next_value, terminated, done, ratio, 0.9, 0.8, 2.0, np.inf)
        )

    both = jax.jit(jax.value_and_grad(total, (0, 1)))
    clean, clean_grads = both(next_value, value, np.where(done, 2.0, ratio).astype(np.float32))
    dirty, dirty_grads = both(poisoned, value, huge)
    assert np.isfinite(clean)
    assert clean == dirty
    for a, b in zip(clean_grads, dirty_grads, strict=True):
        np.testing.assert_array_equal(a, b)
    assert all(
        x.dtype == jnp.float32 and not x.weak_type
        for x in vtrace(reward, value, next_value, terminated, done, ratio, 0.9, 1.0, 1.0, 1.0)
    )
