"""Distributions against SciPy, quadrature and their own samples."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from helpers import AS_FOR_USERS

from purerl.math.distributions import Categorical, Gaussian, TanhGaussian

KEY = jax.random.key(0)
MEAN, LOG_STD = np.float32([0.3, -0.5]), np.float32([-0.5, -0.8])
OTHER_MEAN, OTHER_LOG_STD = np.float32([0.1, 0.2]), np.float32([-0.3, -0.9])
LOGITS, OTHER_LOGITS = np.float32([1.0, -2.0, 0.5, 3.0]), np.float32([0.0, 1.0, -1.0, 2.0])
STD, OTHER_STD = np.exp(np.float64(LOG_STD)), np.exp(np.float64(OTHER_LOG_STD))

ALL = {
    "categorical": (Categorical(LOGITS), Categorical(OTHER_LOGITS)),
    "gaussian": (Gaussian(MEAN, LOG_STD), Gaussian(OTHER_MEAN, OTHER_LOG_STD)),
    "tanh_gaussian": (TanhGaussian(MEAN, LOG_STD), TanhGaussian(OTHER_MEAN, OTHER_LOG_STD)),
}
each = pytest.mark.parametrize("name", ALL)


@partial(jax.jit, compiler_options=AS_FOR_USERS)
def draw(distribution, keys):
    """Raw samples, their log-probabilities and actions."""
    raw, log_prob = jax.vmap(distribution.sample_and_log_prob)(keys)
    return raw, log_prob, jax.vmap(distribution.action)(raw)


def squashed_density(action):
    """The density of tanh(u), u normal, from first principles in float64; `action [..., 2]`."""
    normal = scipy.stats.norm.pdf(np.arctanh(action), np.float64(MEAN), STD)
    return np.prod(normal / (1.0 - action**2), axis=-1)


def grid(num):
    """Midpoints of a square grid on (-1, 1)^2, and the area of a cell."""
    side = (np.arange(num) + 0.5) / num * 2.0 - 1.0
    return np.stack(np.meshgrid(side, side, indexing="ij"), axis=-1), (2.0 / num) ** 2


def test_categorical_log_prob_entropy_and_kl_agree_with_scipy():
    p, q = scipy.special.softmax(np.float64(LOGITS)), scipy.special.softmax(np.float64(OTHER_LOGITS))
    distribution, other = ALL["categorical"]
    actual = [distribution.log_prob(jnp.int32(i)) for i in range(4)]
    np.testing.assert_allclose(actual, np.log(p), rtol=1e-5)
    np.testing.assert_allclose(distribution.entropy(KEY), scipy.stats.entropy(p), rtol=1e-5)
    np.testing.assert_allclose(distribution.kl(other), scipy.stats.entropy(p, q), rtol=1e-5)
    assert distribution.mode() == 3


def test_gaussian_log_prob_entropy_and_kl_agree_with_scipy_and_quadrature():
    distribution, other = ALL["gaussian"]
    raw = np.float32([0.7, -2.0])
    np.testing.assert_allclose(distribution.log_prob(raw), scipy.stats.norm.logpdf(raw, MEAN, STD).sum(), rtol=1e-5)
    np.testing.assert_allclose(distribution.entropy(KEY), scipy.stats.norm.entropy(MEAN, STD).sum(), rtol=1e-5)
    x = np.linspace(-12, 12, 20001)[:, None]
    p, q = scipy.stats.norm(np.float64(MEAN), STD), scipy.stats.norm(np.float64(OTHER_MEAN), OTHER_STD)
    kl = np.trapezoid(p.pdf(x) * (p.logpdf(x) - q.logpdf(x)), x, axis=0).sum()
    np.testing.assert_allclose(distribution.kl(other), kl, rtol=1e-5)


def test_tanh_gaussian_log_prob_is_the_density_of_the_action():
    raw = np.random.default_rng(0).uniform(-3, 3, (50, 2)).astype(np.float32)
    actual = jax.jit(jax.vmap(ALL["tanh_gaussian"][0].log_prob))(raw)
    np.testing.assert_allclose(actual, np.log(squashed_density(np.tanh(np.float64(raw)))), rtol=1e-4, atol=1e-4)


def test_tanh_gaussian_density_integrates_to_one_over_actions():
    actions, area = grid(300)
    raw = np.arctanh(actions).astype(np.float32).reshape(-1, 2)
    log_prob = jax.jit(jax.vmap(ALL["tanh_gaussian"][0].log_prob))(raw)
    np.testing.assert_allclose(np.sum(np.exp(np.float64(log_prob))) * area, 1.0, atol=1e-3)


@pytest.mark.parametrize("u", [10.0, -10.0, 50.0, -50.0])
def test_tanh_gaussian_stays_finite_where_tanh_is_one(u):
    log_prob = lambda u, mean: TanhGaussian(mean, jnp.zeros(1)).log_prob(u[None])  # noqa: E731
    mean = jnp.full(1, 0.5 * u)
    value, (by_u, by_mean) = jax.value_and_grad(log_prob, (0, 1))(jnp.float32(u), mean)
    # log(1 - tanh(u)^2) = log 4 - 2 |u| to within e^-20.
    np.testing.assert_allclose(value, scipy.stats.norm.logpdf(0.5 * u) - (np.log(4.0) - 2.0 * abs(u)), rtol=1e-5)
    np.testing.assert_allclose(by_u, -0.5 * u + 2.0 * np.sign(u), rtol=1e-5)
    np.testing.assert_allclose(by_mean, [0.5 * u], rtol=1e-5)


def test_tanh_gaussian_entropy_is_unbiased_and_so_is_its_gradient():
    actions, area = grid(400)
    density = squashed_density(actions)
    exact = -np.sum(scipy.special.xlogy(density, density)) * area
    keys = jax.random.split(KEY, 20000)
    entropy = lambda mean, key: TanhGaussian(mean, LOG_STD).entropy(key)  # noqa: E731
    estimates, slopes = jax.jit(jax.vmap(jax.value_and_grad(entropy), (None, 0)))(MEAN, keys)
    np.testing.assert_allclose(np.mean(estimates), exact, atol=0.03)
    # By the mean, only the log-determinant changes, and its derivative is -2 tanh(u).
    u = np.random.default_rng(0).normal(MEAN, STD, (200_000, 2))
    np.testing.assert_allclose(np.mean(slopes, axis=0), np.mean(-2.0 * np.tanh(u), axis=0), atol=0.03)


@each
def test_log_prob_belongs_to_the_sample_and_actions_to_the_raw(name):
    distribution, _ = ALL[name]
    raw, log_prob, action = draw(distribution, jax.random.split(KEY, 10))
    sample = jax.jit(jax.vmap(distribution.sample), compiler_options=AS_FOR_USERS)
    np.testing.assert_array_equal(raw, sample(jax.random.split(KEY, 10)))
    np.testing.assert_allclose(log_prob, jax.jit(jax.vmap(distribution.log_prob))(raw), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(action, np.tanh(raw) if name == "tanh_gaussian" else raw, rtol=1e-6)


def test_samples_have_the_right_moments():
    num = 40_000
    keys = jax.random.split(KEY, num)
    index, _, _ = draw(ALL["categorical"][0], keys)
    frequency = np.bincount(index, minlength=4) / num
    np.testing.assert_allclose(frequency, scipy.special.softmax(LOGITS), atol=0.01)
    for name in ("gaussian", "tanh_gaussian"):
        raw, _, _ = draw(ALL[name][0], keys)
        np.testing.assert_allclose(np.mean(raw, axis=0), MEAN, atol=0.02)
        np.testing.assert_allclose(np.std(raw, axis=0), STD, atol=0.02)
        assert abs(np.corrcoef(raw, rowvar=False)[0, 1]) < 0.03


@each
def test_kl_and_entropy_agree_with_monte_carlo(name):
    distribution, other = ALL[name]
    raw, log_prob, _ = draw(distribution, jax.random.split(KEY, 40_000))
    other_log_prob = jax.jit(jax.vmap(other.log_prob))(raw)
    np.testing.assert_allclose(distribution.kl(other), np.mean(log_prob - other_log_prob), atol=0.03)
    entropy = np.mean(jax.jit(jax.vmap(distribution.entropy))(jax.random.split(jax.random.key(1), 40_000)))
    np.testing.assert_allclose(entropy, -np.mean(log_prob), atol=0.03)


@each
def test_kl_is_directed_and_zero_for_itself(name):
    distribution, other = ALL[name]
    assert distribution.kl(distribution) == 0.0
    assert abs(distribution.kl(other) - other.kl(distribution)) > 1e-3


def test_small_gaussian_kl_keeps_its_digits():
    step = np.float32(1e-4)
    kl = Gaussian(np.zeros(1, np.float32), np.full(1, step)).kl(
        Gaussian(np.zeros(1, np.float32), np.zeros(1, np.float32))
    )
    exact = 0.5 * np.expm1(2.0 * np.float64(step)) - np.float64(step)
    np.testing.assert_allclose(kl, exact, rtol=0.05)  # computed with exp(...) - 1 it is off by a factor


def test_reparametrised_samples_carry_gradients():
    def total(mean, log_std):
        return jnp.sum(Gaussian(mean, log_std).sample(KEY))

    value, (by_mean, by_log_std) = jax.value_and_grad(total, (0, 1))(jnp.asarray(MEAN), jnp.asarray(LOG_STD))
    np.testing.assert_allclose(by_mean, 1.0)
    np.testing.assert_allclose(jnp.sum(by_log_std), value - np.sum(MEAN), rtol=1e-5)


def test_choices_of_probability_zero():
    masked = Categorical(jnp.float32([0.0, -jnp.inf, 1.0]))
    p = scipy.special.softmax([0.0, 1.0])
    np.testing.assert_allclose(masked.entropy(KEY), scipy.stats.entropy(p), rtol=1e-5)
    assert masked.kl(masked) == 0.0
    assert Categorical(jnp.zeros(3)).kl(masked) == jnp.inf
    assert not np.any(np.asarray(draw(masked, jax.random.split(KEY, 500))[0]) == 1)

    def loss(logits):
        distribution = Categorical(jnp.where(jnp.array([True, False, True]), logits, -jnp.inf))
        return distribution.entropy(KEY) + distribution.kl(masked) + distribution.log_prob(jnp.int32(2))

    slope = jax.grad(loss)(jnp.float32([0.3, 0.0, -0.3]))
    assert np.all(np.isfinite(slope))
    assert slope[1] == 0.0


@each
def test_leading_axes_are_like_vmap(name):
    distribution, other = jax.tree.map(lambda x: jnp.stack([x, 2.0 * x, x - 1.0]), ALL[name])
    raw = distribution.sample(KEY)
    for method, args in (("log_prob", (raw,)), ("kl", (other,)), ("mode", ()), ("action", (raw,))):
        one = jax.vmap(lambda d, *a, method=method: getattr(d, method)(*a))(distribution, *args)
        np.testing.assert_allclose(getattr(distribution, method)(*args), one, rtol=1e-6, atol=1e-6)
    assert distribution.entropy(KEY).shape == (3,)


@each
def test_results_are_strongly_typed(name):
    distribution, other = jax.tree.map(jnp.asarray, ALL[name])
    raw, log_prob = distribution.sample_and_log_prob(KEY)
    floats = (log_prob, distribution.entropy(KEY), distribution.kl(other))
    raws = (raw, distribution.mode(), distribution.action(raw))
    raw_dtype = jnp.int32 if name == "categorical" else jnp.float32
    assert all(x.dtype == jnp.float32 and x.shape == () and not x.weak_type for x in floats)
    assert all(x.dtype == raw_dtype and not x.weak_type for x in raws)
