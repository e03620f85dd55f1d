"""Temporal-difference control with a table of action values: Q-learning, SARSA and their relatives.

One step of the environment, one update of the table (Sutton & Barto 2018, chapter 6)::

    Q(s, a) <- Q(s, a) + alpha (r + gamma (1 - terminated) v(s') - Q(s, a))

What stands for the value of the next state tells the algorithms apart (`TDRule`)::

    q_learning          v(s') = max_a Q(s', a)                     Watkins & Dayan 1992
    sarsa               v(s') = Q(s', a'), a' as taken             Rummery & Niranjan 1994
    expected_sarsa      v(s') = sum_a pi(a | s') Q(s', a)          van Seijen et al. 2009
    double_q_learning   v(s') = Q_2(s', argmax_a Q_1(s', a))       van Hasselt 2010, with two tables in random turns

Act epsilon-greedily, with equally good actions equally likely. A time limit is not the end of the task: there the value
of the true successor is bootstrapped, by SARSA with an action that is drawn for it.
"""

from __future__ import annotations

import enum

import jax
import jax.numpy as jnp
from jax import lax
from jax.tree_util import Partial

from purerl import struct
from purerl.errors import InputError
from purerl.experience.collection import Experience, ExperienceState
from purerl.learning import checks, hyperparameters, schedules
from purerl.tabular.mdp import draw
from purerl.tabular.policies import epsilon_greedy
from purerl.types import Array, Environment, Mean, Metrics, Policy, Scalar, Transition, merge


class TDRule(enum.Enum):
    """Value of the next state in an update. See the module."""

    Q_LEARNING = enum.auto()
    SARSA = enum.auto()
    EXPECTED_SARSA = enum.auto()
    DOUBLE_Q_LEARNING = enum.auto()


@struct.dataclass
class Tables:
    """Action values and visits; ``K`` is 2 for double Q-learning, else 1.

    Attributes:
        q: float32 ``[K, S, A]``.
        visits: int32 ``[K, S, A]``, updates of each entry.
    """

    q: Array
    visits: Array

    @property
    def values(self) -> Array:
        """Action values to act on, ``[S, A]``: the mean of the tables."""
        return jnp.mean(self.q, axis=-3)


@struct.dataclass
class TDControlState:
    """Everything that changes while a table is learned.

    Attributes:
        key: randomness of all later iterations.
        iteration: int32, iterations done.
        experience: environments in flight.
        tables: action values and visits.
    """

    key: Array
    iteration: Array = struct.field(shared=True)
    experience: ExperienceState
    tables: Tables


@struct.dataclass
class TDControl:
    """Temporal-difference control for discrete observations and actions. See the module for the method."""

    env: Environment
    rule: TDRule = struct.field(default=TDRule.Q_LEARNING, static=True, help="value of the next state in an update")
    num_envs: int = hyperparameters.num_envs(1)
    rollout_length: int = hyperparameters.rollout_length(
        10, "steps in each environment per iteration, each followed by its update"
    )
    learning_rate: Scalar = struct.field(default=0.1, help="alpha: step size of an update", within="[0, 1]")
    visit_power: Scalar = struct.field(
        default=0.0,
        help="power p of visits: step sizes are learning_rate / visits^p; 0 is constant, more than 0.5 converges",
        within="[0, 1]",
    )
    gamma: Scalar = hyperparameters.gamma()
    epsilon: Scalar = hyperparameters.epsilon(0.1)
    initial_value: float = struct.field(
        default=0.0, help="initial action values; high ones make it try everything", within="(-inf, inf)"
    )
    reward_scale: Scalar = hyperparameters.reward_scale()

    def __post_init__(self) -> None:
        struct.check_fields(self)
        if not isinstance(self.rule, TDRule):
            raise InputError(f"rule must be one of {', '.join(map(str, TDRule))}, got {self.rule!r}")
        checks.check_discrete(self._name, self.env, "sac, td3, ddpg or ppo")
        checks.check_discrete_observations(self._name, self.env, "dqn or ppo")

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps of one iteration."""
        return self.num_envs * self.rollout_length

    @property
    def minibatch_rows(self) -> int:
        """Rows that are processed together while learning."""
        return self.num_envs

    @property
    def warmup_iterations(self) -> int:
        """0: there is no replay to fill."""
        return 0

    def init(self, key: Array) -> TDControlState:
        """Fresh environments, and tables of the initial value."""
        key, reset_key = jax.random.split(key)
        shape = (self._num_tables, self.env.observation_space.n, self.env.action_space.n)  # type: ignore[union-attr]
        tables = Tables(jnp.full(shape, self.initial_value, jnp.float32), jnp.zeros(shape, jnp.int32))
        return TDControlState(key, jnp.int32(0), self._experience.init(reset_key, _UNDECIDED), tables)

    def policy(self, state: TDControlState, *, explore: bool) -> Policy:
        """Epsilon-greedy as in training (``explore=True``), or greedy."""
        values = state.tables.values
        if not explore:
            return Policy(Partial(_act_greedily, values), _UNDECIDED)
        return Policy(Partial(_act, values, schedules.at(self, state.iteration).epsilon), _UNDECIDED)

    def step(self, state: TDControlState) -> tuple[TDControlState, Metrics]:
        """Steps and updates in turn."""
        now = schedules.at(self, state.iteration)
        key, steps_key = jax.random.split(state.key)
        keys = jax.random.split(steps_key, self.rollout_length)
        (experience, tables), metrics = lax.scan(now._step_and_update, (state.experience, state.tables), keys)
        metrics = merge(metrics) | {
            "q_value": Mean.of(jnp.max(tables.values, axis=-1)),
            "epsilon": Mean.of(now.epsilon),
            "learning_rate": Mean.of(now.learning_rate),
        }
        return TDControlState(key, state.iteration + 1, experience, tables), metrics

    # Pieces

    @property
    def _name(self) -> str:
        return self.rule.name.lower()

    @property
    def _num_tables(self) -> int:
        return 2 if self.rule is TDRule.DOUBLE_Q_LEARNING else 1

    @property
    def _experience(self) -> Experience:
        """One step at a time."""
        return Experience(self.env, self.num_envs, 1, reward_scale=self.reward_scale)

    # Learning

    def _step_and_update(
        self, learner: tuple[ExperienceState, Tables], key: Array
    ) -> tuple[tuple[ExperienceState, Tables], Metrics]:
        """One step in each environment, and an update for each of them, one after the other."""
        experience, tables = learner
        collect_key, action_key, table_key = jax.random.split(key, 3)
        policy = Policy(Partial(_act, tables.values, self.epsilon), _UNDECIDED)
        experience, transitions, metrics = self._experience.collect(experience, policy, collect_key)
        transitions = jax.tree.map(lambda leaf: leaf[:, 0], transitions)
        next_actions = jax.vmap(_draw_action, (None, None, 0, 0))(
            tables.values, self.epsilon, jax.random.split(action_key, self.num_envs), transitions.next_obs
        )
        if self.rule is TDRule.SARSA:
            # The action of the target is the next one taken, unless another episode begins.
            decided = jnp.where(transitions.done, _UNDECIDED, next_actions)
            experience = struct.replace(experience, rollout=struct.replace(experience.rollout, carry=decided))
        turns = jax.random.randint(table_key, (self.num_envs,), 0, self._num_tables, jnp.int32)
        tables, td_errors = lax.scan(self._update, tables, (transitions, next_actions, turns))
        return (experience, tables), metrics | {"td_error": Mean.of(jnp.abs(td_errors))}

    def _update(self, tables: Tables, sample: tuple[Transition, Array, Array]) -> tuple[Tables, Array]:
        """Update of one entry, of table number `turn`."""
        transition, next_action, turn = sample
        entry = turn, transition.obs, transition.action
        next_value = self._next_value(tables, transition.next_obs, next_action, turn)
        target = transition.reward + self.gamma * jnp.where(transition.terminated, 0.0, next_value)
        td_error = target - tables.q[entry]
        visits = tables.visits.at[entry].add(1)
        step_size = self.learning_rate / visits[entry].astype(jnp.float32) ** self.visit_power
        return Tables(tables.q.at[entry].add(step_size * td_error), visits), td_error

    def _next_value(self, tables: Tables, state: Array, action: Array, turn: Array) -> Array:
        """Value of the next state, given the action that is taken there."""
        values = tables.q[turn, state]
        if self.rule is TDRule.Q_LEARNING:
            return jnp.max(values)
        if self.rule is TDRule.SARSA:
            return values[action]
        if self.rule is TDRule.EXPECTED_SARSA:
            return jnp.sum(epsilon_greedy(values, self.epsilon) * values)
        return tables.q[1 - turn, state, jnp.argmax(values)]


_UNDECIDED = jnp.int32(-1)
"""Memory of a policy that has not chosen its next action yet."""


def _draw_action(values: Array, epsilon: Array, key: Array, obs: Array) -> Array:
    return draw(key, epsilon_greedy(values[obs], epsilon))


def _act(
    values: Array, epsilon: Array, key: Array, decided: Array, obs: Array
) -> tuple[Array, Array, dict[str, Array]]:
    drawn = _draw_action(values, epsilon, key, obs)
    return jnp.where(decided == _UNDECIDED, drawn, decided), _UNDECIDED, {}


def _act_greedily(values: Array, key: Array, carry: Array, obs: Array) -> tuple[Array, Array, dict[str, Array]]:
    return jnp.argmax(values[obs]).astype(jnp.int32), carry, {}
