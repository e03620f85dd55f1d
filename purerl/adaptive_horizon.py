"""How long a window of analytic gradients should be, where some steps are too stiff to differentiate through.

After Georgiev et al. 2024, "Adaptive horizon actor-critic for policy learning in contact-rich differentiable
simulation", arXiv:2405.17784. There the norm of the dynamics' derivative is to stay below a threshold at every step of
a window, each with a Lagrange multiplier, and the multipliers move the horizon. Four things differ here:

* How stiff a step is, a random direction tells: how much a small change of the state along it grows within the step,
  one product with the derivative. The norm itself would take as many as the state has components.
* Where on the way a stiff step comes is chance, as one window begins where another ended. So there is a single
  constraint, on how many windows hold one, and no multiplier but the horizon itself (`adapt_horizon`).
* The constraint moves the horizon only, not the policy too: that would need second derivatives of the dynamics.
* An array has a fixed length. The rollout always has the longest horizon, and is cut into windows of the present one
  (`begin_windows`): no step is lost, and all horizons are one compiled program.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from purerl import floats, struct
from purerl.environments.gradient_gate import count
from purerl.spaces import Space
from purerl.types import Array, Environment, Policy, PyTree, TimeStep

RATE = 0.1
"""How far the inverse of the horizon moves per iteration towards where it belongs."""

STIFF_WINDOWS = 0.1
"""Stiff steps per window, in the mean, that the horizon allows."""


def adapt_horizon(horizon: Array, stiff_share: Array, longest: int) -> Array:
    """Move the horizon h to where its windows hold ``c = STIFF_WINDOWS`` stiff steps in the mean.

    ::

        1 / h <- clip((1 - rate) / h + rate p / c, 1 / longest, 1)

    At rest ``h p = c``. It is the inverse that moves, being linear in p: so it settles at the mean of p, however noisy.

    Args:
        horizon: float32 scalar, h.
        stiff_share: p, the share of stiff steps.
        longest: the horizon's upper bound.
    """
    return 1.0 / jnp.clip((1.0 - RATE) / horizon + RATE * stiff_share / STIFF_WINDOWS, 1.0 / longest, 1.0)


def begin_windows(policy: Policy, horizon: Array) -> Policy:
    """`policy`, which has no memory, for `GradientWindows`: it says at which steps a window begins.

    That is at the start of a rollout or an episode, and `horizon` (rounded) steps after a window began. There no
    gradient passes into the observation. The action becomes ``(action, begins)``, and `begins` is in the extras.
    The memory, int32, is the age of the window in steps; begin with 0.
    """
    return Policy(Partial(_act, policy, jnp.round(horizon).astype(jnp.int32)), jnp.int32(0))


def _act(
    policy: Policy, horizon: Array, key: Array, age: Array, obs: Array
) -> tuple[tuple[Array, Array], Array, dict[str, Array]]:
    begins = age == 0
    action, _, extras = policy.act(key, (), _cut(begins, obs))
    return (action, begins), (age + 1) % horizon, {**extras, "begins": begins}


@struct.dataclass
class GradientWindows:
    """The same environment forwards; backwards no gradient passes from one window to the one before.

    Actions are those of `begin_windows`. The "gradient" with respect to `tally`, which has no influence on any value,
    is the number of stiff steps: within one a small random change of the state grows to more than `max_growth` times
    its size.

    Attributes:
        env: the environment.
        tally: float32 scalar, 0.
        max_growth: of a change of the state, in a step that is not stiff.
    """

    env: Environment
    tally: Array
    max_growth: float | Array

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

    def step(self, key: Array, state: PyTree, action: Any) -> TimeStep:
        """Advance `state` by one action ``(action, begins)``, in a new window or in the same."""
        action, begins = action
        env_key, direction_key = jax.random.split(key)
        timestep = self.env.step(env_key, _cut(begins, state), action)
        growth = self._growth(direction_key, env_key, *jax.lax.stop_gradient((state, action)))
        stiff = ~(growth <= self.max_growth)
        return struct.replace(timestep, reward=count(timestep.reward, stiff.astype(jnp.float32), self.tally))

    def _growth(self, direction_key: Array, env_key: Array, state: PyTree, action: Array) -> Array:
        """``|J v| / |v|``: J is the derivative of the next state by the state, v is normal."""
        vector, rebuild = floats.ravel(state)
        direction = jax.random.normal(direction_key, vector.shape, vector.dtype)

        def advance(vector: Array) -> Array:
            return floats.ravel(self.env.step(env_key, rebuild(vector), action).state)[0]

        _, change = jax.jvp(advance, (vector,), (direction,))
        return jnp.linalg.norm(change) / jnp.linalg.norm(direction)


def _cut(begins: Array, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.where(begins, jax.lax.stop_gradient(leaf), leaf), tree)
