"""Inverse reinforcement learning on tables: enumerated paths, finite differences, recovered policies."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import purerl
from purerl import InputError, tabular
from purerl.environments import LearnedReward

TRAP = tabular.mdp_of(purerl.make("grid/trap"))
GAMMA = 0.95
ONE_PER_STATE = np.eye(12)


def optimal(mdp, gamma=GAMMA):
    return tabular.deterministic_policy(tabular.value_iteration(mdp, gamma).policy, mdp.num_actions)


def demonstrations(num_episodes, seed=1):
    """Of the best policy on the trap grid."""
    return jax.jit(tabular.sample_trajectories, static_argnums=(3, 4))(
        TRAP, optimal(TRAP), jax.random.key(seed), num_episodes, 40
    )


def test_the_loss_is_the_likelihood_of_paths():
    """All ways of three actions, ``p(way) ~ exp(return)`` (Ziebart et al. 2008, equation 2)."""
    mdp, horizon = tabular.grid("S..G", moves=("left", "right")), 3
    weights = np.array([0.3, -0.5, 0.8, 1.4])
    onward = mdp.transition.argmax(axis=-1)
    returns = {}
    for actions in itertools.product(range(2), repeat=horizon):
        path = [0]
        for action in actions:
            path.append(onward[path[-1], action])
        returns[actions] = sum(weights[state] for state in path[1:])
    log_normalizer = np.log(np.sum(np.exp(list(returns.values()))))
    likelihoods = [returns[actions] - log_normalizer for actions in ((1, 1, 1), (0, 1, 0))]
    states, mask = np.array([[0, 1, 2, 3], [0, 0, 1, 0]]), np.ones((2, 3), bool)
    with jax.enable_x64(True):
        loss = float(tabular.max_entropy_loss(jnp.asarray(weights), mdp, np.eye(4), states, mask))
    np.testing.assert_allclose(loss, -np.mean(likelihoods), rtol=1e-12)


def test_gradient_of_the_loss():
    """Finite differences, and expected minus demonstrated features by the visits of the soft policies."""
    episodes = jax.device_get(demonstrations(5))
    with jax.enable_x64(True):
        features = np.random.default_rng(0).normal(size=(12, 3))
        weights = jnp.asarray([0.3, -0.2, 0.5])

        def objective(weights):
            return tabular.max_entropy_loss(weights, TRAP, features, episodes.states, episodes.mask, GAMMA)

        nudges = 1e-5 * jnp.eye(3)
        loss = jax.jit(objective)
        differences = [(loss(weights + nudge) - loss(weights - nudge)) / 2e-5 for nudge in nudges]
        learned = tabular.with_state_reward(TRAP, features @ weights)
        _, policies = tabular.soft_value_iteration(learned, 40, GAMMA)
        visits = tabular.expected_visits(TRAP, policies, TRAP.start, GAMMA)
        shown = tabular.demonstrated_features(features, episodes.states, episodes.mask, GAMMA)
        gradient, differences, gap = jax.device_get(
            (jax.jit(jax.grad(objective))(weights), differences, visits @ features - shown)
        )
    np.testing.assert_allclose(gradient, differences, rtol=1e-6)
    np.testing.assert_allclose(gradient, gap, rtol=1e-9)
    np.testing.assert_allclose(policies.sum(axis=-1), 1.0, rtol=1e-6)


def test_features_in_numpy():
    episodes = jax.device_get(demonstrations(6))
    features = np.random.default_rng(0).normal(size=(12, 2)).astype(np.float32)
    total = np.zeros(2)
    for states, mask in zip(episodes.states, episodes.mask, strict=True):
        for t in range(mask.sum()):
            total += GAMMA**t * features[states[t + 1]] / 6
    found = tabular.demonstrated_features(features, episodes.states, episodes.mask, GAMMA)
    np.testing.assert_allclose(found, total, rtol=1e-5)


def test_a_reward_is_recovered_up_to_the_policy(optimized):
    """The best policy under the learned reward is the expert's wherever the expert went, and loses nothing."""
    episodes = demonstrations(200)
    with jax.enable_x64(True):
        expert = tabular.value_iteration(TRAP, GAMMA)
        fit = jax.jit(
            lambda states, mask: tabular.max_entropy_irl(
                TRAP, ONE_PER_STATE, states, mask, gamma=GAMMA, l2=1e-3, num_updates=1_000
            )
        )(episodes.states, episodes.mask)
        learned = tabular.value_iteration(tabular.with_state_reward(TRAP, fit.reward), GAMMA)
        values = tabular.policy_evaluation(TRAP, tabular.deterministic_policy(learned.policy, 4), GAMMA)
        regret = float(TRAP.start @ (expert.values - values))
        visited = np.unique(np.asarray(episodes.states)[:, :-1])
        visited = visited[~TRAP.terminal[visited]]
    assert np.array_equal(learned.policy[visited], expert.policy[visited])
    assert len(visited) >= 7
    assert abs(regret) < 1e-6
    assert fit.gaps[-1] < 0.05 < fit.gaps[0]
    assert fit.losses[-1] < fit.losses[0]
    assert fit.reward[3] == max(fit.reward)  # the goal
    assert np.all(np.abs(fit.reward - ONE_PER_STATE @ fit.weights) < 1e-12)


def test_a_learned_reward_is_an_environment():
    weights = jnp.arange(12.0)
    env = LearnedReward(purerl.make("grid/trap", episode_length=5), tabular.reward_function(ONE_PER_STATE, weights))
    purerl.check_env(env)
    first = env.reset(jax.random.key(0))
    timestep = env.step(jax.random.key(1), first.state, jnp.int32(3))
    assert float(timestep.reward) == float(timestep.obs)
    assert any(leaf is weights for leaf in jax.tree.leaves(env))
    learned = tabular.with_state_reward(TRAP, weights)
    assert np.all(np.asarray(learned.reward) == np.arange(12.0))


def test_expected_features_are_values():
    policy = tabular.uniform_policy(TRAP)
    with jax.enable_x64(True):
        found = tabular.expected_features(TRAP, policy, ONE_PER_STATE, GAMMA)
        expected = [
            TRAP.start @ tabular.policy_evaluation(tabular.with_state_reward(TRAP, reward), policy, GAMMA)
            for reward in ONE_PER_STATE
        ]
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_an_apprentice_has_the_features_of_the_expert():
    """Abbeel & Ng 2004: so its return is the expert's under any reward that is linear in the features."""
    with jax.enable_x64(True):
        expert = tabular.expected_features(TRAP, optimal(TRAP), ONE_PER_STATE, GAMMA)
        apprentice = jax.jit(lambda expert: tabular.apprenticeship(TRAP, ONE_PER_STATE, expert, GAMMA, 30))(expert)
        mean = apprentice.mixture @ apprentice.features
        features = [tabular.expected_features(TRAP, policy, ONE_PER_STATE, GAMMA) for policy in apprentice.policies[:4]]
    np.testing.assert_allclose(apprentice.features[:4], features, atol=1e-9)
    np.testing.assert_allclose(apprentice.mixture.sum(), 1.0, atol=1e-9)
    assert np.all(apprentice.mixture >= 0.0)
    assert np.all(np.diff(apprentice.margins) <= 1e-9)
    np.testing.assert_allclose(apprentice.margins[-1], np.linalg.norm(expert - mean), atol=1e-9)
    assert apprentice.margins[-1] < 0.02 * apprentice.margins[0]
    # The true reward for entering a cell is linear in these features.
    reward = np.where(TRAP.terminal, 0.0, -4.0)
    reward[[3, 7]] = 100.0, -100.0
    assert abs(reward @ (expert - mean)) <= np.linalg.norm(reward) * apprentice.margins[-1] + 1e-9
    assert abs(reward @ (expert - mean)) < 0.02 * abs(reward @ (expert - apprentice.features[0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": np.eye(11)}, r"features must have shape \[states, features\] with 12 states, got \[11, 11\]"),
        ({"mask": np.ones((2, 4), bool)}, r"shapes \[N, T \+ 1\] and \[N, T\], got \[2, 4\] and \[2, 4\]"),
        ({"states": np.full((2, 4), 12)}, r"states must lie in \[0, 11\], got 12 to 12"),
    ],
)
def test_mistakes(changes, message):
    given = {"features": np.eye(12), "states": np.zeros((2, 4), int), "mask": np.ones((2, 3), bool)}
    with pytest.raises(InputError, match=message):
        tabular.max_entropy_irl(TRAP, **(given | changes))
