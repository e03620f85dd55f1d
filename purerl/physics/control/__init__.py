"""Trajectory optimisation and model predictive control with the environment's own step function as the model.

A planner maps a state to a `Plan`; `mpc_policy` makes a policy of a planner, which plans again at every step::

    env = purerl.make("smooth/pendulum")
    policy = mpc_policy(MPPI(horizon=30), env)
    episodes = rollout.evaluate(ObserveState(env), policy, jax.random.key(0), num_episodes=8)

A planner plans for one state; use `jax.vmap` for many states, keys or parameters of the model.
"""

from purerl.physics.control.ilqr import ILQR, Feedback
from purerl.physics.control.model import Plan, Planner, neutral_actions
from purerl.physics.control.mpc import ObserveBoth, ObserveState, mpc_policy, on_state
from purerl.physics.control.mppi import MPPI
from purerl.physics.control.shooting import Shooting

__all__ = [
    "ILQR",
    "MPPI",
    "Feedback",
    "ObserveBoth",
    "ObserveState",
    "Plan",
    "Planner",
    "Shooting",
    "mpc_policy",
    "neutral_actions",
    "on_state",
]
