"""Model predictive path integral control (Williams et al. 2017, "Information theoretic MPC for model-based
reinforcement learning"): average many randomly perturbed plans, weighted by their rewards."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from purerl import struct
from purerl.physics.control.model import (
    Plan,
    continuous_actions,
    half_width,
    neutral_actions,
    starting_actions,
    total_reward,
    within_bounds,
)
from purerl.types import Array, Environment, PyTree


@struct.dataclass
class MPPI:
    """MPPI planner: without gradients, so it works with contacts, jumps and plateaus, and in any simulator.

    One iteration is algorithm 2 of the paper with two changes. The temperature is in units of the standard deviation of
    the sampled plans' rewards, so that its meaning does not depend on the scale of rewards. The cost of the
    perturbation itself (``lambda u Sigma^-1 eps``, which keeps the paper's plans near zero actions) is left out: the
    reward defines the cost of actions.
    """

    horizon: int = struct.field(default=30, static=True, help="planning horizon in steps", within="[1, inf)")
    num_samples: int = struct.field(default=256, static=True, help="sampled plans per iteration", within="[1, inf)")
    num_iterations: int = struct.field(default=1, static=True, help="iterations per plan", within="[1, inf)")
    temperature: float = struct.field(
        default=0.3,
        help="temperature of the softmax over plans, in standard deviations of their rewards",
        within="(0, inf)",
    )
    noise_std: float = struct.field(
        default=0.5,
        help="standard deviation of the perturbations, in half-widths of the action bounds (in action units without "
        "bounds)",
        within="[0, inf)",
    )

    def __post_init__(self) -> None:
        struct.check_fields(self)

    def plan(self, env: Environment, state: PyTree, key: Array, initial: Array | None = None) -> Plan:
        """Plan from `state` by improving an initial plan.

        Args:
            env: the model.
            state: start state of the plan.
            key: randomness of the model (the same for all samples) and of the perturbations.
            initial: initial plan ``[horizon, *action_shape]``; neutral actions by default.

        Returns:
            The plan. If all simulations fail it consists of neutral actions; if these fail too, it is `initial`.
        """
        model_key, noise_key = jax.random.split(key)
        space = continuous_actions(env)
        value = partial(total_reward, env, state, model_key)

        def perturb(actions: Array, key: Array) -> Array:
            noise = self.noise_std * jax.random.normal(key, actions.shape, actions.dtype)
            return jax.vmap(lambda action, eps: within_bounds(space, action + half_width(space) * eps))(actions, noise)

        def improve(actions: Array, key: Array) -> tuple[Array, None]:
            tried = jax.vmap(perturb, (None, 0))(actions, jax.random.split(key, self.num_samples))
            # The unperturbed plan is one of the samples: if every perturbation is bad, it stays.
            tried = tried.at[0].set(actions)
            rewards = jax.vmap(value)(tried)
            average = jnp.tensordot(self._weights(rewards), tried, axes=1, precision=lax.Precision.HIGHEST)
            return jnp.where(jnp.any(jnp.isfinite(rewards)), average, neutral), None

        neutral, initial = neutral_actions(env, self.horizon), starting_actions(env, self.horizon, initial)
        actions, _ = lax.scan(improve, initial, jax.random.split(noise_key, self.num_iterations))
        reward = value(actions)
        return Plan(jnp.where(jnp.isfinite(reward), actions, initial), reward)

    def _weights(self, rewards: Array) -> Array:
        """Weights ``[num_samples]`` of sum 1: softmax of the standardised total rewards, 0 for failed simulations.

        NaN if all simulations failed.
        """
        valid = jnp.isfinite(rewards)
        # Scaled to at most 1, so that squares do not overflow.
        rewards = rewards / jnp.max(jnp.abs(rewards), where=valid, initial=jnp.finfo(rewards.dtype).tiny)
        deviation = jnp.std(rewards, where=valid)
        # If all rewards are equal, so are the weights.
        scale = jnp.maximum(self.temperature * deviation, jnp.finfo(rewards.dtype).tiny)
        below_best = rewards - jnp.max(rewards, where=valid, initial=-jnp.inf)
        return jax.nn.softmax(jnp.where(valid, below_best / scale, -jnp.inf))
