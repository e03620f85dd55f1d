"""With JAX's 64 bits enabled, states stay 32 bits wide. All is traced, nothing compiled."""

from collections.abc import Iterator

import jax
import jax.numpy as jnp
import pytest
from environments.environment_contract import check_types
from probes import obs_reward
from rows import ALGORITHMS, NETWORK, for_each, ppo, probe

import purerl
from purerl import LSTM, ActorCritic, Population
from purerl.physics.control import ILQR, MPPI, Shooting
from purerl.training import loop


@pytest.fixture(autouse=True)
def enabled() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def widths(tree):
    return {str(leaf.dtype) for leaf in jax.tree.leaves(tree)} & {"float64", "int64", "uint64", "complex128"}


def check(algorithm):
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    after, metrics, _ = jax.eval_shape(loop.advance, algorithm, state, jnp.int32(2))
    assert not widths((state, metrics))
    assert jax.tree.map(lambda leaf: leaf.dtype, after) == jax.tree.map(lambda leaf: leaf.dtype, state)


@for_each(ALGORITHMS)
def test_an_algorithm(name):
    check(ALGORITHMS[name].make(probe(obs_reward, name)))


def test_pieces_that_no_row_has():
    recurrent = ActorCritic(NETWORK.trunk, LSTM(8))
    check(Population(ppo(obs_reward(), network=recurrent, max_kl=0.1, kl_target=0.01), 2, {"learning_rate": [1e-3, 1]}))
    check(ALGORITHMS["rainbow"].make(obs_reward()))
    check(ALGORITHMS["shac"].make(purerl.make("smooth/pendulum"), max_step_growth=3.0))


@pytest.mark.parametrize("planner", [ILQR(horizon=3), MPPI(horizon=3), Shooting(horizon=3)])
def test_a_planner(planner):
    env = purerl.make("smooth/pendulum")
    state = jax.eval_shape(env.reset, jax.random.key(0)).state
    assert not widths(jax.eval_shape(lambda state: planner.plan(env, state, jax.random.key(0)), state))


@pytest.mark.parametrize(
    "name",
    [
        "CartPole-v1",
        "Pendulum-v1",
        "Catch-bsuite",
        "Breakout-MinAtar",
        "FourRooms-misc",
        "pixels/CartPole-v1",
        "brax/fast",
        "smooth/lqr",
        "smooth/pendulum",
        "smooth/cartpole-swingup",
        "smooth/quadrotor",
        "smooth/bouncing-mass",
    ],
)
def test_an_environment(name):
    env = purerl.make(name, frame_stack=2, action_repeat=2)
    check_types(env)
    assert not widths(jax.eval_shape(lambda: env.reset(jax.random.key(0))))
