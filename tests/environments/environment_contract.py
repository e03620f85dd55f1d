"""What every environment owes: types that stay, flags that exclude each other, and no reset of its own."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from purerl.types import TimeStep


def describe_types(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype, x.weak_type), tree)


def check_types(env):
    """Reset and step, abstractly and with the environment as an argument, so that every leaf is traced."""
    hash((env.observation_space, env.action_space))

    def both(env, key):
        timestep = env.reset(key)
        return timestep, env.step(key, timestep.state, env.action_space.sample(key))

    first, second = jax.eval_shape(both, env, jax.random.key(0))
    assert describe_types(first) == describe_types(second)
    assert jax.tree.structure(first) == jax.tree.structure(second)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(first))
    space = env.observation_space
    assert (first.obs.shape, first.obs.dtype) == (space.shape, space.dtype)
    assert (first.reward.shape, first.reward.dtype) == ((), jnp.float32)
    for flag in (first.terminated, first.truncated):
        assert (flag.shape, flag.dtype) == ((), jnp.bool_)
    assert not any(leaf.weak_type for leaf in map(jax.typeof, jax.tree.leaves(env)))


@partial(jax.jit, static_argnames=("num_envs", "length"))
def play(env, key, num_envs, length):
    """Random actions from fresh starts: every time step ``[num_envs, length]`` as the environment returned it."""

    def one(key):
        reset_key, loop_key = jax.random.split(key)
        start = env.reset(reset_key)

        def step(timestep, key):
            action_key, step_key = jax.random.split(key)
            onward = env.step(step_key, timestep.state, env.action_space.sample(action_key))
            # Begin anew from the same start; drawing another would double what is compiled.
            return jax.tree.map(lambda a, b: jnp.where(onward.done, a, b), start, onward), onward

        return jax.lax.scan(step, start, jax.random.split(loop_key, length))[1]

    return jax.vmap(one)(jax.random.split(key, num_envs))


def without_effect(env):
    """The leaves of `env`, by path, of which no other value changes anything in a few short episodes."""
    paths, structure = jax.tree_util.tree_flatten_with_path(env)
    leaves = [np.asarray(leaf) for _, leaf in paths]

    def outcome(leaves):
        return jax.tree.leaves(jax.device_get(play(jax.tree.unflatten(structure, leaves), jax.random.key(0), 4, 8)))

    def acts(i):
        leaf = leaves[i]
        others = [~leaf] if leaf.dtype == bool else [np.zeros_like(leaf), leaf + 1, leaf // 2, 3 * leaf + 1, -leaf]
        for other in others:
            changed = outcome([*leaves[:i], other.astype(leaf.dtype), *leaves[i + 1 :]])
            if any(not np.array_equal(a, b, equal_nan=True) for a, b in zip(changed, before, strict=True)):
                return True
        return False

    before = outcome(leaves)
    return {jax.tree_util.keystr(path, simple=True, separator=".") for i, (path, _) in enumerate(paths) if not acts(i)}


def check_trajectory(timesteps: TimeStep):
    assert not np.any(timesteps.terminated & timesteps.truncated)
    assert np.all(np.isfinite(timesteps.reward))
    assert np.all(np.isfinite(np.asarray(timesteps.obs, np.float32)))
