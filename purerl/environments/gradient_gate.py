"""Gradients through many environments side by side, of which one may explode without harming the others."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from purerl import floats, struct
from purerl.errors import InputError
from purerl.spaces import Space
from purerl.types import Array, Environment, PyTree, TimeStep


@struct.dataclass
class GradientGate:
    """The same environment forwards; backwards, no step passes on more than it should.

    The gradient with respect to what a step starts from, state and action together, is scaled down to `max_norm`, and
    becomes 0 where it is not finite.

    A step fails whose result itself is not finite, or has a reward or observation whose square is not. It leaves the
    state where it was and ends the episode with reward 0, so that no NaN reaches a network, whose gradient it would
    spoil for all. It is marked as no other step is, as terminated and truncated at once: nothing is known of what would
    have followed, and 0 may be more than the task can give. Who learns values has to say what a failure is worth
    (see `failure_value`). Who only differentiates, as APG does, has nothing to gain from one: the derivative does not
    see where episodes end.

    How often that happened is the "gradient" with respect to `tally`, which has no influence on any value::

        def loss(params, tally):
            env = GradientGate(env, tally)
            ...

        grads, counts = jax.grad(loss, argnums=(0, 1))(params, jnp.zeros(3))

    counts, added up over steps and environments: gradients that were not finite, gradients scaled down, failed steps.
    (Gradients whose squared norm leaves the range of float32, beyond 1e19, count as not finite.)

    Attributes:
        env: the environment.
        tally: float32 ``[3]``, zeros.
        max_norm: largest norm of a gradient that passes unchanged; None is any that is finite.
        rematerialize: compute each step again on the way back, so that only its state and action are kept: a backward
            pass through n steps then needs memory for n states and the inside of a single step, not of n.
    """

    env: Environment
    tally: Array
    max_norm: float | Array | None = None
    rematerialize: bool = struct.field(default=False, static=True)

    @property
    def observation_space(self) -> Space:
        """That of `env`."""
        return self.env.observation_space

    @property
    def action_space(self) -> Space:
        """That of `env`."""
        return self.env.action_space

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        return self.env.reset(key)

    def step(self, key: Array, state: PyTree, action: Array) -> TimeStep:
        """Advance `state` by one action."""
        arrived, rebuild = floats.split((state, action))
        max_norm = jnp.asarray(jnp.inf if self.max_norm is None else self.max_norm, jnp.float32)
        state, action = rebuild(_gate(arrived, max_norm, self.tally))
        advance = jax.checkpoint(self.env.step) if self.rematerialize else self.env.step
        timestep = advance(key, state, action)

        learned_from = [jnp.square(leaf) for leaf in (timestep.obs, timestep.reward) if floats.is_float(leaf)]
        ok = floats.stay_finite(state, timestep.state)
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
    """Value of a failed step: the lowest reward so far, from there on for ever; no more than 0, which ending gives.

    No policy whose rewards are at least `lowest_reward` has a lower value, so none can do better by failing. With a
    discount close to 1, or 1, ten thousand steps stand for "for ever".
    """
    return jnp.minimum(lowest_reward, 0.0) / jnp.maximum(1.0 - gamma, 1e-4)


@jax.custom_vjp
def _gate(leaves: Sequence[Array], max_norm: Array, tally: Array) -> Sequence[Array]:
    return leaves


def _gate_forward(leaves: Sequence[Array], max_norm: Array, tally: Array) -> tuple[Sequence[Array], Array]:
    return leaves, max_norm


def _gate_backward(max_norm: Array, gradients: Sequence[Array]) -> tuple[Sequence[Array], Array, Array]:
    # Squared: its root has no derivative at 0, where those who differentiate training itself would get NaN.
    squared = jnp.sum(jnp.stack([jnp.sum(jnp.square(leaf)) for leaf in gradients]))
    finite = jnp.isfinite(squared)
    too_large = finite & (squared > jnp.square(max_norm))
    factor = jnp.where(too_large, max_norm * jax.lax.rsqrt(jnp.where(too_large, squared, 1.0)), 1.0)
    counts = jnp.stack([~finite, too_large, jnp.bool_(False)]).astype(jnp.float32)
    return [jnp.where(finite, factor * leaf, 0.0) for leaf in gradients], jnp.zeros_like(max_norm), counts


_gate.defvjp(_gate_forward, _gate_backward)


@jax.custom_vjp
def count(value: Array, counts: Array, tally: Array) -> Array:
    """`value`, with `counts` as its "gradient" with respect to `tally`, of the same shape, once per backward pass."""
    return value


def _count_forward(value: Array, counts: Array, tally: Array) -> tuple[Array, Array]:
    return value, counts


def _count_backward(counts: Array, gradient: Array) -> tuple[Array, Array, Array]:
    return gradient, jnp.zeros_like(counts), counts


count.defvjp(_count_forward, _count_backward)


def check_differentiable(env: Environment) -> None:
    """Refuse an environment whose step JAX cannot run backwards; nothing is compiled.

    Raises:
        InputError: naming what would make it differentiable.
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
            f"{env} cannot be differentiated, it loops until something has converged: "
            "make it with purerl.make(name, differentiable=True)"
        ) from None
