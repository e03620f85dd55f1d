"""PPO with 2048 environments and 16 seeds in one compiled program: 33 thousand parallel CartPoles.

Usage: python scripts/train_parallel.py
"""

from purerl.cpu import choose_thread_pool

choose_thread_pool()  # before jax is imported; see docs/cpu.md

import jax  # noqa: E402

import purerl  # noqa: E402

agent = purerl.PPO(
    env=purerl.make("CartPole-v1"),
    num_envs=2048,
    rollout_length=32,
    num_minibatches=16,
    learning_rate=1e-3,
)
population = purerl.Population(agent, num_members=16)
state = jax.jit(population.init)(jax.random.key(0))
for progress in purerl.iterate(population, state, num_iterations=16, every=2):
    returns = progress.metrics["episode_return"].value  # one per seed
    rate = population.num_members * progress.env_steps / progress.run_seconds
    print(f"{progress.env_steps:,} steps each: return {returns.mean():.1f} +- {returns.std():.1f}, {rate:,.0f} steps/s")
