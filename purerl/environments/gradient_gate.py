"""Gradient clipping at every step of an environment: one exploding environment does not affect the others."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from purerl import struct
from purerl.description import describe
from purerl.errors import InputError
from purerl.math import float_leaves
from purerl.spaces import Space
from purerl.types import Array, Environment, Mean, Metrics, PyTree, TimeStep


@struct.dataclass
class GradientGate:
    """Environment with gradient clipping at each step: the values are unchanged, the gradients are bounded.

    The gradient with respect to a step's inputs, state and action together, is scaled down to `max_norm`. It is set to
    0 where it is not finite.

    A step fails if its result is not finite, or if its reward or observation has a square that is not finite. Then the
    state stays as it was before the step and the episode ends with reward 0, so that no NaN reaches a network, where it
    would spoil the whole gradient. A failed step is the only one that is marked as terminated and truncated at once:
    the return that would have followed is unknown, and 0 may be more than the task can give. Algorithms that learn
    values must choose the value of a failure (see `failure_value`). Algorithms that only differentiate, such as APG,
    cannot gain from a failure: the derivative does not depend on where episodes end.

    The counts of these events are the "gradient" with respect to `tally`, which has no influence on any value::

        def loss(params, tally):
            env = GradientGate(env, tally)
            ...

        grads, counts = jax.grad(loss, argnums=(0, 1))(params, jnp.zeros(3))

    counts, summed over steps and environments: gradients that were not finite, gradients scaled down, failed steps.
    (Gradients of norm above 1e19, whose square exceeds the range of float32, count as not finite.)

    Attributes:
        env: the environment.
        tally: float32 ``[3]``, zeros.
        max_norm: largest norm of a gradient that passes unchanged; None passes all finite gradients unchanged.
        rematerialize: whether the backward pass computes each step again from its state and action. A backward pass
            through n steps then stores n states and the intermediate results of one step instead of n.
    """

    env: Environment
    tally: Array
    max_norm: float | Array | None = None
    rematerialize: bool = struct.field(default=False, static=True)

    @property
    def observation_space(self) -> Space:
        """Observation space of `env`."""
        return self.env.observation_space

    @property
    def action_space(self) -> Space:
        """Action space of `env`."""
        return self.env.action_space

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        return self.env.reset(key)

    def step(self, key: Array, state: PyTree, action: Array) -> TimeStep:
        """Advance `state` by one action."""
        arrived, rebuild = float_leaves.split((state, action))
        max_norm = jnp.asarray(jnp.inf if self.max_norm is None else self.max_norm, jnp.float32)
        state, action = rebuild(_gate(arrived, max_norm, self.tally))
        advance = jax.checkpoint(self.env.step) if self.rematerialize else self.env.step
        timestep = advance(key, state, action)

        learned_from = [jnp.square(leaf) for leaf in (timestep.obs, timestep.reward) if float_leaves.is_float(leaf)]
        ok = float_leaves.stay_finite(state, timestep.state)
        for leaf in learned_from:
            ok &= jnp.all(jnp.isfinite(leaf))
        failed = jnp.stack([False, False, ~ok]).astype(jnp.float32)
        return TimeStep(
            state=jax.tree.map(lambda new, old: jnp.where(ok, new, old), timestep.state, state),
            obs=jnp.where(ok, timestep.obs, jnp.zeros_like(timestep.obs)),
            reward=count(jnp.where(ok, timestep.reward, 0.0), failed, self.tally),
            terminated=timestep.terminated | ~ok,
            truncated=timestep.truncated | ~ok,
        )


def failure_value(lowest_reward: Array, gamma: float | Array) -> Array:
    """Value of a failed step: the lowest reward so far at every later step, at most 0 (the value of termination).

    No policy whose rewards are at least `lowest_reward` has a lower value, so a failure never pays. With a discount
    close to 1, or 1, the sum is limited to ten thousand steps.
    """
    return jnp.minimum(lowest_reward, 0.0) / jnp.maximum(1.0 - gamma, 1e-4)


@jax.custom_vjp
def _gate(leaves: Sequence[Array], max_norm: Array, tally: Array) -> Sequence[Array]:
    return leaves


def _gate_forward(leaves: Sequence[Array], max_norm: Array, tally: Array) -> tuple[Sequence[Array], Array]:
    return leaves, max_norm


def _gate_backward(max_norm: Array, gradients: Sequence[Array]) -> tuple[Sequence[Array], Array, Array]:
    # The squared norm: the norm has no derivative at 0, and derivatives of training itself would be NaN there.
    squared = jnp.sum(jnp.stack([jnp.sum(jnp.square(leaf)) for leaf in gradients]))
    finite = jnp.isfinite(squared)
    too_large = finite & (squared > jnp.square(max_norm))
    factor = jnp.where(too_large, max_norm * jax.lax.rsqrt(jnp.where(too_large, squared, 1.0)), 1.0)
    counts = jnp.stack([~finite, too_large, jnp.bool_(False)]).astype(jnp.float32)
    return [jnp.where(finite, factor * leaf, 0.0) for leaf in gradients], jnp.zeros_like(max_norm), counts


_gate.defvjp(_gate_forward, _gate_backward)


@jax.custom_vjp
def count(value: Array, counts: Array, tally: Array) -> Array:
    """Identity of `value` that adds `counts` to the "gradient" with respect to `tally`, which has the same shape."""
    return value


def _count_forward(value: Array, counts: Array, tally: Array) -> tuple[Array, Array]:
    return value, counts


def _count_backward(counts: Array, gradient: Array) -> tuple[Array, Array, Array]:
    return gradient, jnp.zeros_like(counts), counts


count.defvjp(_count_forward, _count_backward)


def count_metrics(counts: Array, num_steps: int) -> Metrics:
    """Shares of steps with a gradient that was not finite or was clipped, and of simulations that failed.

    Args:
        counts: "gradient" of `GradientGate` with respect to its tally.
        num_steps: number of steps that were counted.
    """
    names = ("nonfinite_gradients", "clipped_gradients", "failed_steps")
    return {name: Mean(number, jnp.float32(num_steps)) for name, number in zip(names, counts, strict=True)}


def check_differentiable(env: Environment) -> None:
    """Check that JAX can differentiate a step of the environment in reverse mode; nothing is compiled.

    Raises:
        InputError: if it cannot; the message names the remedy.
    """
    space = env.action_space
    if not jnp.issubdtype(space.dtype, jnp.floating):
        raise InputError(f"gradients through the dynamics need continuous actions, got {space}")
    key, action = jax.random.key(0), jnp.zeros(space.shape, space.dtype)
    state = jax.eval_shape(env.reset, key).state
    try:
        jax.eval_shape(lambda state: jax.grad(lambda action: env.step(key, state, action).reward)(action), state)
    except ValueError as error:
        if "Reverse-mode differentiation" not in str(error):
            raise
        raise InputError(
            f"{describe(env, 10**6)} cannot be differentiated, because its solver loops until convergence: "
            "make it with purerl.make(name, differentiable=True)"
        ) from None
