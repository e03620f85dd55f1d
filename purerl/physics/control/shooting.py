"""Single shooting: gradient ascent on a sequence of actions, through the environment's own step function."""

from __future__ import annotations

from functools import partial
from typing import cast

import jax
import jax.numpy as jnp
import optax
from jax import lax

from purerl import struct
from purerl.environments.gradient_gate import check_differentiable
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
class Shooting:
    """Single-shooting planner: Adam (Kingma & Ba 2015) on the actions of a plan, clipped to the bounds after each step.

    The gradient of the total reward is that of the simulation, so it is 0 where rewards are flat and noise where the
    dynamics are chaotic. The best plan seen is returned, which is never worse than the initial one. If a simulation
    fails, the search continues from the best plan so far, or from neutral actions if there is none; entries of a
    gradient that are not finite count as 0.
    """

    horizon: int = struct.field(default=30, static=True, help="planning horizon in steps", within="[1, inf)")
    num_iterations: int = struct.field(default=20, static=True, help="gradient steps per plan", within="[1, inf)")
    learning_rate: float = struct.field(
        default=0.1,
        help="learning rate of Adam, in half-widths of the action bounds (in action units without bounds)",
        within="[0, inf)",
    )

    def __post_init__(self) -> None:
        struct.check_fields(self)

    def plan(self, env: Environment, state: PyTree, key: Array, initial: Array | None = None) -> Plan:
        """Plan from `state` by improving an initial plan.

        Args:
            env: the model.
            state: start state of the plan.
            key: randomness of the model; the same for all iterations.
            initial: initial plan ``[horizon, *action_shape]``; neutral actions by default.
        """
        check_differentiable(env)
        space = continuous_actions(env)
        unit = jnp.broadcast_to(half_width(space), (self.horizon, *space.shape))
        adam = optax.adam(self.learning_rate)
        value = partial(total_reward, env, state, key)

        def improve(carry: tuple[Array, optax.OptState, Plan], _: None) -> tuple[tuple, None]:
            actions, opt_state, best = carry
            reward, gradient = jax.value_and_grad(value)(actions)
            best = _better(best, Plan(actions, reward))
            actions = jnp.where(jnp.isfinite(reward), actions, best.actions)
            # The negative gradient, because optax minimises; all actions in the same unit.
            gradient = jnp.where(jnp.isfinite(gradient), gradient, 0.0)
            updates, opt_state = adam.update(-unit * gradient, opt_state)
            actions = jax.vmap(partial(within_bounds, space))(actions + unit * cast(Array, updates))
            return (actions, opt_state, best), None

        initial = starting_actions(env, self.horizon, initial)
        nothing = Plan(neutral_actions(env, self.horizon), jnp.float32(-jnp.inf))
        (actions, _, best), _ = lax.scan(improve, (initial, adam.init(initial), nothing), length=self.num_iterations)
        best = _better(best, Plan(actions, value(actions)))
        return struct.replace(best, actions=jnp.where(jnp.isfinite(best.total_reward), best.actions, initial))


def _better(one: Plan, other: Plan) -> Plan:
    """Plan with more reward; `one` if both are equal."""
    return jax.tree.map(lambda a, b: jnp.where(other.total_reward > one.total_reward, b, a), one, other)
