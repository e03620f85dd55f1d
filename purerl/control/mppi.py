"""Model predictive path integral control (Williams et al. 2017, "Information theoretic MPC for model-based
reinforcement learning"): try many perturbed plans and average them, the good ones with more weight."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from purerl import struct
from purerl.control.model import (
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
    """Needs no gradient, so it plans through contact, jumps and plateaus, and in any simulator.

    One iteration is algorithm 2 of the paper with two changes. The temperature counts in standard deviations of the
    rewards of the plans tried, so that it means the same whatever the scale of rewards. The cost of the perturbation
    itself (``lambda u Sigma^-1 eps``, which keeps the paper's plans near zero actions) is left out: the reward says
    what actions cost.
    """

    horizon: int = struct.field(default=30, static=True, help="steps to look ahead", within="[1, inf)")
    num_samples: int = struct.field(default=256, static=True, help="plans tried per iteration", within="[1, inf)")
    num_iterations: int = struct.field(default=1, static=True, help="rounds of sampling per plan", within="[1, inf)")
    temperature: float = struct.field(
        default=0.3,
        help="how far from the best a plan may be to count, in standard deviations of their rewards",
        within="(0, inf)",
    )
    noise_std: float = struct.field(
        default=0.5,
        help="deviation of the perturbations in half-widths of the action bounds, in the action's units where there "
        "are none",
        within="[0, inf)",
    )

    def __post_init__(self) -> None:
        struct.check_fields(self)

    def plan(self, env: Environment, state: PyTree, key: Array, initial: Array | None = None) -> Plan:
        """Improve a plan.

        Args:
            env: the model.
            state: of the model, to plan from.
            key: randomness of the model (one for all samples) and of the perturbations.
            initial: ``[horizon, *action_shape]`` to start from; neutral actions by default.

        Returns:
            The plan. Where all simulations break down it becomes neutral actions; where these do too, `initial`.
        """
        model_key, noise_key = jax.random.split(key)
        space = continuous_actions(env)
        value = partial(total_reward, env, state, model_key)

        def perturb(actions: Array, key: Array) -> Array:
            noise = self.noise_std * jax.random.normal(key, actions.shape, actions.dtype)
            return jax.vmap(lambda action, eps: within_bounds(space, action + half_width(space) * eps))(actions, noise)

        def improve(actions: Array, key: Array) -> tuple[Array, None]:
            tried = jax.vmap(perturb, (None, 0))(actions, jax.random.split(key, self.num_samples))
            # The plan as it is takes part: where every perturbation is bad, it stays.
            tried = tried.at[0].set(actions)
            rewards = jax.vmap(value)(tried)
            average = jnp.tensordot(self._weights(rewards), tried, axes=1, precision=lax.Precision.HIGHEST)
            return jnp.where(jnp.any(jnp.isfinite(rewards)), average, neutral), None

        neutral, initial = neutral_actions(env, self.horizon), starting_actions(env, self.horizon, initial)
        actions, _ = lax.scan(improve, initial, jax.random.split(noise_key, self.num_iterations))
        reward = value(actions)
        return Plan(jnp.where(jnp.isfinite(reward), actions, initial), reward)

    def _weights(self, rewards: Array) -> Array:
        """``[num_samples]``, sum 1: a softmax of the standardised total rewards, 0 for simulations that broke down.

        NaN if all did.
        """
        valid = jnp.isfinite(rewards)
        # No larger than 1, whose squares stay within the range of numbers.
        rewards = rewards / jnp.max(jnp.abs(rewards), where=valid, initial=jnp.finfo(rewards.dtype).tiny)
        deviation = jnp.std(rewards, where=valid)
        # If all are equal, all count the same.
        scale = jnp.maximum(self.temperature * deviation, jnp.finfo(rewards.dtype).tiny)
        below_best = rewards - jnp.max(rewards, where=valid, initial=-jnp.inf)
        return jax.nn.softmax(jnp.where(valid, below_best / scale, -jnp.inf))
