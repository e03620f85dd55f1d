"""Adapter for gymnax environments: classic control, MinAtar, bsuite and others, including user-registered ones."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import operator
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from purerl import struct
from purerl.deferred_imports import deferred
from purerl.environments import casting
from purerl.environments.influence import check_acts
from purerl.environments.options import COMMON, Option, Options, as_plain, constructor_options, parameter
from purerl.environments.overview import OVERVIEW
from purerl.errors import InputError, unknown
from purerl.spaces import Box, Discrete, Space
from purerl.types import Array, PyTree, TimeStep

PREFIX = ""

# The constructor downloads a data set: `make` may do this, a listing of environments must not.
_DOWNLOADS = ("MNISTBandit-bsuite",)


class _Rule(NamedTuple):
    """Rule that computes a derived parameter from two others."""

    sources: tuple[str, str]
    combine: Callable[[Any, Any], Any]


# Derived parameters that gymnax stores beside their sources, by the module of the environment.
_DERIVED: dict[str, dict[str, _Rule]] = {
    "gymnax.environments.classic_control.cartpole": {
        "total_mass": _Rule(("masscart", "masspole"), operator.add),
        "polemass_length": _Rule(("masspole", "length"), operator.mul),
    }
}

# MinAtar's observations are grids of booleans (Young & Tian 2019), which gymnax returns as float32.
_BOOLEAN = "gymnax.environments.minatar."


@struct.dataclass
class GymnaxEnvironment:
    """gymnax environment with purerl's interface; build it with `make`.

    gymnax objects hash by identity. So this class stores how they are made and looks the object up in a cache: two
    environments made with the same arguments have the same structure and share compiled programs. gymnax's own `step`
    resets automatically and hides the last observation; this class calls `step_env`, which does not.

    Attributes:
        name: gymnax's id.
        factory: class or function registered in gymnax under that id.
        options: constructor arguments.
        observation_space: shape and dtype of the actual observations, bounds as declared by gymnax. Booleans in
            MinAtar.
        action_space: space for the parameters given to `make`; varying a parameter that bounds actions does not change
            it.
        params: gymnax's ``EnvParams`` with an array of strong dtype in every leaf; ``max_steps_in_episode`` is the
            time limit. Derived parameters (CartPole's ``total_mass``) are None and are computed when they are used.

    Raises:
        InputError: if a derived parameter is given, or one that allows actions outside of `action_space`.
    """

    name: str = struct.field(static=True)
    factory: Callable[..., Any] = struct.field(static=True)
    options: Options = struct.field(static=True)
    observation_space: Space = struct.field(static=True)
    action_space: Space = struct.field(static=True)
    params: PyTree

    def __post_init__(self) -> None:
        limit = getattr(self.params, "max_steps_in_episode", 1)  # some of gymnax's are floats
        struct.check_value(f"max_steps_in_episode of {self.name}", limit, float, "[1, inf)")
        for derived, rule in _derived(self.params).items():
            if getattr(self.params, derived) is not None:
                raise _follows(self.name, derived, rule)
        self._check_bounds()

    @casting.conventions()
    def reset(self, key: Array) -> TimeStep:
        """Draw a start state."""
        simulator = _simulator(self.name, self.factory, self.options)
        obs, state = simulator.reset_env(key, self._arrays)
        return TimeStep(
            state=casting.strong(state),
            obs=self._observation(obs),
            reward=jnp.float32(0.0),
            terminated=jnp.bool_(False),
            truncated=jnp.bool_(False),
        )

    @casting.conventions()
    def step(self, key: Array, state: PyTree, action: Array) -> TimeStep:
        """Advance `state` by one action."""
        simulator = _simulator(self.name, self.factory, self.options)
        state = casting.strong(state)
        action = jnp.asarray(action, self.action_space.dtype)
        obs, next_state, reward, terminated, _ = simulator.step_env(key, state, action, self._arrays)
        limit_reached = simulator.is_truncated(next_state, self._arrays)
        terminated = casting.scalar(terminated, jnp.bool_, f"{self.name}: terminated")
        return TimeStep(
            state=casting.like(next_state, state, f"{self.name}: the state"),
            obs=self._observation(obs),
            reward=casting.scalar(reward, jnp.float32, f"{self.name}: the reward"),
            terminated=terminated,
            truncated=casting.scalar(limit_reached, jnp.bool_, f"{self.name}: truncated") & ~terminated,
        )

    def _observation(self, obs: Any) -> Array:
        space = self.observation_space
        if space.dtype == bool:
            obs = jnp.asarray(obs, bool)
        return casting.like(obs, jax.ShapeDtypeStruct(space.shape, space.dtype), f"{self.name}: the observation")

    @property
    def _arrays(self) -> PyTree:
        # A NumPy leaf cannot be indexed by a traced integer.
        return _complete(jax.tree.map(jnp.asarray, self.params))

    def _check_bounds(self) -> None:
        """Refuse parameters, also of many members, whose action bounds exceed `action_space`."""
        space = self.action_space
        if not isinstance(space, Box) or any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(self.params)):
            return
        simulator = _simulator(self.name, self.factory, self.options)
        ranks = jax.tree.map(np.ndim, _parameters(self.name, simulator.default_params, {}))
        members = jax.tree.map(lambda leaf, rank: 0 if np.ndim(leaf) > rank else None, self.params, ranks)

        def bounds(params: PyTree) -> tuple[Array, Array]:
            declared = simulator.action_space(_complete(params))
            low, high = _fitting(declared.low, space.shape, -np.inf), _fitting(declared.high, space.shape, np.inf)
            return jnp.broadcast_to(low, space.shape), jnp.broadcast_to(high, space.shape)

        several = any(axis is not None for axis in jax.tree.leaves(members))
        with jax.ensure_compile_time_eval(), casting.conventions():
            low, high = map(np.asarray, (jax.vmap(bounds, (members,)) if several else bounds)(self.params))
        if np.any(low < space.bounds[0]) or np.any(high > space.bounds[1]):
            raise InputError(
                f"{self.name} was made for actions in {space}: parameters may not widen these bounds up to "
                f"[{np.min(low):g}, {np.max(high):g}]; give the widest bounds to make"
            )

    def __repr__(self) -> str:
        options = "".join(f", {name}={value!r}" for name, value in self.options)
        return f"GymnaxEnvironment({self.name!r}{options})"


def names() -> list[str]:
    """Names of all gymnax environments that need no download, including user-registered ones."""
    if "gymnax" not in sys.modules:  # nobody can have registered another one
        return [name for name in OVERVIEW if "/" not in name]
    return [name for name in _registry() if name not in _DOWNLOADS]


def is_known(name: str) -> bool:
    """Whether gymnax has an environment of that name."""
    return name in names() or name in _registry()


def make(
    name: str, *, episode_length: int | None = None, differentiable: bool = False, **options: Any
) -> GymnaxEnvironment:
    """gymnax environment by its id.

    Args:
        name: gymnax's id.
        episode_length: time limit in steps; by default the environment's own.
        differentiable: refuse an environment without gradients; the others always have them.
        options: constructor arguments (such as ``size`` of DeepSea) or fields of its ``EnvParams`` (such as
            ``gravity`` of CartPole). One that changes nothing is refused.
    """
    factory = _registry()[name]
    if differentiable and not _passes_gradients(name):
        able = [other for other in names() if _passes_gradients(other)]
        raise InputError(f"{name} passes no gradient from action to reward; of gymnax, these do: {', '.join(able)}")
    arguments = _constructor_defaults(factory)
    chosen = constructor_options(name, {k: v for k, v in options.items() if k in arguments}, arguments)
    simulator = _simulator(name, factory, chosen)
    fields = {f.name for f in dataclasses.fields(simulator.default_params)}
    for derived, rule in _derived(simulator.default_params).items():
        if derived in options:
            raise _follows(name, derived, rule)
    rest = {k: v for k, v in options.items() if k not in arguments and k not in fields}
    if rest and any(p.kind is inspect.Parameter.VAR_KEYWORD for p in _signature(factory)):
        chosen = tuple(sorted(chosen + constructor_options(name, rest, {})))
        simulator = _simulator(name, factory, chosen)
    elif rest:
        valid = {*_option_defaults(name), *COMMON}
        raise unknown(f"option of {name}", next(iter(rest)), valid)

    changes = {k: v for k, v in options.items() if k in fields and k not in arguments}
    if episode_length is not None:
        if "max_steps_in_episode" in changes:
            raise InputError(f"{name}: episode_length and max_steps_in_episode mean the same, give one of them")
        if "max_steps_in_episode" not in fields:
            raise InputError(f"{name} has no time limit to set")
        struct.check_value("episode_length", episode_length, int, "[1, inf)")
        changes["max_steps_in_episode"] = episode_length
    params = _parameters(name, simulator.default_params, changes)
    with _input_error(name, options):
        observation_space, action_space = _spaces(name, simulator, params)
    env = GymnaxEnvironment(name, factory, chosen, observation_space, action_space, params)
    changed = (field for field in changes if not _is_default(simulator.default_params, field, params))
    check_acts(env, [f"params.{field}" for field in changed])
    return env


def options(name: str) -> dict[str, Option]:
    """Constructor arguments and parameters of `name`."""
    return {option: Option(default) for option, default in _option_defaults(name).items()}


def _option_defaults(name: str) -> dict[str, Any]:
    factory = _registry()[name]
    params = _simulator(name, factory, ()).default_params
    fields = {f.name: as_plain(getattr(params, f.name)) for f in dataclasses.fields(params)}
    for hidden in ("max_steps_in_episode", *_derived(params)):
        fields.pop(hidden, None)
    return {**{k: as_plain(v) for k, v in _constructor_defaults(factory).items()}, **fields}


def time_limit(name: str) -> int | None:
    """Default time limit of `name` in steps, if it has one."""
    limit = getattr(_simulator(name, _registry()[name], ()).default_params, "max_steps_in_episode", None)
    return None if limit is None else int(limit)


def frame_stack(name: str) -> int:
    """Default number of stacked observations: 1."""
    return 1


def _registry() -> dict[str, Callable[..., Any]]:
    # The plotting libraries of environments that can draw themselves take longer to import than everything else.
    with deferred("matplotlib", "matplotlib.pyplot", "matplotlib.colors", "seaborn"):
        from gymnax import registration

    # `gymnax.registered_envs` has only names, but equality by value needs the factory.
    return registration._registry


@functools.cache
def _simulator(name: str, factory: Callable[..., Any], options: Options) -> Any:
    """gymnax object, one per factory and options."""
    from gymnax.environments.environment import Environment

    # The first look-up may happen while tracing; cached objects must not hold tracers.
    with jax.ensure_compile_time_eval(), casting.conventions(), _input_error(name, dict(options)):
        simulator = factory(**dict(options))
    if not isinstance(simulator, Environment):
        raise InputError(f"{name} is a {type(simulator).__name__}, not a gymnax Environment")
    # By default gymnax stops gradients between steps. This changes no value and costs nothing without a gradient.
    return simulator.with_transition_gradients() if simulator.supports_transition_gradients else simulator


def _passes_gradients(name: str) -> bool:
    """Whether `name` has continuous actions and gymnax says that its transitions are differentiable."""
    from gymnax.environments import spaces

    simulator = _simulator(name, _registry()[name], ())
    continuous = isinstance(simulator.action_space(simulator.default_params), spaces.Box)
    return continuous and simulator.supports_transition_gradients


@contextlib.contextmanager
def _input_error(name: str, options: Mapping[str, Any]) -> Iterator[None]:
    """Context that reports errors of the simulator's own code as `InputError`."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"{name} is not available here: it needs data that could not be read ({error})") from error
    except Exception as error:
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        given = ", ".join(f"{k}={v!r}" for k, v in options.items())
        raise InputError(f"cannot make {name}{f' with {given}' if given else ''}: {reason}") from error


def _signature(factory: Callable[..., Any]) -> list[inspect.Parameter]:
    return list(inspect.signature(factory).parameters.values())


def _constructor_defaults(factory: Callable[..., Any]) -> dict[str, Any]:
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {
        p.name: None if p.default is inspect.Parameter.empty else p.default
        for p in _signature(factory)
        if p.kind in named
    }


def _parameters(name: str, defaults: Any, changes: Mapping[str, Any]) -> Any:
    """gymnax's parameters with some changed, and arrays of strong dtype in all leaves."""
    values = {}
    for field in dataclasses.fields(defaults):
        default = getattr(defaults, field.name)
        value = changes.get(field.name, default)
        check = functools.partial(parameter, f"{field.name} of {name}")
        if field.name in _derived(defaults):
            values[field.name] = None
        elif not field.metadata.get("pytree_node", True):
            values[field.name] = value
        elif jax.tree_util.all_leaves([default]):
            values[field.name] = check(value, default)
        elif jax.tree.structure(value) == jax.tree.structure(default):
            values[field.name] = jax.tree.map(check, value, default)
        else:
            raise InputError(f"{field.name} of {name} must be built like {default!r}, got {value!r}")
    return dataclasses.replace(defaults, **values)


def _derived(params: Any) -> dict[str, _Rule]:
    """Rules of the derived parameters, by name."""
    return _DERIVED.get(type(params).__module__, {})


def _complete(params: Any) -> Any:
    """Copy of `params` with the derived parameters computed."""
    values = {
        name: rule.combine(*(getattr(params, source) for source in rule.sources))
        for name, rule in _derived(params).items()
    }
    return dataclasses.replace(params, **values)


def _follows(name: str, derived: str, rule: _Rule) -> InputError:
    return InputError(f"{derived} of {name} follows from {' and '.join(rule.sources)}: change those")


def _is_default(defaults: Any, field: str, params: Any) -> bool:
    pairs = zip(jax.tree.leaves(getattr(params, field)), jax.tree.leaves(getattr(defaults, field)), strict=True)
    return all(
        not isinstance(value, Tracer) and np.array_equal(value, np.asarray(default, np.asarray(value).dtype))
        for value, default in pairs
    )


def _spaces(name: str, simulator: Any, params: Any) -> tuple[Space, Space]:
    """Spaces of observations (from an abstract reset) and actions."""
    with jax.ensure_compile_time_eval(), casting.conventions():
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(params)):
            # Bounds are static: traced parameters cannot change them.
            params = _parameters(name, simulator.default_params, {})
        params = _complete(params)
        obs, _ = jax.eval_shape(simulator.reset_env, jax.random.key(0), params)
        if not isinstance(obs, jax.ShapeDtypeStruct):
            raise InputError(f"{name}: only arrays are supported as observations, got {type(obs).__name__}")
        dtype = np.dtype(bool) if type(simulator).__module__.startswith(_BOOLEAN) else obs.dtype
        actions = simulator.action_space(params)
        return (
            _space(name, "observations", simulator.observation_space(params), obs.shape, dtype),
            _space(name, "actions", actions, actions.shape, actions.dtype),
        )


def _space(name: str, what: str, declared: Any, shape: tuple[int, ...], dtype: Any) -> Space:
    """purerl's space for gymnax's `declared` one, with the actual `shape` and `dtype`."""
    from gymnax.environments import spaces

    if isinstance(declared, spaces.Discrete) and shape == ():
        return Discrete(int(declared.n))
    if not isinstance(declared, spaces.Box):
        raise InputError(f"{name}: {what} of kind {type(declared).__name__} are not supported")
    return Box(shape, _fitting(declared.low, shape, -np.inf), _fitting(declared.high, shape, np.inf), dtype)


def _fitting(bound: Any, shape: tuple[int, ...], otherwise: float) -> Any:
    """Bound if it fits arrays of that shape, else `otherwise`."""
    return bound if np.ndim(bound) == 0 or np.shape(bound) == shape else otherwise
