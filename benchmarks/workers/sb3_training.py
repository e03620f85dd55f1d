"""One timed training of Stable-Baselines3 or of SBX, printed as one JSON line. Runs in that library's environment.

Both have one interface, and step Gymnasium's environments one after the other in the same process (`DummyVecEnv`),
which is the fastest way for environments as small as these. Not as in the others: neither DQN is double, SBX's PPO does
not clip values, and the networks of DQN, SAC and TD3 are initialised as those libraries do.
"""

import time

from common import BUFFER_SIZE, HIDDEN_SIZES, OFF_POLICY, WARMUP_STEPS, flags, ppo_settings, report
from numpy import full, zeros
from stable_baselines3.common.env_util import make_vec_env  # pyright: ignore[reportMissingImports]
from stable_baselines3.common.noise import NormalActionNoise  # pyright: ignore[reportMissingImports]

args = flags(library={"choices": ("sb3", "sbx")})
if args.library == "sb3":
    from stable_baselines3 import DQN, PPO, SAC, TD3  # pyright: ignore[reportMissingImports]
    from torch.nn import ReLU as relu  # pyright: ignore[reportMissingImports]
    from torch.nn import Tanh as tanh  # pyright: ignore[reportMissingImports]
else:
    from flax.linen import relu, tanh
    from sbx import DQN, PPO, SAC, TD3  # pyright: ignore[reportMissingImports]


def ppo(env):
    settings = ppo_settings(args.env)
    batch = args.num_envs * settings["rollout_length"]
    clip_values = {"clip_range_vf": settings["clip_eps"]} if args.library == "sb3" else {}
    return PPO(
        "MlpPolicy",
        env,
        n_steps=settings["rollout_length"],
        n_epochs=settings["num_epochs"],
        batch_size=batch // settings["num_minibatches"],
        learning_rate=settings["learning_rate"],
        gamma=settings["gamma"],
        gae_lambda=settings["gae_lambda"],
        clip_range=settings["clip_eps"],
        ent_coef=settings["entropy_coef"],
        vf_coef=settings["value_coef"],
        max_grad_norm=settings["max_grad_norm"],
        policy_kwargs={
            "net_arch": {"pi": list(HIDDEN_SIZES), "vf": list(HIDDEN_SIZES)},
            "activation_fn": tanh,
        },
        seed=args.seed,
        device="cpu",
        **clip_values,
    ), batch


def off_policy(env):
    settings = OFF_POLICY[args.algorithm]
    cls, own = {
        "dqn": (DQN, {"target_update_interval": settings.get("target_period"), "tau": 1.0}),
        "sac": (SAC, {"tau": settings.get("tau")}),
        "td3": (TD3, {"tau": settings.get("tau"), "policy_delay": settings.get("policy_period")}),
    }[args.algorithm]
    if args.algorithm == "td3":
        shape = env.action_space.shape
        own["action_noise"] = NormalActionNoise(zeros(shape), full(shape, settings["noise_std"]))
    return cls(
        "MlpPolicy",
        env,
        batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        gamma=settings["gamma"],
        buffer_size=BUFFER_SIZE,
        learning_starts=WARMUP_STEPS,
        train_freq=1,
        gradient_steps=args.num_envs,
        policy_kwargs={"net_arch": list(HIDDEN_SIZES), "activation_fn": relu},
        seed=args.seed,
        device="cpu",
        **own,
    ), args.num_envs


def learn(model, steps):
    begun = time.perf_counter()
    model.learn(steps, reset_num_timesteps=False)
    return time.perf_counter() - begun


on_policy = args.algorithm == "ppo"
model, steps_per_iteration = (ppo if on_policy else off_policy)(make_vec_env(args.env, args.num_envs, seed=args.seed))
if not on_policy:
    learn(model, WARMUP_STEPS)
# A few iterations compile what SBX compiles.
compile_seconds = learn(model, steps_per_iteration * (1 if on_policy else 8))
steps = args.iterations * steps_per_iteration
begun_steps = model.num_timesteps
run_seconds = learn(model, steps)
returns = [episode["r"] for episode in model.ep_info_buffer]
final_return = sum(returns) / len(returns) if returns else None
report(compile_seconds, run_seconds, model.num_timesteps - begun_steps, final_return)
