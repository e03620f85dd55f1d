"""MJX run backwards: the same values, and the derivative of what its solver converges to, through contact."""

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco import mjx
from mujoco.mjx._src.smooth import solve_m

from purerl.environments import mjx_gradients

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
        ours = jax.jit(
            lambda force: (
                solved(mjx_gradients.solve, force),
                jax.jacrev(lambda f: solved(mjx_gradients.solve, f))(force),
            )
        )
        theirs = jax.jit(lambda force: solved(mjx.solve, force))
        value, jacobian = ours(force)
        np.testing.assert_array_equal(value, theirs(force))
        assert np.abs(value[3:]).max() > 1.0
        shifts = 1e-5 * np.eye(3)
        differences = [(theirs(force + shift) - theirs(force - shift)) / 2e-5 for shift in shifts]
        np.testing.assert_allclose(jacobian, np.stack(differences, axis=1), rtol=1e-5, atol=1e-7)


def test_derivative_of_the_solver():
    check_solver("Newton", "pyramidal", 20)
