"""Gradient estimators against enumeration, closed forms and loops in NumPy; their variances and biases as in theory."""

import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from purerl import estimators
from purerl.errors import InputError
from purerl.estimators import terms
from purerl.math.distributions import Categorical, Deterministic, Gaussian, TanhGaussian

KEY = jax.random.key(0)
LOGITS = jnp.array([0.3, -0.5, 1.0, 0.0])
TARGET = jnp.array([0.9, -0.4, 0.2, 1.3])
NORMAL = {"mean": jnp.array([0.5, -1.0]), "log_std": jnp.array([-0.3, 0.2])}
DISCRETE = {
    "score": estimators.score_function,
    "baseline": partial(estimators.score_function, baseline=5.0),
    "antithetic": partial(estimators.score_function, antithetic=True),
    "leave one out": estimators.leave_one_out,
    "optimal": estimators.optimal_baseline,
}
CONTINUOUS = {
    **DISCRETE,
    "pathwise": estimators.pathwise,
    "antithetic pathwise": partial(estimators.pathwise, antithetic=True),
}


def quartic(x):
    return 5.0 + jnp.sum((x - TARGET) ** 4)


def square(x):
    return 3.0 + jnp.sum((x - 0.2) ** 2)


def gaussian(params):
    return Gaussian(**params)


def measure_each(named, *args, **settings):
    # Many intervals that should all be right.
    return estimators.compare(named, KEY, *args, confidence=0.999, **settings)


# Unbiased estimators


@pytest.fixture(scope="module")
def discrete():
    return measure_each(DISCRETE, Categorical, quartic, LOGITS, 8)


@pytest.fixture(scope="module")
def continuous():
    exact = {"mean": 2.0 * (NORMAL["mean"] - 0.2), "log_std": 2.0 * jnp.exp(2.0 * NORMAL["log_std"])}
    return measure_each(CONTINUOUS, gaussian, square, NORMAL, 8, exact=exact)


@pytest.mark.parametrize("problem", ["discrete", "continuous"])
def test_unbiased_estimators_agree_with_the_exact_gradient_within_their_intervals(problem, request):
    measured = request.getfixturevalue(problem)
    for name, found in measured.items():
        assert not found.biased, name
        for mean, error, exact in zip(*map(jax.tree.leaves, (found.mean, found.error, found.exact)), strict=True):
            assert np.all(np.abs(mean - exact) <= 4 * error + 1e-5), name
            assert np.all(error < 0.5), name
        assert found.nonfinite == 0.0


def test_the_exact_gradient_of_a_categorical_is_the_sum_over_its_choices(discrete):
    p = np.exp(LOGITS) / np.sum(np.exp(LOGITS))
    values = np.array([quartic(row) for row in np.eye(4, dtype=np.float32)])
    np.testing.assert_allclose(discrete["score"].exact, p * (values - p @ values), rtol=1e-4)


def test_components_of_a_product_of_categoricals_are_enumerated_together():
    logits = jnp.array([[0.2, -0.7, 0.4], [1.0, 0.0, -0.3]])
    table = jnp.arange(9.0).reshape(3, 3) ** 2

    def f(x):
        return x[0] @ table @ x[1]

    p, q = np.exp(jax.nn.log_softmax(logits))
    rows = table @ q
    exact = estimators.enumerate_gradient(Categorical, f, logits)
    np.testing.assert_allclose(exact[0], p * (rows - p @ rows), rtol=1e-4)
    found = estimators.measure(estimators.leave_one_out, KEY, Categorical, f, logits, 8)
    assert not found.biased
    assert np.all(np.abs(found.mean - exact) < 4 * found.error)


def test_a_function_of_a_squashed_sample_has_the_gradient_of_its_integral():
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights = weights / np.sum(weights)
    mean, std = 0.4, 0.8
    action = np.tanh(mean + std * nodes)
    slope = 2.0 * action * (1.0 - action**2)  # of f(tanh(u)) = tanh(u)^2 in u
    exact = {"mean": jnp.array([weights @ slope]), "log_std": jnp.array([weights @ (slope * std * nodes)])}
    params = {"mean": jnp.array([mean]), "log_std": jnp.log(jnp.array([std]))}
    named = {name: CONTINUOUS[name] for name in ("leave one out", "antithetic pathwise")}
    for found in measure_each(named, lambda p: TanhGaussian(**p), lambda x: x[0] ** 2, params, 8, exact=exact).values():
        assert not found.biased
        np.testing.assert_allclose(found.mean["mean"], exact["mean"], atol=4 * found.error["mean"][0])
        np.testing.assert_allclose(found.mean["log_std"], exact["log_std"], atol=4 * found.error["log_std"][0])


def test_the_equations_with_a_loop_over_samples():
    raw = np.asarray(Categorical(jnp.broadcast_to(LOGITS, (6, 4))).sample(KEY))
    p = np.asarray(jax.nn.softmax(LOGITS), np.float64)
    scores = np.eye(4)[raw] - p
    values = np.array([5.0 + np.sum((np.eye(4)[i] - np.asarray(TARGET, np.float64)) ** 4) for i in raw])
    sizes = np.sum(scores**2, axis=1)
    plain = based = left_out = optimal = np.zeros(4)
    for i in range(6):
        others = np.arange(6) != i
        plain = plain + values[i] * scores[i] / 6
        based = based + (values[i] - 2.0) * scores[i] / 6
        left_out = left_out + (values[i] - np.mean(values[others])) * scores[i] / 6
        best = np.sum(values[others] * sizes[others]) / np.sum(sizes[others])
        optimal = optimal + (values[i] - best) * scores[i] / 6
    for estimator, expected in (
        (estimators.score_function, plain),
        (partial(estimators.score_function, baseline=2.0), based),
        (estimators.leave_one_out, left_out),
        (estimators.optimal_baseline, optimal),
    ):
        np.testing.assert_allclose(estimator(KEY, Categorical, quartic, LOGITS, 6), expected, rtol=1e-4, atol=1e-5)


# Variances


def test_variances_are_ordered_as_in_theory(discrete, continuous):
    for measured in (discrete, continuous):
        assert measured["leave one out"].variance_interval[1] < measured["score"].variance_interval[0]
        assert measured["optimal"].variance_interval[1] < measured["score"].variance_interval[0]
    assert continuous["pathwise"].variance_interval[1] < continuous["leave one out"].variance_interval[0]
    # The slope of a square is odd about the mean: pairs cancel its noise. Its product with eps is even: they double it.
    one, pairs = continuous["pathwise"].error, continuous["antithetic pathwise"].error
    assert np.all(pairs["mean"] < 1e-3 * one["mean"])
    assert np.all(pairs["log_std"] > one["log_std"])


def test_the_variance_with_a_baseline_is_that_of_its_closed_form_and_least_for_the_optimal_one(discrete):
    p = np.asarray(jax.nn.softmax(LOGITS), np.float64)
    values = np.array([quartic(row) for row in np.eye(4, dtype=np.float32)], np.float64)
    sizes = np.sum((np.eye(4) - p) ** 2, axis=1)  # of the scores
    best = p @ (values * sizes) / (p @ sizes)

    def variance(baseline):
        return (p @ ((values - baseline) ** 2 * sizes) - np.sum(np.square(discrete["score"].exact))) / 8

    for name, baseline in (("score", 0.0), ("baseline", 5.0), ("optimal", best)):
        # An estimated baseline adds a little to the variance.
        assert discrete[name].variance == pytest.approx(variance(baseline), rel=0.4 if name == "optimal" else 0.1)
    found = partial(estimators.score_function, baseline=best)
    found = estimators.measure(found, KEY, Categorical, quartic, LOGITS, 8)
    low, high = found.variance_interval
    assert low < variance(best) < high
    assert found.variance < min(discrete[name].variance for name in DISCRETE if name != "antithetic")


def test_antithetic_pairs_are_exact_for_a_linear_function():
    slope = jnp.array([1.5, -2.0])
    args = (gaussian, lambda x: 7.0 + slope @ x, NORMAL)
    found = estimators.pathwise(KEY, *args, 2, antithetic=True)
    np.testing.assert_allclose(found["mean"], slope, rtol=1e-5)
    np.testing.assert_allclose(found["log_std"], 0.0, atol=1e-5)
    alone = estimators.pathwise(KEY, *args, 2)
    assert np.all(np.abs(alone["log_std"]) > 1e-2)


def test_antithetic_pairs_of_an_even_function_have_score_function_gradients_of_0():
    params = {"mean": jnp.zeros(2), "log_std": jnp.zeros(2)}
    found = estimators.score_function(KEY, gaussian, lambda x: jnp.sum(x**2), params, 4, antithetic=True)
    np.testing.assert_allclose(found["mean"], 0.0, atol=1e-5)


def test_both_samples_of_a_pair_have_the_distribution_and_are_anticorrelated():
    logits = jnp.array([-jnp.inf, 0.5, -jnp.inf, 0.0, 1.0, -jnp.inf])
    one, other = terms.draw(KEY, Categorical(jnp.broadcast_to(logits, (2, 20_000, 6))), 2)
    for raw in (one, other):
        frequency = np.bincount(raw, minlength=6) / raw.size
        np.testing.assert_allclose(frequency, jax.nn.softmax(logits), atol=0.015)
        assert np.all(frequency[[0, 2, 5]] == 0.0)
    assert np.corrcoef(one, other)[0, 1] < -0.5


def test_the_variance_and_its_interval_are_those_of_the_normal_distribution():
    # (2 x) / 8 samples of the slope of x^2 at a standard normal x: 4 / 8.
    params = {"mean": jnp.zeros(1)}
    found = estimators.measure(
        estimators.pathwise,
        KEY,
        lambda p: Gaussian(p["mean"], jnp.zeros(1)),
        lambda x: x[0] ** 2,
        params,
        8,
        exact={"mean": jnp.zeros(1)},
        num_estimates=4000,
    )
    low, high = found.variance_interval
    assert low < 0.5 < high
    # The variance of a sample variance is 2 / n of its square.
    assert high - low == pytest.approx(2 * 1.96 * 0.5 * np.sqrt(2 / 4000), rel=0.15)
    assert found.error["mean"][0] == pytest.approx(np.sqrt(0.5 / 4000), rel=0.05)


# Relaxed samples


def test_the_bias_of_gumbel_softmax_shrinks_with_the_temperature_while_its_variance_grows():
    named = {t: partial(estimators.gumbel_softmax, temperature=t) for t in (4.0, 1.0, 0.3, 0.1)}
    found = list(measure_each(named, Categorical, quartic, LOGITS, 32, num_estimates=4000).values())
    bounds = [np.sort(np.abs(one.bias_interval)) for one in found]
    assert all(hot[0] > cold[1] for hot, cold in itertools.pairwise(bounds))
    variances = [one.variance_interval for one in found]
    assert all(hot[1] < cold[0] for hot, cold in itertools.pairwise(variances))
    assert found[0].biased
    assert abs(found[-1].bias) < 0.1 * np.linalg.norm(found[-1].exact)


def test_straight_through_has_the_bias_of_its_closed_form_and_none_for_a_linear_function():
    p = np.asarray(jax.nn.softmax(LOGITS), np.float64)
    slopes = 4.0 * (np.eye(4) - np.asarray(TARGET)) ** 3  # [choice, derivative]
    expected = (np.diag(p) - np.outer(p, p)) @ (p @ slopes)
    found = estimators.measure(estimators.straight_through, KEY, Categorical, quartic, LOGITS, 8)
    assert np.all(np.abs(found.mean - expected) < 4 * found.error)
    assert found.biased
    assert found.bias == pytest.approx(np.linalg.norm(expected - found.exact), rel=0.1)
    linear = estimators.measure(estimators.straight_through, KEY, Categorical, lambda x: TARGET @ x, LOGITS, 8)
    assert not linear.biased
    np.testing.assert_allclose(linear.mean, linear.exact, rtol=1e-4, atol=1e-6)


def test_straight_through_gumbel_softmax_evaluates_corners_only():
    def f(x):
        corner = (jnp.max(x) == 1.0) & (jnp.sum(x) == 1.0)
        return jnp.where(corner, 1.0, jnp.nan) * (TARGET @ x)

    kept = estimators.gumbel_softmax(KEY, Categorical, f, LOGITS, 16, straight_through=True)
    relaxed = estimators.gumbel_softmax(KEY, Categorical, f, LOGITS, 16)
    assert np.all(np.isfinite(kept))
    assert not np.any(np.isfinite(relaxed))


# Uses


def test_estimators_can_be_compiled_and_mapped_over_keys_parameters_and_settings():
    keys, temperatures = jax.random.split(KEY, 3), jnp.array([0.5, 1.0, 2.0])
    many = jnp.stack([LOGITS, 2.0 * LOGITS, -LOGITS])

    @jax.jit
    def mapped(keys, params, temperatures):
        def one(key, params, temperature):
            return estimators.gumbel_softmax(key, Categorical, quartic, params, 4, temperature=temperature)

        return jax.vmap(one)(keys, params, temperatures)

    found = mapped(keys, many, temperatures)
    alone = estimators.gumbel_softmax(keys[1], Categorical, quartic, many[1], 4, temperature=1.0)
    np.testing.assert_allclose(found[1], alone, rtol=1e-4, atol=1e-5)


def test_estimates_that_are_not_finite_are_counted_and_left_out():
    def sometimes(key, distribution_of, f, params, num_samples):
        return params + jnp.where(jax.random.uniform(key) < 0.25, jnp.nan, 0.0)

    found = estimators.measure(sometimes, KEY, Categorical, quartic, LOGITS, 1, exact=LOGITS)
    assert found.nonfinite == pytest.approx(0.25, abs=0.05)
    np.testing.assert_allclose(found.mean, LOGITS, rtol=1e-5)
    assert not found.biased
    assert found.variance < 1e-10


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: estimators.pathwise(KEY, Categorical, square, LOGITS, 8), "for the distributions Gaussian or Tanh"),
        (lambda: estimators.gumbel_softmax(KEY, gaussian, square, NORMAL, 8), "Categorical, not for Gaussian"),
        (lambda: estimators.straight_through(KEY, gaussian, square, NORMAL, 8), "Categorical, not for Gaussian"),
        (lambda: estimators.score_function(KEY, Deterministic, square, LOGITS, 8), "not for Deterministic"),
        (lambda: estimators.score_function(KEY, Categorical, square, jnp.arange(3), 8), "pytree of floats, got int32"),
        (
            lambda: estimators.score_function(KEY, lambda m: Gaussian(m, jnp.zeros(())), square, jnp.zeros(2), 8),
            r"one shape \[\.\.\., n\], got \[\] and \[2\]",
        ),
        (lambda: estimators.leave_one_out(KEY, Categorical, square, LOGITS, 1), r"num_samples must lie in \[2, inf\)"),
        (
            lambda: estimators.score_function(KEY, Categorical, square, LOGITS, 3, antithetic=True),
            "needs an even num_samples, got 3",
        ),
        (
            lambda: estimators.gumbel_softmax(KEY, Categorical, square, LOGITS, 3, temperature=0.0),
            r"temperature must lie in \(0, inf\)",
        ),
        (lambda: estimators.score_function(KEY, Categorical, lambda x: x, LOGITS, 3), r"scalar, got the shape \[4\]"),
        (lambda: estimators.measure(estimators.pathwise, KEY, gaussian, square, NORMAL, 8), "give the exact gradient"),
        (
            lambda: estimators.measure(estimators.pathwise, KEY, gaussian, square, NORMAL, 8, exact=jnp.zeros(2)),
            "exact gradient must be like params",
        ),
        (
            lambda: estimators.enumerate_gradient(Categorical, square, jnp.zeros((30, 3))),
            r"at most 1,048,576 events, got 3 \^ 30",
        ),
    ],
)
def test_bad_input(call, words):
    with pytest.raises(InputError, match=words):
        call()
