"""One timed off-policy run of purerl, printed as one JSON line. Every setting equals that of the rejax worker."""

import argparse
import json
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
from peak_memory import peak_megabytes

import purerl
from purerl import runner
from purerl.networks import MLP

parser = argparse.ArgumentParser()
parser.add_argument("--algorithm", choices=("dqn", "sac", "td3"))
parser.add_argument("--seeds", type=int, default=1)
parser.add_argument("--total-steps", type=int, help="environment steps of each seed, after the warm-up")
parser.add_argument("--buffer-size", type=int, default=100_000)
args = parser.parse_args()

WARMUP_STEPS = 1_000
TRUNK = MLP((64, 64), nn.relu)


COMMON = {
    "num_envs": 1,
    "rollout_length": 1,
    "num_updates": 1,
    "buffer_size": args.buffer_size,
    "warmup_steps": WARMUP_STEPS,
    "gamma": 0.99,
}


def make():
    if args.algorithm == "dqn":
        return purerl.DQN(
            env=purerl.make("CartPole-v1"),
            network=purerl.QNetwork(trunk=TRUNK),
            batch_size=128,
            learning_rate=2.5e-4,
            double=True,
            target_period=500,
            tau=1.0,
            epsilon_steps=0.1 * (WARMUP_STEPS + args.total_steps),
            **COMMON,
        )
    env = purerl.make("Pendulum-v1")
    if args.algorithm == "sac":
        return purerl.SAC(
            env=env, network=purerl.SoftActorCritic(TRUNK), batch_size=256, learning_rate=3e-4, tau=0.005, **COMMON
        )
    return purerl.TD3(
        env=env,
        network=purerl.DeterministicActorCritic(TRUNK, num_critics=2),
        batch_size=256,
        learning_rate=3e-4,
        tau=0.005,
        policy_period=2,
        noise_std=0.1,  # of actions within -1 and 1; rejax's reach from -2 to 2
        target_noise_std=0.2,
        target_noise_clip=0.5,
        **COMMON,
    )


algorithm = make()
if args.seeds > 1:
    algorithm = purerl.Population(algorithm, args.seeds)
init = jax.jit(algorithm.init)
state = jax.block_until_ready(init(jax.random.key(0)))
begun = time.perf_counter()
state, _ = jax.block_until_ready(runner.advance(algorithm, state, jnp.int32(0)))
compile_seconds = time.perf_counter() - begun
state, _ = jax.block_until_ready(runner.advance(algorithm, state, jnp.int32(args.total_steps)))
state = jax.block_until_ready(init(jax.random.key(0)))
begun, begun_cpu = time.perf_counter(), time.process_time()
jax.block_until_ready(runner.advance(algorithm, state, jnp.int32(args.total_steps)))
run_seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - begun_cpu
print(
    json.dumps(
        {
            "compile_seconds": compile_seconds,
            "run_seconds": run_seconds,
            "cpu_seconds": cpu_seconds,
            "env_steps": args.total_steps * args.seeds,
            "peak_megabytes": peak_megabytes(),
        }
    )
)
