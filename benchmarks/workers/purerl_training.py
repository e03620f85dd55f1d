"""One timed training of purerl, printed as one JSON line."""

import jax
import jax.numpy as jnp
from common import flags, report, seconds
from purerl_agents import make_agent

import purerl
from purerl import runner

args = flags()
algorithm = make_agent(args.algorithm, args.env, args.num_envs, args.iterations)
steps_per_iteration = algorithm.steps_per_iteration * args.seeds
if args.seeds > 1:
    algorithm = purerl.Population(algorithm, args.seeds)
init, iterations = jax.jit(algorithm.init), jnp.int32(args.iterations)
key = jax.random.key(args.seed)
_, state = seconds(init, key)
compile_seconds, (state, _) = seconds(runner.advance, algorithm, state, jnp.int32(0))
seconds(runner.advance, algorithm, state, iterations)  # caches and allocator
_, state = seconds(init, key)
run_seconds, (state, _) = seconds(runner.advance, algorithm, state, iterations)
# How well it does now, from a little more training that is not timed.
_, (_, metrics) = seconds(runner.advance, algorithm, state, jnp.int32(1 + args.iterations // 10))
final_return = metrics["episode_return"].sum().value
report(compile_seconds, run_seconds, args.iterations * steps_per_iteration, final_return)
