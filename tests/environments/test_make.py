"""One function finds every environment, and says what it did not understand."""

import importlib
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Counter, endless

import purerl
from purerl import InputError
from purerl.environments import (
    ActionRepeat,
    FrameStack,
    TimeLimit,
    describe,
    environment_names,
    environment_options,
    make,
)
from purerl.environments.options import COMMON
from purerl.environments.overview import OVERVIEW
from purerl.environments.suites import SUITES, Suite
from purerl.spaces import Box, Discrete

KEY = jax.random.key(0)


def run_python(code, cwd):
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(purerl.__file__)), "NPROC": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


def test_simulators_load_when_needed(tmp_path):
    code = (
        "import sys, purerl.environments as e\n"
        "assert not {'gymnax', 'brax', 'mujoco'} & set(sys.modules)\n"
        "e.make('CartPole-v1')\n"
        "assert not {'brax', 'mujoco'} & set(sys.modules)\n"
    )
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_brax_loads_quietly(tmp_path):
    """No remarks about packages that nobody asked for, and no log file; halfcheetah's model has a deprecated tag."""
    done = run_python(
        "import sys, purerl; purerl.make('brax/halfcheetah')\nassert 'gymnax' not in sys.modules", tmp_path
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_an_object_passes_through():
    env = Counter()
    assert make(env) is env
    limited = make(env, episode_length=2)
    assert isinstance(limited, TimeLimit)
    assert limited.env is env
    repeated = make(env, episode_length=6, action_repeat=2)
    assert isinstance(repeated, ActionRepeat)
    assert repeated.repeats == 2


def test_limits_count_inner_steps():
    env = make(endless(limit=1000), episode_length=4, action_repeat=2)
    first = env.step(KEY, env.reset(KEY).state, 0)
    second = env.step(KEY, first.state, 0)
    assert (bool(first.truncated), bool(second.truncated), float(second.reward)) == (False, True, 2.0)
    env = make("Pendulum-v1", episode_length=4, action_repeat=2)
    first = env.step(KEY, env.reset(KEY).state, jnp.zeros(1))
    second = env.step(KEY, first.state, jnp.zeros(1))
    assert (int(first.state.time), bool(first.truncated), bool(second.truncated)) == (2, False, True)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CartPole-v1", {"gravity": 9.8, "episode_length": 500, "action_repeat": 1, "keep": (), "frame_stack": 1}),
        ("pixels/CartPole-v1", {"gravity": 9.8, "episode_length": 500, "frame_stack": 2}),
        ("DeepSea-bsuite", {"size": 8, "randomize_actions": True, "episode_length": 8}),
        ("DiscountingChain-bsuite", {"reward_timestep": (1, 3, 10, 30, 100), "n_actions": 5}),
        ("BernoulliBandit-misc", {"episode_length": 100}),
        ("brax/ant", {"backend": "generalized", "healthy_z_range": (0.2, 1.0), "episode_length": 1000}),
        ("brax/fast", {"asymmetric_obs": False, "obs_mode": "ndarray", "action_repeat": 1}),
    ],
)
def test_options(name, expected):
    options = environment_options(name)
    assert {key: options[key] for key in expected} == expected
    assert "max_steps_in_episode" not in options


@pytest.mark.parametrize(
    "name", ["CartPole-v1", "DeepSea-bsuite", "DiscountingChain-bsuite", "brax/fast", "pixels/CartPole-v1"]
)
def test_every_default_is_accepted(name):
    options = environment_options(name)
    assert all(np.isscalar(v) or isinstance(v, tuple | None) for v in options.values())
    make(name, **options)


def test_the_agent_sees_what_is_asked_for():
    env = make("CartPole-v1", keep=(2, 0), frame_stack=3, action_repeat=2)
    assert isinstance(env, FrameStack)
    assert env.observation_space.shape == (6,)
    first = env.reset(KEY)
    timestep = env.step(KEY, first.state, jnp.int32(0))
    inner = timestep.state.env
    np.testing.assert_array_equal(timestep.obs[-2:], [inner.theta, inner.x])
    # Two steps of the simulator make one frame.
    assert int(inner.time) == 2
    np.testing.assert_array_equal(timestep.obs[:4], jnp.tile(first.obs[:2], 2))
    assert make(Counter(), keep=[0], frame_stack=2).observation_space.shape == (2,)


def test_descriptions():
    assert describe("CartPole-v1")[1:] == (Discrete(2), 500)
    assert describe("FrozenLake-misc") == (Discrete(16), Discrete(4), 100)
    assert describe("pixels/CartPole-v1")[1:] == (Discrete(2), 500)
    assert describe("pixels/CartPole-v1")[0].shape[-1] == 2
    assert describe("brax/fast") == (Box((2,)), Box((1,), -1.0, 1.0), 1000)


@pytest.mark.parametrize("suite", SUITES)
def test_the_overview_says_what_simulators_say(suite, request):
    module = importlib.import_module(f"purerl.environments.{suite}")
    module.make(module.names()[0])  # from here on names are those of the simulator
    names = [name for name in OVERVIEW if name.startswith(module.PREFIX) and (module.PREFIX or "/" not in name)]
    if suite in ("smooth", "grid"):  # these need no simulator
        assert not names
        return
    registered = [name for name in module.names() if "/" not in name.removeprefix(module.PREFIX)]
    assert set(names) <= set(registered)
    assert len(names) >= 1
    if suite == "brax" and not request.config.getoption("--slow"):  # the large robots take seconds each
        names = ["brax/fast", "brax/reacher", "brax/inverted_pendulum"]
    for name in names:
        observations, actions, limit = describe(name)
        assert OVERVIEW[name] == (str(observations), str(actions), limit)


def test_the_overview_is_complete(tmp_path):
    code = """
import gymnax, brax.envs
from purerl.environments import environment_names
from purerl.environments.overview import OVERVIEW
assert [name for name in environment_names() if not name.startswith(("smooth/", "grid/"))] == list(OVERVIEW)
"""
    done = run_python(code, tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("suite", SUITES)
def test_suites_have_one_protocol(suite):
    module = importlib.import_module(f"purerl.environments.{suite}")
    for member in (name for name in {**vars(Suite), **Suite.__annotations__} if not name.startswith("_")):
        assert hasattr(module, member), f"{suite} lacks {member}"
    for name in module.names()[:2]:
        assert name.startswith(module.PREFIX)
        assert module.is_known(name)
        assert not module.is_known(name + "x")
        assert module.frame_stack(name) >= 1
        assert module.time_limit(name) == environment_options(name)["episode_length"]
        assert set(module.options(name)) == set(environment_options(name)) - set(COMMON)
        env = module.make(name, episode_length=3)
        assert env.observation_space.shape == module.make(name).observation_space.shape


def test_names():
    names = environment_names()
    assert {"CartPole-v1", "Breakout-MinAtar", "brax/ant", "brax/fast", "pixels/CartPole-v1"} <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ("CartPole-v2", {}, "unknown environment 'CartPole-v2': did you mean 'CartPole-v1'"),
        ("ant", {}, "unknown environment 'ant': did you mean 'brax/ant'"),
        ("brax/aunt", {}, "unknown environment 'brax/aunt': did you mean 'brax/ant'"),
        ("", {}, "unknown environment ''"),
        ("CartPole-v1", {"action_repeat": 0}, r"action_repeat must lie in \[1, inf\), got 0"),
        ("CartPole-v1", {"action_repeat": 1.5}, "action_repeat must be a whole number, got 1.5"),
        ("CartPole-v1", {"episode_length": -1}, r"episode_length must lie in \[1, inf\), got -1"),
        ("CartPole-v1", {"episode_length": 2**31}, "episode_length must be at most 2147483647, got 2147483648"),
        ("smooth/pendulum", {"episode_length": 3_000_000_000}, "episode_length must be at most 2147483647"),
        ("CartPole-v1", {"max_steps_in_episode": 3_000_000_000}, "max_steps_in_episode of CartPole-v1 must be at most"),
        ("CartPole-v1", {"max_steps_in_episode": -5}, r"max_steps_in_episode of CartPole-v1 must lie in \[1, inf\)"),
        ("CartPole-v1", {"gravity": 1e40}, r"gravity of CartPole-v1 must be at most 3.4028235e\+38, got 1e\+40"),
        ("smooth/pendulum", {"gravity": 1e40}, "gravity of smooth/pendulum must be at most"),
        ("DeepSea-bsuite", {"size": 2**31}, "size of DeepSea-bsuite must be at most 2147483647"),
        ("brax/fast", {"episode_length": 0}, r"episode_length must lie in \[1, inf\), got 0"),
        ("CartPole-v1", {"keep": (4,)}, "keep must be different indices from 0 to 3, got"),
        ("FrozenLake-misc", {"keep": (0,)}, "keep is for observations that are a vector, not Discrete"),
        ("CartPole-v1", {"keep": 0}, "keep must be different indices"),
        ("CartPole-v1", {"frame_stack": 0}, r"frame_stack must lie in \[1, inf\), got 0"),
        ("CartPole-v1", {"frame_stack": True}, "frame_stack must be a whole number, got True"),
        ("FrozenLake-misc", {"frame_stack": 2}, "only observations that are arrays can be stacked, not Discrete"),
        ("CartPole-v1", {"frame_stak": 2}, "unknown option of CartPole-v1 'frame_stak': did you mean 'frame_stack'"),
        ("pixels/Pendulum-v1", {}, "unknown environment 'pixels/Pendulum-v1': did you mean"),
        (Counter(), {"gravity": 1.0}, "unknown option of an environment object 'gravity'"),
        (3, {}, "expected an environment's name or a purerl Environment, got int"),
    ],
)
def test_bad_input(given, options, message):
    with pytest.raises(InputError, match=message) as error:
        make(given, **options)
    assert "\n" not in str(error.value)


def test_simulator_objects_are_not_environments():
    import gymnax

    with pytest.raises(InputError, match=r"got CartPole .*register them there"):
        make(gymnax.make("CartPole-v1")[0])


def test_differentiable_environments_are_set_up_or_refused():
    assert make("smooth/lqr", differentiable=True, episode_length=7).length == 7
    env = make("Pendulum-v1", differentiable=True)
    slope = jax.grad(lambda action: env.step(KEY, env.reset(KEY).state, action).reward)(jnp.float32([0.5]))
    assert slope[0] != 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("CartPole-v1", "CartPole-v1 passes no gradient from action to reward; of gymnax, these do: Pendulum-v1, "),
        ("brax/fast", "step function of the action.*WithReward"),
        ("brax/inverted_pendulum", "is 1 at every step.*WithReward"),
    ],
)
def test_what_passes_no_gradient_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        make(name, differentiable=True)
