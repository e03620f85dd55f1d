"""Brax behind the contract: our time limits, its failures as terminations, its physics as leaves."""

import brax.envs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environment_contract import check_trajectory, check_types, play

import purerl
from purerl import InputError, struct
from purerl.environments import RandomizeParameters, environment_names, make

KEY = jax.random.key(0)
NAMES = [name for name in environment_names() if name.startswith("brax/")]
BACKENDS = ("generalized", "spring", "positional", "mjx")


def gravity_scaled(env, scale):
    """In Brax's own terms and in MuJoCo's, which the "mjx" backend reads."""
    sys = env.sys
    return env.with_sys(sys.tree_replace({"gravity": sys.gravity * scale, "opt.gravity": sys.opt.gravity * scale}))


@pytest.mark.parametrize("name", NAMES)
def test_types(name):
    check_types(make(name))


@pytest.mark.parametrize("backend", BACKENDS)
def test_types_of_every_backend(backend):
    check_types(make("brax/inverted_pendulum", backend=backend))


def check_episodes(name, **options):
    env = make(name, episode_length=3, **options)
    compiled = play._cache_size()
    timesteps = jax.device_get(play(env, KEY, 2, 4))
    check_trajectory(timesteps)
    np.testing.assert_array_equal(timesteps.truncated, (timesteps.state.num_steps >= 3) & ~timesteps.terminated)
    assert timesteps.truncated.any() or timesteps.terminated.any()
    # The limit and the physics are leaves: other values are the same program.
    other = make(name, episode_length=100, **options)
    if name != "brax/fast":
        other = struct.replace(other, env=gravity_scaled(other.env, 0.5))
    others = jax.device_get(play(other, KEY, 2, 4))
    assert not others.truncated.any()
    assert play._cache_size() == compiled + 1


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("brax/fast", {}),
        ("brax/inverted_pendulum", {"backend": "spring"}),
        ("brax/inverted_pendulum", {"backend": "mjx"}),
        ("brax/reacher", {"backend": "generalized"}),
    ],
)
def test_episodes(name, options):
    check_episodes(name, **options)


@pytest.mark.slow
@pytest.mark.parametrize("backend", BACKENDS)
def test_ant_on_every_backend(backend):
    check_episodes("brax/ant", backend=backend)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("brax/fast", "brax/ant")])
def test_episodes_of_all(name):
    check_episodes(name)


@pytest.mark.filterwarnings("ignore:Brax System")
@jax.numpy_rank_promotion("allow")
def test_same_as_brax():
    """The pendulum falls: Brax notes that as "time_out" in `info`, but it is a failure."""
    theirs = brax.envs.get_environment("inverted_pendulum", backend="spring")
    ours = make("brax/inverted_pendulum", backend="spring").env
    state, timestep = theirs.reset(KEY), ours.reset(KEY)
    their_step, our_step = jax.jit(theirs.step), jax.jit(lambda env, state, action: env.step(KEY, state, action))
    action = jnp.ones(1)
    for _ in range(100):
        state, timestep = their_step(state, action), our_step(ours, timestep.state, action)
        np.testing.assert_allclose(timestep.obs, state.obs, rtol=1e-4, atol=1e-4)
        assert (bool(timestep.terminated), bool(timestep.truncated)) == (bool(state.done), False)
        if timestep.done:
            break
    assert timestep.done


def test_physics_are_leaves():
    """Gravity decides how fast a leaning pendulum falls; without it nothing moves."""
    env = make("brax/inverted_pendulum", backend="spring").env
    start = env.reset(KEY)

    def fall(scale):
        return gravity_scaled(env, scale).step(KEY, start.state, jnp.zeros(1)).obs

    speeds = np.asarray(jax.jit(jax.vmap(fall))(jnp.array([0.0, 1.0, 3.0])))[:, 3]
    assert len(set(speeds.tolist())) == 3
    np.testing.assert_allclose(speeds[2] - speeds[0], 3.0 * (speeds[1] - speeds[0]), rtol=0.05)


def test_every_floating_point_array_is_a_leaf():
    env = make("brax/reacher").env
    floats = [leaf for leaf in jax.tree.leaves(env.sys) if jnp.issubdtype(leaf.dtype, jnp.floating) and leaf.size]
    assert len(jax.tree.leaves(env)) == len(floats) > 100
    np.testing.assert_array_equal(env.params["link"]["inertia"]["mass"], env.sys.link.inertia.mass)
    heavier = env.with_sys(env.sys.tree_replace({"link.inertia.mass": 2.0 * env.sys.link.inertia.mass}))
    np.testing.assert_array_equal(heavier.sys.link.inertia.mass, 2.0 * env.sys.link.inertia.mass)
    assert jax.tree.structure(heavier) == jax.tree.structure(make("brax/reacher").env)


def test_random_physics_store_only_what_they_change():
    def sample(key, env):
        mass = env.sys.link.inertia.mass
        scale = jax.random.uniform(key, mass.shape, minval=0.5, maxval=2.0)
        return env.with_sys(env.sys.tree_replace({"link.inertia.mass": mass * scale}))

    env = RandomizeParameters(make("brax/inverted_pendulum", backend="spring").env, sample)
    check_types(env)
    drawn = jax.jit(lambda env, key: env.reset(key).state.drawn)(env, KEY)
    (mass,) = drawn.values()
    assert list(drawn) == ["params.link.inertia.mass"]
    # The same when the environment is a constant of the program.
    assert jax.eval_shape(lambda key: env.reset(key).state.drawn, KEY).keys() == drawn.keys()
    assert np.all(mass != env.env.sys.link.inertia.mass)


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["generalized", "spring", "positional"])
def test_gradient_with_respect_to_physics(backend):
    env = make("brax/inverted_pendulum", backend=backend).env
    start = env.reset(KEY)

    def speed(scale):
        stronger = env.with_sys(env.sys.tree_replace({"actuator.gear": scale * env.sys.actuator.gear}))

        def step(state, _):
            timestep = stronger.step(KEY, state, jnp.array([0.5]))
            return timestep.state, timestep.obs[2]

        return jax.lax.scan(step, start.state, length=2)[1][-1]

    forward, backward = jax.jit(jax.jacfwd(speed))(1.0), jax.jit(jax.grad(speed))(1.0)
    # The motor pushes the cart to the right.
    assert backward > 0.0
    np.testing.assert_allclose(backward, forward, rtol=1e-3)


class Drift(brax.envs.Env):
    """A point that moves by the action; no physics engine behind it, and writes into the state it is given."""

    def __init__(self, speed: float = 1.0, **kwargs):
        self.speed = speed

    def reset(self, rng):
        return brax.envs.State(None, jnp.zeros(2), 0.0, 0.0, {"way": 0.0}, {"rng": rng})

    def step(self, state, action):
        state.metrics["way"] = state.metrics["way"] + 1.0
        obs = state.obs + self.speed * action
        return state.replace(obs=obs, reward=obs.sum(), done=jnp.where(obs.sum() > 3.0, 1.0, 0.0))

    @property
    def observation_size(self):
        return 2

    @property
    def action_size(self):
        return 2

    @property
    def backend(self):
        return "none"


@pytest.fixture
def registered_drift():
    brax.envs.register_environment("drift_test", Drift)
    yield
    brax.envs._envs.pop("drift_test")


def test_a_users_environment(registered_drift):
    env = purerl.make("brax/drift_test", speed=2, episode_length=5)
    check_types(env)
    start = env.reset(KEY)
    timestep = env.step(KEY, start.state, jnp.ones(2))
    assert (float(timestep.reward), bool(timestep.terminated)) == (4.0, True)
    # Nothing was written into the state that went in.
    assert float(start.state.env.metrics["way"]) == 0.0
    assert "brax/drift_test" in environment_names()
    with pytest.raises(InputError, match="brax/drift_test has no physics parameters"):
        _ = env.env.sys


def test_registering_anew_is_noticed(registered_drift):
    before = make("brax/drift_test")

    class Other(Drift):
        pass

    brax.envs.register_environment("drift_test", Other)
    assert jax.tree.structure(make("brax/drift_test")) != jax.tree.structure(before)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("brax/ant", {"backend": "foo"}, "backend of brax/ant must be one of generalized, spring, .*, got 'foo'"),
        ("brax/ant", {"backand": "mjx"}, "unknown option of brax/ant 'backand': did you mean 'backend'"),
        ("brax/ant", {"reset_noise_scale": "big"}, "reset_noise_scale of brax/ant must be a number, got 'big'"),
        ("brax/ant", {"use_contact_forces": 1}, "use_contact_forces of brax/ant must be true or false, got 1"),
        ("brax/ant", {"healthy_z_range": [1.0]}, "healthy_z_range of brax/ant must have 2 entries"),
        ("brax/ant", {"n_frames": 0}, r"n_frames of brax/ant must lie in \[1, inf\), got 0"),
        ("brax/swimmer", {"backend": "mjx"}, "cannot make brax/swimmer with backend='mjx': Unsupported backend"),
        ("brax/fast", {"backend": "spring"}, "unknown option of brax/fast 'backend'"),
        ("brax/fast", {"obs_mode": "dict_state"}, "only arrays are supported as observations, got dict"),
        ("brax/fast", {"obs_mode": "smell"}, "obs_mode of brax/fast must be one of ndarray, dict_state"),
        ("brax/fast", {"asymmetric_obs": True}, "asymmetric_obs requires dictionary observations"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(InputError, match=message) as error:
        make(name, **options)
    assert "\n" not in str(error.value)


def test_parameters_are_tied_to_no_device():
    """What is computed from committed arrays is committed, and the next call of a compiled function would differ."""
    env = make("brax/inverted_pendulum", backend="spring").env
    assert not any(leaf.committed for leaf in jax.tree.leaves(env))
    # Parameters that stay are the very same arrays; `RandomizeParameters` tells by that what was drawn.
    same = zip(jax.tree.leaves(env), jax.tree.leaves(env.with_sys(env.sys)), strict=True)
    assert all(before is after for before, after in same)


def test_a_system_of_another_robot_is_refused():
    with pytest.raises(InputError, match="brax/reacher has arrays of other shapes"):
        make("brax/reacher").env.with_sys(make("brax/inverted_pendulum").env.sys)


def test_physics_keep_their_precision_on_gpus():
    env = make("brax/reacher", backend="generalized")
    state = jax.eval_shape(env.reset, KEY).state
    program = str(jax.make_jaxpr(env.step)(KEY, state, jnp.zeros(2)))
    assert program.count("dot_general") > 0
    assert program.count("HIGHEST") >= program.count("dot_general")
