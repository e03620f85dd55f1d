"""Demonstrations: whole episodes of an expert as data, recorded, stored in a file, or exchanged with Minari.

A file is made by `purerl record` or by `record` and `save`, and read by `load_demonstrations`::

    demonstrations = purerl.record(env, policy, jax.random.key(0), num_episodes=10)
    demonstrations.save("demos.npz")
    agent = purerl.BC(env=env, demonstrations=purerl.load_demonstrations("demos.npz"))
"""

from purerl.demonstrations.data import Demonstrations
from purerl.demonstrations.files import load_demonstrations
from purerl.demonstrations.minari import from_minari, to_minari
from purerl.demonstrations.recording import gather, play, record

__all__ = ["Demonstrations", "from_minari", "gather", "load_demonstrations", "play", "record", "to_minari"]
