"""One timed training of purerl, printed as one JSON line."""

import resource
from functools import partial

import jax
import jax.numpy as jnp
from common import flags, report, seconds
from peak_memory import peak_megabytes
from purerl_agents import make_agent

import purerl
from purerl.training import loop
from purerl.training.local_worker import parts


def train(algorithm, key, iterations):
    """Seconds of compiling and running, and the return afterwards."""
    init = jax.jit(algorithm.init)
    _, state = seconds(init, key)
    compile_seconds, (state, *_) = seconds(loop.advance, algorithm, state, jnp.int32(0))
    seconds(loop.advance, algorithm, state, jnp.int32(iterations))  # caches and allocator
    _, state = seconds(init, key)
    run_seconds, (state, *_) = seconds(loop.advance, algorithm, state, jnp.int32(iterations))
    # How well it does now, from a little more training that is not timed.
    _, (_, metrics, _) = seconds(loop.advance, algorithm, state, jnp.int32(1 + iterations // 10))
    return compile_seconds, run_seconds, metrics["episode_return"].sum().value


def train_spread(build, num_processes, key, iterations):
    """The same in several processes."""
    with parts(build, num_processes, deadline=3600.0) as members:
        members.compile_init()
        members.init(key)
        compile_seconds, _ = seconds(members.advance, 0)
        seconds(members.advance, iterations)
        members.init(key)
        run_seconds, _ = seconds(members.advance, iterations)
        _, metrics = seconds(members.advance, 1 + iterations // 10)
    return compile_seconds, run_seconds, metrics["episode_return"].sum().value


def make_population(algorithm, env, num_envs, iterations, seeds):
    return purerl.Population(make_agent(algorithm, env, num_envs, iterations), seeds)


def main():
    args = flags(processes={"type": int, "default": 1, "help": "that the seeds are spread over"})
    agent = make_agent(args.algorithm, args.env, args.num_envs, args.iterations)
    key, megabytes = jax.random.key(args.seed), None
    if args.processes > 1:
        build = partial(make_population, args.algorithm, args.env, args.num_envs, args.iterations, args.seeds)
        measured = train_spread(build, args.processes, key, args.iterations)
        largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        megabytes = peak_megabytes() + args.processes * largest
    else:
        measured = train(agent if args.seeds == 1 else purerl.Population(agent, args.seeds), key, args.iterations)
    compile_seconds, run_seconds, final_return = measured
    env_steps = args.iterations * agent.steps_per_iteration * args.seeds
    report(compile_seconds, run_seconds, env_steps, final_return, megabytes)


if __name__ == "__main__":  # the processes import this file
    main()
