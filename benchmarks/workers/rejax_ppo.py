"""One timed PPO run of rejax 0.1.3 on CartPole, printed as one JSON line. Runs in rejax's own environment."""

import argparse
import json
import time

import jax
from rejax import PPO  # pyright: ignore[reportMissingImports]

parser = argparse.ArgumentParser()
parser.add_argument("--num-envs", type=int)
parser.add_argument("--iterations", type=int)
parser.add_argument("--seeds", type=int, default=1)
args = parser.parse_args()

total = args.iterations * args.num_envs * 128
algorithm = PPO.create(
    env="CartPole-v1",
    num_envs=args.num_envs,
    num_steps=128,
    num_epochs=4,
    num_minibatches=4,
    learning_rate=2.5e-4,
    gamma=0.99,
    gae_lambda=0.95,
    clip_eps=0.2,
    vf_coef=0.5,
    ent_coef=0.01,
    max_grad_norm=0.5,
    total_timesteps=total,
    eval_freq=total,
    skip_initial_evaluation=True,
    agent_kwargs={"hidden_layer_sizes": (64, 64), "activation": "tanh"},
)
# Its evaluation inside training would only cost time here.
algorithm = algorithm.replace(eval_callback=lambda algorithm, state, key: ())

train = PPO.train if args.seeds == 1 else jax.vmap(PPO.train, in_axes=(None, 0))
key = jax.random.key(0) if args.seeds == 1 else jax.random.split(jax.random.key(0), args.seeds)
begun = time.perf_counter()
compiled = jax.jit(train).lower(algorithm, key).compile()
compile_seconds = time.perf_counter() - begun
jax.block_until_ready(compiled(algorithm, key))  # warm caches and allocator
begun = time.perf_counter()
jax.block_until_ready(compiled(algorithm, key))
run_seconds = time.perf_counter() - begun
print(json.dumps({"compile_seconds": compile_seconds, "run_seconds": run_seconds, "env_steps": total * args.seeds}))
