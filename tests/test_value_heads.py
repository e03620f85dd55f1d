"""Value heads against closed forms and slow NumPy twins in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from purerl.errors import InputError
from purerl.layers.value_heads import C51, ExpectedValue, QuantileRegression, ValueHead, project

HEADS = {
    "mean": ExpectedValue(),
    "squared": ExpectedValue(huber_delta=None),
    "c51": C51(num_atoms=7, v_min=-3.0, v_max=5.0),
    "quantile": QuantileRegression(num_quantiles=5, huber_kappa=0.5),
}
each = pytest.mark.parametrize("name", HEADS)
C51_HEAD, QUANTILE_HEAD = HEADS["c51"], HEADS["quantile"]
SUPPORT = np.linspace(-3.0, 5.0, 7)

seeds = st.integers(0, 2**32 - 1)
rewards = st.floats(-12.0, 12.0, width=32)
unit = st.floats(0.0, 1.0, width=32)
jitted_project = jax.jit(project)
c51_loss = jax.jit(jax.value_and_grad(C51_HEAD.loss, has_aux=True))
quantile_loss = jax.jit(QUANTILE_HEAD.loss)


def outputs(head, seed, *shape):
    """Random outputs ``[*shape, K]``."""
    return np.random.default_rng(seed).normal(size=(*shape, head.num_outputs)).astype(np.float32)


def algorithm_1(atoms, probabilities, support):
    """The projection of Bellemare et al. 2017, atom by atom, with floor and ceiling."""
    low, high, mass = support[0], support[-1], np.zeros(len(support))
    for atom, p in zip(np.float64(atoms), np.float64(probabilities), strict=True):
        b = (min(max(atom, low), high) - low) / (high - low) * (len(support) - 1)
        below, above = int(np.floor(b)), int(np.ceil(b))
        if below == above:
            mass[below] += p
        else:
            mass[below] += p * (above - b)
            mass[above] += p * (b - below)
    return mass


def slow_quantile_loss(head, output, target):
    """One term of the double sum after the other."""
    n, kappa, total = head.num_quantiles, head.huber_kappa, 0.0
    for i in range(n):
        for j in range(n):
            u = float(target[j]) - float(output[i])
            huber = 0.5 * u**2 if abs(u) <= kappa else kappa * (abs(u) - 0.5 * kappa)
            total += abs((2 * i + 1) / (2 * n) - (1.0 if u < 0 else 0.0)) * huber / kappa / n
    return total


def descend(head, reward, discount, next_output, learning_rate, num_steps=2000):
    """The output that has the smallest mean loss over transitions, by gradient descent from zeros."""
    optimizer = optax.adam(optax.cosine_decay_schedule(learning_rate, num_steps))

    def mean_loss(output):
        loss, _ = jax.vmap(head.loss, (None, 0, None, None))(output, reward, discount, next_output)
        return jnp.mean(loss)

    def step(carry, _):
        output, opt_state = carry
        updates, opt_state = optimizer.update(jax.grad(mean_loss)(output), opt_state)
        return (optax.apply_updates(output, updates), opt_state), None

    start = jnp.zeros(head.num_outputs)
    return jax.jit(lambda: jax.lax.scan(step, (start, optimizer.init(start)), length=num_steps)[0][0])()


# All heads


@each
def test_vmapped_and_jitted_like_one_by_one(name):
    head = HEADS[name]
    output, next_output = outputs(head, 0, 4), outputs(head, 1, 4)
    reward, discount = np.float32([0.5, -2.0, 9.0, 1.0]), np.float32([0.9, 0.0, 0.99, 1.0])
    batch = (output, reward, discount, next_output)
    loss, priority = jax.jit(jax.vmap(head.loss))(*batch)
    for i in range(4):
        one = head.loss(*(x[i] for x in map(jnp.asarray, batch)))
        np.testing.assert_allclose((loss[i], priority[i]), one, rtol=1e-5, atol=1e-6)
    assert all(x.shape == (4,) and x.dtype == jnp.float32 and not x.weak_type for x in (loss, priority))
    assert np.all(np.asarray(priority) >= 0.0)


@each
def test_value_takes_any_leading_axes(name):
    head = HEADS[name]
    output = jnp.asarray(outputs(head, 0, 2, 3))
    value = jax.jit(head.value)(output)
    assert value.shape == (2, 3)
    np.testing.assert_allclose(value, jax.vmap(jax.vmap(head.value))(output), rtol=1e-6)


@each
def test_the_target_gets_no_gradient(name):
    head = HEADS[name]
    output, next_output = outputs(head, 0), outputs(head, 1)
    slopes = jax.jit(jax.jacobian(head.loss, (0, 1, 2, 3)))(output, 0.3, 0.9, next_output)
    for by_output, *by_target in slopes:
        assert np.any(np.asarray(by_output) != 0.0)
        assert all(np.all(np.asarray(slope) == 0.0) for slope in by_target)


@each
def test_what_follows_the_end_of_the_task_does_not_matter(name):
    head = HEADS[name]
    output, loss = outputs(head, 0), jax.jit(jax.value_and_grad(head.loss, has_aux=True))
    (expected, _), slope = loss(output, 0.3, 0.0, outputs(head, 1))
    (actual, _), slope_after_nan = loss(output, 0.3, 0.0, np.full_like(output, np.nan))
    assert np.isfinite(expected)
    assert actual == expected
    np.testing.assert_array_equal(slope_after_nan, slope)


@each
def test_a_certain_return_becomes_the_value(name):
    head = HEADS[name]  # for C51 1.7 lies between two atoms
    output = descend(head, jnp.float32([1.7]), 0.0, jnp.zeros(head.num_outputs), 0.1)
    np.testing.assert_allclose(head.value(output), 1.7, atol=5e-3)
    _, priority = head.loss(output, jnp.float32(1.7), jnp.float32(0.0), output)
    assert priority < 5e-3
    assert head.loss(output, jnp.float32(2.7), jnp.float32(0.0), output)[1] > 0.1


@each
def test_heads_are_static_data(name):
    head = HEADS[name]
    twin = dataclasses.replace(head)
    assert isinstance(head, ValueHead)
    assert twin is not head
    assert twin == head
    assert hash(twin) == hash(head)
    assert len({*HEADS.values(), *map(dataclasses.replace, HEADS.values())}) == len(HEADS)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ExpectedValue(huber_delta=0.0), r"huber_delta must lie in \(0, inf\), got 0.0"),
        (lambda: ExpectedValue(huber_delta=float("nan")), r"huber_delta must lie in \(0, inf\), got nan"),
        (lambda: C51(num_atoms=1), r"num_atoms must lie in \[2, inf\), got 1"),
        (lambda: C51(num_atoms=51.0), r"num_atoms must be a whole number, got 51.0"),
        (lambda: C51(num_atoms=None), r"num_atoms must be a whole number, got None"),
        (lambda: C51(v_min=-float("inf")), r"v_min must lie in \(-inf, inf\), got -inf"),
        (lambda: C51(v_max="10"), r"v_max must be a plain number in \(-inf, inf\), got '10'"),
        (lambda: C51(v_min=2.0, v_max=1.0), r"v_min must be less than v_max, got v_min 2.0 and v_max 1.0"),
        (lambda: C51(v_min=1.0, v_max=1.0), r"v_min must be less than v_max, got v_min 1.0 and v_max 1.0"),
        (lambda: C51(v_min=1e9, v_max=1e9 + 64), r"far enough apart for 51 .* got 1000000000.0 and 1000000064.0"),
        (lambda: QuantileRegression(num_quantiles=0), r"num_quantiles must lie in \[1, inf\), got 0"),
        (lambda: QuantileRegression(huber_kappa=None), r"huber_kappa must be a number, got None"),
        (lambda: QuantileRegression(huber_kappa=True), r"huber_kappa must be a number, got True"),
        (lambda: QuantileRegression(huber_kappa=np.ones(1)), r"huber_kappa must be a plain number in \(0, inf\), got"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


# Expected value


@pytest.mark.parametrize("error", [-5.0, -2.5, -0.5, 0.0, 1.0, 2.5, 40.0])
def test_huber_loss_has_its_closed_form_and_a_bounded_slope(error):
    delta = 2.0
    output, next_output = jnp.float32([0.5]), jnp.float32([3.0])
    reward, discount = jnp.float32(0.5 + error - 0.9 * 3.0), jnp.float32(0.9)
    (loss, priority), slope = jax.value_and_grad(ExpectedValue(delta).loss, has_aux=True)(
        output, reward, discount, next_output
    )
    small = abs(error) <= delta
    np.testing.assert_allclose(loss, 0.5 * error**2 if small else delta * (abs(error) - 0.5 * delta), atol=1e-5)
    np.testing.assert_allclose(slope, [-np.clip(error, -delta, delta)], atol=1e-5)
    np.testing.assert_allclose(priority, abs(error), atol=1e-5)


@pytest.mark.parametrize("error", [-30.0, 0.25, 7.0])
def test_without_a_threshold_errors_are_squared(error):
    transition = (jnp.float32([1.0]), jnp.float32(1.0 + error), jnp.float32(0.0), jnp.float32([5.0]))
    loss, priority = ExpectedValue(huber_delta=None).loss(*transition)
    assert (loss, priority) == (0.5 * error**2, abs(error))
    assert (loss, priority) == ExpectedValue(huber_delta=100.0).loss(*transition)


# C51


@settings(deadline=None, max_examples=60)
@given(seeds, rewards, unit)
def test_projection_is_algorithm_1(seed, reward, discount):
    probabilities = scipy.special.softmax(outputs(C51_HEAD, seed))
    atoms = np.float32(reward + discount * SUPPORT)
    actual = jitted_project(atoms, probabilities, np.float32(SUPPORT))
    np.testing.assert_allclose(actual, algorithm_1(atoms, probabilities, SUPPORT), atol=2e-6)


@settings(deadline=None, max_examples=60)
@given(seeds)
def test_projection_keeps_mass_and_mean_within_the_grid(seed):
    atoms = np.random.default_rng(seed).uniform(-3.0, 5.0, 7).astype(np.float32)
    probabilities = scipy.special.softmax(outputs(C51_HEAD, seed))
    actual = np.float64(jitted_project(atoms, probabilities, np.float32(SUPPORT)))
    assert np.all(actual >= 0.0)
    np.testing.assert_allclose(np.sum(actual), 1.0, atol=1e-6)
    np.testing.assert_allclose(np.sum(actual * SUPPORT), np.sum(atoms * probabilities), atol=1e-5)


@pytest.mark.parametrize("shift", [-6, -1, 0, 2, 6])
def test_mass_on_grid_points_stays_whole(shift):
    support = np.arange(-2.0, 3.0, dtype=np.float32)
    probabilities = np.float32([0.1, 0.2, 0.3, 0.15, 0.25])
    expected = np.zeros(5)
    for i in range(5):
        expected[min(max(i + shift, 0), 4)] += probabilities[i]
    np.testing.assert_allclose(project(support + shift, probabilities, support), expected, atol=1e-7)


def test_no_mass_is_lost_on_a_fine_grid_far_from_zero():
    support = C51(num_atoms=51, v_min=1000.0, v_max=1001.0).support
    atoms = jnp.linspace(999.9, 1001.1, 51)
    probabilities = jax.nn.softmax(jnp.asarray(outputs(C51(), 0)))
    np.testing.assert_allclose(jnp.sum(project(atoms, probabilities, support)), 1.0, atol=1e-6)


@settings(deadline=None, max_examples=30)
@given(seeds, rewards, unit)
def test_c51_loss_is_the_cross_entropy_and_the_priority_the_kl_divergence(seed, reward, discount):
    output, next_output = outputs(C51_HEAD, seed, 2)
    (loss, priority), slope = c51_loss(output, np.float32(reward), np.float32(discount), next_output)
    p = scipy.special.softmax(np.float64(output))
    target = algorithm_1(reward + discount * SUPPORT, scipy.special.softmax(np.float64(next_output)), SUPPORT)
    np.testing.assert_allclose(loss, -np.sum(target * np.log(p)), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(priority, scipy.stats.entropy(target, p), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(slope, p - target, atol=1e-5)
    assert priority >= 0.0


def test_c51_is_not_surprised_by_what_it_predicts():
    output = jnp.asarray(outputs(C51_HEAD, 0))
    loss, priority = C51_HEAD.loss(output, jnp.float32(0.0), jnp.float32(1.0), output)
    np.testing.assert_allclose(loss, scipy.stats.entropy(scipy.special.softmax(output)), rtol=1e-5)
    np.testing.assert_allclose(priority, 0.0, atol=1e-6)


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (1.0, [0, 0, 0, 1, 0, 0, 0]),
        (2.0, [0, 0, 0, 0.25, 0.75, 0, 0]),
        (-3.0, [1, 0, 0, 0, 0, 0, 0]),
        (-50.0, [1, 0, 0, 0, 0, 0, 0]),
        (50.0, [0, 0, 0, 0, 0, 0, 1]),
    ],
)
def test_after_the_end_all_mass_is_at_the_reward(reward, expected):
    output, next_output = outputs(C51_HEAD, 0, 2)
    _, slope = c51_loss(output, np.float32(reward), np.float32(0.0), next_output)
    np.testing.assert_allclose(scipy.special.softmax(output) - slope, expected, atol=1e-6)


def test_c51_value_is_the_mean_of_its_atoms():
    output = outputs(C51_HEAD, 0)
    np.testing.assert_allclose(C51_HEAD.support, SUPPORT, rtol=1e-6)
    np.testing.assert_allclose(
        C51_HEAD.value(jnp.asarray(output)), np.sum(scipy.special.softmax(output) * SUPPORT), rtol=1e-5
    )


# Quantile regression


@settings(deadline=None, max_examples=30)
@given(seeds, st.floats(-3.0, 3.0, width=32), unit)
def test_quantile_loss_is_its_double_sum_and_the_priority_the_error_of_the_mean(seed, reward, discount):
    output, next_output = outputs(QUANTILE_HEAD, seed, 2)
    loss, priority = quantile_loss(output, np.float32(reward), np.float32(discount), next_output)
    target = reward + discount * np.float64(next_output)
    np.testing.assert_allclose(loss, slow_quantile_loss(QUANTILE_HEAD, output, target), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(priority, abs(np.mean(target) - np.mean(output)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("samples", "expected"),
    [
        (np.linspace(-1.0, 3.0, 501), [-0.6, 0.2, 1.0, 1.8, 2.6]),  # uniform: -1 + 4 tau
        (np.repeat([0.0, 4.0], [40, 60]), [0.0, 0.0, 4.0, 4.0, 4.0]),
    ],
)
def test_quantile_regression_finds_the_quantiles_of_random_rewards(samples, expected):
    head = QuantileRegression(num_quantiles=5, huber_kappa=0.01)
    output = descend(head, jnp.float32(samples), 0.0, jnp.zeros(5), 0.05)
    np.testing.assert_allclose(output, expected, atol=0.02)


def test_quantile_regression_finds_the_quantiles_of_the_successor():
    head = QuantileRegression(num_quantiles=5, huber_kappa=0.01)
    next_output = jnp.float32([2.0, -1.0, 4.0, 0.0, 1.0])
    output = descend(head, jnp.float32([0.5]), 0.9, next_output, 0.05)
    np.testing.assert_allclose(output, 0.5 + 0.9 * np.sort(next_output), atol=0.02)
