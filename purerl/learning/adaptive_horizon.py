"""Adaptive horizon of first-order policy gradients: windows that are short where the dynamics are stiff.

After Georgiev et al. 2024, "Adaptive horizon actor-critic for policy learning in contact-rich differentiable
simulation", arXiv:2405.17784. The paper keeps the norm of the dynamics' derivative below a threshold at every step of
a window. Each step has a Lagrange multiplier, and the multipliers move the horizon. Four things differ here:

* The measure of stiffness. A step is stiff if the derivative of the observation with respect to all earlier actions of
  the window grows much within the step, in the Frobenius norm. The policy gradient consists of these derivatives, and
  they do not depend on how a state is stored: numbers that no action moves, or copies of others, do not count. They
  would count in the norm of the derivative with respect to the state, and a simulator's state has many of them. The
  estimate uses a few random changes of all actions, which the rollout carries along as tangents.
* The constraint. One window begins where another ended, so the place of a stiff step within a window is random. There
  is a single constraint, on the number of stiff steps per window, and no multiplier but the horizon (`adapt_horizon`).
* The constraint moves only the horizon, not the policy: that would need second derivatives of the dynamics.
* Fixed array sizes. The rollout always has the longest horizon and is cut into windows of the current horizon
  (`begin_windows`). No step is lost, and one compiled program serves all horizons.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.tree_util import Partial

from purerl import struct
from purerl.environments.gradient_gate import count
from purerl.experience.collection import Experience, ExperienceState
from purerl.math import float_leaves
from purerl.rollout import RolloutState
from purerl.spaces import Space
from purerl.types import Array, Environment, Metrics, Policy, PyTree, TimeStep, Transition

RATE = 0.1
"""Step size per iteration of the inverse horizon towards its target."""

STIFF_WINDOWS = 0.1
"""Target number of stiff steps per window, on average."""

SHORTEST = 8
"""Shortest horizon in steps, as in the paper, unless the rollout is shorter."""

_NUM_TANGENTS = 4


def adapt_horizon(horizon: Array, stiff_share: Array, longest: int) -> Array:
    """Horizon h after one update towards ``c = STIFF_WINDOWS`` stiff steps per window on average.

    ::

        1 / h <- clip((1 - rate) / h + rate p / c, 1 / longest, 1 / shortest)

    At the fixed point ``h p = c``, or h is at a bound. The update is of the inverse because that is linear in p: it
    converges to the value for the mean of p, however noisy p is.

    Args:
        horizon: float32 scalar, h.
        stiff_share: p, the fraction of steps that were stiff.
        longest: upper bound of the horizon; the lower bound is `SHORTEST`, or `longest` if that is less.
    """
    inverse = (1.0 - RATE) / horizon + RATE * stiff_share / STIFF_WINDOWS
    return 1.0 / jnp.clip(inverse, 1.0 / longest, 1.0 / min(SHORTEST, longest))


def begin_windows(policy: Policy, horizon: Array) -> Policy:
    """Policy that marks the first step of each window, for `GradientWindows`. `policy` must have no memory.

    A window begins at the start of a rollout or an episode, and `horizon` (rounded) steps after the previous window
    began. At its first step no gradient passes into the observation. The action becomes ``(action, begins)``, and
    `begins` is in the extras. The memory, int32, is the age of the window in steps, initially 0.
    """
    return Policy(Partial(_act, policy, jnp.round(horizon).astype(jnp.int32)), jnp.int32(0))


def _act(
    policy: Policy, horizon: Array, key: Array, age: Array, obs: Array
) -> tuple[tuple[Array, Array], Array, dict[str, Array]]:
    begins = age == 0
    action, _, extras = policy.act(key, (), _cut(begins, obs))
    return (action, begins), (age + 1) % horizon, {**extras, "begins": begins}


def collect(
    experience: Experience, state: ExperienceState, policy: Policy, key: Array, horizon: Array, windows: GradientWindows
) -> tuple[RolloutState, Transition, Array, Metrics]:
    """One rollout in each environment, cut into windows of gradients.

    Args:
        experience: how to collect; its environment holds `windows`.
        state: environments in flight and statistics.
        policy: how to act, without memory.
        key: randomness.
        horizon: steps per window.
        windows: the environment with cut gradients.

    Returns:
        Environments in flight; transitions ``[num_envs, rollout_length]``; bool of the same shape, whether the next
        step begins a window; and the metrics of the episodes that ended.
    """
    entered = struct.replace(state, rollout=windows.enter(state.rollout))
    after, transitions, episodes = experience.collect(entered, begin_windows(policy, horizon), key)
    ends = jnp.roll(transitions.extras["begins"], -1, axis=1)
    return windows.leave(after.rollout, state.rollout.carry), transitions, ends, episodes


@struct.dataclass
class Watched:
    """Environment state and its derivatives with respect to the actions of the window, up to a common scale.

    Attributes:
        state: the environment's state.
        tangents: ``[_NUM_TANGENTS, ...]`` each, changes of the state's floating-point leaves under random changes of
            all actions since the window began.
        seen: float32 scalar, Frobenius norm of the changes of the observation.
        unit: float32 scalar, standard deviation of the random change of an action. All of these are rescaled together
            to keep the numbers small.
    """

    state: PyTree
    tangents: list[Array]
    seen: Array
    unit: Array


@struct.dataclass
class GradientWindows:
    """Environment whose gradients stop at the beginning of a window; values are unchanged.

    States are `Watched`, actions are those of `begin_windows`. `tally` has no influence on any value; the "gradient"
    with respect to it is the number of stiff steps. In a stiff step the change of the observation due to earlier
    actions of the window grows to more than `max_growth` times its size, or is no longer finite.

    Attributes:
        env: the environment.
        tally: float32 scalar, 0.
        max_growth: largest growth factor of a change of the observation in a step that is not stiff.
    """

    env: Environment
    tally: Array
    max_growth: float | Array

    @property
    def observation_space(self) -> Space:
        """Observation space of `env`."""
        return self.env.observation_space

    @property
    def action_space(self) -> Space:
        """Action space of `env`."""
        return self.env.action_space

    def watch(self, timestep: TimeStep) -> TimeStep:
        """Time step with a `Watched` state at the beginning of a window, from a time step of `env`."""
        leaves, _ = float_leaves.split(timestep.state)
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
        """Advance `state` by one action ``(action, begins)``; with `begins` a new window begins."""
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
        """Tangents and norms after a step (without the state), and whether the step is stiff."""
        leaves, rebuild = float_leaves.split(before.state)

        def advance(leaves: list[Array], action: Array) -> tuple[list[Array], list[Array]]:
            timestep = self.env.step(env_key, rebuild(leaves), action)
            return float_leaves.split(timestep.state)[0], float_leaves.split(timestep.obs)[0]

        def push(leaves_change: list[Array], action_change: Array) -> tuple[list[Array], list[Array]]:
            return jax.jvp(advance, (leaves, action), (leaves_change, action_change))[1]

        none = [jnp.zeros_like(leaf) for leaf in leaves]
        drawn = before.unit * jax.random.normal(change_key, (_NUM_TANGENTS, *action.shape), action.dtype)
        moved, moved_obs = jax.vmap(lambda tangent: push(tangent, jnp.zeros_like(action)))(before.tangents)
        added, added_obs = jax.vmap(lambda change: push(none, change))(drawn)
        # A change that was 0 before has no growth factor.
        stiff = ~(_norm(moved_obs) <= jnp.where(before.seen > 0.0, self.max_growth * before.seen, jnp.inf))
        tangents, seen = jax.tree.map(jnp.add, (moved, moved_obs), (added, added_obs))
        size, seen_size = _norm(tangents), _norm(seen)
        # Derivatives that are not finite are dropped, as `GradientGate` cuts them out of the gradient.
        fine = jnp.isfinite(size) & jnp.isfinite(seen_size)
        scale = 1.0 / jnp.where(size > 0.0, size, 1.0)
        tangents = [jnp.where(fine, scale * tangent, 0.0) for tangent in tangents]
        unit = jnp.where(fine, scale * before.unit, 1.0)
        return Watched((), tangents, jnp.where(fine, scale * seen_size, 0.0), unit), stiff


def _norm(arrays: list[Array]) -> Array:
    return jnp.sqrt(sum((jnp.sum(jnp.square(array)) for array in arrays), jnp.float32(0.0)))


def _cut(begins: Array, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: jnp.where(begins, jax.lax.stop_gradient(leaf), leaf), tree)
