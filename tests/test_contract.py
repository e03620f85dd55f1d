"""What every algorithm owes: one row in `ALGORITHMS` each."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from probes import ActionTimesObs, Delay, Endless, ObsReward, Target

import purerl
from purerl import MLP, PPO, ActorCritic, Population, checkpoint, iterate, runner

NETWORK = ActorCritic(trunk=MLP((16,)))


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


def ppo_probe(env, **changes):
    return ppo(
        env,
        num_envs=16,
        num_epochs=4,
        learning_rate=5e-3,
        entropy_coef=0.0,
        value_clip_eps=None,
        normalize_observations=False,
        normalize_rewards=False,
        **changes,
    )


def ppo_value(algorithm, state, obs):
    obs = jnp.full((1,), obs, jnp.float32)
    network = algorithm.network.clone(action_space=algorithm.env.action_space)
    return float(network.apply(state.params, obs, method="critic"))


# name -> (on a real task, on a probe, value of an observation)
ALGORITHMS = {"ppo": (ppo, ppo_probe, ppo_value)}
every_algorithm = pytest.mark.parametrize("name", ALGORITHMS)


def tiny(name, env="CartPole-v1"):
    return ALGORITHMS[name][0](purerl.make(env))


def trained(name, env, iterations, **changes):
    _, make, value = ALGORITHMS[name]
    algorithm = make(env, **changes)
    state = algorithm.init(jax.random.key(1))
    for progress in iterate(algorithm, state, iterations, every=iterations):
        state = progress.state
    return algorithm, state, value


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
@pytest.mark.parametrize("env", ["Pendulum-v1", "FrozenLake-misc", "Breakout-MinAtar"])
def test_traces_on_other_kinds_of_spaces(name, env):
    algorithm = tiny(name, env)
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    chex.assert_trees_all_equal_shapes_and_dtypes(state, jax.eval_shape(algorithm.step, state)[0])


@every_algorithm
def test_metrics_are_finite_means_with_constant_names(name):
    algorithm = tiny(name)
    state = algorithm.init(jax.random.key(0))
    names = set(jax.eval_shape(algorithm.step, state)[1])
    progress = last(iterate(algorithm, state, 8, every=4))
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
    varied["env.params.gravity"] = np.float32([9.8, 20.0])
    population = Population(algorithm, 2, varied)
    progress = last(iterate(population, population.init(jax.random.key(0)), 2, every=2))
    for metric, mean in progress.metrics.items():
        assert mean.total.shape == (2,), metric


@every_algorithm
def test_new_hyper_parameters_do_not_compile_again(name):
    algorithm = tiny(name)
    last(iterate(algorithm, algorithm.init(jax.random.key(0)), 1))
    programs = runner.advance._cache_size()
    changed = ALGORITHMS[name][0](purerl.make("CartPole-v1"), learning_rate=5e-4, gamma=0.9)
    last(iterate(changed, changed.init(jax.random.key(1)), 5, every=2))
    assert runner.advance._cache_size() == programs


@every_algorithm
def test_results_do_not_depend_on_the_chunk_length(name):
    algorithm = tiny(name)
    one, three = (last(iterate(algorithm, algorithm.init(jax.random.key(2)), 7, every=n)).state for n in (1, 3))
    chex.assert_trees_all_equal(bits(one), bits(three))


@every_algorithm
def test_save_restore_continue_is_bit_equal(name, tmp_path):
    algorithm = tiny(name)
    uninterrupted = last(iterate(algorithm, algorithm.init(jax.random.key(3)), 6, every=6)).state
    halfway = last(iterate(algorithm, algorithm.init(jax.random.key(3)), 4, every=2)).state
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
        for progress in iterate(algorithm, algorithm.init(jax.random.key(4)), 3):
            if evaluating:
                assert assess(progress.state, jax.random.key(99)).finished.all()
        return bits(progress.state)

    chex.assert_trees_all_equal(run(True), run(False))


@every_algorithm
def test_a_policy_passes_through_jit_without_compiling_again(name):
    @jax.jit
    def act(policy, key, obs):
        return policy.act(key, policy.carry, obs)[0]

    for explore in (True, False):
        programs = []
        for seed, gravity in ((0, 9.8), (1, 20.0)):
            algorithm = ALGORITHMS[name][0](purerl.make("CartPole-v1", gravity=gravity))
            policy = algorithm.policy(algorithm.init(jax.random.key(seed)), explore=explore)
            act(policy, jax.random.key(seed), jnp.zeros(4))
            programs.append(act._cache_size())
        assert programs[0] == programs[1]


@every_algorithm
def test_policies_of_a_population_keep_what_their_members_vary(name):
    population = Population(tiny(name), 2, {"env.params.gravity": np.float32([9.8, 20.0])})
    policies = population.policy(population.init(jax.random.key(0)), explore=False)
    actions = jax.vmap(lambda policy: policy.act(jax.random.key(1), policy.carry, jnp.zeros(4))[0])(policies)
    assert actions.shape == (2,)


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
    assert int(state.iteration) == 1


def test_a_key_used_twice_would_be_noticed():
    with jax.debug_key_reuse(True), pytest.raises(jax.errors.KeyReuseError):
        jax.jit(lambda key: jax.random.normal(key) + jax.random.uniform(key))(jax.random.key(0))


@every_algorithm
def test_training_is_a_pure_function_too(name):
    algorithm = tiny(name)
    state, metrics = jax.jit(lambda key: purerl.train(algorithm, key, 3))(jax.random.key(5))
    assert int(state.iteration) == 3
    assert metrics["episode_length"].count.shape == (3,)


@every_algorithm
def test_training_can_be_vmapped_and_differentiated(name):
    algorithm = tiny(name)

    def final_weight(learning_rate, key):
        state, _ = purerl.train(dataclasses.replace(algorithm, learning_rate=learning_rate), key, 2)
        return jax.tree.leaves(state.params)[0].sum()

    rates = jnp.float32([1e-3, 2e-3])
    slopes = jax.jit(jax.vmap(jax.grad(final_weight)))(rates, jax.random.split(jax.random.key(0), 2))
    assert np.isfinite(slopes).all()
    assert (slopes != 0).all()


# Known answers


@every_algorithm
def test_value_depends_on_the_observation(name):
    algorithm, state, value = trained(name, ObsReward(), 150)
    np.testing.assert_allclose([value(algorithm, state, 1.0), value(algorithm, state, -1.0)], [1.0, -1.0], atol=0.05)


@every_algorithm
def test_value_is_discounted(name):
    algorithm, state, value = trained(name, Delay(), 150, gamma=0.7)
    np.testing.assert_allclose([value(algorithm, state, 0.0), value(algorithm, state, 1.0)], [0.7, 1.0], atol=0.05)


@every_algorithm
def test_a_time_limit_is_not_the_end_of_the_task(name):
    algorithm, state, value = trained(name, Endless(limit=3), 300, gamma=0.9)
    # Treating the limit as terminal would give (1 - 0.9**3) / (1 - 0.9) = 2.71 at most.
    np.testing.assert_allclose(value(algorithm, state, 1.0), 10.0, rtol=0.05)


@every_algorithm
def test_the_right_action_depends_on_the_observation(name):
    algorithm, state, _ = trained(name, ActionTimesObs(), 100)
    for explore, bar in ((False, 1.0), (True, 0.9)):
        episodes = purerl.evaluate(
            algorithm.env, algorithm.policy(state, explore=explore), jax.random.key(7), num_episodes=64
        )
        assert np.mean(episodes.episode_return) >= bar


@every_algorithm
@pytest.mark.parametrize("squash", [False, True])
def test_continuous_actions_arrive_in_the_environments_units(name, squash):
    network = ActorCritic(trunk=MLP((16,)), squash=squash)
    algorithm, state, _ = trained(name, Target(), 300, network=network)
    act = algorithm.policy(state, explore=False).act
    actions = [act(jax.random.key(0), (), jnp.full((1,), obs))[0][0] for obs in (-1.0, 1.0)]
    np.testing.assert_allclose(actions, [-1.0, 1.0], atol=0.15)
