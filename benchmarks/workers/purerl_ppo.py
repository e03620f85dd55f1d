"""One timed PPO run of purerl on CartPole, printed as one JSON line."""

import argparse
import json
import time

import jax
import jax.numpy as jnp
from peak_memory import peak_megabytes

import purerl
from purerl import runner

parser = argparse.ArgumentParser()
parser.add_argument("--num-envs", type=int)
parser.add_argument("--iterations", type=int)
parser.add_argument("--seeds", type=int, default=1)
args = parser.parse_args()

algorithm = purerl.PPO(env=purerl.make("CartPole-v1"), num_envs=args.num_envs, rollout_length=128)
if args.seeds > 1:
    algorithm = purerl.Population(algorithm, args.seeds)
state = jax.jit(algorithm.init)(jax.random.key(0))
begun = time.perf_counter()
state, _ = jax.block_until_ready(runner.advance(algorithm, state, jnp.int32(0)))
compile_seconds = time.perf_counter() - begun
state, _ = jax.block_until_ready(runner.advance(algorithm, state, jnp.int32(args.iterations)))
begun = time.perf_counter()
jax.block_until_ready(runner.advance(algorithm, state, jnp.int32(args.iterations)))
run_seconds = time.perf_counter() - begun
print(
    json.dumps(
        {
            "compile_seconds": compile_seconds,
            "run_seconds": run_seconds,
            "env_steps": args.iterations * algorithm.steps_per_iteration * args.seeds,
            "peak_megabytes": peak_megabytes(),
        }
    )
)
