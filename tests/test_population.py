"""A population is its members, trained side by side."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import begin, bits, last
from probes import endless, obs_reward
from rows import ALGORITHMS, ppo

import purerl
from purerl import InputError, Population, iterate


def run(population, iterations=3, seed=0):
    return last(iterate(population, begin(population, jax.random.key(seed)), iterations, every=iterations))


def member(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def test_a_member_does_not_depend_on_its_companions():
    algorithm = ppo(obs_reward())
    pair, five = (run(Population(algorithm, n)).state.params for n in (2, 5))
    chex.assert_trees_all_close(member(pair, 1), member(five, 1), rtol=1e-3, atol=1e-5)


def test_a_member_equals_a_single_run_with_its_key():
    algorithm = ppo(obs_reward())
    key = jax.random.key(0)
    alone = last(iterate(algorithm, algorithm.init(jax.random.fold_in(key, 1)), 3)).state.params
    chex.assert_trees_all_close(member(run(Population(algorithm, 2)).state.params, 1), alone, rtol=1e-3, atol=1e-5)


def test_members_differ():
    params = run(Population(ppo(obs_reward()), 2)).state.params
    for leaf in jax.tree.leaves(params):
        assert not np.array_equal(leaf[0], leaf[1])


def test_varied_hyper_parameters_reach_their_member():
    population = Population(ppo(obs_reward()), 3, {"learning_rate": [0, 1e-3, 2e-3]})
    rates = run(population).metrics["learning_rate"].value
    np.testing.assert_allclose(rates, [0.0, 1e-3, 2e-3], rtol=1e-6)


def test_varied_environment_parameters_reach_their_member():
    population = Population(ppo(endless()), 2, {"env.limit": jnp.int32([2, 4])})
    lengths = run(population).metrics["episode_length"].value
    np.testing.assert_allclose(lengths, [2.0, 4.0])


@pytest.mark.parametrize("name", ["ppo", "dqn"])
def test_groups_learn_what_all_learn_together(name, monkeypatch: pytest.MonkeyPatch):
    """With what is shared between members, with what varies, and with counts that no group divides."""
    algorithm = ALGORITHMS[name].make(obs_reward())
    population = Population(algorithm, 6, {"learning_rate": np.float32([0.0, 1e-3, 2e-3, 3e-3, 4e-3, 5e-3])})
    state = begin(population, jax.random.key(0))
    sizes, results = [], []

    def step(group, state):
        sizes.append(getattr(group, "num_members", 1))
        return group.step(state)

    for fitting in (1, 4, 100):
        monkeypatch.setattr("purerl.training.population.ROWS_IN_CACHE", fitting * algorithm.minibatch_rows)
        results.append(jax.jit(lambda state: population.in_groups(step, state))(state))
    assert list(dict.fromkeys(sizes)) == [1, 3, 6]
    together = results.pop()
    for state, metrics in results:
        assert state.iteration.shape == together[0].iteration.shape == ()
        for one, other in zip(*map(jax.tree.leaves, (bits(state), bits(together[0]))), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4)
        chex.assert_trees_all_close(metrics, together[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(("backend", "size"), [("cpu", 32), ("gpu", 96)])
def test_only_a_cpu_computes_members_in_groups(backend, size, monkeypatch: pytest.MonkeyPatch):
    population = Population(ppo(obs_reward(), num_minibatches=1), 96)  # of 32 rows at once, and 1,024 fit
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert population.group_size == size


def test_grid_has_every_combination_for_every_seed():
    population = Population.grid(
        ppo(obs_reward()), num_seeds=2, values={"learning_rate": [1e-3, 3e-4], "gamma": [0.9, 0.99, 1.0]}
    )
    assert population.num_members == 12
    rows = list(zip(population.varied["learning_rate"], population.varied["gamma"], strict=True))
    assert [tuple(map(float, r)) for r in rows[::2]] == [tuple(map(float, r)) for r in rows[1::2]]
    assert len(set(rows)) == 6


def test_grid_keeps_whole_numbers_whole():
    population = Population.grid(ppo(endless()), num_seeds=1, values={"env.limit": [2, 4], "kl_target": [0.01, 0.02]})
    assert population.varied["env.limit"].dtype == np.int32
    assert population.varied["kl_target"].dtype == np.float32
    for bad, words in (
        ([2.5, 4], "must be a whole number"),
        ([2, 3e9], "at most 2147483647"),
        (7, "list of values"),
        ([], "at least one"),
    ):
        with pytest.raises(InputError, match=words):
            Population.grid(ppo(endless()), num_seeds=1, values={"env.limit": bad})


def test_grids_of_too_many_members_are_refused_before_they_are_made():
    with pytest.raises(InputError, match=r"combinations of values must .*got 4398046511104"):
        Population.grid(ppo(endless()), num_seeds=2**20, values={"gamma": np.full(2**22, 0.9)})


def test_a_parameter_that_lies_deeper_is_named():
    with pytest.raises(InputError, match=r"did you mean 'params\.gravity'"):
        Population(ppo(purerl.make("CartPole-v1")), 2, {"env.gravity": [9.8, 12.0]})


def test_values_are_kept_in_the_dtype_of_what_they_vary_however_they_are_written():
    given = {"learning_rate": [1, 2], "gamma": (0.5, 1), "env.limit": np.array([2, 4]), "kl_target": jnp.ones(2, int)}
    varied = Population(ppo(endless()), 2, given).varied
    assert {name: column.dtype.name for name, column in varied.items()} == {
        "learning_rate": "float32",
        "gamma": "float32",
        "env.limit": "int32",
        "kl_target": "float32",
    }
    for name, values in given.items():
        np.testing.assert_array_equal(varied[name], values)


def test_evaluation_of_all_members_at_once():
    population = Population(ppo(obs_reward()), 3)
    state = run(population).state
    episodes = population.map(
        lambda agent, state, key: purerl.evaluate(agent.env, agent.policy(state, explore=False), key, num_episodes=5),
        state,
        jax.random.split(jax.random.key(1), 3),
    )
    assert episodes.episode_return.shape == (3, 5)
    assert episodes.finished.all()


@pytest.mark.parametrize(
    ("num_members", "varied", "words"),
    [
        (0, {}, "num_members"),
        (2, {"learning_rat": [1.0, 2.0]}, "learning_rate"),
        (2, {"learning_rate": [1.0, 2.0, 3.0]}, "2 members"),
        (2, {"learning_rate": 1.0}, "2 members"),
        (2, {"num_envs": [1, 2]}, "cannot vary"),
        (2, {"gamma": [0.9, 1.1]}, r"\[0, 1\]"),
        (2, {"env.gravity": [1.0, 2.0]}, "gravity"),
        (2, {"env": [1.0, 2.0]}, "'env' is no number but a Line"),
        (2, {"learning_rate": ["1e-3", "a"]}, "must be a number"),
        (2, {"learning_rate": [True, False]}, "must be a number"),
        (2, {"learning_rate": [1e-3, float("nan")]}, "must be a number"),
        (2, {"learning_rate": [1e-3, None]}, "must be a number"),
        (2, {"learning_rate": [1e-3, 1e40]}, "at most"),
        (2, {"learning_rate": [[1e-3], [1e-3, 2e-3]]}, "must be a number"),
        (2, {"learning_rate": [[1e-3], [2e-3]]}, r"needs values of shape \(\), got \(1,\)"),
        (2, {"env.limit": [2.0, 3.0]}, "must be a whole number"),
        (2, {"env.limit": [2, 3_000_000_000]}, "at most 2147483647"),
        (2, ["learning_rate"], "must map names"),
    ],
)
def test_bad_populations_are_one_clear_error(num_members, varied, words):
    with pytest.raises(InputError, match=words):
        Population(ppo(endless()), num_members, varied)


def test_physics_of_brax_varies_by_the_path_of_its_dictionary_entry():
    gravity = np.float32([[0.0, 0.0, -9.8], [0.0, 0.0, -20.0]])
    agent = ppo(purerl.make("brax/inverted_pendulum", backend="spring"))
    population = Population(agent, 2, {"env.env.params.gravity": gravity})
    seen = population.map(lambda member: member.env.env.sys.gravity)
    np.testing.assert_array_equal(seen, gravity)
    with pytest.raises(InputError, match="'gravity'"):
        Population(agent, 2, {"env.env.params.gravty": gravity})
    # MuJoCo's names lie beside Brax's, and this backend does not read them.
    with pytest.raises(InputError, match=r"env.params.opt.gravity of .* changes nothing.*env.params.gravity does act"):
        Population(agent, 2, {"env.env.params.opt.gravity": gravity})


def test_a_part_learns_what_it_does_in_the_whole() -> None:
    population = Population(ppo(obs_reward()), 4, {"learning_rate": np.float32([1e-3, 2e-3, 3e-3, 4e-3])})
    part = population.part(1, 2).part(1, 1)
    assert part.first_member == 2
    assert part.varied["learning_rate"].tolist() == np.float32([3e-3]).tolist()
    state = jax.jit(population.init)(jax.random.key(3))
    chex.assert_trees_all_equal(jax.jit(part.init)(jax.random.key(3)), population.part_state(state, 2, 1))
