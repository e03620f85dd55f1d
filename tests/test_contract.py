"""What every algorithm owes: one row in `ALGORITHMS` each."""

import dataclasses
from collections.abc import Callable
from typing import Any

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import Target, action_times_obs, delay, endless, obs_reward

import purerl
from purerl import (
    A2C,
    APG,
    DDPG,
    DQN,
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
    DeterministicActorCritic,
    DeterministicPolicy,
    DiscreteSAC,
    DiscreteSoftActorCritic,
    Population,
    QNetwork,
    SoftActorCritic,
    checkpoint,
    iterate,
    runner,
)
from purerl.optimizers import Adam
from purerl.schedules import LinearSchedule
from purerl.sequences import apply_over_time
from purerl.spaces import Discrete

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
    """

    make: Callable[..., Any]
    on_probe: dict[str, Any]
    value: Callable[[Any, Any, Any], Any] | None
    params: Callable[[Any], Any]
    discrete: bool = True
    either: bool = False

    @property
    def env(self):
        """Name, options and the name of a physics parameter of a real task."""
        return ("CartPole-v1", {}, "gravity") if self.discrete else ("Pendulum-v1", {"episode_length": 20}, "g")


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


ON_PROBE = {
    "rollout_length": 1,
    "updates_per_iteration": 8,
    "batch_size": 32,
    "learning_rate": 5e-3,
    "normalize_observations": False,
    "tau": 0.1,
}
NO_ENTROPY = {"initial_temperature": 1e-4, "temperature_learning_rate": 0.0}


def network_of(algorithm):
    return algorithm.network.clone(action_space=algorithm.env.action_space)


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

# One row per algorithm, and some with other pieces.
ALGORITHMS = {
    "ppo": Row(ppo, PPO_ON_PROBE, ppo_value, lambda state: state.params, either=True),
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
    "shac": Row(
        first_order(SHAC, ActorCritic(TINY, squash=True, initial_std=0.4), num_epochs=2, num_minibatches=2),
        {"learning_rate": 1e-2, "critic_learning_rate": 1e-2, "num_epochs": 8, "normalize_observations": False},
        shac_value,
        actor_params,
        discrete=False,
    ),
}
# Made of pieces that other rows have, and that have tests of their own.
VARIANTS = ("recurrent_a2c", "npg", "rainbow")


def for_each(names):
    """A test for each of these rows; variants only with ``--slow``."""
    rows = [pytest.param(name, marks=pytest.mark.slow) if name in VARIANTS else name for name in names]
    return pytest.mark.parametrize("name", rows)


every_algorithm = for_each(ALGORITHMS)
every_one_with_a_value = for_each(name for name, row in ALGORITHMS.items() if row.value)


def tiny(name, **changes):
    env, options, _ = ALGORITHMS[name].env
    return ALGORITHMS[name].make(purerl.make(env, **options), **changes)


def trained(name, probe, iterations, **changes):
    """After so many iterations of learning, and a function that tells the value of the last of some observations."""
    row = ALGORITHMS[name]
    algorithm = row.make(probe, **(row.on_probe | changes))
    state = learn(algorithm, 1, iterations)

    def value(*seen):
        assert row.value is not None, "nothing estimates one"
        return float(row.value(algorithm, state, jnp.float32(seen)[:, None]))

    return algorithm, state, value


@jax.jit
def begin(algorithm, key):
    """Compiled once for all tests of an algorithm."""
    return algorithm.init(key)


def learn(algorithm, seed, iterations, every=None):
    """The state after `iterations` beyond the warm-up."""
    total = algorithm.warmup_iterations + iterations
    return last(iterate(algorithm, begin(algorithm, jax.random.key(seed)), total, every=every or total)).state


def bits(tree):
    return jax.tree.map(
        lambda x: np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x), tree
    )


def last(progresses):
    *_, final = progresses
    return final


@every_algorithm
def test_state_keeps_its_types(name):
    algorithm = tiny(name)
    before = jax.eval_shape(algorithm.init, jax.random.key(0))
    after, _ = jax.eval_shape(algorithm.step, before)
    chex.assert_trees_all_equal_shapes_and_dtypes(before, after)
    for leaf in jax.tree.leaves((before, after)):
        assert not leaf.weak_type


@every_algorithm
@pytest.mark.parametrize("env", ["Pendulum-v1", "MountainCarContinuous-v0", "FrozenLake-misc", "Breakout-MinAtar"])
def test_traces_on_other_kinds_of_spaces(name, env):
    env = purerl.make(env)
    row = ALGORITHMS[name]
    if not row.either and row.discrete != isinstance(env.action_space, Discrete):
        with pytest.raises(purerl.InputError, match=r"needs .* actions, got .*: use "):
            ALGORITHMS[name].make(env)
        return
    algorithm = ALGORITHMS[name].make(env)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, jax.eval_shape(algorithm.step, state)[0])


@every_algorithm
def test_metrics_are_finite_means_with_constant_names(name):
    algorithm = tiny(name)
    state = begin(algorithm, jax.random.key(0))
    names = set(jax.eval_shape(algorithm.step, state)[1])
    progress = last(iterate(algorithm, state, 16, every=8))
    assert set(progress.metrics) == names
    for metric, mean in progress.metrics.items():
        assert mean.count > 0, metric
        assert np.isfinite(mean.value), metric


@every_algorithm
def test_a_population_may_vary_every_numeric_leaf(name):
    algorithm = tiny(name)
    leaves = [n for n in vars(algorithm) if isinstance(getattr(algorithm, n), float)]
    assert leaves
    varied = {n: np.float32([0.5, 0.6]) * getattr(algorithm, n) for n in leaves}
    varied[f"env.params.{ALGORITHMS[name].env[2]}"] = np.float32([9.8, 20.0])
    population = Population(algorithm, 2, varied)
    progress = last(iterate(population, begin(population, jax.random.key(0)), 4, every=4))
    for metric, mean in progress.metrics.items():
        assert mean.total.shape == (2,), metric


@every_algorithm
def test_new_hyper_parameters_do_not_compile_again(name):
    algorithm = tiny(name)
    learn(algorithm, 0, 1)
    programs = runner.advance._cache_size()
    learn(tiny(name, learning_rate=5e-4, gamma=0.9), 1, 5, every=2)
    assert runner.advance._cache_size() == programs


@every_algorithm
def test_results_do_not_depend_on_the_chunk_length(name):
    algorithm = tiny(name)
    one, three = (learn(algorithm, 2, 6, every=n) for n in (1, 3))
    chex.assert_trees_all_equal(bits(one), bits(three))


@every_algorithm
def test_save_restore_continue_is_bit_equal(name, tmp_path):
    algorithm = tiny(name)
    uninterrupted = last(iterate(algorithm, begin(algorithm, jax.random.key(3)), 6, every=6)).state
    halfway = last(iterate(algorithm, begin(algorithm, jax.random.key(3)), 4, every=2)).state
    checkpoint.save(tmp_path, 4, halfway)
    restored = checkpoint.restore(tmp_path, 4, jax.eval_shape(algorithm.init, jax.random.key(0)))
    chex.assert_trees_all_equal(bits(halfway), bits(restored))
    resumed = last(iterate(algorithm, restored, 6, every=1)).state
    chex.assert_trees_all_equal(bits(uninterrupted), bits(resumed))


@every_algorithm
def test_evaluation_does_not_perturb_training(name):
    algorithm = tiny(name)
    assess = jax.jit(
        lambda state, key: purerl.evaluate(algorithm.env, algorithm.policy(state, explore=False), key, num_episodes=3)
    )

    def run(evaluating):
        state = begin(algorithm, jax.random.key(4))
        for progress in iterate(algorithm, state, 5):
            state = progress.state
            if evaluating:
                assert assess(state, jax.random.key(99)).finished.all()
        return bits(state)

    chex.assert_trees_all_equal(run(True), run(False))


@every_algorithm
def test_a_policy_passes_through_jit_without_compiling_again(name):
    @jax.jit
    def act(policy, key, obs):
        return policy.act(key, policy.carry, obs)[0]

    for explore in (True, False):
        programs = []
        env, options, physics = ALGORITHMS[name].env
        for seed, gravity in ((0, 9.8), (1, 20.0)):
            algorithm = ALGORITHMS[name].make(purerl.make(env, **options, **{physics: gravity}))
            policy = algorithm.policy(begin(algorithm, jax.random.key(seed)), explore=explore)
            act(policy, jax.random.key(seed), jnp.zeros(algorithm.env.observation_space.shape))
            programs.append(act._cache_size())
        assert programs[0] == programs[1]


@every_algorithm
def test_policies_of_a_population_keep_what_their_members_vary(name):
    physics = f"env.params.{ALGORITHMS[name].env[2]}"
    population = Population(tiny(name), 2, {physics: np.float32([9.8, 20.0])})
    policies = population.policy(begin(population, jax.random.key(0)), explore=False)
    obs = jnp.zeros(population.env.observation_space.shape)
    actions = jax.vmap(lambda policy: policy.act(jax.random.key(1), policy.carry, obs)[0])(policies)
    assert actions.shape == (2, *population.env.action_space.shape)


@every_algorithm
def test_compiled_code_never_calls_back_into_python(name):
    algorithm = tiny(name)
    program = str(jax.make_jaxpr(algorithm.step)(jax.eval_shape(algorithm.init, jax.random.key(0))))
    assert "callback" not in program


@every_algorithm
def test_keys_are_used_once(name):
    algorithm = tiny(name)
    with jax.debug_key_reuse(True):
        state = jax.jit(algorithm.init)(jax.random.key(0))
        state, _ = jax.jit(algorithm.step)(state)
    assert int(state.iteration) == algorithm.warmup_iterations + 1


def test_a_key_used_twice_would_be_noticed():
    with jax.debug_key_reuse(True), pytest.raises(jax.errors.KeyReuseError):
        jax.jit(lambda key: jax.random.normal(key) + jax.random.uniform(key))(jax.random.key(0))


@every_algorithm
def test_training_is_a_pure_function_to_vmap_and_differentiate(name):
    algorithm = tiny(name)

    def final_weight(learning_rate, key):
        state, metrics = purerl.train(dataclasses.replace(algorithm, learning_rate=learning_rate), key, 2)
        return jax.tree.leaves(ALGORITHMS[name].params(state))[0].sum(), (state.iteration, metrics)

    # Not Rainbow: units of its streams that are off for a whole batch have a gradient of exactly 0, where Adam's
    # square root has no derivative. That is so for any network of relu units; in the others here none is switched off.
    # Nor PQN: optax's rectified Adam takes the root of a negative number in its first steps and drops it again.
    differentiable = name not in ("rainbow", "pqn")
    function = jax.value_and_grad(final_weight, has_aux=True) if differentiable else final_weight
    rates, keys = jnp.float32([1e-3, 2e-3]), jax.random.split(jax.random.key(0), 2)
    result = jax.jit(jax.vmap(function))(rates, keys)
    (_, (iteration, metrics)), slopes = result if differentiable else (result, rates)
    assert (iteration == algorithm.warmup_iterations + 2).all()
    assert metrics["episode_length"].count.shape == (2, 2)
    assert np.isfinite(slopes).all()
    assert (slopes != 0).all()


# Known answers


def probe(kind, name, **options):
    return kind(continuous=not ALGORITHMS[name].discrete, **options)


@every_one_with_a_value
def test_value_depends_on_the_observation(name):
    _, _, value = trained(name, probe(obs_reward, name), 150)
    np.testing.assert_allclose([value(1.0), value(-1.0)], [1.0, -1.0], atol=0.05)


@every_one_with_a_value
def test_value_is_discounted(name):
    _, _, value = trained(name, probe(delay, name), 150, gamma=0.7)
    np.testing.assert_allclose([value(0.0), value(0.0, 1.0)], [0.7, 1.0], atol=0.05)


@every_one_with_a_value
def test_a_time_limit_is_not_the_end_of_the_task(name):
    _, _, value = trained(name, probe(endless, name, limit=3), 300, gamma=0.9)
    # Treating the limit as terminal would give (1 - 0.9**3) / (1 - 0.9) = 2.71 at most.
    np.testing.assert_allclose(value(1.0), 10.0, rtol=0.05)


@every_algorithm
def test_the_right_action_depends_on_the_observation(name):
    algorithm, state, _ = trained(name, probe(action_times_obs, name), 150)
    for explore, bar in ((False, 0.97), (True, 0.8)):
        episodes = purerl.evaluate(
            algorithm.env, algorithm.policy(state, explore=explore), jax.random.key(7), num_episodes=64
        )
        assert np.mean(episodes.episode_return) >= bar


@for_each(name for name, row in ALGORITHMS.items() if row.either or not row.discrete)
def test_continuous_actions_arrive_in_the_environments_units(name):
    algorithm, state, _ = trained(name, Target(), 300)
    policy = algorithm.policy(state, explore=False)
    actions = [policy.act(jax.random.key(0), policy.carry, jnp.full((1,), obs))[0][0] for obs in (-1.0, 1.0)]
    np.testing.assert_allclose(actions, [-1.0, 1.0], atol=0.15)


def test_squashed_actions_arrive_in_the_environments_units():
    algorithm, state, _ = trained("ppo", Target(), 300, network=ActorCritic(trunk=MLP((16,)), squash=True))
    policy = algorithm.policy(state, explore=False)
    actions = [policy.act(jax.random.key(0), policy.carry, jnp.full((1,), obs))[0][0] for obs in (-1.0, 1.0)]
    np.testing.assert_allclose(actions, [-1.0, 1.0], atol=0.15)
