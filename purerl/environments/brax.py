"""Adapter for Brax environments: rigid bodies on four physics backends, including user-registered ones."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import inspect
import io
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl import struct
from purerl.environments import casting, mjx_gradients
from purerl.environments.options import COMMON, Option, Options, as_plain, constructor_options
from purerl.environments.overview import OVERVIEW
from purerl.environments.wrappers import TimeLimit
from purerl.errors import InputError, unknown
from purerl.spaces import Box
from purerl.types import Array, PyTree, TimeStep

BACKENDS = ("generalized", "spring", "positional", "mjx")

PREFIX = "brax/"

_EPISODE_LENGTH = 1000
"""Default time limit. Brax's environments have none of their own; this is the one that its benchmarks use."""

_NO_GRADIENT = {
    "fast": "is a step function of the action",
    "inverted_pendulum": "is 1 at every step",
}
"""Reasons why the rewards of some environments have no gradient."""


@struct.dataclass
class BraxEnvironment:
    """Brax environment with purerl's interface, without a time limit; build it with `make`.

    Brax objects hash by identity. So this class stores how they are made and looks the object up in a cache: two
    environments made with the same arguments have the same structure and share compiled programs.

    Attributes:
        name: Brax's name.
        factory: class or function registered in Brax under that name.
        options: constructor arguments.
        observation_space: shape and dtype of the actual observations, unbounded.
        action_space: ``[-1, 1]`` in every entry.
        differentiable: whether "mjx" has a derivative in reverse mode (`mjx_gradients`); values do not change.
        params: every floating-point array of Brax's ``System`` with at least one entry, as nested dictionaries by
            field name: ``params["link"]["inertia"]["mass"]``. Integers and flags stay concrete, because collision
            code branches on them while it is traced. `sys` and `with_sys` read and replace the whole ``System``.
    """

    name: str = struct.field(static=True)
    factory: Callable[..., Any] = struct.field(static=True)
    options: Options = struct.field(static=True)
    observation_space: Box = struct.field(static=True)
    action_space: Box = struct.field(static=True)
    differentiable: bool = struct.field(static=True)
    params: PyTree

    @property
    def sys(self) -> Any:
        """Brax's ``System`` with the parameters of this environment."""
        system = _system(_simulator(self.name, self.factory, self.options))
        if system is None:
            raise InputError(f"{PREFIX}{self.name} has no physics parameters")
        return _merge(system, self.params)

    def with_sys(self, sys: Any) -> BraxEnvironment:
        """Copy of this environment with the floating-point arrays of another ``System`` of the same robot.

        Example: ``env.with_sys(env.sys.tree_replace({"link.inertia.mass": 2 * env.sys.link.inertia.mass}))``. The "mjx"
        backend reads MuJoCo's names (``body_mass``, ``opt.gravity``), the others Brax's (``link``, ``gravity``);
        "spring" and "positional" copy masses into the state at a reset, and their steps use that copy.
        """
        params = _floats(sys)
        if jax.tree.map(jnp.shape, params) != jax.tree.map(jnp.shape, self.params):
            raise InputError(f"the System given to {PREFIX}{self.name} has arrays of other shapes")
        return dataclasses.replace(self, params=params)

    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        with _conventions():
            state = casting.strong(self._with_params().reset(key))
        return TimeStep(state, state.obs, jnp.float32(0.0), terminated=jnp.bool_(False), truncated=jnp.bool_(False))

    def step(self, key: Array, state: PyTree, action: Array) -> TimeStep:
        """Advance `state` by one action; the physics are deterministic and use no key."""
        del key
        with _conventions():
            state = casting.strong(state)
            # Brax writes into the dictionaries of its input state: pass a copy.
            next_state = self._with_params().step(casting.strong(state), jnp.asarray(action, jnp.float32))
        what = f"{PREFIX}{self.name}"
        next_state = casting.like(next_state, state, f"{what}: the state")
        return TimeStep(
            state=next_state,
            obs=next_state.obs,
            reward=casting.scalar(next_state.reward, jnp.float32, f"{what}: the reward"),
            # Some environments report failures as "time_out" in `info`; only purerl's wrapper sets time limits.
            terminated=casting.scalar(next_state.done, jnp.bool_, f"{what}: done"),
            truncated=jnp.bool_(False),
        )

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options)
        return f"BraxEnvironment({self.name!r}{options})"

    def _with_params(self) -> Any:
        """Private copy of the simulator with the parameters of this environment."""
        simulator = copy.copy(_simulator(self.name, self.factory, self.options))
        system = _system(simulator)
        if system is not None:
            simulator.sys = _merge(system, self.params)
        if self.differentiable and getattr(simulator, "backend", "") == "mjx":
            simulator._pipeline = mjx_gradients.pipeline()
        return simulator


def names() -> list[str]:
    """Names ``"brax/<name>"`` of all Brax environments."""
    if "brax.envs" not in sys.modules:  # nobody can have registered another one
        return [name for name in OVERVIEW if name.startswith(PREFIX)]
    return [f"{PREFIX}{name}" for name in _registry()]


def is_known(name: str) -> bool:
    """Whether Brax has the environment called ``"brax/<name>"``."""
    return name in names()


def make(name: str, *, episode_length: int | None = None, differentiable: bool = False, **options: Any) -> TimeLimit:
    """Brax environment ``"brax/<name>"`` with a time limit; see `unlimited`.

    Args:
        name: name with the prefix.
        episode_length: time limit in steps; by default that of Brax's benchmarks.
        differentiable: prepare the simulator for reverse mode; refuse environments without gradients.
        options: constructor arguments, such as ``backend="spring"``.
    """
    env = unlimited(name, differentiable=differentiable, **options)
    return TimeLimit(env, _EPISODE_LENGTH if episode_length is None else episode_length)


def unlimited(name: str, *, differentiable: bool = False, **options: Any) -> BraxEnvironment:
    """Brax environment ``"brax/<name>"`` without time limit, with arguments as for `make`."""
    if differentiable and name.removeprefix(PREFIX) in _NO_GRADIENT:
        raise InputError(
            f"the reward of {name} {_NO_GRADIENT[name.removeprefix(PREFIX)]}: it passes no gradient; "
            "give it a smooth one with purerl.environments.WithReward"
        )
    factory = _registry()[name.removeprefix(PREFIX)]
    defaults = _constructor_defaults(factory)
    if "backend" in options and options["backend"] not in BACKENDS:
        raise InputError(f"backend of {name} must be one of {', '.join(BACKENDS)}, got {options['backend']!r}")
    if "n_frames" in options:
        struct.check_value(f"n_frames of {name}", options["n_frames"], int, "[1, inf)")
    for option in options:
        if option not in defaults:
            raise unknown(f"option of {name}", option, {*defaults, *COMMON})
    chosen = constructor_options(name, options, defaults)
    try:
        return _probe(name.removeprefix(PREFIX), factory, chosen, differentiable)
    except InputError:
        raise
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        given = ", ".join(f"{k}={v!r}" for k, v in options.items())
        raise InputError(f"cannot make {name}{f' with {given}' if given else ''}: {reason}") from error


def options(name: str) -> dict[str, Option]:
    """Constructor arguments of ``"brax/<name>"``."""
    defaults = _constructor_defaults(_registry()[name.removeprefix(PREFIX)])
    return {k: Option(as_plain(v)) for k, v in defaults.items()}


def time_limit(name: str) -> int:
    """Default time limit in steps."""
    return _EPISODE_LENGTH


def frame_stack(name: str) -> int:
    """Default number of stacked observations: 1."""
    return 1


@functools.cache
def _brax_envs() -> Any:
    """Module `brax.envs`, imported without its messages about an optional package that is not used here."""
    heard = io.StringIO()
    try:
        with contextlib.redirect_stdout(heard):
            import brax.envs
    finally:
        for line in heard.getvalue().splitlines():
            if not line.startswith(("Failed to import warp", "Failed to import mujoco_warp")):
                print(line)
    _repair_fluid()
    return brax.envs


def _repair_fluid() -> None:
    """Give Brax's fluid forces (swimmer) a `clip` with the argument ``a_min``, which newer JAX has renamed."""
    from brax import fluid

    def clip(x: Array, min: Any = None, max: Any = None, *, a_min: Any = None, a_max: Any = None) -> Array:
        return jnp.clip(x, a_min if min is None else min, a_max if max is None else max)

    fluid.jp = types.SimpleNamespace(**{**vars(jnp), "clip": clip})


def _registry() -> Mapping[str, Callable[..., Any]]:
    # Brax has no public list of its names.
    return _brax_envs()._envs


@functools.cache
def _simulator(name: str, factory: Callable[..., Any], options: Options) -> Any:
    """Brax object, one per factory and options."""
    # The first look-up may happen while tracing; cached objects must not hold tracers.
    with jax.ensure_compile_time_eval(), casting.conventions(), _without_remarks():
        return factory(**dict(options))


@contextlib.contextmanager
def _conventions() -> Iterator[None]:
    """Context with the JAX settings for Brax: those of all simulators, and matrix products in full float32 precision.

    With the 10 bits of precision that GPUs use by default, gradients through physics explode.
    """
    with casting.conventions(), jax.default_matmul_precision("highest"):
        yield


@contextlib.contextmanager
def _without_remarks() -> Iterator[None]:
    """Context that hides deprecation warnings about Brax's own robot models; other warnings stay."""
    import mujoco

    remarks: list[str] = []
    previous = mujoco.get_mju_user_warning()  # pyright: ignore[reportAttributeAccessIssue]
    set_handler = mujoco.set_mju_user_warning  # pyright: ignore[reportAttributeAccessIssue]
    # MuJoCo itself would also write a log file into the current directory.
    set_handler(remarks.append)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Brax System, piplines and environments are not actively")
            yield
    finally:
        set_handler(previous)
    for remark in remarks:
        if "is deprecated" not in remark:
            warnings.warn(remark, stacklevel=2)


def _constructor_defaults(factory: Callable[..., Any]) -> dict[str, Any]:
    """Constructor arguments and their defaults, including those passed on to Brax's base class."""
    from brax.envs.fast import Fast

    parameters = inspect.signature(factory).parameters.values()
    defaults = {
        p.name: None if p.default is inspect.Parameter.empty else p.default
        for p in parameters
        if p.kind in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    }
    # Brax passes `**kwargs` on to its base class; `Fast` accepts any and ignores them.
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters) and factory is not Fast:
        defaults = {"backend": "mjx", "n_frames": None, **defaults}
    return defaults


def _probe(name: str, factory: Callable[..., Any], options: Options, differentiable: bool) -> BraxEnvironment:
    """Environment whose spaces are derived from an abstract reset."""
    simulator = _simulator(name, factory, options)
    system = _system(simulator)
    with jax.ensure_compile_time_eval():
        # MuJoCo's arrays are committed to a device, and so would be all results computed from them: the second call
        # of a compiled function on its own output would compile again. A copy through the host is not committed.
        params = {} if system is None else jax.tree.map(lambda x: jnp.asarray(np.asarray(x)), _floats(system))
    action_space = Box((int(simulator.action_size),), -1.0, 1.0)
    env = BraxEnvironment(name, factory, options, Box((0,)), action_space, differentiable, params)
    timestep = jax.eval_shape(lambda env, key: env.reset(key), env, jax.random.key(0))
    if not isinstance(timestep.obs, jax.ShapeDtypeStruct):
        raise InputError(
            f"{PREFIX}{name}: only arrays are supported as observations, got {type(timestep.obs).__name__}"
        )
    return dataclasses.replace(env, observation_space=Box(timestep.obs.shape, dtype=timestep.obs.dtype))


def _system(simulator: Any) -> Any:
    """The simulator's ``System``, or None if it has none."""
    return vars(simulator).get("sys")


def _is_physics(leaf: Any) -> bool:
    return np.size(leaf) > 0 and jnp.issubdtype(jnp.result_type(leaf), jnp.floating)


def _floats(system: Any) -> dict[str, Any]:
    """Floating-point leaves of a ``System`` as nested dictionaries by field name."""
    params: dict[str, Any] = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(system)[0]:
        if _is_physics(leaf):
            *parents, last = _field_names(path)
            node = params
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = jnp.asarray(leaf, jnp.float32)
    return params


def _merge(system: Any, params: Mapping[str, Any]) -> Any:
    """Copy of `system` with the floating-point leaves of `params`."""
    paths, structure = jax.tree_util.tree_flatten_with_path(system)
    leaves = []
    for path, leaf in paths:
        value: Any = params
        if _is_physics(leaf):
            for field in _field_names(path):
                value = value[field]
            leaf = value
        leaves.append(leaf)
    return jax.tree.unflatten(structure, leaves)


def _field_names(path: tuple[Any, ...]) -> tuple[str, ...]:
    return tuple(jax.tree_util.keystr((entry,), simple=True) for entry in path)
