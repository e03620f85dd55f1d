"""One environment's gradient must not spoil those of the others, nor pass unnoticed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl import InputError, struct
from purerl.environments import GradientGate
from purerl.environments.gradient_gate import check_differentiable
from purerl.spaces import Box
from purerl.types import TimeStep


@struct.dataclass
class Explosive:
    """``x' = x + a``, reward ``x'`` to the power of 2; with `kind` something goes wrong where ``x' > 1``."""

    kind: str = struct.field(static=True)
    observation_space = Box((1,))
    action_space = Box((1,), -1.0, 1.0)

    def reset(self, key):
        return self._timestep(jnp.float32(0.0), jnp.float32(0.0))

    def step(self, key, state, action):
        x = state + action[0]
        if self.kind == "value":
            x = jnp.where(x > 1.0, jnp.nan, x)
        if self.kind == "size":
            # Finite, but a critic's squared error would not be.
            x = jnp.where(x > 1.0, 1e20, x)
        if self.kind == "gradient":
            # Finite values, but the root's derivative at 0 is infinite, and 0 * inf is NaN.
            x = x + jnp.where(x > 1.0, jnp.sqrt(jnp.where(x > 1.0, 0.0 * x, 1.0)), 0.0)
        if self.kind == "loop":
            x = jax.lax.while_loop(lambda x: jnp.abs(x) > 10.0, lambda x: 0.5 * x, x)
        return self._timestep(x, x**2)

    def _timestep(self, x, reward):
        return TimeStep(x, x[None], reward, jnp.bool_(False), jnp.bool_(False))


def gradient(env, actions, max_norm=None, rematerialize=False):
    """Of the rewards' sum over ``actions [num_envs, time]``, with respect to a gain on them; the counts."""

    def loss(gain, tally):
        gate = GradientGate(env, tally, max_norm, rematerialize)

        def play(actions):
            def step(state, action):
                timestep = gate.step(jax.random.key(0), state, gain * action[None])
                return timestep.state, timestep

            return jax.lax.scan(step, jnp.float32(0.0), actions)[1]

        timesteps = jax.vmap(play)(actions)
        return timesteps.reward.sum(), timesteps

    return jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(jnp.float32(1.0), jnp.zeros(3))


def exact(actions):
    """``d/dg sum_t (g sum_{k <= t} a_k)^2`` at 1."""
    return float(np.sum(2.0 * np.cumsum(actions, axis=1) ** 2))


CALM = np.float32([[0.1, 0.2, 0.3], [-0.3, 0.1, -0.2]])
WILD = np.float32([[0.1, 0.2, 0.3], [0.9, 0.9, 0.9], [-0.3, 0.1, -0.2]])


def test_nothing_changes_where_all_is_well():
    (grad, counts), timesteps = gradient(Explosive("none"), CALM)
    np.testing.assert_allclose(grad, exact(CALM), rtol=1e-6)
    np.testing.assert_array_equal(counts, 0.0)
    np.testing.assert_allclose(timesteps.obs[..., 0], np.cumsum(CALM, axis=1), rtol=1e-6)


@pytest.mark.parametrize("kind", ["value", "size"])
def test_an_environment_that_breaks_down_leaves_the_others_alone(kind):
    (grad, counts), timesteps = gradient(Explosive(kind), WILD)
    # Of the second environment only the first step counts: the second fails, and so does the third from where it stays.
    np.testing.assert_allclose(grad, exact(CALM) + 2.0 * 0.9**2, rtol=1e-5)
    assert counts[2] == 2
    failed = [[False] * 3, [False, True, True], [False] * 3]
    np.testing.assert_array_equal(timesteps.terminated, failed)
    np.testing.assert_array_equal(timesteps.truncated, failed)
    assert np.isfinite(timesteps.obs).all()
    np.testing.assert_array_equal(timesteps.reward[1, 1:], 0.0)
    np.testing.assert_array_equal(timesteps.state[1], np.float32(0.9))


def test_gradients_that_are_not_finite_become_zero_and_are_counted():
    (grad, counts), timesteps = gradient(Explosive("gradient"), WILD)
    assert not timesteps.terminated.any()
    # Nothing comes back through steps 2 and 3, step 1 keeps what is its own.
    np.testing.assert_allclose(grad, exact(CALM) + 2.0 * 0.9**2, rtol=1e-5)
    np.testing.assert_array_equal(counts, [2, 0, 0])


def test_what_passes_back_through_a_step_is_bounded():
    (grad, counts), _ = gradient(Explosive("none"), np.float32([[3.0], [0.1]]), max_norm=1.0)
    # Of the squared reward: 2 x to the state and to the action; together 2 x sqrt(2), here 8.5 and 0.28.
    np.testing.assert_allclose(grad, 3.0 * np.sqrt(0.5) + 2.0 * 0.1**2, rtol=1e-6)
    np.testing.assert_array_equal(counts, [0, 1, 0])


def test_rematerialisation_saves_memory_and_changes_no_gradient():
    env = purerl.make("smooth/cartpole-swingup")
    timestep = env.reset(jax.random.key(0))

    def gradient(rematerialize):
        gate = GradientGate(env, jnp.zeros(3), rematerialize=rematerialize)

        def total(actions):
            def step(state, action):
                timestep = gate.step(jax.random.key(0), state, action)
                return timestep.state, timestep.reward

            return jax.lax.scan(step, timestep.state, actions)[1].sum()

        actions = jnp.full((500, 1), 0.1)
        program = jax.jit(jax.grad(total)).lower(actions).compile()
        return program(actions), program.memory_analysis().temp_size_in_bytes

    (kept, much), (again, little) = gradient(False), gradient(True)
    np.testing.assert_allclose(again, kept, rtol=1e-4, atol=1e-4 * np.abs(kept).max())
    assert little < much / 2


def test_a_loop_that_cannot_run_backwards_is_refused():
    with pytest.raises(InputError, match=r"cannot be differentiated.*differentiable=True"):
        check_differentiable(Explosive("loop"))
    check_differentiable(Explosive("none"))
