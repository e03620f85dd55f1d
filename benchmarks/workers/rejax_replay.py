"""Time per call of rejax 0.1.3's replay buffer, printed as one JSON line. Runs in rejax's own environment."""

import gymnax  # pyright: ignore[reportMissingImports]
import jax
import jax.numpy as jnp
from rejax.buffers import Minibatch, ReplayBuffer  # pyright: ignore[reportMissingImports]
from replay_timing import BATCH_SIZE, SEVERAL, cartpole, fill, flags, report

args = flags()
env, params = gymnax.make("CartPole-v1")


def transition(number):
    obs, action, reward, done, next_obs = cartpole(number)
    return Minibatch(obs=obs, action=action, reward=reward, done=done, next_obs=next_obs)


def several(number):
    return jax.vmap(transition)(number * SEVERAL + jnp.arange(SEVERAL))


def add_one_and_sample(number, key, state):
    state = state.append(transition(number))
    return state, state.sample(BATCH_SIZE, key)


state = ReplayBuffer.empty(args.capacity, env.observation_space(params), env.action_space(params))
state = state.replace(index=jnp.int32(0), full=jnp.bool_(False))
state = fill(state, lambda number, state: state.extend(several(number)), args.capacity // SEVERAL)
# Trained under `jax.vmap`, its counters begin as constants and so are the same for all members.
axes = jax.tree.map(lambda _: 0, state).replace(index=None, full=None)
functions = {
    "add_one": lambda number, key, state: (state.append(transition(number)), ()),
    "add_several": lambda number, key, state: (state.extend(several(number)), ()),
    "sample": lambda number, key, state: (state, state.sample(BATCH_SIZE, key)),
    "add_one_and_sample": add_one_and_sample,
}
report({name: (function, state, axes) for name, function in functions.items()}, args.members)
