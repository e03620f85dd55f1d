"""What fresh resets cost: collecting with random actions, one start state per step (exact) or one for 16 steps.

Usage: python -m benchmarks.resets
"""

from purerl.cpu import choose_thread_pool

choose_thread_pool()

import json  # noqa: E402
import statistics  # noqa: E402
import time  # noqa: E402
from functools import partial  # noqa: E402
from pathlib import Path  # noqa: E402

import jax  # noqa: E402

import purerl  # noqa: E402
from purerl import rollout  # noqa: E402
from purerl.types import Policy  # noqa: E402

ENVIRONMENTS = {
    "CartPole-v1": ({}, 256),
    "Breakout-MinAtar": ({}, 256),
    "Seaquest-MinAtar": ({}, 64),
    "brax/inverted_pendulum": ({"backend": "spring"}, 64),
    "brax/ant": ({"backend": "spring"}, 64),
}
LENGTH = 128
ROUNDS = 5


def act_randomly(env, key, carry, obs):
    return env.action_space.sample(key), carry, {}


def main() -> None:
    rows = []
    for name, (options, num_envs) in ENVIRONMENTS.items():
        env = purerl.make(name, **options)
        policy = Policy(
            jax.tree_util.Partial(lambda env, key, carry, obs: (env.action_space.sample(key), carry, {}), env)
        )

        @partial(jax.jit, static_argnames="steps_per_reset")
        def collect(state, key, steps_per_reset, env=env, policy=policy):
            state, transitions, _ = rollout.collect(env, policy, state, key, LENGTH, steps_per_reset)
            return state, transitions.reward.sum()

        timesteps = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), num_envs))
        state = jax.vmap(lambda timestep: rollout.begin(timestep, ()))(timesteps)
        seconds = {1: [], 16: []}
        for repetition in range(ROUNDS + 1):
            for steps_per_reset, measured in seconds.items():
                begun = time.perf_counter()
                jax.block_until_ready(collect(state, jax.random.key(repetition), steps_per_reset))
                if repetition:  # the first one compiles
                    measured.append(time.perf_counter() - begun)
        rate = {n: num_envs * LENGTH / statistics.median(measured) for n, measured in seconds.items()}
        ratio = statistics.median(exact / pooled for exact, pooled in zip(seconds[1], seconds[16], strict=True))
        rows.append({"env": name, "exact": rate[1], "amortised": rate[16], "ratio": ratio})
        print(
            f"{name:24s} exact {rate[1]:12,.0f} steps/s   amortised {rate[16]:12,.0f} steps/s   {ratio:.2f}x",
            flush=True,
        )
    out = Path(__file__).parent / "results" / "resets.json"
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
