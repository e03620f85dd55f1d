"""Settings that are known to learn, per algorithm and environment.

A preset says what differs from an algorithm's own defaults. ``preset("ppo", "CartPole-v1")`` is what
``purerl train ppo CartPole-v1`` uses; every value can be changed by a flag.
"""

from __future__ import annotations

from purerl.errors import unknown
from purerl.presets import first_order, off_policy, on_policy
from purerl.presets.settings import Preset

__all__ = ["Preset", "base", "preset"]

_BASE = on_policy.BASE | off_policy.BASE | first_order.BASE
_GENERIC = on_policy.GENERIC | off_policy.GENERIC | first_order.GENERIC
_TUNED = on_policy.TUNED | off_policy.TUNED | first_order.TUNED


def base(algorithm: str) -> Preset:
    """What every preset of `algorithm` starts from.

    Raises:
        InputError: if there is no such algorithm.
    """
    if algorithm not in _BASE:
        raise unknown("algorithm", algorithm, _BASE)
    return _BASE[algorithm]


def preset(algorithm: str, env: str) -> Preset:
    """The settings for `algorithm` on `env`: tuned ones where there are any, else those for its kind of spaces.

    Args:
        algorithm: such as ``"ppo"``.
        env: any name that `purerl.make` knows.

    Raises:
        InputError: if either is unknown.
    """
    base(algorithm)
    if env in _TUNED[algorithm]:
        return _TUNED[algorithm][env]
    import purerl

    return _GENERIC[algorithm](purerl.make(env))
