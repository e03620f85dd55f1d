"""The configuration of a run: everything needed to build it again, as plain data that fits into a JSON file."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import itertools
import platform
from typing import TYPE_CHECKING, Any

from purerl import presets
from purerl.cli.fields import is_required, kind_of, value_of
from purerl.cli.network import build_network, default_network
from purerl.cli.objects import PREFIXES, build_object
from purerl.errors import InputError, unknown

if TYPE_CHECKING:
    from purerl.training.population import Population
    from purerl.types import Environment

FORMAT = 4
"""Of config.json; raised when older files can no longer be read."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One run. All numbers of steps and iterations count one member.

    Attributes:
        algorithm: name, as for `purerl.presets.row`.
        env: name for `purerl.make`.
        env_options: its options, all of them.
        hyperparameters: fields of the algorithm, all that have a plain value.
        optimizer: kind and numbers of the optimiser (see `complete_object`); empty if the algorithm has none.
        reward_model: the same of the reward model.
        network: kinds of its parts and all parameters (see `complete_network`).
        vary: dotted field name to the values that members try, beside their seeds.
        pbt_every: iterations between exchanges of population-based training, 0 for none; a multiple of `log_every`.
        joint: names in `vary` whose values go together, the first of each, then the second; of others all combinations.
        randomize: dotted name of a parameter of the environment to the range that every episode draws it from.
        anneal: whether learning rates that are numbers fall linearly to 0 over `total_steps`.
        seed: of the whole run.
        seeds: members per combination of `vary`.
        requested_steps: what was asked for.
        total_steps: `requested_steps` rounded up to whole iterations.
        num_iterations: that many.
        log_every: iterations per row of metrics.
        eval_every: iterations between evaluations along the way, 0 for none; a multiple of `log_every`.
        eval_episodes: per member, at the end.
        eval_batch: episodes played side by side, per member; so many make an evaluation along the way.
        checkpoint_every: iterations between checkpoints; a multiple of `log_every`.
        loggers: to which rows of metrics are written too, names in `purerl.cli.loggers.LOGGERS`.
        versions: of the programs that started the run.
        processes: that the members are spread over.
        engine: ``local`` or ``ray``: what `processes` are.
        address: of a Ray cluster; empty for this machine alone.
        devices: that members and shards are spread over: a number, or ``all``.
        shards: parts of each member's environments, see `purerl.Shards`.
        deadline: longest time in seconds to wait for another process.
        on_divergence: ``freeze`` or ``stop``, for members whose update is not finite.
    """

    algorithm: str
    env: str
    env_options: dict[str, Any]
    hyperparameters: dict[str, Any]
    optimizer: dict[str, Any]
    reward_model: dict[str, Any]
    network: dict[str, Any]
    vary: dict[str, list[float]]
    anneal: bool
    seed: int
    seeds: int
    requested_steps: int
    total_steps: int
    num_iterations: int
    log_every: int
    eval_every: int
    eval_episodes: int
    eval_batch: int
    checkpoint_every: int
    loggers: list[str]
    versions: dict[str, str]
    processes: int = 1
    engine: str = "local"
    address: str = ""
    devices: str = "1"
    shards: int = 1
    deadline: float = 600.0
    on_divergence: str = "freeze"
    joint: list[str] = dataclasses.field(default_factory=list)
    pbt_every: int = 0
    randomize: dict[str, list[float]] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_json(cls, data: Any) -> RunConfig:
        """Read back what `to_json` gave.

        Raises:
            InputError: if this is not such a configuration.
        """
        if not isinstance(data, dict) or "purerl_run" not in data:
            raise InputError("not the configuration of a purerl run")
        if data["purerl_run"] != FORMAT:
            raise InputError(
                f"it was written by another version of purerl, in format {data['purerl_run']}, and this one reads "
                f"format {FORMAT}: use that version, or train again"
            )
        values = {name: value for name, value in data.items() if name != "purerl_run"}
        names = {field.name for field in dataclasses.fields(cls)}
        absent = {field.name for field in dataclasses.fields(cls) if is_required(field)} - values.keys()
        for name in sorted(absent | (values.keys() - names)):
            raise InputError(f"{name!r} is {'missing from' if name in names else 'not known in'} the configuration")
        return cls(**values)

    def to_json(self) -> dict[str, Any]:
        """Mapping that JSON can hold."""
        return {"purerl_run": FORMAT, **dataclasses.asdict(self)}

    @property
    def num_members(self) -> int:
        """Agents trained side by side."""
        return self.seeds * len(self.combinations)

    @property
    def combinations(self) -> list[dict[str, float]]:
        """The combinations of varied values; one empty combination where nothing varies.

        Members are ordered as in `Population.grid`: seeds innermost.
        """
        axes = [[{name: value} for value in values] for name, values in self.vary.items() if name not in self.joint]
        if self.joint:
            draws = zip(*(self.vary[name] for name in self.joint), strict=True)
            axes.append([dict(zip(self.joint, draw, strict=True)) for draw in draws])
        merged = [{name: value for part in parts for name, value in part.items()} for parts in itertools.product(*axes)]
        return [{name: values[name] for name in self.vary} for values in merged]

    def initial(self, name: str) -> list[float]:
        """Values of what varies that the members begin with, one for each."""
        return [values[name] for values in self.combinations for _ in range(self.seeds)]

    @property
    def strata(self) -> tuple[int, int]:
        """Shape of the members: those of one row differ by the seed, or have exchanged their values."""
        return (1, self.num_members) if self.pbt_every else (len(self.combinations), self.seeds)

    @property
    def title(self) -> str:
        """Algorithm and environment in a few words."""
        return f"{self.algorithm} on {self.env}"

    def nominal_env(self) -> Environment:
        """Environment of the run, without its random parameters.

        Raises:
            InputError: if an option is not allowed or no longer exists.
        """
        import purerl

        return purerl.make(self.env, **self.env_options)

    def population(self) -> Population:
        """Build the algorithm of the run, checked by its own classes.

        Raises:
            InputError: if some value is not allowed or no longer exists.
        """
        import jax

        import purerl

        algorithm = presets.row(self.algorithm).load()
        fields = {field.name: field for field in dataclasses.fields(algorithm)}
        values: dict[str, Any] = {}
        for name, value in self.hyperparameters.items():
            if name not in fields:
                raise unknown(f"hyper-parameter of {self.algorithm}", name, fields)
            values[name] = value_of(fields[name], value)
        paths = {name: f"optimizer.{name}" if name.split(".")[0] in self.optimizer else name for name in self.vary}
        if self.randomize:  # the environment is one level further down
            paths = {name: f"env.{path}" if path.startswith("env.") else path for name, path in paths.items()}
        for name, tried in self.vary.items():
            if name in values:  # a number to begin with, where there was a schedule or none
                values[name] = tried[0]
        for name, value in list(values.items()):
            if self.anneal and is_learning_rate(fields[name]) and isinstance(value, int | float):
                values[name] = purerl.LinearSchedule(value, 0.0, float(self.total_steps))
                paths[name] = f"{name}.start"
        for part in PREFIXES:
            values |= build_object(algorithm, part, getattr(self, part))
        if default_network(algorithm) is not None:
            values["network"] = build_network(algorithm, self.network)
        values["env"] = self.nominal_env()
        if self.randomize:
            values["env"] = purerl.environments.randomize(values["env"], self.randomize)
        for name, field in fields.items():
            if name not in values and is_required(field):
                raise InputError(f"{self.algorithm} has no default for {name}: {_remedy(field)}")
        member = algorithm(**values)
        if jax.tree_util.all_leaves([member]):
            raise InputError(f"{self.algorithm} is not an algorithm: decorate it with @purerl.struct.dataclass")
        if self.shards > 1:
            member = purerl.Shards.divide(member, self.shards)
            paths = {name: f"algorithm.{path}" for name, path in paths.items()}
        combinations = [{paths[name]: value for name, value in values.items()} for values in self.combinations]
        return purerl.Population.combined(member, self.seeds, combinations)


def is_learning_rate(field: dataclasses.Field) -> bool:
    """Whether ``--anneal`` is about a field: a learning rate that may be a schedule."""
    return field.name.endswith("learning_rate") and "scalar" in (kind_of(field) or "")


def _remedy(field: dataclasses.Field) -> str:
    return f"give --{field.name.replace('_', '-')}" if kind_of(field) else "give the field one"


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that decide the numbers of a run."""
    packages = ("purerl", "jax", "jaxlib", "flax", "optax", "gymnax", "brax", "orbax-checkpoint", "numpy")
    found = {"python": platform.python_version()}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            # Run from a source tree, or an optional library that this run did without.
            if package == "purerl":
                import purerl

                found[package] = purerl.__version__
    return found
