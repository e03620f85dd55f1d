"""Acting in environments: `unroll` one, `collect` from many, `evaluate` whole episodes.

`unroll` is the only loop that steps an environment for learning. It is written for one environment, differentiable,
and the single place where an episode ends and the next begins: time step, recurrent carry and counters together.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from purerl import struct
from purerl.types import Array, Environment, Mean, Metrics, Policy, PyTree, TimeStep, Transition

START_BYTES = 16_384
"""Memory for start states drawn ahead, per environment."""


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


def begin(timestep: TimeStep, carry: PyTree) -> RolloutState:
    """An episode that starts at `timestep` with the policy memory `carry`."""
    return RolloutState(timestep, carry, jnp.float32(0.0), jnp.int32(0))


def unroll(
    env: Environment, policy: Policy, state: RolloutState, key: Array, length: int
) -> tuple[RolloutState, Transition, Metrics]:
    """Act for `length` steps in one environment, beginning new episodes as old ones end.

    Every episode begins in a start state of its own, drawn for it alone. No gradient flows into it.

    Args:
        env: the environment.
        policy: how to act.
        state: where the environment is.
        key: randomness of actions, dynamics and starts.
        length: number of steps.

    Returns:
        The state afterwards, transitions ``[length]``, and ``episode_return`` and ``episode_length`` of the episodes
        that ended.
    """

    def step(state: RolloutState, inputs: tuple[Array, TimeStep]) -> tuple[RolloutState, tuple]:
        keys, start = inputs
        action_key, env_key = as_keys(keys)
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
        anew = begin(start, policy.carry)
        done = timestep.done
        state = jax.tree.map(lambda a, b: jnp.where(done, a, b), anew, onward)
        return state, (transition, onward.episode_return, onward.episode_length)

    def as_keys(numbers: Array) -> Array:
        return jax.random.wrap_key_data(numbers, impl=jax.random.key_impl(key))

    def block(state: RolloutState, keys: Array) -> tuple[RolloutState, tuple]:
        starts = lax.stop_gradient(jax.vmap(lambda numbers: env.reset(as_keys(numbers)))(keys[:, 2]))
        return lax.scan(step, state, (keys[:, :2], starts))

    # All at once: in the loop the hashing behind keys costs as much as a small environment. As numbers, because where
    # `jax.vmap` transposes keys on their way into a loop, `jax.debug_key_reuse` takes that for a use.
    keys = jax.vmap(lambda index: jax.random.split(jax.random.fold_in(key, index), 3))(jnp.arange(length))
    keys = jax.random.key_data(keys)
    size = _block_length(env, length)
    state, seen = lax.scan(block, state, keys.reshape(-1, size, *keys.shape[1:]))
    transitions, returns, lengths = jax.tree.map(lambda leaf: leaf.reshape(length, *leaf.shape[2:]), seen)
    ended = transitions.done
    metrics = {"episode_return": Mean.of(returns, ended), "episode_length": Mean.of(lengths, ended)}
    return state, transitions, metrics


def _block_length(env: Environment, length: int) -> int:
    """Number of steps whose start states are drawn together, a divisor of `length`.

    Hashing for many at once costs a fraction of hashing step by step, which small environments notice. Start states of
    large simulators would fill the memory, and hashing is nothing beside their steps.
    """
    shapes = jax.eval_shape(env.reset, jax.random.key(0))
    most = START_BYTES // sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes))
    return max(size for size in range(1, length + 1) if length % size == 0 and size <= max(most, 1))


def collect(
    env: Environment, policy: Policy, state: RolloutState, key: Array, length: int
) -> tuple[RolloutState, Transition, Metrics]:
    """Act for `length` steps in each of ``[num_envs]`` environments.

    Args:
        env: the environment.
        policy: how to act.
        state: ``[num_envs]`` environments in flight.
        key: randomness.
        length: steps to take in each.

    Returns:
        States ``[num_envs]``, transitions ``[num_envs, length]`` and the metrics of `unroll` over all environments.
    """
    keys = jax.random.split(key, state.episode_length.shape[0])
    state, transitions, metrics = jax.vmap(lambda state, key: unroll(env, policy, state, key, length))(state, keys)
    return state, transitions, {name: mean.sum() for name, mean in metrics.items()}


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

    Raises:
        InputError: if `num_episodes` or `max_steps` is no whole number, not positive, or more than an int32 can count.
    """
    struct.check_value("num_episodes", num_episodes, int, "[1, inf)")
    struct.check_value("max_steps", max_steps, int, "[1, inf)")

    def play(key: Array) -> Episodes:
        state = play_episode(env, policy, key, max_steps)
        return Episodes(state.episode_return, state.episode_length, state.timestep.done)

    return jax.vmap(play)(jax.random.split(key, num_episodes))


def play_episode(env: Environment, policy: Policy, key: Array, max_steps: int) -> RolloutState:
    """Play one episode to its end, or for `max_steps` steps; the environment and the policy's memory then.

    Args:
        env: the environment.
        policy: how to act.
        key: randomness of start, actions and dynamics.
        max_steps: most steps, positive.
    """
    reset_key, step_key = jax.random.split(key)

    def step(state: RolloutState) -> RolloutState:
        action_key, env_key = jax.random.split(jax.random.fold_in(step_key, state.episode_length))
        action, carry, _ = policy.act(action_key, state.carry, state.timestep.obs)
        timestep = env.step(env_key, state.timestep.state, action)
        return RolloutState(timestep, carry, state.episode_return + timestep.reward, state.episode_length + 1)

    def running(state: RolloutState) -> Array:
        return ~state.timestep.done & (state.episode_length < max_steps)

    return lax.while_loop(running, step, begin(env.reset(reset_key), policy.carry))
