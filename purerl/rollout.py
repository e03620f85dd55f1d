"""Acting in environments: `unroll` one, `collect` from many, `evaluate` whole episodes.

`unroll` is the only loop that steps an environment for learning. It is written for one environment, differentiable,
and the single place where an episode ends and the next begins: time step, recurrent carry and counters together.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from purerl import struct
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, TimeStep, Transition


@struct.dataclass
class RolloutState:
    """One environment in flight.

    Attributes:
        timestep: where it is.
        carry: the policy's memory.
        episode_return: float32, undiscounted, of the running episode.
        episode_length: int32, steps of the running episode.
    """

    timestep: TimeStep
    carry: PyTree
    episode_return: Array
    episode_length: Array


@struct.dataclass
class Episodes:
    """Outcomes of whole episodes, ``[num_episodes]`` each.

    Attributes:
        episode_return: float32, undiscounted sum of rewards.
        episode_length: int32, number of steps.
        finished: bool; False if the episode was cut off at `evaluate`'s `max_steps`.
    """

    episode_return: Array
    episode_length: Array
    finished: Array


# (key, number of episodes begun so far) -> the first time step of a new episode
Starts = Callable[[Array, Array], TimeStep]


def begin(timestep: TimeStep, carry: PyTree) -> RolloutState:
    """An episode that starts at `timestep` with the policy memory `carry`."""
    return RolloutState(timestep, carry, jnp.float32(0.0), jnp.int32(0))


def unroll(
    env: Environment, policy: Policy, state: RolloutState, key: Array, length: int, starts: Starts
) -> tuple[RolloutState, Transition, Metrics]:
    """Act for `length` steps in one environment, beginning new episodes as old ones end.

    Args:
        env: the environment.
        policy: how to act.
        state: where the environment is.
        key: randomness of actions, dynamics and starts.
        length: number of steps.
        starts: where new episodes begin; no gradient flows into it.

    Returns:
        The state afterwards, transitions ``[length]``, and ``episode_return`` and ``episode_length`` of the episodes
        that ended.
    """

    def step(loop: tuple[RolloutState, Array], keys: Array) -> tuple[tuple[RolloutState, Array], tuple]:
        state, num_starts = loop
        action_key, env_key, start_key = jax.random.wrap_key_data(keys, impl=jax.random.key_impl(key))
        action, carry, extras = policy.act(action_key, state.carry, state.timestep.obs)
        timestep = env.step(env_key, state.timestep.state, action)
        transition = Transition(
            obs=state.timestep.obs,
            action=action,
            reward=timestep.reward,
            terminated=timestep.terminated,
            truncated=timestep.truncated,
            next_obs=timestep.obs,
            extras=extras,
        )
        onward = RolloutState(timestep, carry, state.episode_return + timestep.reward, state.episode_length + 1)
        anew = begin(lax.stop_gradient(starts(start_key, num_starts)), policy.carry)
        done = timestep.done
        state = jax.tree.map(lambda a, b: jnp.where(done, a, b), anew, onward)
        return (state, num_starts + done), (transition, onward.episode_return, onward.episode_length)

    # All at once: in the loop the hashing behind keys costs as much as a small environment. As numbers, because where
    # `jax.vmap` transposes keys on their way into a loop, `jax.debug_key_reuse` takes that for a use.
    keys = jax.vmap(lambda index: jax.random.split(jax.random.fold_in(key, index), 3))(jnp.arange(length))
    keys = jax.random.key_data(keys)
    (state, _), (transitions, returns, lengths) = lax.scan(step, (state, jnp.int32(0)), keys)
    ended = transitions.done
    metrics = {"episode_return": Mean.of(returns, ended), "episode_length": Mean.of(lengths, ended)}
    return state, transitions, metrics


def collect(
    env: Environment, policy: Policy, state: RolloutState, key: Array, length: int, steps_per_reset: int
) -> tuple[RolloutState, Transition, Metrics]:
    """Act for `length` steps in each of ``[num_envs]`` environments.

    Resetting at every step just in case one is needed costs more than stepping in many simulators. Instead one fresh
    start state is drawn for every `steps_per_reset` steps taken, and handed out in turn; only when more episodes end
    than that does one serve twice. ``steps_per_reset=1`` is exact: every step has a start state of its own.

    Args:
        env: the environment.
        policy: how to act.
        state: ``[num_envs]`` environments in flight.
        key: randomness.
        length: steps to take in each.
        steps_per_reset: see above, at least 1.

    Returns:
        States ``[num_envs]``, transitions ``[num_envs, length]`` and the metrics of `unroll` over all environments.
    """
    unroll_key, pool_key = jax.random.split(key)
    num_envs = state.episode_length.shape[0]
    starts = _fresh_starts(env, pool_key, num_envs * length, steps_per_reset)

    def unroll_one(state: RolloutState, key: Array, index: Array) -> tuple[RolloutState, Transition, Metrics]:
        # Neighbours take neighbouring starts, and each its next one a whole row later: all differ as long as they last.
        return unroll(env, policy, state, key, length, lambda key, count: starts(key, index + num_envs * count))

    keys = jax.random.split(unroll_key, num_envs)
    state, transitions, metrics = jax.vmap(unroll_one)(state, keys, jnp.arange(num_envs))
    return state, transitions, {name: mean.sum() for name, mean in metrics.items()}


def _fresh_starts(env: Environment, key: Array, num_steps: int, steps_per_reset: int) -> Starts:
    """``(key, index) -> TimeStep``: drawn on the spot, or the entry of a pool drawn now (see `collect`)."""
    if steps_per_reset == 1:
        return lambda key, index: env.reset(key)
    size = -(-num_steps // steps_per_reset)
    pool = jax.vmap(env.reset)(jax.random.split(key, size))
    return lambda key, index: jax.tree.map(lambda leaf: leaf[index % size], pool)


def evaluate(env: Environment, policy: Policy, key: Array, num_episodes: int, max_steps: int = 100_000) -> Episodes:
    """Play a fixed number of complete episodes in parallel and count each exactly once.

    Counting the episodes that end within a fixed number of steps would favour short ones; here every episode that
    begins is played to its end.

    Args:
        env: the environment.
        policy: how to act.
        key: randomness, independent of any training.
        num_episodes: how many.
        max_steps: give up on an episode after so many steps (for environments that might never end).
    """

    def play(key: Array) -> Episodes:
        reset_key, step_key = jax.random.split(key)

        def step(state: RolloutState) -> RolloutState:
            action_key, env_key = jax.random.split(jax.random.fold_in(step_key, state.episode_length))
            action, carry, _ = policy.act(action_key, state.carry, state.timestep.obs)
            timestep = env.step(env_key, state.timestep.state, action)
            return RolloutState(timestep, carry, state.episode_return + timestep.reward, state.episode_length + 1)

        def running(state: RolloutState) -> Array:
            return ~state.timestep.done & (state.episode_length < max_steps)

        state = lax.while_loop(running, step, begin(env.reset(reset_key), policy.carry))
        return Episodes(state.episode_return, state.episode_length, state.timestep.done)

    return jax.vmap(play)(jax.random.split(key, num_episodes))
