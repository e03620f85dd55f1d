"""One timed off-policy run of rejax 0.1.3, printed as one JSON line. Runs in rejax's own environment."""

import argparse
import json
import time

import jax
from peak_memory import peak_megabytes
from rejax import DQN, SAC, TD3  # pyright: ignore[reportMissingImports]

parser = argparse.ArgumentParser()
parser.add_argument("--algorithm", choices=("dqn", "sac", "td3"))
parser.add_argument("--seeds", type=int, default=1)
parser.add_argument("--total-steps", type=int, help="environment steps of each seed, after the warm-up")
parser.add_argument("--buffer-size", type=int, default=100_000)
args = parser.parse_args()

WARMUP_STEPS = 1_000
cls, settings = {
    "dqn": (
        DQN,
        {
            "env": "CartPole-v1",
            "batch_size": 128,
            "learning_rate": 2.5e-4,
            "target_update_freq": 500,
            "polyak": 0.0,  # how much of the old target stays: none, a copy
            "ddqn": True,
            "agent_kwargs": {"activation": "relu"},  # two layers of 64, which rejax does not let one choose
        },
    ),
    "sac": (
        SAC,
        {
            "env": "Pendulum-v1",
            "batch_size": 256,
            "learning_rate": 3e-4,
            "target_update_freq": 1,
            "polyak": 0.995,
            "hidden_layer_sizes": (64, 64),
            "agent_kwargs": {"activation": "relu"},
        },
    ),
    "td3": (
        TD3,
        {
            "env": "Pendulum-v1",
            "batch_size": 256,
            "learning_rate": 3e-4,
            "target_update_freq": 1,
            "polyak": 0.995,
            "policy_delay": 2,
            "exploration_noise": 0.2,
            "target_noise": 0.4,
            "target_noise_clip": 1.0,
            "actor_kwargs": {"activation": "relu"},  # two layers of 64 here too
            "critic_kwargs": {"activation": "relu"},
        },
    ),
}[args.algorithm]


def prepare(steps):
    """Training for so many steps, compiled, and the seconds that took."""
    algorithm = cls.create(
        num_envs=1,
        num_epochs=1,
        gamma=0.99,
        buffer_size=args.buffer_size,
        fill_buffer=WARMUP_STEPS,
        total_timesteps=steps,
        eval_freq=steps,
        skip_initial_evaluation=True,
        **settings,
    )
    # Its evaluation inside training would only cost time here.
    algorithm = algorithm.replace(eval_callback=lambda algorithm, state, key: ())
    train = cls.train if args.seeds == 1 else jax.vmap(cls.train, in_axes=(None, 0))
    key = jax.random.key(0) if args.seeds == 1 else jax.random.split(jax.random.key(0), args.seeds)
    begun = time.perf_counter()
    compiled = jax.jit(train).lower(algorithm, key).compile()
    return (lambda: compiled(algorithm, key)), time.perf_counter() - begun


def seconds(run):
    """On the clock, and of the processor."""
    begun, begun_cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(run())
    return time.perf_counter() - begun, time.process_time() - begun_cpu


warm_up, _ = prepare(WARMUP_STEPS)
train, compile_seconds = prepare(WARMUP_STEPS + args.total_steps)
seconds(warm_up)  # caches and allocator
seconds(train)
run_seconds, cpu_seconds = (whole - part for whole, part in zip(seconds(train), seconds(warm_up), strict=True))
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
