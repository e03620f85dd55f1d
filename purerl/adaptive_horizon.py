"""How long a window of analytic gradients should be, where some steps are too stiff to differentiate through.

After Georgiev et al. 2024, "Adaptive horizon actor-critic for policy learning in contact-rich differentiable
simulation", arXiv:2405.17784. There the norm of the dynamics' derivative is to stay below a threshold at every step of
a window, each with a Lagrange multiplier, and the multipliers move the horizon. Four things differ here:

* How stiff a step is, the actions before it tell: how much the derivative of the observation by all earlier actions of
  the window grows within the step, in the Frobenius norm. That is what a gradient is made of, and it does not depend on
  how a state is stored: numbers that no action moves, or that repeat others, do not enter it. The norm of the step's
  derivative by the state would count them all, as a simulator keeps many. A few random changes of all actions,
  carried along the rollout as tangents, estimate it.
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
from purerl.rollout import RolloutState
from purerl.spaces import Space
from purerl.types import Array, Environment, Policy, PyTree, TimeStep

RATE = 0.1
"""How far the inverse of the horizon moves per iteration towards where it belongs."""

STIFF_WINDOWS = 0.1
"""Stiff steps per window, in the mean, that the horizon allows."""

SHORTEST = 8
"""Steps of the shortest horizon, as in the paper, unless the rollout is shorter."""

_NUM_TANGENTS = 4


def adapt_horizon(horizon: Array, stiff_share: Array, longest: int) -> Array:
    """Move the horizon h to where its windows hold ``c = STIFF_WINDOWS`` stiff steps in the mean.

    ::

        1 / h <- clip((1 - rate) / h + rate p / c, 1 / longest, 1 / shortest)

    At rest ``h p = c``, or h is at a bound. It is the inverse that moves, being linear in p: so it settles at the mean
    of p, however noisy.

    Args:
        horizon: float32 scalar, h.
        stiff_share: p, the share of stiff steps.
        longest: the horizon's upper bound; the lower one is `SHORTEST`, or `longest` if that is less.
    """
    inverse = (1.0 - RATE) / horizon + RATE * stiff_share / STIFF_WINDOWS
    return 1.0 / jnp.clip(inverse, 1.0 / longest, 1.0 / min(SHORTEST, longest))


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
class Watched:
    """A state, and how it changes with the actions of its window; as a whole in any unit that keeps the numbers small.

    Attributes:
        state: of the environment.
        tangents: ``[_NUM_TANGENTS, ...]`` each, changes of its floating-point leaves by random changes of all actions
            since the window began.
        seen: float32 scalar, Frobenius norm of the changes of the observation.
        unit: float32 scalar, standard deviation of the changes of an action.
    """

    state: PyTree
    tangents: list[Array]
    seen: Array
    unit: Array


@struct.dataclass
class GradientWindows:
    """The same environment forwards; backwards no gradient passes from one window to the one before.

    States are `Watched`, actions those of `begin_windows`. The "gradient" with respect to `tally`, which has no
    influence on any value, is the number of stiff steps: within one, what earlier actions of the window have changed in
    the observation grows to more than `max_growth` times its size, or is no longer finite.

    Attributes:
        env: the environment.
        tally: float32 scalar, 0.
        max_growth: of a change of the observation, in a step that is not stiff.
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

    def watch(self, timestep: TimeStep) -> TimeStep:
        """A time step of `env`, at which a window begins."""
        leaves, _ = floats.split(timestep.state)
        tangents = [jnp.zeros((_NUM_TANGENTS, *leaf.shape), leaf.dtype) for leaf in leaves]
        return struct.replace(timestep, state=Watched(timestep.state, tangents, jnp.float32(0.0), jnp.float32(1.0)))

    def enter(self, rollouts: RolloutState) -> RolloutState:
        """Environments in flight ``[num_envs]`` of `env`, at the start of windows of `begin_windows`."""
        age = jnp.zeros_like(rollouts.episode_length)
        return struct.replace(rollouts, carry=age, timestep=jax.vmap(self.watch)(rollouts.timestep))

    def leave(self, rollouts: RolloutState, carry: PyTree) -> RolloutState:
        """Environments in flight of `env` again, with the memories `carry` of a policy."""
        timestep = struct.replace(rollouts.timestep, state=rollouts.timestep.state.state)
        return struct.replace(rollouts, carry=carry, timestep=timestep)

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        return self.watch(self.env.reset(key))

    def step(self, key: Array, state: Watched, action: Any) -> TimeStep:
        """Advance `state` by one action ``(action, begins)``, in a new window or in the same."""
        action, begins = action
        env_key, change_key = jax.random.split(key)
        timestep = self.env.step(env_key, _cut(begins, state.state), action)
        tangents = [jnp.where(begins, 0.0, tangent) for tangent in state.tangents]
        before = Watched(state.state, tangents, jnp.where(begins, 0.0, state.seen), jnp.where(begins, 1.0, state.unit))
        after, stiff = self._change(change_key, env_key, *jax.lax.stop_gradient((before, action)))
        return struct.replace(
            timestep,
            state=struct.replace(after, state=timestep.state),
            reward=count(timestep.reward, stiff.astype(jnp.float32), self.tally),
        )

    def _change(self, change_key: Array, env_key: Array, before: Watched, action: Array) -> tuple[Watched, Array]:
        """Watched quantities after a step, but for the state; and whether the step is stiff."""
        leaves, rebuild = floats.split(before.state)

        def advance(leaves: list[Array], action: Array) -> tuple[list[Array], list[Array]]:
            timestep = self.env.step(env_key, rebuild(leaves), action)
            return floats.split(timestep.state)[0], floats.split(timestep.obs)[0]

        def push(leaves_change: list[Array], action_change: Array) -> tuple[list[Array], list[Array]]:
            return jax.jvp(advance, (leaves, action), (leaves_change, action_change))[1]

        none = [jnp.zeros_like(leaf) for leaf in leaves]
        drawn = before.unit * jax.random.normal(change_key, (_NUM_TANGENTS, *action.shape), action.dtype)
        moved, moved_obs = jax.vmap(lambda tangent: push(tangent, jnp.zeros_like(action)))(before.tangents)
        added, added_obs = jax.vmap(lambda change: push(none, change))(drawn)
        # What was not seen before has appeared, not grown.
        stiff = ~(_norm(moved_obs) <= jnp.where(before.seen > 0.0, self.max_growth * before.seen, jnp.inf))
        tangents, seen = jax.tree.map(jnp.add, (moved, moved_obs), (added, added_obs))
        size, seen_size = _norm(tangents), _norm(seen)
        # Derivatives that are not finite are forgotten, as `GradientGate` cuts them out of the gradient.
        fine = jnp.isfinite(size) & jnp.isfinite(seen_size)
        scale = 1.0 / jnp.where(size > 0.0, size, 1.0)
        tangents = [jnp.where(fine, scale * tangent, 0.0) for tangent in tangents]
        unit = jnp.where(fine, scale * before.unit, 1.0)
        return Watched((), tangents, jnp.where(fine, scale * seen_size, 0.0), unit), stiff


def _norm(arrays: list[Array]) -> Array:
    return jnp.sqrt(sum((jnp.sum(jnp.square(array)) for array in arrays), jnp.float32(0.0)))


def _cut(begins: Array, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.where(begins, jax.lax.stop_gradient(leaf), leaf), tree)
