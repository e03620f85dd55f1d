"""What every algorithm owes: one row in `rows.ALGORITHMS` each."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import begin, bits, last, learn
from probes import Target, action_times_obs, delay, endless, obs_reward
from rows import ALGORITHMS, every_algorithm, every_one_with_a_value, for_each, probe, tiny, trained

import purerl
from purerl import MLP, ActorCritic, Population, iterate
from purerl.spaces import Discrete
from purerl.training import checkpoint, loop


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
    suits = row.either or row.discrete == isinstance(env.action_space, Discrete)
    if not suits or (row.tabular and not isinstance(env.observation_space, Discrete)):
        with pytest.raises(purerl.InputError, match=r"needs .* (actions|observations), got .*: use "):
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
        if metric in ("episode_return", "episode_length") and not ALGORITHMS[name].plays:
            assert mean.count == 0, metric
            continue
        assert mean.count > 0, metric
        assert np.isfinite(mean.value), metric


@every_algorithm
def test_a_population_may_vary_every_numeric_leaf(name):
    algorithm = tiny(name)
    fields = [f.name for f in dataclasses.fields(algorithm) if not f.metadata.get("static", False)]
    leaves = [n for n in fields if isinstance(getattr(algorithm, n), float)]
    assert leaves
    varied = {n: np.float32([0.5, 0.6]) * getattr(algorithm, n) for n in leaves}
    population = Population(algorithm, 2, varied | ALGORITHMS[name].physics)
    progress = last(iterate(population, begin(population, jax.random.key(0)), 4, every=4))
    for metric, mean in progress.metrics.items():
        assert mean.total.shape == (2,), metric


@every_algorithm
def test_new_hyper_parameters_do_not_compile_again(name):
    algorithm = tiny(name)
    learn(algorithm, 0, 1)
    programs = loop.advance._cache_size()
    fields = vars(algorithm)
    changes = {n: value for n, value in {ALGORITHMS[name].number: 5e-4, "gamma": 0.9}.items() if n in fields}
    learn(tiny(name, **changes), 1, 5, every=2)
    assert loop.advance._cache_size() == programs


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
            space = algorithm.env.observation_space
            act(policy, jax.random.key(seed), jnp.zeros(space.shape, space.dtype))
            programs.append(act._cache_size())
        assert programs[0] == programs[1]


@every_algorithm
def test_policies_of_a_population_keep_what_their_members_vary(name):
    population = Population(tiny(name), 2, ALGORITHMS[name].physics)
    policies = population.policy(begin(population, jax.random.key(0)), explore=False)
    obs = jnp.zeros(population.env.observation_space.shape, population.env.observation_space.dtype)
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


def final_weights(name):
    """The last of two iterations as a function of two learning rates and keys, with its derivatives where it has one.

    Not Rainbow: units of its streams that are off for a whole batch have a gradient of exactly 0, where Adam's square
    root has no derivative. That is so for any network of relu units; in the others here none is switched off. Nor PQN:
    optax's rectified Adam takes the root of a negative number in its first steps and drops it again.
    """

    def final_weight(learning_rate, key):
        algorithm = dataclasses.replace(tiny(name), **{ALGORITHMS[name].number: learning_rate})
        state, metrics = purerl.train(algorithm, key, 2)
        return jax.tree.leaves(ALGORITHMS[name].params(state))[0].sum(), (state.iteration, metrics)

    differentiable = name not in ("rainbow", "pqn")
    function = jax.value_and_grad(final_weight, has_aux=True) if differentiable else final_weight
    return jax.vmap(function), jnp.float32([1e-3, 2e-3]), jax.random.split(jax.random.key(0), 2)


@every_algorithm
def test_training_is_a_pure_function_to_vmap_and_differentiate(name):
    """Traced only: what has no derivative fails there."""
    shapes = jax.eval_shape(*final_weights(name))
    metrics = (shapes if name in ("rainbow", "pqn") else shapes[0])[1][1]
    assert metrics["episode_length"].count.shape == (2, 2)


# One of each kind; compiling the derivatives of all takes minutes.
KINDS = ("a2c", "trpo", "dqn", "sac", "shac")


@pytest.mark.parametrize(
    "name",
    [
        name if name in KINDS else pytest.param(name, marks=pytest.mark.slow)
        for name in ALGORITHMS
        if name not in ("rainbow", "pqn")
    ],
)
def test_derivatives_of_training_are_finite(name):
    function, rates, keys = final_weights(name)
    (_, (iteration, _)), slopes = jax.jit(function)(rates, keys)
    assert (iteration == tiny(name).warmup_iterations + 2).all()
    assert np.isfinite(slopes).all()
    assert (slopes != 0).all()


# Known answers


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


# Not GAIL: against a discriminator that learns, the policy moves around the expert's action and never settles.
@for_each(name for name, row in ALGORITHMS.items() if (row.either or not row.discrete) and name != "gail")
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
