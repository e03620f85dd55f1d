"""One timed training by Brax's own PPO, SAC or APG, printed as one JSON line.

Its training runs on Brax's environments only, here with the spring backend. Not as in the others: every episode begins
from the start state that its environment drew first; a minibatch of PPO is of whole unrolls; APG follows a stochastic
policy, clips each entry of a gradient and has other decay rates in Adam. Its evaluations are left out: they would only
cost time here.
"""

import functools

import jax
from common import APG, BUFFER_SIZE, HIDDEN_SIZES, OFF_POLICY, WARMUP_STEPS, flags, ppo_settings, report


def device_put_replicated(tree, devices):
    return jax.pmap(lambda _: tree, devices=devices)(jax.numpy.arange(len(devices)))


jax.device_put_replicated = device_put_replicated  # removed from JAX after Brax was written

from brax import envs  # noqa: E402
from brax.training import acting  # noqa: E402
from brax.training.agents.apg import networks as apg_networks  # noqa: E402
from brax.training.agents.apg import train as apg  # noqa: E402
from brax.training.agents.ppo import networks as ppo_networks  # noqa: E402
from brax.training.agents.ppo import train as ppo  # noqa: E402
from brax.training.agents.sac import networks as sac_networks  # noqa: E402
from brax.training.agents.sac import train as sac  # noqa: E402
from flax import linen as nn  # noqa: E402

acting.Evaluator.run_evaluation = lambda self, params, training_metrics, **_: training_metrics  # type: ignore

args = flags()
epochs = 3  # of equal length: the first one also compiles, and the second may do so again
walltimes = []


def progress(_, metrics):
    if "training/walltime" in metrics:
        walltimes.append(metrics["training/walltime"])


common = {
    "environment": envs.get_environment(args.env.removeprefix("brax/"), backend="spring"),
    "episode_length": 1_000,
    "num_envs": args.num_envs,
    "seed": args.seed,
    "num_evals": epochs + 1,
    "num_eval_envs": 1,
    "progress_fn": progress,
}
if args.algorithm == "ppo":
    settings = ppo_settings(args.env)
    steps = args.iterations * args.num_envs * settings["rollout_length"]
    ppo.train(
        num_timesteps=epochs * steps,
        unroll_length=settings["rollout_length"],
        num_minibatches=settings["num_minibatches"],
        batch_size=args.num_envs // settings["num_minibatches"],
        num_updates_per_batch=settings["num_epochs"],
        learning_rate=settings["learning_rate"],
        discounting=settings["gamma"],
        gae_lambda=settings["gae_lambda"],
        clipping_epsilon=settings["clip_eps"],
        clipping_epsilon_value=settings["clip_eps"],
        entropy_cost=settings["entropy_coef"],
        vf_loss_coefficient=settings["value_coef"],
        max_grad_norm=settings["max_grad_norm"],
        network_factory=functools.partial(
            ppo_networks.make_ppo_networks,
            policy_hidden_layer_sizes=HIDDEN_SIZES,
            value_hidden_layer_sizes=HIDDEN_SIZES,
            activation=nn.tanh,
        ),
        run_evals=False,
        **common,
    )
elif args.algorithm == "sac":
    settings = OFF_POLICY["sac"]
    steps = args.iterations * args.num_envs
    sac.train(
        num_timesteps=WARMUP_STEPS + epochs * steps,
        min_replay_size=WARMUP_STEPS,
        max_replay_size=BUFFER_SIZE,
        grad_updates_per_step=args.num_envs,
        batch_size=settings["batch_size"],
        learning_rate=settings["learning_rate"],
        discounting=settings["gamma"],
        tau=settings["tau"],
        network_factory=functools.partial(  # type: ignore[arg-type]
            sac_networks.make_sac_networks, hidden_layer_sizes=HIDDEN_SIZES, activation=nn.relu
        ),
        **common,
    )
else:
    steps = args.iterations * args.num_envs * APG["rollout_length"]
    apg.train(
        policy_updates=epochs * args.iterations,
        horizon_length=APG["rollout_length"],
        learning_rate=APG["learning_rate"],
        use_schedule=False,
        network_factory=functools.partial(  # type: ignore[arg-type]
            apg_networks.make_apg_networks, hidden_layer_sizes=HIDDEN_SIZES, activation=nn.tanh, layer_norm=False
        ),
        **common,
    )
run_seconds = walltimes[2] - walltimes[1]
report(walltimes[1] - 2 * run_seconds, run_seconds, steps)
