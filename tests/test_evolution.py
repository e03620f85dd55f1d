"""ES, ARS, CMA-ES and what they share, against known answers and slow NumPy implementations."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import learn
from probes import Line, action_times_obs

import purerl
from purerl import ARS, CMAES, ES, MLP, DeterministicPolicy, Evosax, InputError, cma
from purerl.algorithms.ars import step_direction
from purerl.algorithms.es import gradient_estimate
from purerl.algorithms.evosax_search import Strategy
from purerl.environments.limits import episode_limit
from purerl.learning.search import PolicySearch, centred_ranks
from purerl.math import running_statistics

LINEAR = DeterministicPolicy(MLP(()))


def test_ranks_are_centred_and_equal_candidates_share_theirs():
    np.testing.assert_allclose(centred_ranks(jnp.float32([3.0, -1.0, 7.0])), [0.0, -0.5, 0.5])
    np.testing.assert_allclose(centred_ranks(jnp.float32([1.0, 1.0, 5.0, 0.0])), [0.0, 0.0, 0.5, -0.5], atol=1e-7)
    np.testing.assert_allclose(centred_ranks(jnp.full(5, 500.0)), np.zeros(5), atol=1e-7)


def test_the_gradient_of_es_is_unbiased_and_pairs_lower_its_variance():
    """The expectation of -|x + sigma eps|^2 has the gradient -2 x."""
    x, std = jnp.float32([1.0, -2.0, 0.5]), 0.3

    def fitness(noise):
        return -jnp.sum((x[None] + std * noise) ** 2, axis=1)

    def draw(key):
        half = jax.random.normal(key, (4, 3))
        pairs, single = jnp.concatenate([half, -half]), jax.random.normal(jax.random.fold_in(key, 0), (8, 3))
        return tuple(gradient_estimate(fitness(noise), noise, std) for noise in (pairs, single))

    for estimates in jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(0), 20_000)):
        error = np.std(estimates, axis=0) / np.sqrt(len(estimates))
        assert (np.abs(np.mean(estimates, axis=0) + 2.0 * x) < 4.0 * error).all()
    paired, single = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), 2_000))
    assert np.var(paired, axis=0).sum() < 0.5 * np.var(single, axis=0).sum()


def test_pairs_cancel_a_constant_exactly():
    half = jax.random.normal(jax.random.key(0), (4, 3))
    noise = jnp.concatenate([half, -half])
    np.testing.assert_allclose(gradient_estimate(jnp.full(8, 1000.0), noise, 0.1), np.zeros(3), atol=1e-2)


def test_a_step_of_ars_equals_numpy():
    rng = np.random.default_rng(0)
    forwards, backwards, directions = rng.normal(size=6), rng.normal(size=6), rng.normal(size=(6, 4))
    best = sorted(range(6), key=lambda k: -max(forwards[k], backwards[k]))[:3]
    used = [r for k in best for r in (forwards[k], backwards[k])]
    expected = sum((forwards[k] - backwards[k]) * directions[k] for k in best) / (3 * np.std(used))
    step, std = step_direction(*map(jnp.float32, (forwards, backwards, directions)), 3)
    np.testing.assert_allclose(step, expected, rtol=1e-5)
    np.testing.assert_allclose(std, np.std(used), rtol=1e-5)


def test_ars_stays_where_all_returns_are_equal():
    step, _ = step_direction(jnp.ones(4), jnp.ones(4), jnp.ones((4, 2)), 2)
    np.testing.assert_array_equal(step, np.zeros(2))


def numpy_cma(mean, std, samples, loss):
    """Hansen 2016, appendix A, line by line in float64, for given standard normal `samples [generations, n, d]`."""
    _, n, d = samples.shape
    mu = n // 2
    w = np.array([np.log((n + 1) / 2) - np.log(i) for i in range(1, n + 1)])
    mu_eff, mu_neg = w[:mu].sum() ** 2 / (w[:mu] ** 2).sum(), w[mu:].sum() ** 2 / (w[mu:] ** 2).sum()
    c_c, c_1 = (4 + mu_eff / d) / (d + 4 + 2 * mu_eff / d), 2 / ((d + 1.3) ** 2 + mu_eff)
    c_mu = min(1 - c_1, 2 * (mu_eff - 2 + 1 / mu_eff + 0.25) / ((d + 2) ** 2 + 2 * mu_eff / 2))
    c_s = (mu_eff + 2) / (d + mu_eff + 5)
    d_s = 1 + 2 * max(0, np.sqrt((mu_eff - 1) / (d + 1)) - 1) + c_s
    alpha = min(1 + c_1 / c_mu, 1 + 2 * mu_neg / (mu_eff + 2), (1 - c_1 - c_mu) / (d * c_mu))
    w = np.where(w >= 0, w / w[w > 0].sum(), alpha * w / -w[w < 0].sum())
    chi = np.sqrt(d) * (1 - 1 / (4 * d) + 1 / (21 * d * d))
    c, p_s, p_c = np.eye(d), np.zeros(d), np.zeros(d)
    for g, z in enumerate(samples):
        values, b = np.linalg.eigh(c)
        root, inverse = (b * np.sqrt(values)) @ b.T, (b / np.sqrt(values)) @ b.T
        y = z @ root
        y = y[np.argsort([loss(mean + std * row) for row in y])]
        step = sum(w[i] * y[i] for i in range(mu))
        mean = mean + std * step
        p_s = (1 - c_s) * p_s + np.sqrt(c_s * (2 - c_s) * mu_eff) * inverse @ step
        length = np.linalg.norm(p_s)
        h = length / np.sqrt(1 - (1 - c_s) ** (2 * (g + 1))) < (1.4 + 2 / (d + 1)) * chi
        p_c = (1 - c_c) * p_c + h * np.sqrt(c_c * (2 - c_c) * mu_eff) * step
        new = (1 + c_1 * (1 - h) * c_c * (2 - c_c) - c_1 - c_mu * w.sum()) * c + c_1 * np.outer(p_c, p_c)
        for i in range(n):
            scale = 1 if w[i] >= 0 else d / np.linalg.norm(inverse @ y[i]) ** 2
            new = new + c_mu * w[i] * scale * np.outer(y[i], y[i])
        c, std = new, std * np.exp(c_s / d_s * (length / chi - 1))
    return mean, std, c


def test_cma_equals_numpy():
    """Both are given the same steps: those of the symmetric root of C, which needs no choice of eigenvectors."""
    samples = np.random.default_rng(0).normal(size=(6, 8, 3))
    weights = np.array([1.0, 10.0, 100.0])
    mean, std, covariance = numpy_cma(np.ones(3), 0.5, samples, lambda x: weights @ x**2)
    assert cma.constants(3, 8).decomposition_period == 1
    state = cma.init(jnp.ones(3), 0.5)
    for z in samples:
        root = (state.axes * state.scales[None]) @ state.axes.T
        candidates = state.mean[None] + state.std * jnp.float32(z) @ root
        state = cma.tell(state, candidates, (candidates**2) @ jnp.float32(weights))
    np.testing.assert_allclose(state.mean, mean, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(state.std, std, rtol=1e-4)
    np.testing.assert_allclose(state.covariance, covariance, rtol=1e-3, atol=1e-5)


def test_cma_asks_for_candidates_of_its_covariance():
    state = cma.init(jnp.float32([1.0, 2.0]), 2.0)
    state = purerl.struct.replace(state, scales=jnp.float32([1.0, 3.0]), axes=jnp.float32([[0.6, -0.8], [0.8, 0.6]]))
    candidates = cma.ask(state, jax.random.key(0), 100_000)
    root = np.array([[0.6, -0.8], [0.8, 0.6]]) * [1.0, 3.0]
    np.testing.assert_allclose(np.mean(candidates, axis=0), [1.0, 2.0], atol=0.1)
    np.testing.assert_allclose(np.cov(candidates.T), 4.0 * root @ root.T, rtol=0.03)


FUNCTIONS = {
    "sphere": (lambda x: jnp.sum(x**2), 400),
    "ellipsoid": (lambda x: jnp.sum(10.0 ** (6.0 * jnp.arange(10) / 9.0) * x**2), 800),
    "rosenbrock": (lambda x: jnp.sum(100.0 * (x[1:] - x[:-1] ** 2) ** 2 + (1.0 - x[:-1]) ** 2), 1000),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_cma_minimises_functions_of_ten_dimensions(name):
    function, generations = FUNCTIONS[name]

    def minimise(key):
        def step(state, index):
            candidates = cma.ask(state, jax.random.fold_in(key, index), 10)
            return cma.tell(state, candidates, jax.vmap(function)(candidates)), None

        state = cma.init(jnp.zeros(10) if name == "rosenbrock" else jnp.full(10, 3.0), 0.5)
        return function(jax.lax.scan(step, state, jnp.arange(generations))[0].mean)

    # Rosenbrock's function has a second minimum, of 3.99, which some seeds end in: these do not.
    assert (jax.jit(jax.vmap(minimise))(jax.random.split(jax.random.key(0), 5)) < 1e-8).all()


def test_fitness_and_statistics_are_those_of_whole_episodes():
    """An episode of three steps, 1, 2, 3, with a reward of each observation."""
    env = Line(start=1.0, drift=1.0, length=3)
    search = PolicySearch(env, LINEAR, 2, 5, True)
    params, stats = search.init(jax.random.key(0))
    vectors = jnp.zeros((4, sum(leaf.size for leaf in jax.tree.leaves(params))))
    evaluations = search.evaluate(vectors, stats, jax.random.key(1))
    np.testing.assert_allclose(evaluations.fitness, np.full(4, 6.0))
    assert evaluations.metrics["episode_length"].value == 3.0
    assert evaluations.metrics["steps_played"].value == 24.0
    np.testing.assert_allclose(evaluations.obs_stats.count, 24.0)
    np.testing.assert_allclose(evaluations.obs_stats.mean, [2.0], rtol=1e-6)
    np.testing.assert_allclose(evaluations.obs_stats.var, [2.0 / 3.0], rtol=1e-5)


def test_a_failed_simulation_is_as_bad_as_the_worst_candidate():
    env = Line(start=1.0, obs_weight=float("nan"), length=1)
    evaluations = PolicySearch(env, LINEAR, 1, 5, False).evaluate(jnp.zeros((4, 4)), None, jax.random.key(0))
    np.testing.assert_array_equal(evaluations.fitness, np.zeros(4))
    assert evaluations.metrics["episode_return"].count == 0.0


def test_pooled_statistics_are_those_of_all_data():
    data = [np.random.default_rng(i).normal(i, 1 + i, size=(3 + i, 2)).astype(np.float32) for i in range(3)]
    each = [running_statistics.update(running_statistics.init((2,)), jnp.asarray(part)) for part in data]
    together = running_statistics.pooled(jax.tree.map(lambda *leaves: jnp.stack(leaves), *each))
    whole = np.concatenate(data)
    np.testing.assert_allclose(together.count, len(whole))
    np.testing.assert_allclose(together.mean, whole.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(together.var, whole.var(axis=0), rtol=1e-5)


@pytest.mark.parametrize(("name", "limit"), [("CartPole-v1", 500), ("brax/fast", 1000), ("smooth/pendulum", 200)])
def test_time_limits_count_for_every_episode(name, limit):
    assert episode_limit(purerl.make(name)) == limit
    assert episode_limit(purerl.make(name, episode_length=7)) == 7
    assert ES(env=purerl.make(name), population_size=4, num_episodes=2).steps_per_iteration == 8 * limit


def test_the_step_of_es_goes_uphill():
    agent = ES(env=action_times_obs(), network=LINEAR, population_size=16, num_episodes=8, max_episode_steps=1)
    state = learn(agent, 0, 40)
    policy = agent.policy(state, explore=False)
    assert [int(policy.act(jax.random.key(0), (), jnp.float32([obs]))[0]) for obs in (-1.0, 1.0)] == [0, 1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda env: ES(env=env, population_size=7), "population_size must be even.*7"),
        (
            lambda env: ARS(env=env, num_directions=4, num_top_directions=5),
            "must not exceed num_directions, got 5 of 4",
        ),
        (lambda env: CMAES(env=env, network=DeterministicPolicy(MLP((64, 64)))), "at most 2048 parameters, got 4610"),
        (lambda env: ES(env=action_times_obs()), "max_episode_steps is needed"),
        (lambda env: ARS(env=env, noise_std=0.0), "noise_std must lie in"),
        (lambda env: ES(env=3), "env must be an Environment"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(InputError, match=message):
        make(purerl.make("CartPole-v1"))


@pytest.mark.parametrize(
    "strategy",
    [s if s is Strategy.SNES else pytest.param(s, marks=pytest.mark.slow) for s in Strategy],
)
def test_strategies_of_evosax_go_uphill(strategy):
    agent = Evosax(
        env=action_times_obs(),
        network=LINEAR,
        strategy=strategy,
        population_size=16,
        num_episodes=8,
        max_episode_steps=1,
        initial_std=0.5,
    )
    state = learn(agent, 0, 60)
    policy = agent.policy(state, explore=False)
    assert [int(policy.act(jax.random.key(0), (), jnp.float32([obs]))[0]) for obs in (-1.0, 1.0)] == [0, 1]


def test_evosax_is_an_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'purerl\[evosax\]'"):
        Evosax(env=purerl.make("CartPole-v1"))
