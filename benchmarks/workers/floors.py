"""What no implementation can do without, alone and timed, printed as one JSON line.

``stepping``: purerl's environments under random actions, for as many steps as the training takes.
``arithmetic``: forward and backward passes of the training's networks on its minibatches' shapes, as many as its
updates have. Each ends in a plain step along the gradient, or they would be computed once for all. There is no acting,
replay, estimating or optimiser.
"""

from functools import partial

import jax
import jax.numpy as jnp
from common import compiled, flags, report, seconds
from purerl_agents import make_agent

import purerl
from purerl import rollout
from purerl.learning.minibatches import accumulate_gradient
from purerl.networks import encode
from purerl.types import Policy

LENGTH = 128  # steps per call of `rollout.collect`


def act_randomly(env, key, carry, obs):
    return env.action_space.sample(key), carry, {}


def stepping(agent, num_envs, steps):
    """``run(key)``, which takes about so many steps in all environments together, and how many those are."""
    env, policy = agent.env, Policy(jax.tree_util.Partial(act_randomly, agent.env))
    count = max(1, steps // (num_envs * LENGTH))

    def run(key):
        timesteps = jax.vmap(env.reset)(jax.random.split(key, num_envs))

        def collect(index, carry):
            state, total = carry
            key_now = jax.random.fold_in(key, index)
            state, seen, _ = rollout.collect(env, policy, state, key_now, LENGTH)
            # What is looked at is computed.
            return state, total + jnp.sum(seen.reward) + jnp.sum(seen.obs) + jnp.sum(seen.next_obs)

        state = jax.vmap(lambda timestep: rollout.begin(timestep, ()))(timesteps)
        return jax.lax.fori_loop(0, count, collect, (state, jnp.float32(0.0)))

    return run, count * num_envs * LENGTH


def descend(loss, params, *others):
    return jax.tree.map(lambda leaf, grad: leaf - 1e-6 * grad, params, jax.grad(loss)(params, *others))


def squares(tree):
    return sum(jnp.mean(jnp.square(leaf)) for leaf in jax.tree.leaves(tree))


def arithmetic(agent, algorithm):
    """``(init(key), update(parameters, batch), batch size, updates per iteration, updates per call of `update`)``."""
    space, action_space = agent.env.observation_space, agent.env.action_space
    network = agent.network.clone(action_space=action_space)
    blank = encode(space, jnp.zeros(space.shape, space.dtype))

    def apply(method, params, *inputs):
        return jax.vmap(lambda *sample: network.apply(params, *sample, method=method))(*inputs)

    if algorithm == "ppo":

        def gradient(params, key, obs):
            return jax.grad(lambda params: squares(apply("__call__", params, obs)))(params), {}

        def improve(params, obs):
            # In parts where they fit into a processor's caches, as anybody could.
            grads, _ = accumulate_gradient(partial(gradient, params), jax.random.key(0), obs)
            return jax.tree.map(lambda leaf, grad: leaf - 1e-6 * grad, params, grads)

        batch_size = agent.steps_per_iteration // agent.num_minibatches
        return partial(network.init, obs=blank), improve, batch_size, agent.num_epochs * agent.num_minibatches, 1

    if algorithm == "dqn":

        def loss(params, target_params, obs):
            # Two networks rate what comes next, as double Q-learning does.
            coming = apply("__call__", target_params, obs + 1.0) + apply("__call__", target_params, obs - 1.0)
            return squares(apply("__call__", params, obs) - coming)

        def regress(params, obs):
            return descend(loss, params, params, obs)

        return partial(network.init, obs=blank), regress, agent.batch_size, agent.updates_per_iteration, 1

    def action_of(actor_params, obs):
        return jax.tree.leaves(apply("actor", actor_params, obs))[0]

    def critic_loss(params, target_params, actor_params, obs):
        target = apply("critic", target_params, obs, action_of(actor_params, obs))
        return squares(apply("critic", params, obs, jnp.zeros((obs.shape[0], *action_space.shape))) - target)

    def actor_loss(params, critic_params, obs):
        return jnp.mean(apply("critic", critic_params, obs, action_of(params, obs)))

    # TD3 improves its actor after every other update of its critics.
    period = agent.policy_period if algorithm == "td3" else 1

    def init(key):
        action = jnp.zeros(action_space.shape)
        return network.init(key, blank, method="actor"), network.init(key, blank, action, method="critic")

    def update(params, obs):
        actor_params, critic_params = params
        for _ in range(period):
            critic_params = descend(critic_loss, critic_params, critic_params, actor_params, obs)
        return descend(actor_loss, actor_params, critic_params, obs), critic_params

    return init, update, agent.batch_size, agent.updates_per_iteration, period


def main():
    args = flags(floor={"choices": ("stepping", "arithmetic")})
    agent = make_agent(args.algorithm, args.env, args.num_envs, args.iterations)
    env_steps = args.iterations * agent.steps_per_iteration * args.seeds
    key = jax.random.key(args.seed)
    if args.floor == "stepping":
        run, env_steps = stepping(agent, args.num_envs * args.seeds, env_steps)
    else:
        init, update, batch_size, updates, at_once = arithmetic(agent, args.algorithm)
        shape = agent.env.observation_space.shape

        def one(key):
            obs = jax.random.uniform(key, (batch_size, *shape))
            count = max(1, args.iterations * updates // at_once)
            return jax.lax.fori_loop(0, count, lambda _, params: update(params, obs), init(key))

        # In groups that fit into caches, as a population is trained.
        group = purerl.Population(agent, args.seeds).group_size
        run = one if args.seeds == 1 else partial(jax.lax.map, one, batch_size=group)
        key = key if args.seeds == 1 else jax.random.split(key, args.seeds)
    compile_seconds, program = compiled(run, key)
    seconds(program, key)  # caches and allocator
    run_seconds, _ = seconds(program, key)
    report(compile_seconds, run_seconds, env_steps)


main()
