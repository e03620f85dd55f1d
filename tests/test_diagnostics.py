"""Diagnosing gradients: jumps, stiffness, NaN and explosions of known size are found, and nothing else is."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from purerl import estimators, struct
from purerl.environments import GradientGate
from purerl.environments.smooth import BouncingMass, LinearQuadratic
from purerl.errors import InputError
from purerl.math.distributions import Gaussian
from purerl.physics.diagnostics import Trajectory, check_actions, compare_gradients, diagnose, jacobian_growth
from purerl.spaces import Box, Discrete
from purerl.types import Policy, TimeStep

KEY = jax.random.key(0)
IDLE = Policy(jax.tree_util.Partial(lambda key, carry, obs: (jnp.zeros(1), carry, {})))


@partial(jax.jit, static_argnames=("function", "num_samples", "confidence"))
def compare(function, theta, key=KEY, sigma=0.5, num_samples=512, confidence=0.95):
    """`compare_gradients`, compiled; for each of several keys if there are."""

    def one(key):
        return compare_gradients(function, theta, key, sigma=sigma, num_samples=num_samples, confidence=confidence)

    theta = jnp.asarray(theta, jnp.float32)
    return jax.vmap(one)(key) if key.ndim else one(key)


def step(x):
    return jnp.sum(jnp.where(x > 0, 1.0, 0.0))


def wavy(x):
    return jnp.sum(jnp.sin(3.0 * x)) + jnp.prod(x)


# One function


@pytest.mark.parametrize("theta", [0.0, 0.4, -0.7])
def test_a_step_has_no_first_order_gradient_and_the_density_as_zeroth_order_one(theta):
    found = compare(step, np.array([theta]), num_samples=4096)
    density = norm.pdf(theta, scale=0.5)
    assert found.first_order[0] == 0.0
    assert found.first_order_variance == 0.0
    assert abs(found.zeroth_order[0] - density) < 4 * found.zeroth_order_error[0] < density
    assert found.biased
    low, high = np.sort(np.abs(found.bias_interval))
    assert 0.5 * density < low < high < 1.5 * density


def test_both_estimates_agree_with_the_smoothed_gradient():
    # E sin(3 x + 3 sigma eps) = exp(-4.5 sigma^2) sin(3 x); the product of independent entries smooths to itself.
    theta, sigma = np.array([0.3, -0.2, 0.9]), 0.4
    truth = 3.0 * np.exp(-4.5 * sigma**2) * np.cos(3.0 * theta) + np.prod(theta) / theta
    found = compare(wavy, theta, sigma=sigma, num_samples=4096)
    for estimate, error in (
        (found.first_order, found.first_order_error),
        (found.zeroth_order, found.zeroth_order_error),
    ):
        assert np.all(np.abs(estimate - truth) < 4 * error)
        assert np.all(error < 0.1)
    assert not found.biased
    assert found.cosine > 0.99


def test_both_estimates_are_the_estimators_at_antithetic_pairs():
    theta, sigma = jnp.array([0.3, -0.2, 0.9]), 0.4

    def smoothed(theta):
        return Gaussian(theta, jnp.full(3, jnp.log(sigma)))

    found = compare(wavy, theta, sigma=sigma, num_samples=64)
    for estimate, estimator in (
        (found.first_order, estimators.pathwise),
        (found.zeroth_order, estimators.score_function),
    ):
        np.testing.assert_allclose(estimate, estimator(KEY, smoothed, wavy, theta, 128, antithetic=True), rtol=1e-4)


def test_standard_errors_are_the_spread_over_keys():
    found = compare(wavy, np.zeros(2), jax.random.split(KEY, 500), sigma=0.4, num_samples=64)
    for name in ("first_order", "zeroth_order"):
        promised = np.mean(getattr(found, f"{name}_error"), axis=0)
        np.testing.assert_allclose(promised, np.std(getattr(found, name), axis=0), rtol=0.15)


@pytest.mark.parametrize("confidence", [0.95, 0.8])
def test_smooth_functions_are_called_biased_as_rarely_as_promised(confidence):
    keys = jax.random.split(KEY, 1000)
    found = compare(wavy, np.array([0.3, -0.2, 0.9]), keys, sigma=0.4, num_samples=64, confidence=confidence)
    # Half of it would mean that the interval is too wide and hides what it should show.
    assert 0.5 * (1 - confidence) < np.mean(found.biased) < 1.4 * (1 - confidence)


SCALE = jnp.array([1e3, 1.0, 1e-3])


@pytest.mark.parametrize(
    "function", [lambda x: 1e4 + SCALE @ x, lambda x: 1e4 - jnp.sum(jnp.square(SCALE * (x - 1.0)))]
)
def test_rounding_is_not_a_bias(function):
    found = compare(function, np.ones(3), jax.random.split(KEY, 50), sigma=0.1, num_samples=256)
    assert not np.any(found.biased)
    assert np.all(np.abs(found.bias) < 0.1 * np.linalg.norm(SCALE))


def test_roughness_is_1_for_slopes_the_root_of_the_degree_for_powers_and_0_for_steps():
    # At 0, Hermite polynomials in x / sigma are what the Gaussian Poincare inequality is tight for by degree.
    for function, roughness in (
        (lambda x: jnp.sum(x), 1.0),
        (lambda x: jnp.sum(x**2), 2.0**0.5),
        (lambda x: jnp.sum(x**3 - 3.0 * 0.25 * x), 3.0**0.5),
        (step, 0.0),
    ):
        found = compare(function, np.zeros(1), num_samples=4096)
        assert found.roughness == pytest.approx(roughness, rel=0.05)


def test_a_bias_of_a_tenth_is_found_in_many_dimensions():
    def jumps(x):
        return 10.0 * jnp.sum(x) + jnp.where(x[0] > 0, 1.0, 0.0)

    found = compare(jumps, np.zeros(10), num_samples=1024)
    assert found.biased
    assert found.bias < norm.pdf(0.0, scale=0.5) + 0.1


@pytest.mark.parametrize("bad", [jnp.nan, 1e25])
def test_samples_whose_squares_are_not_finite_are_counted_and_left_out(bad):
    def partly(x):
        return jnp.sum(jnp.where(x > 0, jnp.sqrt(jnp.abs(x)) + x, bad))

    found = compare(partly, np.array([0.5]), sigma=0.5, num_samples=2048)
    assert found.nonfinite == pytest.approx(norm.cdf(-1.0), abs=0.02)
    assert np.all(np.isfinite([found.first_order[0], found.zeroth_order[0], found.bias, *found.bias_interval]))
    nothing = compare(partly, np.array([-9.0]), sigma=0.5, num_samples=2048)
    assert nothing.nonfinite == 1.0
    assert not nothing.biased


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"theta": jnp.zeros((2, 2))}, r"theta must be a vector of floats, got float32\[2, 2\]"),
        ({"theta": jnp.zeros(2, int)}, "vector of floats, got int32"),
        ({"sigma": 0.0}, r"sigma must lie in \(0, inf\)"),
        ({"num_samples": 7}, r"num_samples must lie in \[8, inf\)"),
        ({"confidence": 1.0}, r"confidence must lie in \(0, 1\)"),
    ],
)
def test_bad_input_to_a_comparison(changes, words):
    good = {"theta": jnp.zeros(2), "sigma": 0.1, "num_samples": 8, **changes}
    with pytest.raises(InputError, match=words):
        compare_gradients(wavy, good.pop("theta"), KEY, **good)


# Growth


def straight(env, length, key=KEY):
    """A trajectory that stays at 0, where a linear system may explode without leaving the range of float32."""
    num_states, num_actions = env.B.shape
    zeros = jnp.zeros((length, num_states))
    return Trajectory(zeros, jnp.zeros((length, num_actions)), jnp.ones(length, bool), key)


ROTATION = 1.02 * np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])


@pytest.mark.parametrize("A", [[[0.9, 2.0], [0.0, 1.05]], [[0.9, -3.0], [0.0, 0.7]], ROTATION])
def test_growth_of_a_linear_system_is_the_logarithm_of_its_spectral_radius(A):
    A = np.asarray(A)
    env = LinearQuadratic(A=A)
    horizons = jnp.array([1, 3, 1024])
    found = jax.jit(jacobian_growth)(env, straight(env, 1024), KEY, horizons)
    assert found[2] == pytest.approx(np.log(np.max(np.abs(np.linalg.eigvals(A)))), abs=1e-2)
    for rate, horizon in zip(found, horizons, strict=True):
        assert rate <= np.log(np.linalg.norm(np.linalg.matrix_power(A, int(horizon)), 2)) / horizon + 1e-5


@struct.dataclass
class Stored:
    """`env`, whose state also holds numbers that never change and numbers derived from the others."""

    env: LinearQuadratic

    @property
    def observation_space(self):
        return self.env.observation_space

    @property
    def action_space(self):
        return self.env.action_space

    def step(self, key, state, action):
        onward = self.env.step(key, state["x"], action)
        return struct.replace(onward, state={"x": onward.state, "idle": state["idle"], "derived": 10.0 * onward.state})


def test_growth_does_not_depend_on_how_a_state_is_stored():
    env, horizons = LinearQuadratic(A=0.5 * np.eye(2)), jnp.array([1, 8])
    plain = straight(env, 8)
    states = {"x": plain.states, "idle": jnp.ones((8, 50)), "derived": 10.0 * plain.states}
    for trajectory, where in ((plain, env), (struct.replace(plain, states=states), Stored(env))):
        found = jax.jit(jacobian_growth)(where, trajectory, KEY, horizons)
        np.testing.assert_allclose(found, np.log(0.5), rtol=1e-4)


def test_a_gate_on_gradients_counts_in_the_growth():
    env = LinearQuadratic(A=1.5 * np.eye(2))
    gated = GradientGate(env, jnp.zeros(3), max_norm=0.01)
    horizons = jnp.array([8])
    assert jacobian_growth(env, straight(env, 8), KEY, horizons)[0] == pytest.approx(np.log(1.5), abs=1e-4)
    assert jacobian_growth(gated, straight(env, 8), KEY, horizons)[0] < np.log(0.1)


def test_steps_after_the_end_do_not_count_in_the_growth():
    env = LinearQuadratic(A=2.0 * np.eye(2))
    trajectory = struct.replace(straight(env, 8), running=jnp.arange(8) < 3)
    found = jacobian_growth(env, trajectory, KEY, jnp.array([2, 3, 8]))
    np.testing.assert_allclose(found, np.log(2.0), rtol=1e-4)


# Environments


@struct.dataclass
class Toy:
    """The reward is 0 twice and then the root of what the actions add up to, from 20 up or, at some starts, from -20.

    The state also has an integer, a flag and a key. The third step ends the episode if `short`, and detached actions
    are seen but not differentiated.
    """

    positive: bool = False
    short: bool = False
    detached: bool = False

    @property
    def observation_space(self):
        return Box((1,))

    @property
    def action_space(self) -> Box | Discrete:
        return Box((1,), -1.0, 1.0)

    def reset(self, key):
        sign = jnp.where(jax.random.bernoulli(key) | self.positive, 1.0, -1.0)
        return timestep((20.0 * sign, jnp.int32(0), jnp.bool_(True), key), jnp.float32(0.0), jnp.bool_(False))

    def step(self, key, state, action):
        total, count, flag, carried = state
        total, count = total + jnp.where(self.detached, jax.lax.stop_gradient(action), action)[0], count + 1
        late = count >= 3
        reward = jnp.where(late, jnp.sqrt(jnp.where(late, total, 1.0)), 0.0)
        # Once over, any further step is NaN.
        total = total * jnp.where(self.short & (count > 3), jnp.nan, 1.0)
        return timestep((total, count, flag, carried), reward, self.short & late)


def timestep(state, reward, terminated):
    return TimeStep(state, jnp.zeros(1), reward, terminated, jnp.bool_(False))


@struct.dataclass
class From:
    """`env` from one start state."""

    env: BouncingMass
    state: jax.Array

    @property
    def observation_space(self):
        return self.env.observation_space

    @property
    def action_space(self):
        return self.env.action_space

    def reset(self, key):
        return struct.replace(self.env.reset(key), state=self.state, obs=self.state)

    def step(self, key, state, action):
        return self.env.step(key, state, action)


def test_a_smooth_environment_is_trusted_and_its_gradients_are_those_of_a_plain_loop():
    env, horizons = LinearQuadratic(), (1, 2, 5)
    found = diagnose(env, KEY, horizons=horizons, num_samples=64, num_starts=2, policy=IDLE)

    @partial(jax.jit, static_argnames="horizon")
    @jax.grad
    def slow(offset, state, horizon):
        total = 0.0
        for _ in range(horizon):
            timestep = env.step(KEY, state, env.max_action * offset)
            state, total = timestep.state, total + timestep.reward
        return total

    # The starts as the diagnosis draws them; the smoothed gradient of a quadratic function is its gradient.
    for i, key in enumerate(jax.random.split(KEY, 2)):
        start = env.reset(jax.random.split(jax.random.split(key, 3)[0], 3)[0]).state
        for j, horizon in enumerate(horizons):
            truth = slow(jnp.zeros(1), start, horizon)
            np.testing.assert_allclose(found.comparison.first_order[i, j], truth, rtol=1e-3, atol=1e-3)
    assert found.steps.tolist() == [[1, 2, 5]] * 2
    assert found.num_biased.tolist() == found.nonfinite.tolist() == [0, 0, 0]
    np.testing.assert_allclose(found.gradient_norm[1:], found.zeroth_order_norm[1:], rtol=0.3)
    assert np.all(found.cosine[1:] > 0.9)
    assert found.obstacles == ["", "", ""]
    assert found.recommended_horizon == 5


def test_a_bounce_is_found_at_the_horizons_that_it_happens_in():
    # Dropped from so high it touches the ground in the middle of the tenth step, whatever the perturbation.
    high = 0.5 * 9.81 * (9.5 * 0.05) ** 2
    horizons = (1, 6, 8, 9, 11, 14)
    bounces = np.array([False, False, False, False, True, True])
    # With ground so hard that no sample ever meets its slope, the gradient knows nothing of the jumps.
    hard = From(BouncingMass(stiffness=1e9), jnp.array([high, 0.0]))
    soft = From(BouncingMass(stiffness=5.0), jnp.array([high, 0.0]))
    options = {"horizons": horizons, "num_samples": 512, "sigma": 0.02, "num_starts": 1, "policy": IDLE}
    found = diagnose(hard, KEY, **options)
    assert found.comparison.biased[0].tolist() == bounces.tolist()
    assert found.recommended_horizon == 9
    assert "biased at 1 of 1 starts" in found.obstacles[4]
    bias, interval = found.bias
    assert np.all((interval[:, 0] <= bias) & (bias <= interval[:, 1]))
    assert np.all((interval[bounces, 0] > 0) | (interval[bounces, 1] < 0))
    # Ground that gives way over decimetres does not jump.
    assert not np.any(diagnose(soft, KEY, **options).comparison.biased)


def test_stiffness_shows_as_noise():
    high = 0.5 * 9.81 * (9.5 * 0.05) ** 2
    env = From(BouncingMass(stiffness=3e4), jnp.array([high, 0.0]))
    found = diagnose(env, KEY, horizons=(1, 6, 8, 9, 11, 14), num_samples=512, sigma=0.02, num_starts=1, policy=IDLE)
    assert found.recommended_horizon == 9
    assert found.roughness[3] < 3 < 30 < found.roughness[4]
    assert "mostly noise" in found.obstacles[4]


def diagnose_toy(**flags):
    toy = Toy(**{name: jnp.bool_(flags.get(name, False)) for name in ("positive", "short", "detached")})
    return diagnose(toy, KEY, horizons=(1, 2, 3, 8), num_samples=8, num_starts=6)


def test_nan_is_counted_at_the_starts_and_horizons_that_have_it():
    found = diagnose_toy()
    affected = found.comparison.nonfinite.any(axis=1)
    assert 0 < affected.sum() < 6
    np.testing.assert_array_equal(found.comparison.nonfinite, np.outer(affected, [0, 0, 1, 1]))
    np.testing.assert_allclose(found.nonfinite, affected.mean() * np.array([0, 0, 1, 1]))
    assert found.recommended_horizon == 2
    assert "not finite" in found.obstacles[2]
    # The other starts still have something to say.
    for summary in (found.gradient_norm, found.deviation, found.zeroth_order_deviation, found.cosine[2:]):
        assert np.all(np.isfinite(summary))


def test_nothing_counts_after_the_end_of_an_episode():
    found = diagnose_toy(positive=True, short=True)
    assert found.steps.tolist() == [[1, 2, 3, 3]] * 6
    assert found.nonfinite.tolist() == [0, 0, 0, 0]
    assert np.all(found.comparison.first_order[:, 2] > 0.1)
    np.testing.assert_array_equal(found.comparison.first_order[:, 2], found.comparison.first_order[:, 3])
    np.testing.assert_array_equal(found.growth[:, 2], found.growth[:, 3])


def test_a_detached_environment_is_called_that():
    found = diagnose_toy(positive=True, detached=True)
    assert found.is_detached
    assert found.recommended_horizon is None
    assert "exactly 0" in found.obstacles[0]
    attached = diagnose_toy(positive=True)
    assert not attached.is_detached
    # Gradients that are 0 because nothing has happened yet are no obstacle.
    assert attached.gradient_norm.tolist()[:2] == [0, 0]
    assert attached.recommended_horizon == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"horizons": (4, 0)}, r"horizon must lie in \[1, inf\), got 0"),
        ({"horizons": (2.5,)}, "horizon must be a whole number"),
        ({"horizons": ()}, "at least one horizon"),
        ({"num_starts": 0}, r"num_starts must lie in \[1, inf\)"),
        ({"num_samples": 4}, r"num_samples must lie in \[8, inf\)"),
        ({"sigma": -1.0}, r"sigma must lie in \(0, inf\), got -1.0"),
        ({"confidence": 2.0}, r"confidence must lie in \(0, 1\)"),
    ],
)
def test_bad_input_to_a_diagnosis(changes, words):
    with pytest.raises(InputError, match=words):
        diagnose(Toy(), KEY, **changes)


def test_actions_must_be_continuous():
    @struct.dataclass
    class Choice(Toy):
        @property
        def action_space(self):
            return Discrete(3)

    with pytest.raises(InputError, match=r"continuous actions, got Discrete\(3\)"):
        diagnose(Choice(), KEY)
    assert check_actions(Toy()) == Box((1,), -1.0, 1.0)
