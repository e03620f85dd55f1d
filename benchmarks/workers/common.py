"""What all workers of `python -m benchmarks` share: flags, hyper-parameters, and the JSON line that each prints.

The hyper-parameters are named as in purerl; every worker translates them into the words of its library.
"""

import argparse
import json
import time

from peak_memory import peak_megabytes

PPO = {
    "rollout_length": 128,
    "num_epochs": 4,
    "num_minibatches": 4,
    "learning_rate": 2.5e-4,
    "gamma": 0.99,
    "gae_lambda": 0.95,
    "clip_eps": 0.2,
    "entropy_coef": 0.01,
    "value_coef": 0.5,
    "max_grad_norm": 0.5,
}
PPO_BRAX = {**PPO, "rollout_length": 32, "learning_rate": 3e-4, "entropy_coef": 0.0}

WARMUP_STEPS = 1_000  # random ones, before off-policy learning begins; not timed
BUFFER_SIZE = 100_000
OFF_POLICY = {
    "dqn": {"batch_size": 128, "learning_rate": 2.5e-4, "gamma": 0.99, "target_period": 500},
    "sac": {"batch_size": 256, "learning_rate": 3e-4, "gamma": 0.99, "tau": 0.005},
    # Noise is of actions between -1 and 1.
    "td3": {
        "batch_size": 256,
        "learning_rate": 3e-4,
        "gamma": 0.99,
        "tau": 0.005,
        "policy_period": 2,
        "noise_std": 0.1,
        "target_noise_std": 0.2,
        "target_noise_clip": 0.5,
    },
}
APG = {"rollout_length": 32, "learning_rate": 1e-3}

HIDDEN_SIZES = (64, 64)
# Of the network for images: one convolution, one dense layer.
CHANNELS, KERNEL, IMAGE_HIDDEN_SIZES = 16, (3, 3), (128,)


def is_image(env):
    return "MinAtar" in env


def ppo_settings(env):
    return PPO_BRAX if env.startswith("brax/") else PPO


def flags(**extra):
    """The flags of every worker; `extra` ones are the worker's own, name to arguments of `add_argument`."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--algorithm", choices=("ppo", "dqn", "sac", "td3", "apg"), default="ppo")
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--num-envs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=1, help="agents side by side")
    parser.add_argument(
        "--iterations", type=int, help="of collecting and learning; off-policy, steps after the warm-up"
    )
    parser.add_argument("--seed", type=int, default=0)
    for name, settings in extra.items():
        parser.add_argument(f"--{name}", **settings)
    return parser.parse_args()


def seconds(function, *args):
    """How long a call takes until its arrays are there, and what it returned."""
    import jax

    begun = time.perf_counter()
    result = jax.block_until_ready(function(*args))
    return time.perf_counter() - begun, result


def compiled(function, *args):
    """How long tracing and compiling take, and the program that it makes."""
    import jax

    return seconds(lambda: jax.jit(function).lower(*args).compile())


def report(compile_seconds, run_seconds, env_steps, final_return=None, megabytes=None):
    """Print what was measured, as the last line. A return that is not a number (no episode ended) is left out.

    `megabytes` are those of this process if none are given.
    """
    if final_return is not None:
        final_return = float(final_return) if final_return == final_return else None
    measured = {
        "compile_seconds": compile_seconds,
        "run_seconds": run_seconds,
        "env_steps": env_steps,
        "final_return": final_return,
        "peak_megabytes": peak_megabytes() if megabytes is None else megabytes,
    }
    print(json.dumps(measured))
