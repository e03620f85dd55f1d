"""PPO of purerl on CartPole until an evaluation is good enough; prints steps and that evaluation as JSON.

The settings are those of `sb3_solve.py`, but that the clipping range does not shrink; an evaluation every 5,120 steps.
"""

import argparse
import json

import jax

import purerl

parser = argparse.ArgumentParser()
parser.add_argument("--total-steps", type=int)
parser.add_argument("--good", type=float)
parser.add_argument("--episodes", type=int)
parser.add_argument("--seed", type=int)
args = parser.parse_args()

env = purerl.make("CartPole-v1")
agent = purerl.PPO(
    env=env,
    num_envs=8,
    rollout_length=32,
    num_epochs=20,
    num_minibatches=1,
    gamma=0.98,
    gae_lambda=0.8,
    entropy_coef=0.0,
    learning_rate=purerl.LinearSchedule(1e-3, 0.0, float(args.total_steps)),
    clip_eps=0.2,
    value_clip_eps=None,
)
key, evaluation_key = jax.random.split(jax.random.key(args.seed))
evaluate = jax.jit(
    lambda state: purerl.evaluate(env, agent.policy(state, explore=False), evaluation_key, args.episodes)
)
num_iterations = -(-args.total_steps // agent.steps_per_iteration)
env_steps, mean = 0, 0.0
for progress in purerl.iterate(agent, jax.jit(agent.init)(key), num_iterations, every=20):
    env_steps, mean = progress.env_steps, float(evaluate(progress.state).episode_return.mean())
    if mean >= args.good:
        break
print(json.dumps([env_steps, mean]))
