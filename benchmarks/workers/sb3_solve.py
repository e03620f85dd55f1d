"""PPO of Stable-Baselines3 on CartPole until an evaluation is good enough; prints steps and that evaluation as JSON.

Its settings are those of RL Baselines3 Zoo for this environment, the usual ones; an evaluation every 5,000 steps.
"""

import argparse
import json

from stable_baselines3 import PPO  # pyright: ignore[reportMissingImports]
from stable_baselines3.common.callbacks import (  # pyright: ignore[reportMissingImports]
    EvalCallback,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_util import make_vec_env  # pyright: ignore[reportMissingImports]

NUM_ENVS = 8

parser = argparse.ArgumentParser()
parser.add_argument("--total-steps", type=int)
parser.add_argument("--good", type=float)
parser.add_argument("--episodes", type=int)
parser.add_argument("--seed", type=int)
args = parser.parse_args()

model = PPO(
    "MlpPolicy",
    make_vec_env("CartPole-v1", NUM_ENVS, seed=args.seed),
    n_steps=32,
    batch_size=256,
    n_epochs=20,
    gamma=0.98,
    gae_lambda=0.8,
    ent_coef=0.0,
    learning_rate=lambda remaining: 1e-3 * remaining,
    clip_range=lambda remaining: 0.2 * remaining,
    seed=args.seed,
    device="cpu",
)
evaluation = EvalCallback(
    make_vec_env("CartPole-v1", args.episodes, seed=args.seed + 10_000),
    callback_on_new_best=StopTrainingOnRewardThreshold(args.good),
    n_eval_episodes=args.episodes,
    eval_freq=5_000 // NUM_ENVS,
    verbose=0,
)
model.learn(args.total_steps, callback=evaluation)
print(json.dumps([model.num_timesteps, float(evaluation.best_mean_reward)]))
