"""Prediction: values of a policy from its episodes, by Monte Carlo and by temporal differences.

Both see episodes and no tables of the process, one episode after the other, and return the values after each.
"""

from __future__ import annotations

import enum

import jax
import jax.numpy as jnp
from jax import lax

from purerl import rollout, struct
from purerl.rollout import RolloutState
from purerl.tabular.checks import check_discount, check_policy
from purerl.tabular.mdp import TabularMDP
from purerl.tabular.policies import as_policy
from purerl.types import Array, PyTree


@struct.dataclass
class Trajectories:
    """Episodes of at most ``T`` steps; steps after the end of an episode are masked.

    Attributes:
        states: int32 ``[N, T + 1]``, numbers of states; after the end the last state is repeated.
        actions: int32 ``[N, T]``.
        rewards: float32 ``[N, T]``, 0 where masked.
        mask: bool ``[N, T]``, whether the step was taken.
        terminated: bool ``[N]``, whether the episode ended within ``T`` steps.
    """

    states: Array
    actions: Array
    rewards: Array
    mask: Array
    terminated: Array


class Trace(enum.Enum):
    """Eligibility of a state that is visited again (Sutton & Barto 2018, section 12.2; Singh & Sutton 1996)."""

    ACCUMULATING = enum.auto()
    REPLACING = enum.auto()


def sample_trajectories(mdp: TabularMDP, policy: Array, key: Array, num_episodes: int, max_steps: int) -> Trajectories:
    """Episodes of a policy, each from a start of its own.

    Args:
        mdp: the process.
        policy: probabilities of actions ``[S, A]``.
        key: randomness.
        num_episodes: number of episodes, N.
        max_steps: steps after which an episode is cut, T.
    """
    check_policy(mdp, policy)
    struct.check_value("num_episodes", num_episodes, int, "[1, inf)")
    struct.check_value("max_steps", max_steps, int, "[1, inf)")
    actor = as_policy(policy)

    def episode(key: Array) -> Trajectories:
        reset_key, steps_key = jax.random.split(key)

        def step(state: RolloutState, key: Array) -> tuple[RolloutState, tuple[Array, ...]]:
            action_key, env_key = jax.random.split(key)
            now = state.timestep
            action, _, _ = actor.act(action_key, (), now.obs)
            onward = rollout.begin(mdp.step(env_key, now.state, action), ())
            state = jax.tree.map(lambda old, new: jnp.where(now.terminated, old, new), state, onward)
            reward = jnp.where(now.terminated, 0.0, state.timestep.reward)
            return state, (state.timestep.obs, action, reward, ~now.terminated)

        first = rollout.begin(mdp.reset(reset_key), ())
        last, (later, actions, rewards, mask) = lax.scan(step, first, jax.random.split(steps_key, max_steps))
        states = jnp.concatenate([first.timestep.obs[None], later])
        return Trajectories(states, actions, rewards, mask, last.timestep.terminated)

    return jax.vmap(episode)(jax.random.split(key, num_episodes))


def monte_carlo(
    episodes: Trajectories,
    initial: Array,
    gamma: float | Array,
    learning_rate: float | Array | None = None,
    *,
    first_visit: bool = False,
) -> Array:
    """Values from the returns that followed visits of a state: ``v(s) <- v(s) + alpha (G - v(s))``.

    Sutton & Barto 2018, section 5.1 (averages) and equation 6.1 (constant alpha). The return of an episode that was
    cut counts rewards up to there.

    Args:
        episodes: of the policy, in order.
        initial: first values ``[S]``.
        gamma: discount factor.
        learning_rate: alpha; None averages all returns of a state, in which `initial` counts nothing.
        first_visit: whether only the first visit in an episode counts; by default every visit does.

    Returns:
        Values before the first and after each episode, ``[N + 1, S]``.
    """

    check_discount(gamma)

    def visit(learner: tuple[Array, Array, Array], step: tuple[Array, Array, Array]) -> tuple[PyTree, None]:
        values, counts, seen = learner
        state, target, taken = step
        counted = taken & ~(first_visit & seen[state])
        counts = counts.at[state].add(counted)
        rate = 1.0 / jnp.maximum(counts[state], 1) if learning_rate is None else learning_rate
        values = values.at[state].add(jnp.where(counted, rate * (target - values[state]), 0.0))
        return (values, counts, seen.at[state].set(seen[state] | taken)), None

    def learn(learner: tuple[Array, Array], episode: Trajectories) -> tuple[tuple[Array, Array], Array]:
        def accumulate(later: Array, reward: Array) -> tuple[Array, Array]:
            total = reward + gamma * later
            return total, total

        _, returns = lax.scan(accumulate, jnp.zeros((), episode.rewards.dtype), episode.rewards, reverse=True)
        seen = jnp.zeros(initial.shape, bool)
        steps = episode.states[:-1], returns, episode.mask
        (values, counts, _), _ = lax.scan(visit, (*learner, seen), steps)
        return (values, counts), values

    initial = jnp.asarray(initial, jnp.float32)
    _, values = lax.scan(learn, (initial, jnp.zeros(initial.shape, jnp.int32)), episodes)
    return jnp.concatenate([initial[None], values])


def td_lambda(
    episodes: Trajectories,
    initial: Array,
    gamma: float | Array,
    learning_rate: float | Array,
    trace_decay: float | Array = 0.0,
    trace: Trace = Trace.ACCUMULATING,
) -> Array:
    """Values by temporal differences with eligibility traces, TD(lambda), online (Sutton & Barto 2018, section 12.2)::

        delta = r + gamma (1 - terminated) v(s') - v(s)
        e <- gamma lambda e,   then e(s) <- e(s) + 1  (accumulating)  or  e(s) <- 1  (replacing)
        v <- v + alpha delta e

    With ``trace_decay=0`` this is TD(0) (equation 6.2).

    Args:
        episodes: of the policy, in order.
        initial: first values ``[S]``, 0 in terminal states.
        gamma: discount factor.
        learning_rate: alpha.
        trace_decay: lambda.
        trace: kind of eligibility.

    Returns:
        Values before the first and after each episode, ``[N + 1, S]``.
    """

    check_discount(gamma)

    def step(learner: tuple[Array, Array], inputs: tuple[Array, ...]) -> tuple[tuple[Array, Array], None]:
        values, eligibility = learner
        state, onward, reward, taken, ended = inputs
        td_error = reward + gamma * jnp.where(ended, 0.0, values[onward]) - values[state]
        decayed = gamma * trace_decay * eligibility
        eligibility = decayed.at[state].set(decayed[state] + 1.0 if trace is Trace.ACCUMULATING else 1.0)
        return (values + jnp.where(taken, learning_rate * td_error, 0.0) * eligibility, eligibility), None

    def learn(values: Array, episode: Trajectories) -> tuple[Array, Array]:
        # The last step that was taken is where the episode ended, if it did.
        last = episode.mask & ~jnp.append(episode.mask[1:], False)
        steps = (episode.states[:-1], episode.states[1:], episode.rewards, episode.mask, last & episode.terminated)
        (values, _), _ = lax.scan(step, (values, jnp.zeros_like(values)), steps)
        return values, values

    initial = jnp.asarray(initial, jnp.float32)
    _, values = lax.scan(learn, initial, episodes)
    return jnp.concatenate([initial[None], values])
