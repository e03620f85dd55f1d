"""One timed training of rejax 0.1.3, printed as one JSON line. Runs in rejax's own environment.

Not as in the others: its PPO clips each entry of a gradient rather than its norm, and its Adam's epsilon is 1e-8; its
DQN and TD3 have two layers of 64 whatever one asks for; its replay draws without replacement.
"""

import jax
from common import (
    BUFFER_SIZE,
    CHANNELS,
    HIDDEN_SIZES,
    IMAGE_HIDDEN_SIZES,
    KERNEL,
    OFF_POLICY,
    WARMUP_STEPS,
    compiled,
    flags,
    is_image,
    ppo_settings,
    report,
    seconds,
)
from flax import linen as nn
from rejax import DQN, PPO, SAC, TD3  # pyright: ignore[reportMissingImports]
from rejax.networks import DiscretePolicy, VNetwork  # pyright: ignore[reportMissingImports]

args = flags()


class Torso(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = nn.relu(nn.Conv(CHANNELS, KERNEL, padding="VALID")(x))
        x = x.reshape(x.shape[0], -1)
        for size in IMAGE_HIDDEN_SIZES:
            x = nn.relu(nn.Dense(size)(x))
        return x


class ImagePolicy(DiscretePolicy):
    def setup(self):
        self.features = Torso()
        self.action_logits = nn.Dense(self.action_dim)


class ImageValue(VNetwork):
    @nn.compact
    def __call__(self, obs):
        return nn.Dense(1)(Torso()(obs))[:, 0]


def ppo(steps):
    settings = ppo_settings(args.env)
    algorithm = PPO.create(
        env=args.env,
        num_envs=args.num_envs,
        num_steps=settings["rollout_length"],
        num_epochs=settings["num_epochs"],
        num_minibatches=settings["num_minibatches"],
        learning_rate=settings["learning_rate"],
        gamma=settings["gamma"],
        gae_lambda=settings["gae_lambda"],
        clip_eps=settings["clip_eps"],
        vf_coef=settings["value_coef"],
        ent_coef=settings["entropy_coef"],
        max_grad_norm=settings["max_grad_norm"],
        total_timesteps=steps,
        eval_freq=steps,
        skip_initial_evaluation=True,
        agent_kwargs={"hidden_layer_sizes": HIDDEN_SIZES, "activation": "tanh"},
    )
    if not is_image(args.env):
        return algorithm
    sizes = {"hidden_layer_sizes": (), "activation": nn.relu}
    return algorithm.replace(actor=ImagePolicy(algorithm.action_dim, **sizes), critic=ImageValue(**sizes))


def off_policy(steps):
    settings = OFF_POLICY[args.algorithm]
    cls, own = {
        "dqn": (
            DQN,
            {
                "target_update_freq": settings.get("target_period"),
                "polyak": 0.0,  # how much of the old target stays: none, a copy
                "ddqn": True,
                "agent_kwargs": {"activation": "relu"},
            },
        ),
        "sac": (
            SAC,
            {
                "target_update_freq": 1,
                "polyak": 0.995,
                "hidden_layer_sizes": HIDDEN_SIZES,
                "agent_kwargs": {"activation": "relu"},
            },
        ),
        "td3": (
            TD3,
            {
                "target_update_freq": 1,
                "polyak": 0.995,
                "policy_delay": 2,
                "exploration_noise": 0.2,  # of Pendulum's actions, which reach from -2 to 2
                "target_noise": 0.4,
                "target_noise_clip": 1.0,
                "actor_kwargs": {"activation": "relu"},
                "critic_kwargs": {"activation": "relu"},
            },
        ),
    }[args.algorithm]
    return cls.create(
        env=args.env,
        num_envs=args.num_envs,
        num_epochs=args.num_envs,
        batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        gamma=settings["gamma"],
        buffer_size=BUFFER_SIZE,
        fill_buffer=WARMUP_STEPS,
        total_timesteps=steps,
        eval_freq=steps,
        skip_initial_evaluation=True,
        **own,
    )


def prepare(algorithm):
    """Its training, compiled, and the seconds that took."""
    # Its evaluation inside training would only cost time here.
    algorithm = algorithm.replace(eval_callback=lambda algorithm, state, key: ())
    cls, key = type(algorithm), jax.random.key(args.seed)
    train = cls.train if args.seeds == 1 else jax.vmap(cls.train, in_axes=(None, 0))
    keys = key if args.seeds == 1 else jax.random.split(key, args.seeds)
    compile_seconds, program = compiled(train, algorithm, keys)
    return (lambda: program(algorithm, keys)), compile_seconds


if args.algorithm == "ppo":
    steps = args.iterations * args.num_envs * ppo_settings(args.env)["rollout_length"]
    train, compile_seconds = prepare(ppo(steps))
    seconds(train)  # caches and allocator
    run_seconds, _ = seconds(train)
else:
    steps = args.iterations * args.num_envs
    warm_up, _ = prepare(off_policy(WARMUP_STEPS))
    train, compile_seconds = prepare(off_policy(WARMUP_STEPS + steps))
    seconds(warm_up)
    seconds(train)
    run_seconds = seconds(train)[0] - seconds(warm_up)[0]
report(compile_seconds, run_seconds, steps * args.seeds)
