"""Mistakes in environments of one's own, each with the field that is wrong and the remedy, before anything compiles."""

import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from environment_contract import check_types
from probes import Counter

import purerl
from purerl import InputError, TimeStep, check_env, struct
from purerl.environments import ActionRepeat, StrictTypes, WithReward, make
from purerl.spaces import Box, Discrete


@struct.dataclass
class Ramp:
    """Three numbers that grow by one per step; what subclasses get wrong is what they override."""

    speed: Any = np.float32(1.0)

    observation_space = Box((3,), 0.0, 1000.0)
    action_space = Discrete(2)

    def first(self):
        return jnp.float32(0.0)

    def after(self, state):
        return state + self.speed

    def fields(self, state):
        return {}

    def reset(self, key):
        return self.timestep(self.first())

    def step(self, key, state, action):
        return self.timestep(self.after(state))

    def timestep(self, state):
        fields = {"reward": jnp.float32(1.0), "terminated": jnp.bool_(False), "truncated": jnp.bool_(False)}
        fields |= self.fields(state)
        if "obs" not in fields:
            fields["obs"] = jnp.full(3, state, jnp.float32)
        return TimeStep(state=state, **fields)


def variant(**members):
    return struct.dataclass(type("Variant", (Ramp,), members))()


def giving(**fields):
    return variant(fields=lambda self, state: {k: v(state) if callable(v) else v for k, v in fields.items()})


@struct.dataclass
class Tabled(Ramp):
    table: tuple = struct.field(default=(), static=True)


def branching(self, state):
    return state + 1 if state > 2 else state


WRONG = {
    "reward of shape (1,)": (
        giving(reward=jnp.ones(1)),
        r"Variant.reset: reward has shape \[1\], must be \[\]: use .reshape",
    ),
    "reward is complex": (giving(reward=1j), "reward must be an array, got complex"),
    "obs of another shape": (giving(obs=jnp.zeros(4)), r"obs has shape \[4\], observation_space says \[3\]"),
    "obs is a row": (giving(obs=jnp.zeros((1, 3))), r"obs has shape \[1, 3\], .* use .reshape\(\(3,\)\)"),
    "obs is a mapping": (giving(obs={"x": jnp.zeros(3)}), "obs must be an array, got dict: join its entries"),
    "obs is a list": (giving(obs=[0.0, 0.0, 0.0]), "obs must be an array, got list: make it one with jnp.stack"),
    "floats in a space of integers": (
        variant(observation_space=Box((3,), 0, 255, np.uint8)),
        "obs is float32, observation_space says uint8: use .astype",
    ),
    "flag is a number": (
        giving(terminated=lambda s: jnp.where(s > 3, 1, 0)),
        "terminated is int32, must be bool: use a comp",
    ),
    "flag per entry": (giving(truncated=jnp.zeros(3, bool)), r"truncated has shape \[3\], must be \[\]"),
    "state changes its dtype": (
        variant(first=lambda self: jnp.int32(0)),
        r"Variant: state is int32\[\] after a reset and float32\[\] after a step",
    ),
    "state changes its shape": (
        variant(after=lambda self, state: jnp.full(2, state), fields=lambda self, state: {"obs": jnp.zeros(3)}),
        r"state is float32\[\] after a reset and float32\[2\]",
    ),
    "state changes its structure": (
        variant(after=lambda self, state: (state, state), fields=lambda self, state: {"obs": jnp.zeros(3)}),
        "state is PyTreeDef.* after a reset and PyTreeDef.* after a step: return the same",
    ),
    "state holds text": (
        variant(first=lambda self: "start", fields=lambda self, state: {"obs": jnp.zeros(3)}),
        "Variant.reset: state must be an array, got str",
    ),
    "a branch": (variant(after=branching), "needs a concrete value where JAX traces.*test_check_env.py, line"),
    "NumPy": (variant(after=lambda self, state: np.sin(state)), "uses NumPy on values that JAX traces: use jax.numpy"),
    "a tuple of results": (
        variant(timestep=lambda self, state: (jnp.zeros(3), 0.0)),
        "must return a purerl.TimeStep, got tuple",
    ),
    "arguments in another order": (
        variant(step=lambda self, state, action, key: self.timestep(state)),
        r"Variant.step must take \(key, state, action\), not \(state, action, key\)",
    ),
    "an argument too few": (
        variant(step=lambda self, state, action: None),
        r"Variant.step must take \(key, state, action\)",
    ),
    "a method for a space": (
        variant(action_space=lambda self: Discrete(2)),
        "Variant.action_space must be a Box or Discrete, got method: write @property above it",
    ),
    "text in a field": (Ramp(speed="fast"), "Ramp.speed is a str, which JAX cannot trace: declare it with"),
    "an array in a static field": (
        Tabled(table=np.zeros(3)),
        "Tabled.table is static and must be hashable, got ndarray: use a tuple",
    ),
    "the class": (Ramp, r"got the class Ramp: make one, Ramp\(\)"),
    "no pytree": (
        type("Plain", (Ramp,), {})(),
        "Plain is not a pytree, which JAX can trace: write @purerl.struct.dataclass",
    ),
    "a part is missing": (
        type("Half", (), {"reset": None, "step": None, "action_space": Discrete(2)})(),
        "Half has no observation_space: an environment has reset, step, observation_space, action_space",
    ),
    "inside a wrapper": (ActionRepeat(giving(truncated=1.0), 2), "truncated is float32, must be bool"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_mistakes_are_named(mistake):
    env, message = WRONG[mistake]
    with pytest.raises(InputError, match=message) as error:
        make(env, episode_length=5)
    assert "\n" not in str(error.value)


LOOSE = {
    "Python numbers": giving(reward=1.0, terminated=False, truncated=False),
    "whole rewards": giving(reward=lambda s: jnp.int32(1)),
    "a comparison as reward": giving(reward=lambda s: s < 100),
    "NumPy's doubles": giving(reward=np.float64(1.0), obs=np.zeros(3)),
    "whole observations": giving(obs=lambda s: jnp.full(3, s).astype(jnp.int32)),
    "a weak state": variant(first=lambda self: 0.0),
}


@pytest.mark.parametrize("kind", LOOSE)
def test_loose_types_become_strict_with_the_same_values(kind):
    env = make(LOOSE[kind])
    assert isinstance(env, StrictTypes)
    check_types(env)
    timestep = env.step(jax.random.key(0), env.reset(jax.random.key(0)).state, jnp.int32(0))
    assert timestep.reward == 1.0
    check_env(env)


def test_what_is_right_passes_as_it_is():
    for env in (Ramp(), Counter(), make("CartPole-v1"), WithReward(Ramp(), lambda state, action, timestep: state)):
        assert make(env) is env


def test_a_reward_of_ones_own_is_one_number():
    env = WithReward(Ramp(), lambda state, action, timestep: timestep.obs)
    with pytest.raises(InputError, match=re.escape("the reward of WithReward must be a single value, got shape (3,)")):
        make(env)


@pytest.mark.parametrize(
    ("env", "message"),
    [
        (
            giving(terminated=lambda s: s > 5, truncated=lambda s: s > 5),
            "terminated and truncated at once: write trunc",
        ),
        (giving(reward=lambda s: jnp.sqrt(3 - s)), "reward is not finite"),
        (Ramp(speed=np.float32(100.0)), r"obs from 100 to 10000 are outside of Box\(\[3\], \[0, 1000\]\)"),
    ],
)
def test_values_are_checked_by_acting(env, message):
    make(env)
    with pytest.raises(InputError, match=message):
        check_env(env)


def test_check_env_needs_a_number_of_steps():
    check_env(Ramp(), num_steps=0)
    with pytest.raises(InputError, match="num_steps must lie in"):
        purerl.check_env(Ramp(), num_steps=-1)
