"""Physics parameters from recordings: the right values, honest intervals, and what cannot be known said aloud."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import purerl
from purerl import struct
from purerl.environments import smooth
from purerl.errors import InputError
from purerl.physics.identification import Recording, fit_params, random_actions, record, simulate
from purerl.physics.identification.parameters import find_parameters
from purerl.spaces import Box
from purerl.types import Environment, Policy, TimeStep

TRUTH = {"mass": 1.0, "length": 0.5, "damping": 0.05}
WRONG = {"mass": 2.0, "length": 1.0, "damping": 0.1}
ENV = smooth.Pendulum(**TRUTH)
NOISE = np.array([0.02, 0.02, 0.1])


@struct.dataclass
class Gain:
    """Observes ``gain * rates[0, 0] * action``; the other rates do nothing, and there is no state to speak of."""

    gain: float | jax.Array
    rates: np.ndarray

    @property
    def observation_space(self) -> Box:
        return Box((1,))

    @property
    def action_space(self) -> Box:
        return Box((1,), -1.0, 1.0)

    def reset(self, key: jax.Array) -> TimeStep:
        return TimeStep(jnp.int32(0), jnp.zeros(1), jnp.float32(0.0), jnp.bool_(False), jnp.bool_(False))

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array) -> TimeStep:
        obs = self.gain * self.rates[0, 0] * action
        return TimeStep(state + 1, obs, jnp.float32(0.0), jnp.bool_(False), jnp.bool_(False))


GAIN = Gain(1.0, np.ones((2, 2), np.float32))


@pytest.fixture(scope="module")
def clean() -> Recording:
    return record(ENV, random_actions(ENV, hold=5), jax.random.key(1), num_trajectories=4, length=60)


def measured(data: Recording, seed: int) -> Recording:
    """With a noisy sensor, and nobody who knows the states."""
    noise = NOISE * np.random.default_rng(seed).normal(size=data.observations.shape)
    return struct.replace(data, observations=data.observations + jnp.asarray(noise, jnp.float32), states=None)


def test_parameters_of_a_pendulum_from_clean_data_and_a_wrong_start(clean: Recording):
    gaps = []
    fit = fit_params(
        ENV, WRONG, struct.replace(clean, states=None), callback=lambda estimate, misfit, gap: gaps.append(gap)
    )
    assert fit.converged
    assert fit.estimate == pytest.approx(TRUTH, rel=1e-4)
    assert float(fit.env.length) == pytest.approx(0.5, rel=1e-4)  # pyright: ignore[reportAttributeAccessIssue]
    # The segments did not fit together in the beginning, and do in the end.
    assert gaps[0] > 0.1
    assert gaps[-1] < 1e-4
    # Angles are known up to whole turns.
    np.testing.assert_allclose(np.cos(fit.states[:, 0]), np.cos(clean.states[:, 0, 0]), atol=1e-4)
    np.testing.assert_allclose(fit.states[:, 1], clean.states[:, 0, 1], atol=1e-3)


def test_intervals_hold_what_they_promise(clean: Recording):
    fits = [fit_params(ENV, WRONG, measured(clean, seed)) for seed in range(20)]
    assert all(fit.converged for fit in fits)
    for name, truth in TRUTH.items():
        covered = sum(low <= truth <= high for low, high in (fit.interval[name] for fit in fits))
        assert covered >= 16, (name, covered)
        spread = np.std([fit.estimate[name] for fit in fits], ddof=1)
        promised = np.mean([fit.standard_error[name] for fit in fits])
        assert 0.6 < spread / promised < 1.5, name
    np.testing.assert_allclose(np.mean([fit.noise for fit in fits], axis=0), NOISE, rtol=0.05)


def test_the_solution_is_that_of_fitting_whole_trajectories(clean: Recording):
    """At the optimum the segments are one trajectory: its own dense least squares has gradient 0 and our covariance."""
    data = measured(clean, 0)
    fit = fit_params(ENV, WRONG, data, noise=NOISE)
    values = jnp.asarray(list(fit.estimate.values()), jnp.float32)

    def residual(unknowns: jax.Array) -> jax.Array:
        env = struct.replace(ENV, **dict(zip(WRONG, unknowns[:3], strict=True)))
        predicted = simulate(env, unknowns[3:].reshape(4, 2), data.actions)
        return jnp.ravel((predicted - data.observations[:, 1:]) / NOISE.astype(np.float32)[None, None])

    unknowns = jnp.concatenate([values, jnp.ravel(fit.states)])
    jacobian, rest = np.asarray(jax.jacfwd(residual)(unknowns), np.float64), np.asarray(residual(unknowns), np.float64)
    variance = np.sum(rest**2) / (rest.size - unknowns.size)
    covariance = variance * np.linalg.inv(jacobian.T @ jacobian)
    np.testing.assert_allclose(fit.covariance, covariance[:3, :3], rtol=0.01)
    # The step that is still to go, in standard errors.
    step = np.linalg.solve(jacobian.T @ jacobian, jacobian.T @ rest)
    assert np.max(np.abs(step) / np.sqrt(np.diag(covariance))) < 0.05


def test_a_segment_that_is_not_full_and_known_states_give_the_same_parameters(clean: Recording):
    data = measured(clean, 0)
    once, again = fit_params(ENV, WRONG, data), fit_params(ENV, list(WRONG), data, segment_length=7)
    # From the true start only, on through all of the trajectory.
    known = fit_params(ENV, TRUTH, struct.replace(data, states=clean.states), free_states=False, segment_length=60)
    for name, value in once.estimate.items():
        assert abs(again.estimate[name] - value) < 0.05 * once.standard_error[name]
        assert abs(known.estimate[name] - TRUTH[name]) < 3 * known.standard_error[name]
        # What need not be estimated leaves more information for the rest.
        assert known.standard_error[name] < once.standard_error[name]


def test_a_straight_line_has_the_textbook_interval():
    random = np.random.default_rng(0)
    actions = random.normal(size=(2, 10, 1))
    observations = np.concatenate([np.zeros((2, 1, 1)), -3.0 * actions + random.normal(size=actions.shape)], axis=1)
    data = Recording(jnp.asarray(actions, jnp.float32), jnp.asarray(observations, jnp.float32))
    x, y = actions.ravel(), observations[:, 1:].ravel()
    slope = x @ y / (x @ x)
    error = np.sqrt(np.sum((y - slope * x) ** 2) / 19 / (x @ x))
    half = scipy.stats.t(19).ppf(0.975) * error
    symmetric = slope - half, slope + half
    # Of a gain that keeps its sign the logarithm is fitted, of which the error is relative.
    in_logarithm = slope * np.exp(half / -slope), slope * np.exp(half / slope)
    for signed, start, interval in (((), -1.0, in_logarithm), (("gain",), 1.0, symmetric), ((), 0.0, symmetric)):
        fit = fit_params(GAIN, {"gain": start}, data, signed=signed)
        assert fit.estimate["gain"] == pytest.approx(slope, rel=1e-4)
        assert fit.standard_error["gain"] == pytest.approx(error, rel=1e-3)
        assert fit.interval["gain"] == pytest.approx(interval, rel=1e-3)
    row = ["gain", f"{slope:.5g}", f"{error:.2g}", f"{slope - half:.5g}", "to", f"{slope + half:.5g}"]
    assert str(fit).splitlines()[1].split() == row


def test_what_the_data_leave_open_is_named_and_stays_where_it_was(clean: Recording):
    # Without torque only damping / mass has an effect.
    still = jnp.zeros_like(clean.actions)
    observations = simulate(ENV, clean.states[:, 0], still)
    data = struct.replace(clean, actions=still, observations=clean.observations.at[:, 1:].set(observations))
    with pytest.warns(UserWarning, match=r"no prediction changes with mass by .1 % and damping by .1 %"):
        fit = fit_params(ENV, WRONG, measured(data, 0))
    low, high = fit.interval["length"]
    assert low < 0.5 < high
    assert fit.estimate["damping"] / fit.estimate["mass"] == pytest.approx(0.05, rel=0.05)
    assert fit.estimate["damping"] * fit.estimate["mass"] == pytest.approx(0.2, rel=0.01)
    assert fit.standard_error["mass"] == fit.standard_error["damping"] == np.inf
    assert fit.undetermined[0] in str(fit)


def test_parameters_with_no_effect_are_named():
    actions = np.random.default_rng(0).normal(size=(1, 10, 1))
    data = Recording(jnp.asarray(actions), jnp.pad(jnp.asarray(actions), [(0, 0), (1, 0), (0, 0)]))
    with pytest.warns(UserWarning, match=r"the data say nothing about rates\[1,0\]"):
        fit = fit_params(GAIN, ["gain", "rates[1,0]"], data)
    assert fit.estimate["rates[1,0]"] == 1.0


def test_a_function_may_build_the_environment_and_wrappers_do_not_hide_parameters(clean: Recording):
    data = measured(clean, 0)
    direct = fit_params(ENV, WRONG, data)
    wrapped = fit_params(purerl.make("smooth/pendulum"), WRONG, data)
    assert wrapped.estimate == pytest.approx(direct.estimate, rel=1e-3)

    def build(values: dict[str, jax.Array]) -> Environment:
        inertia, length = values["inertia"], values["length"]
        return struct.replace(ENV, mass=inertia / length**2, length=length, damping=values["damping"])

    built = fit_params(build, {"inertia": 0.5, "length": 1.0, "damping": 0.1}, data)
    mass, length = direct.estimate["mass"], direct.estimate["length"]
    assert built.estimate["inertia"] == pytest.approx(mass * length**2, rel=1e-3)


def test_gymnax_pendulum_whose_state_has_entries_that_do_not_matter():
    env = purerl.make("Pendulum-v1", m=1.5, l=0.8)
    data = record(env, random_actions(env, hold=5), jax.random.key(0), num_trajectories=3, length=60)
    noisy = data.observations + 0.01 * jax.random.normal(jax.random.key(1), data.observations.shape)
    fit = fit_params(purerl.make("Pendulum-v1"), ["m", "params.l"], Recording(data.actions, noisy))
    assert fit.converged
    for name, truth in (("m", 1.5), ("params.l", 0.8)):
        low, high = fit.interval[name]
        assert low < truth < high
        assert fit.estimate[name] == pytest.approx(truth, rel=0.01)


@struct.dataclass
class Burst:
    """``x' = x + scale a`` from a random start, no number in half of all cases; beyond 2.5 it breaks down."""

    scale: float | jax.Array = 1.0
    observation_space = Box((1,))
    action_space = Box((1,), -1.0, 1.0)

    def reset(self, key: jax.Array) -> TimeStep:
        x = jax.random.uniform(key, minval=-1.0, maxval=1.0)
        return self._timestep(jnp.where(x > 0.0, x, jnp.nan))

    def step(self, key: jax.Array, state: jax.Array, action: jax.Array) -> TimeStep:
        x = state + self.scale * action[0]
        return self._timestep(jnp.where(x > 2.5, jnp.nan, x))

    def _timestep(self, x: jax.Array) -> TimeStep:
        return TimeStep(x, x[None], jnp.float32(0.0), jnp.bool_(False), jnp.bool_(False))


def test_starts_are_found_though_draws_and_simulations_break_down():
    """With the wrong start value the second segment breaks down where the first one ends. Begun elsewhere both fit the
    data well, and only the gap between them speaks against that value."""
    actions, observations = [0.5, 0.0, 0.0, 0.5, 0.0, 0.0], [0.9, 1.4, 1.4, 1.4, 1.9, 1.9, 1.9]
    data = Recording(*(jnp.tile(jnp.float32(numbers)[:, None], (2, 1, 1)) for numbers in (actions, observations)))
    fit = fit_params(Burst(), {"scale": 3.0}, data, segment_length=3)
    assert fit.converged
    assert fit.estimate["scale"] == pytest.approx(1.0, rel=1e-3)
    np.testing.assert_allclose(fit.states, 0.9, rtol=1e-3)


def test_recordings_are_what_happened(clean: Recording):
    assert clean.actions.shape == (4, 60, 1)
    assert clean.observations.shape == (4, 61, 3)
    np.testing.assert_allclose(simulate(ENV, clean.states[:, 0], clean.actions), clean.observations[:, 1:], atol=1e-5)
    np.testing.assert_allclose(jnp.cos(clean.states[..., 0]), clean.observations[..., 0], atol=1e-6)
    held = np.asarray(clean.actions).reshape(4, 12, 5)
    assert np.all(held == held[:, :, :1])
    assert len(np.unique(held)) == 48


def test_episodes_that_end_early_are_not_recorded():
    env = purerl.make("CartPole-v1")
    policy = Policy(jax.tree_util.Partial(lambda key, carry, obs: (jnp.int32(1), carry, {})))
    with pytest.raises(InputError, match=r"episode of trajectory 0 ended after \d+ of 30 steps"):
        record(env, policy, jax.random.key(0), num_trajectories=2, length=30)


def test_parameters_that_nothing_reads_cannot_be_fitted():
    with pytest.raises(InputError, match=r"params.link_length_2 of .* changes nothing"):
        find_parameters(purerl.make("Acrobot-v1"), ["link_length_2"], [])


BAD = [
    (["lenght"], {}, {}, "unknown parameter 'lenght': did you mean 'length'"),
    (["mass", "mass"], {}, {}, "parameter mass is named twice"),
    (["mass[0]"], {}, {}, r"the index of mass\[0\] is out of range: that array has shape \(\)"),
    (["mass["], {}, {}, "a parameter is a path with an optional index"),
    ([], {}, {}, "name at least one parameter"),
    ({"mass": np.nan}, {}, {}, "the start value of mass must lie in"),
    (["mass"], {"segment_length": 0}, {}, "segment_length must lie in"),
    (["mass"], {"signed": ["length"]}, {}, "unknown signed parameter 'length'"),
    (["mass"], {"free_states": False}, {"states": None}, "free_states=False needs a recording with states"),
    (["mass"], {"noise": [1.0, 2.0]}, {}, "noise must be one number or one for each of 3 entries"),
    (["mass"], {"noise": -1.0}, {}, "noise must lie in"),
    (["mass"], {}, {"actions": np.zeros((4, 60, 2))}, r"actions must have shape \[num_trajectories, T, 1\]"),
    (["mass"], {}, {"observations": np.zeros((4, 60, 3))}, r"observations must have shape \(4, 61, 3\)"),
    (["mass"], {}, {"observations": np.full((4, 61, 3), np.nan)}, "observations must be finite"),
    (["mass"], {}, {"states": {"angle": np.zeros((4, 61))}}, "the states of the recording are not those"),
]


@pytest.mark.parametrize(("names", "options", "change", "message"), BAD, ids=[case[-1][:40] for case in BAD])
def test_bad_input_is_named_before_anything_compiles(clean: Recording, names, options, change, message):
    with pytest.raises(InputError, match=message):
        fit_params(ENV, names, struct.replace(clean, **change), **options)


def test_names_that_could_be_several_parameters():
    @struct.dataclass
    class Two(Gain):
        left: Gain
        right: Gain

    data = Recording(jnp.ones((1, 2, 1)), jnp.ones((1, 3, 1)))
    with pytest.raises(InputError, match=r"'rates' may be left.rates or right.rates"):
        fit_params(Two(1.0, np.ones((1, 1), np.int32), GAIN, GAIN), ["rates"], data)
    with pytest.raises(InputError, match="2 observed numbers cannot determine 4 unknowns"):
        fit_params(GAIN, ["rates"], struct.replace(data, observations=jnp.arange(3.0).reshape(1, 3, 1)))
    with pytest.raises(InputError, match="needs start values"):
        fit_params(lambda values: GAIN, ["gain"], data)
    with pytest.raises(InputError, match="the simulation is not finite with"):
        fit_params(GAIN, {"gain": 1e38}, Recording(jnp.full((1, 9, 1), 10.0), jnp.arange(10.0).reshape(1, 10, 1)))


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "name"), [("generalized", "link.inertia.mass[1]"), ("mjx", "body_mass[2]")])
def test_mass_of_a_pole_in_brax(backend: str, name: str):
    env = purerl.environments.brax.unlimited("brax/inverted_pendulum", backend=backend)
    # Gently: the episode ends when the pole leans.
    policy = Policy(jax.tree_util.Partial(lambda key, carry, obs: (0.02 * jax.random.normal(key, (1,)), carry, {})))
    data = record(env, policy, jax.random.key(0), num_trajectories=4, length=10)
    noisy = data.observations + 0.0005 * jax.random.normal(jax.random.key(1), data.observations.shape)
    truth = 5.0185914
    fit = fit_params(env, {name: 2 * truth}, struct.replace(data, observations=noisy), free_states=False)
    low, high = fit.interval[name]
    assert fit.converged
    assert low < truth < high
    assert fit.estimate[name] == pytest.approx(truth, rel=0.1)
    print(fit)
