"""Optimal control on the environment's own step function: plan with it, differentiate it, or sample from it.

A planner turns a state into a `Plan`; `mpc_policy` turns a planner into a policy that plans anew at every step::

    env = purerl.make("smooth/pendulum")
    policy = mpc_policy(MPPI(horizon=30), env)
    episodes = rollout.evaluate(ObserveState(env), policy, jax.random.key(0), num_episodes=8)

Planning is for one state; `jax.vmap` serves many states, many keys or many parameters of the model.
"""

from purerl.control.ilqr import ILQR, Feedback
from purerl.control.model import Plan, Planner, neutral_actions
from purerl.control.mpc import ObserveState, mpc_policy
from purerl.control.mppi import MPPI
from purerl.control.shooting import Shooting

__all__ = [
    "ILQR",
    "MPPI",
    "Feedback",
    "ObserveState",
    "Plan",
    "Planner",
    "Shooting",
    "mpc_policy",
    "neutral_actions",
]
