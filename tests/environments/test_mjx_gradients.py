"""MJX run backwards: the same values, and the derivative of what its solver converges to, through contact."""

import functools

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest
from mujoco import mjx
from mujoco.mjx._src import solver as mujoco_solver
from mujoco.mjx._src.smooth import solve_m

from purerl import InputError
from purerl.environments import make, mjx_gradients
from purerl.environments.gradient_gate import check_differentiable

BALL = """
<mujoco>
  <option solver="{solver}" cone="{cone}" iterations="{iterations}" jacobian="dense"/>
  <worldbody>
    <geom type="plane" size="1 1 1" friction="0.6"/>
    <body pos="0 0 0.098">
      <joint type="slide" axis="1 0 0"/> <joint type="slide" axis="0 0 1"/> <joint type="hinge" axis="0 1 0"/>
      <geom type="sphere" size="0.1" friction="0.6"/>
    </body>
  </worldbody>
</mujoco>
"""


def check_solver(solver, cone, iterations):
    """Accelerations and forces of a ball with backspin, 2 mm deep in the ground, by forces on it."""
    model = mujoco.MjModel.from_xml_string(BALL.format(solver=solver, cone=cone, iterations=iterations))
    data = mujoco.MjData(model)
    data.qvel[:] = 0.1, -0.2, -1.0
    mujoco.mj_forward(model, data)
    with jax.enable_x64(True), jax.numpy_rank_promotion("allow"):
        model, data = mjx.put_model(model), mjx.put_data(model, data)

        def solved(solve, force):
            result = solve(model, data.replace(qfrc_smooth=force, qacc_smooth=solve_m(model, data, force)))
            return jnp.concatenate([result.qacc, result.qfrc_constraint])

        force = data.qfrc_smooth

        @jax.jit
        def ours(force):
            solution = functools.partial(solved, mjx_gradients.solve)
            return solution(force), jax.jacrev(solution)(force)

        theirs = jax.jit(lambda force: solved(mjx.solve, force))
        value, jacobian = ours(force)
        np.testing.assert_array_equal(value, theirs(force))
        assert np.abs(value[3:]).max() > 1.0
        shifts = 1e-3 * np.eye(3)
        differences = [(theirs(force + shift) - theirs(force - shift)) / 2e-3 for shift in shifts]
        np.testing.assert_allclose(jacobian, np.stack(differences, axis=1), rtol=1e-5, atol=1e-7)


def test_derivative_of_the_solver():
    check_solver("Newton", "pyramidal", 20)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("solver", "cone", "iterations"), [("CG", "pyramidal", 100), ("Newton", "elliptic", 20), ("Newton", "pyramidal", 1)]
)
def test_derivative_of_other_solvers(solver, cone, iterations):
    check_solver(solver, cone, iterations)


def test_a_differentiable_one_runs_backwards_with_its_own_solver():
    env = make("brax/inverted_double_pendulum", backend="mjx", differentiable=True)
    check_differentiable(env)
    assert env.env._with_params().sys.opt.iterations == 100


def test_mjx_of_another_build_is_refused(monkeypatch):
    monkeypatch.delattr(mujoco_solver, "_update_gradient")
    mjx_gradients.pipeline.cache_clear()
    with pytest.raises(InputError, match=r"cannot differentiate MJX .*: it has no mujoco.*solver\._update_gradient"):
        make("brax/inverted_double_pendulum", backend="mjx", differentiable=True)


@pytest.mark.slow
def test_differentiable_hopper_is_the_same_simulator():
    key, actions = jax.random.key(1), jax.random.uniform(jax.random.key(2), (20, 3), minval=-1.0)
    ours, theirs = (make("brax/hopper", backend="mjx", differentiable=flag) for flag in (True, False))

    def play(env, actions):
        def step(state, action):
            timestep = env.step(key, state, action)
            return timestep.state, timestep.obs

        return jax.lax.scan(step, env.reset(key).state, actions)

    run = jax.jit(play)
    assert jax.tree.all(jax.tree.map(np.array_equal, run(ours, actions), run(theirs, actions)))
    # On the ground, by differences of what the other one does.
    gradient = jax.jit(jax.grad(lambda actions: play(ours, actions)[1][-1].sum()))(actions)
    direction = jax.random.normal(jax.random.key(3), actions.shape)
    there, back = (run(theirs, actions + shift * direction)[1][-1].sum() for shift in (1e-3, -1e-3))
    np.testing.assert_allclose(jnp.vdot(gradient, direction), (there - back) / 2e-3, rtol=1e-2)
