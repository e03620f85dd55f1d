"""One row per algorithm: what the contract and other tests need to know of it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import learn, network_of
from probes import Numbered

import purerl
from purerl import (
    A2C,
    APG,
    ARS,
    BC,
    CMAES,
    DDPG,
    DQN,
    ES,
    GRU,
    IMPALA,
    MLP,
    PPO,
    PQN,
    REINFORCE,
    SAC,
    SHAC,
    TD3,
    TRPO,
    ActorCritic,
    DAgger,
    Demonstrations,
    DeterministicActorCritic,
    DeterministicPolicy,
    DiscreteSAC,
    DiscreteSoftActorCritic,
    Evosax,
    QNetwork,
    SoftActorCritic,
    TDControl,
    TDRule,
)
from purerl.learning.discriminator import Discriminator
from purerl.learning.optimizers import Adam
from purerl.learning.random_network_distillation import RandomNetworkDistillation
from purerl.learning.schedules import LinearSchedule
from purerl.learning.sequences import apply_over_time

NETWORK = ActorCritic(trunk=MLP((16,)))
TINY = MLP((16,), nn.relu)


@dataclasses.dataclass(frozen=True)
class Row:
    """What the contract needs to know of an algorithm.

    Attributes:
        make: on an environment, tiny, with changed hyper-parameters.
        on_probe: what is changed to learn a probe quickly.
        value: of the last of some observations ``[T, 1]`` that were seen in turn, given algorithm and state; None where
            nothing estimates one.
        params: those that the policy depends on, of a state.
        discrete: whether it takes discrete actions; if not, continuous ones.
        either: whether it takes both; most is then tested on those of `discrete`.
        number: a hyper-parameter that learning depends on.
        plays: whether it plays episodes while it learns.
        tabular: whether it takes discrete observations only.
    """

    make: Callable[..., Any]
    on_probe: dict[str, Any]
    value: Callable[[Any, Any, Any], Any] | None
    params: Callable[[Any], Any]
    discrete: bool = True
    either: bool = False
    number: str = "learning_rate"
    plays: bool = True
    tabular: bool = False

    @property
    def env(self):
        """Name, options and the name of a physics parameter of a real task."""
        if self.tabular:
            return "grid/random-walk", {"episode_length": 20, "step_reward": -1.0}, "goal_reward"
        return ("CartPole-v1", {}, "gravity") if self.discrete else ("Pendulum-v1", {"episode_length": 20}, "g")

    @property
    def physics(self):
        """Two values of a leaf of that task, by its path in an algorithm."""
        name, options, parameter = self.env
        if self.tabular:
            reward = purerl.make(name, **options).env.reward
            return {"env.env.reward": np.float32([reward, 2.0 * reward])}
        return {f"env.params.{parameter}": np.float32([9.8, 20.0])}


def ppo(env, **changes):
    tiny = {
        "num_envs": 4,
        "rollout_length": 8,
        "num_epochs": 2,
        "num_minibatches": 2,
        "learning_rate": 1e-3,
        "network": NETWORK,
        "normalize_observations": True,
        "normalize_rewards": True,
    }
    return PPO(env=env, **(tiny | changes))


def pqn(env, **changes):
    tiny = {
        "num_envs": 4,
        "rollout_length": 8,
        "num_epochs": 2,
        "num_minibatches": 2,
        "learning_rate": 1e-3,
        "network": QNetwork(MLP((16,), nn.relu, layer_norm=True)),
        "normalize_observations": True,
    }
    return PQN(env=env, **(tiny | changes))


def off_policy(algorithm, network, **tiny):
    shape = {"num_envs": 4, "rollout_length": 8, "updates_per_iteration": 2, "batch_size": 16}
    memory = {"buffer_size": 320, "warmup_steps": 64, "learning_rate": 1e-3, "normalize_observations": True}
    return lambda env, **changes: algorithm(env=env, network=network, **(shape | memory | tiny | changes))


def first_order(algorithm, network, **tiny):
    shape = {"num_envs": 4, "rollout_length": 8, "learning_rate": 1e-3, "normalize_observations": True}
    return lambda env, **changes: algorithm(env=env, network=network, **(shape | tiny | changes))


def demonstrations(env, num_episodes=16):
    """Episodes of four steps in start states. The action is as large as the first number of the observation."""
    rows = 4 * num_episodes
    with jax.ensure_compile_time_eval():  # also while a test traces what makes the algorithm
        obs = np.asarray(jax.vmap(env.reset)(jax.random.split(jax.random.key(9), rows)).obs)
    number = obs.reshape(rows, -1)[:, 0].astype(np.float32)
    space = env.action_space
    if isinstance(space, purerl.Discrete):
        action = np.where(number > 0, space.n - 1, 0).astype(np.int32)
    else:
        action = np.clip(np.broadcast_to(number.reshape(rows, 1), (rows, *space.shape)), *space.bounds)
    ends = np.arange(rows) % 4 == 3
    starts = np.arange(0, rows, 4, dtype=np.int32)
    reward = np.ones(rows, np.float32)
    return Demonstrations(obs, action, reward, ~ends & ends, ends, obs, starts, env.observation_space, env.action_space)


def bc(env, **changes):
    tiny = {"batch_size": 16, "learning_rate": 1e-3, "network": NETWORK, "normalize_observations": True}
    return BC(env=env, **({"demonstrations": demonstrations(env)} | tiny | changes))


def _first_number(env, key, carry, obs):
    number = jnp.ravel(obs)[0].astype(jnp.float32)
    if isinstance(env.action_space, purerl.Discrete):
        return jnp.where(number > 0, env.action_space.n - 1, 0), carry, {}
    low, high = env.action_space.bounds
    return jnp.clip(jnp.broadcast_to(number, env.action_space.shape), low, high), carry, {}


def dagger(env, **changes):
    expert = {"expert": purerl.Policy(jax.tree_util.Partial(_first_number, env))}
    shape = {"num_envs": 4, "rollout_length": 8, "updates_per_iteration": 2, "batch_size": 16, "buffer_size": 320}
    tiny = shape | {"learning_rate": 1e-3, "network": NETWORK, "normalize_observations": True}
    return DAgger(env=env, **(expert | tiny | changes))


def gail(env, **changes):
    model = Discriminator(demonstrations(env), hidden_sizes=(16,), num_minibatches=2, learning_rate=1e-2)
    return ppo(env, **({"reward_model": model} | changes))


ON_PROBE = {
    "rollout_length": 1,
    "updates_per_iteration": 8,
    "batch_size": 32,
    "learning_rate": 5e-3,
    "normalize_observations": False,
    "tau": 0.1,
}


NO_ENTROPY = {"initial_temperature": 1e-4, "temperature_learning_rate": 0.0}


def ppo_value(algorithm, state, obs):
    carry = jax.tree.map(lambda leaf: leaf[None], algorithm.network.initial_carry())
    _, (_, value) = apply_over_time(
        network_of(algorithm), state.params, carry, obs[None], jnp.zeros((1, len(obs)), bool)
    )
    return value[0, -1]


def dqn_value(algorithm, state, obs):
    return algorithm.network.head.value(network_of(algorithm).apply(state.params, obs[-1])).max()


def action_value(algorithm, state, obs):
    action = network_of(algorithm).apply(state.actor_params, obs[-1], method="actor")
    action = action if isinstance(action, jax.Array) else action.action(action.mode())
    return network_of(algorithm).apply(state.critic_params, obs[-1], action, method="critic").min()


def shac_value(algorithm, state, obs):
    return network_of(algorithm).apply(state.critic_params, obs[-1], method="critic")


def discrete_sac_value(algorithm, state, obs):
    return network_of(algorithm).apply(state.critic_params, obs[-1], method="critic").min(axis=0).max()


def actor_params(state):
    return state.actor_params


def dqn(**pieces):
    """With any of its pieces: those of the network, and hyper-parameters."""
    network = QNetwork(TINY, **{name: pieces.pop(name) for name in ("head", "dueling", "noisy") if name in pieces})
    make = off_policy(DQN, network, **pieces)
    on_probe = ON_PROBE | {"target_period": 1, "epsilon": LinearSchedule(1.0, 0.05, 300.0)}
    return Row(make, on_probe, dqn_value, lambda state: state.params)


def actor_critic(algorithm, **tiny):
    shape = {"num_envs": 4, "rollout_length": 8, "learning_rate": 1e-3, "network": NETWORK}
    tiny = shape | {"normalize_observations": True, "normalize_rewards": True} | tiny
    return lambda env, **changes: algorithm(env=env, **(tiny | changes))


def policy_gradient(algorithm, **on_probe):
    """With a value that learns apart."""
    shape = {"num_envs": 4, "rollout_length": 8, "num_epochs": 2, "num_minibatches": 2, "network": NETWORK}
    tiny = shape | {"learning_rate": 1e-3, "normalize_observations": True, "normalize_rewards": True}
    return Row(
        lambda env, **changes: algorithm(env=env, **(tiny | changes)),
        {"num_envs": 16, "num_epochs": 4, "normalize_observations": False, "normalize_rewards": False} | on_probe,
        shac_value,
        # Not its head: a natural step leaves the sum of a softmax's biases as it is.
        lambda state: state.actor_params["params"]["actor_trunk"],
        either=True,
    )


PPO_ON_PROBE = {
    "num_envs": 16,
    "num_epochs": 4,
    "learning_rate": 5e-3,
    "entropy_coef": 0.0,
    "value_clip_eps": None,
    "normalize_observations": False,
    "normalize_rewards": False,
}


# With Adam: RMSProp begins with squares of 1, so its first hundred steps are small.
A2C_ON_PROBE = {
    "num_envs": 16,
    "optimizer": Adam(eps=1e-5, max_grad_norm=0.5),
    "learning_rate": 1e-2,
    "normalize_observations": False,
    "normalize_rewards": False,
}


def table(rule):
    """Of action values, for probes whose observations are numbers."""
    tiny = {"rule": rule, "num_envs": 4, "rollout_length": 8, "learning_rate": 0.2}
    return Row(
        lambda env, **changes: TDControl(env=env, **(tiny | changes)),
        {},
        lambda algorithm, state, obs: state.tables.values[jnp.int32(obs[-1, 0]) + 1].max(),
        lambda state: state.tables,
        tabular=True,
    )


def searching(algorithm, network, on_probe, number="learning_rate", **tiny):
    """By episodes of at most 20 steps."""
    tiny = {"network": network, "max_episode_steps": 20, "normalize_observations": True} | tiny
    on_probe = {"max_episode_steps": 3, "num_episodes": 16, "normalize_observations": False} | on_probe
    return Row(
        lambda env, **changes: algorithm(env=env, **(tiny | changes)),
        on_probe,
        None,
        lambda state: state.search.mean if algorithm in (CMAES, Evosax) else state.params,
        either=True,
        number=number,
    )


# One row per algorithm, and some with other pieces.
ALGORITHMS = {
    "ppo": Row(ppo, PPO_ON_PROBE, ppo_value, lambda state: state.params, either=True),
    "rnd": Row(
        lambda env, **changes: ppo(env, reward_model=RandomNetworkDistillation(hidden_sizes=(16,)), **changes),
        PPO_ON_PROBE,
        None,
        lambda state: state.params,
        either=True,
    ),
    "recurrent_ppo": Row(
        lambda env, **changes: ppo(env, **({"network": ActorCritic(MLP((16,)), GRU(8))} | changes)),
        PPO_ON_PROBE,
        ppo_value,
        lambda state: state.params,
        either=True,
    ),
    "a2c": Row(
        actor_critic(A2C),
        A2C_ON_PROBE,
        ppo_value,
        lambda state: state.params,
        either=True,
    ),
    "recurrent_a2c": Row(
        actor_critic(A2C, network=ActorCritic(MLP((16,)), GRU(8))),
        A2C_ON_PROBE,
        ppo_value,
        lambda state: state.params,
        either=True,
    ),
    "impala": Row(
        actor_critic(IMPALA, lag=2),
        A2C_ON_PROBE | {"learning_rate": 2e-2},
        ppo_value,
        lambda state: state.params,
        either=True,
    ),
    "reinforce": policy_gradient(REINFORCE, learning_rate=5e-3, critic_learning_rate=5e-3),
    "npg": policy_gradient(TRPO, line_search=False, learning_rate=5e-3),
    "trpo": policy_gradient(TRPO, learning_rate=5e-3),
    "dqn": dqn(),
    "rainbow": dqn(
        head=purerl.C51(51, -2.0, 12.0),
        dueling=True,
        noisy=True,
        double=True,
        n_step=3,
        priority_exponent=0.5,
        epsilon=LinearSchedule(0.1, 0.05, 250_000.0),
    ),
    "pqn": Row(
        pqn,
        {
            "rollout_length": 2,
            "num_epochs": 4,
            "learning_rate": 5e-3,
            "epsilon": LinearSchedule(1.0, 0.05, 1_000.0),
            "normalize_observations": False,
        },
        dqn_value,
        lambda state: state.params,
    ),
    "ddpg": Row(
        off_policy(DDPG, DeterministicActorCritic(TINY), noise_std=0.3, noise_decay=0.5),
        ON_PROBE,
        action_value,
        actor_params,
        discrete=False,
    ),
    "td3": Row(
        off_policy(TD3, DeterministicActorCritic(TINY, 2)),
        ON_PROBE,
        action_value,
        actor_params,
        discrete=False,
    ),
    "sac": Row(
        off_policy(SAC, SoftActorCritic(TINY)), ON_PROBE | NO_ENTROPY, action_value, actor_params, discrete=False
    ),
    "discrete_sac": Row(
        off_policy(DiscreteSAC, DiscreteSoftActorCritic(TINY)), ON_PROBE | NO_ENTROPY, discrete_sac_value, actor_params
    ),
    "apg": Row(
        first_order(APG, DeterministicPolicy(TINY)),
        {"learning_rate": 1e-2, "normalize_observations": False},
        None,
        lambda state: state.params,
        discrete=False,
    ),
    "bc": Row(
        bc,
        {"num_epochs": 2, "learning_rate": 5e-3, "normalize_observations": False},
        None,
        lambda state: state.params,
        either=True,
        plays=False,
    ),
    "dagger": Row(
        dagger,
        {"updates_per_iteration": 8, "batch_size": 32, "learning_rate": 5e-3, "normalize_observations": False},
        None,
        lambda state: state.params,
        either=True,
    ),
    "gail": Row(gail, PPO_ON_PROBE, None, lambda state: state.params, either=True),
    "shac": Row(
        first_order(SHAC, ActorCritic(TINY, squash=True, initial_std=0.4), num_epochs=2, num_minibatches=2),
        {"learning_rate": 1e-2, "critic_learning_rate": 1e-2, "num_epochs": 8, "normalize_observations": False},
        shac_value,
        actor_params,
        discrete=False,
    ),
    "es": searching(
        ES, DeterministicPolicy(TINY), {"noise_std": 0.1, "learning_rate": 2e-2}, population_size=8, learning_rate=1e-2
    ),
    "ars": searching(
        ARS, DeterministicPolicy(MLP(())), {"noise_std": 0.2}, num_directions=4, num_top_directions=2, learning_rate=0.1
    ),
    "cma_es": searching(CMAES, DeterministicPolicy(MLP(())), {"initial_std": 0.5}, "initial_std", population_size=6),
    "evosax": searching(
        Evosax,
        DeterministicPolicy(MLP(())),
        {"initial_std": 0.5, "population_size": 32},
        "initial_std",
        population_size=8,
    ),
    **{rule.name.lower(): table(rule) for rule in TDRule},
}


# Made of pieces that other rows have, and that have tests of their own.
VARIANTS = ("rnd", "evosax", "recurrent_a2c", "npg", "rainbow", "expected_sarsa", "double_q_learning")


def for_each(names):
    """A test for each of these rows; variants only with ``--slow``."""
    rows = [pytest.param(name, marks=pytest.mark.slow) if name in VARIANTS else name for name in names]
    return pytest.mark.parametrize("name", rows)


every_algorithm = for_each(ALGORITHMS)


every_one_with_a_value = for_each(name for name, row in ALGORITHMS.items() if row.value)


def tiny(name, **changes):
    env, options, _ = ALGORITHMS[name].env
    return ALGORITHMS[name].make(purerl.make(env, **options), **changes)


def probe(kind, name, **options):
    """A probe of the `kind` that suits the algorithm."""
    made = kind(continuous=not ALGORITHMS[name].discrete, **options)
    return Numbered(made) if ALGORITHMS[name].tabular else made


def trained(name, probe, iterations, **changes):
    """After so many iterations of learning, and a function that tells the value of the last of some observations."""
    row = ALGORITHMS[name]
    algorithm = row.make(probe, **(row.on_probe | changes))
    state = learn(algorithm, 1, iterations)

    def value(*seen):
        assert row.value is not None, "nothing estimates one"
        return float(row.value(algorithm, state, jnp.float32(seen)[:, None]))

    return algorithm, state, value
