"""From the words of ``purerl train`` to a configuration: preset, then flags, then what follows from both."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from purerl import presets
from purerl.cli import devices, distributed, flags, schedules, sources, sweeps
from purerl.cli.config import RunConfig, is_learning_rate, versions
from purerl.cli.fields import hyperparameters as tunable_fields
from purerl.cli.fields import kind_of, plain_defaults, within_of
from purerl.cli.loggers import LOGGERS
from purerl.cli.network import complete_network, part_class
from purerl.cli.objects import PREFIXES, complete_object, kinds_with, parameters_of
from purerl.cli.parser import Flag, parse, parse_range
from purerl.cpu import usable_cores
from purerl.errors import InputError, unknown

if TYPE_CHECKING:
    from purerl.training.population import Population

USAGE = "purerl train ALGORITHM ENVIRONMENT [flags]\n       purerl train --resume DIR [--total-steps INT]"

LOG_POINTS, CHECKPOINTS = 50, 10
"""Rows of metrics and checkpoints of a run, about, unless flags say otherwise."""


def show_help(algorithm: str | None) -> None:
    """Print the help of ``purerl train`` while no environment is named, as far as that is possible."""
    about = "Train agents and write everything about the run into a directory."
    groups = [flags.RUN]
    if algorithm is None:
        about += "\nName an algorithm and an environment to see their flags too: purerl train ppo CartPole-v1 --help"
    else:
        row = presets.row(algorithm)
        algorithm_type, start = row.load(), row.base
        groups += flags.agent_groups(algorithm, algorithm_type, start)
        about += f"\n{schedules.HELP}"
        about += f"\nName an environment to see the defaults tuned for it: purerl train {algorithm} CartPole-v1 --help"
    parse(USAGE, about, groups, ["--help"])


def configure(algorithm: str, env: str, words: Sequence[str]) -> tuple[RunConfig, Path | None, bool]:
    """The configuration that flags ask for.

    Args:
        algorithm: its name.
        env: its name.
        words: the flags.

    Returns:
        The configuration, the directory of the run (None for a new one), and whether a run there may be replaced.

    Raises:
        InputError: for anything that can be seen to be wrong without building the run.
    """
    row = presets.row(algorithm)
    algorithm_type = row.load()
    from purerl.environments import options_of

    options = options_of(env)
    start = row.preset(env)
    tunable = flags.hyperparameter_group(algorithm, algorithm_type, start)
    network = flags.network_group(algorithm_type, start)
    objects = {part: flags.object_group(part, algorithm_type, start) for part in PREFIXES}
    simulator = flags.env_group(env, options, start.env)
    can_anneal = any(map(is_learning_rate, tunable_fields(algorithm_type)))
    anneal = start.anneal and can_anneal
    run = flags.with_defaults(flags.RUN, {"total_steps": start.total_steps, "anneal": anneal})
    about = f"Train {algorithm} on {env}. The defaults are those tuned for this pair, if there are any.\n"
    about += schedules.HELP
    given, _ = parse(USAGE, about, [run, tunable, *objects.values(), network, simulator], words)

    if given.get("anneal", False) and not can_anneal:
        raise InputError(f"--anneal is not for {algorithm}: it has no learning rate that may be a schedule")
    requested, seed = given.get("total_steps", start.total_steps), given.get("seed", 0)
    hyperparameters = plain_defaults(algorithm_type) | start.hyperparameters | flags.given_in(tunable, given)
    rates = [hyperparameters[field.name] for field in tunable_fields(algorithm_type) if is_learning_rate(field)]
    if can_anneal and not any(isinstance(rate, int | float) for rate in rates):
        if given.get("anneal", False):
            raise InputError("give either --anneal or a schedule of --learning-rate, not both")
        anneal = False
    chosen = {
        part: complete_object(algorithm_type, part, getattr(start, part), flags.given_in(group, given, PREFIXES[part]))
        for part, group in objects.items()
    }
    varied = _vary(given.get("vary", []), algorithm_type, chosen, given, seed)
    draft = RunConfig(
        algorithm=algorithm,
        env=env,
        env_options={**start.env, **flags.given_in(simulator, given, flags.ENV_PREFIX)},
        hyperparameters=_with_steps(sources.described(algorithm_type, hyperparameters), requested),
        optimizer=_with_steps(chosen["optimizer"], requested),
        reward_model=_with_steps(_described("reward_model", chosen["reward_model"]), requested),
        network=complete_network(algorithm_type, start.network, flags.given_in(network, given)),
        vary={name: found.values for name, found in varied.items()},
        joint=[name for name, found in varied.items() if found.random],
        randomize=_randomize(given.get("randomize", []), given.get("vary", [])),
        anneal=given.get("anneal", anneal),
        seed=seed,
        seeds=given.get("seeds", 1),
        requested_steps=requested,
        total_steps=requested,
        num_iterations=0,
        log_every=0,
        eval_every=0,
        eval_episodes=0,
        eval_batch=0,
        checkpoint_every=0,
        loggers=[name for name in LOGGERS if given.get(name, False)],
        shards=given.get("shards", 1),
        on_divergence=given.get("on_divergence", "freeze"),
        versions=versions(),
    )
    population = draft.population()
    config = with_total_steps(draft, population, requested)
    evaluations, batch, final = evaluation_plan(
        config.total_steps, {**{name: option.default for name, option in options.items()}, **config.env_options}
    )
    log_every, eval_every, checkpoint_every = intervals(
        config.num_iterations - population.warmup_iterations,
        given.get("log_every"),
        given.get("eval_every"),
        given.get("checkpoint_every"),
        evaluations,
    )
    config = dataclasses.replace(
        config,
        log_every=log_every,
        eval_every=eval_every,
        eval_episodes=given.get("eval_episodes", final),
        eval_batch=batch,
        checkpoint_every=checkpoint_every,
        pbt_every=given.get("pbt_every", 0),
    )
    config = dataclasses.replace(
        config,
        processes=_processes(given.get("processes", "1"), config.num_members),
        engine=given.get("engine", "local"),
        address=given.get("address", ""),
        devices=given.get("devices", "all" if distributed.FLAGS[0] in given or "coordinator" in given else "1"),
        deadline=given.get("deadline", 600.0),
    )
    devices.of(config)
    _check_engine(config)
    if config.pbt_every:
        _check_pbt(config, population)
    path = Path(given["out"]) if "out" in given else None
    return config, path, given.get("overwrite", False)


def with_total_steps(config: RunConfig, population: Population, requested: int) -> RunConfig:
    """`config`, whose population is `population`, with another length, rounded up to whole iterations.

    Raises:
        InputError: if that leaves no iteration to learn in, or is more than can be counted.
    """
    per_iteration = population.steps_per_iteration
    if requested < per_iteration:
        raise InputError(f"--total-steps must be at least one iteration of {per_iteration:,} steps, got {requested:,}")
    num_iterations = -(-requested // per_iteration)
    if num_iterations <= population.warmup_iterations:
        warmup = population.warmup_iterations * per_iteration
        raise InputError(
            f"--total-steps must be more than the random warm-up, warmup_steps = {warmup:,}, got {requested:,}"
        )
    if num_iterations >= 2**31:
        raise InputError(f"--total-steps must be less than {2**31 * per_iteration:,}, got {requested:,}")
    return dataclasses.replace(
        config,
        requested_steps=requested,
        total_steps=num_iterations * per_iteration,
        num_iterations=num_iterations,
    )


def intervals(
    num_iterations: int, log: int | None, evaluate: int | None, checkpoint: int | None, evaluations: int
) -> tuple[int, int, int]:
    """Iterations between log points, evaluations and checkpoints of `num_iterations`; None asks for a default.

    The default of evaluations is that there are about `evaluations`.

    Raises:
        InputError: if evaluations or checkpoints would not fall on log points.
    """
    if log is None:
        log = -(-num_iterations // LOG_POINTS)
        common = math.gcd(evaluate or 0, checkpoint or 0)
        if common:
            log = max(divisor for divisor in range(1, min(log, common) + 1) if common % divisor == 0)
    for flag, value in (("--eval-every", evaluate), ("--checkpoint-every", checkpoint)):
        if value and value % log:
            raise InputError(f"{flag} must be a multiple of --log-every, here {log}, got {value}")
    points = num_iterations // log
    if evaluate is None:
        evaluate = log * max(1, round(points / evaluations))
    return log, evaluate, log * max(1, points // CHECKPOINTS) if checkpoint is None else checkpoint


def evaluation_plan(total_steps: int, env_options: Mapping[str, Any]) -> tuple[int, int, int]:
    """Number of evaluations along the way, the episodes of each, and those of the last one, per member.

    They follow from the configuration alone, so that equal commands write equal files. Where episodes last as long as
    they may, evaluations along the way play about a tenth as many steps as training, and the last one half as many at
    most; but there are 5 to 20 of 4 to 32 episodes, and 16 to 128 episodes at the end.
    """
    limit = (env_options["episode_length"] or 1000) / env_options["action_repeat"]
    in_a_tenth, in_a_half = int(total_steps / (10 * limit)), int(total_steps / (2 * limit))
    return _clip(in_a_tenth // 4, 5, 20), _clip(in_a_tenth // 20, 4, 32), _clip(in_a_half, 16, 128)


def _clip(number: int, low: int, high: int) -> int:
    return max(low, min(number, high))


def _check_engine(config: RunConfig) -> None:
    if config.address and config.engine != "ray":
        raise InputError("--address is for --engine ray")
    if config.engine == "ray":
        from purerl.training import ray_worker

        if config.processes == 1:
            raise InputError("--engine ray needs --processes N, the number of its actors, or auto")
        ray_worker.check()


def _check_pbt(config: RunConfig, population: Population) -> None:
    from purerl.training.pbt import limits

    if config.pbt_every % config.log_every:
        raise InputError(
            f"--pbt-every must be a multiple of --log-every, here {config.log_every}, got {config.pbt_every}"
        )
    if config.processes > 1:
        raise InputError("--pbt-every is for members in one process: leave out --processes")
    if not config.vary:
        raise InputError(
            "--pbt-every needs values to exchange: give --vary, as in learning-rate=random-log:1e-5:1e-2:16"
        )
    limits(population)


def _processes(text: str, num_members: int) -> int:
    """Number of processes that train the members."""
    import jax

    backend = jax.default_backend()
    if text == "auto":
        return min(usable_cores(), num_members) if backend == "cpu" else 1
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--processes must be a whole number in [1, inf) or auto, got {text!r}")
    if int(text) > num_members:
        raise InputError(f"--processes must be at most the number of members, here {num_members}, got {text}")
    if int(text) > 1 and backend != "cpu":
        raise InputError(f"--processes {text} is for training on the CPU, but JAX runs on a {backend}: leave it out")
    return int(text)


def _described(part: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Values of an object as the configuration stores them."""
    return sources.described(part_class(part, values[part]), values) if values else {}


def _with_steps(values: Mapping[str, Any], total_steps: int) -> dict[str, Any]:
    """The same values, schedules among them with their environment steps."""
    return {
        name: schedules.with_steps(value, total_steps) if schedules.is_schedule(value) else value
        for name, value in values.items()
    }


def _randomize(texts: Sequence[str], varied: Sequence[str]) -> dict[str, list[float]]:
    """``NAME=LOW:HIGH`` to dotted name and range."""
    ranges: dict[str, list[float]] = {}
    for text in texts:
        name, numbers = parse_range("randomize", text, "params.gravity=8:12", 2)
        if name in ranges:
            raise InputError(f"--randomize {name} was given twice")
        if any(other.partition("=")[0].strip() == f"{flags.ENV_PREFIX}{name}" for other in varied):
            raise InputError(f"give either --randomize {name} or --vary {flags.ENV_PREFIX}{name}, not both")
        ranges[name] = numbers
    return ranges


def _vary(
    texts: Sequence[str],
    algorithm: Any,
    objects: Mapping[str, Mapping[str, Any]],
    given: Mapping[str, Any],
    seed: int,
) -> dict[str, sweeps.Values]:
    """``NAME=VALUES`` to field name and values."""
    fields = {field.name: field for field in tunable_fields(algorithm)}
    for part, values in objects.items():
        fields |= parameters_of(part, values[part]) if values else {}
    vary: dict[str, sweeps.Values] = {}
    for text in texts:
        spelled, equals, values = text.partition("=")
        name = spelled.strip().removeprefix("--").replace("-", "_")
        if not equals or not name:
            raise InputError(
                f"--vary must look like learning-rate=1e-3,3e-4 or learning-rate=log:1e-4:1e-2:8: {text!r}"
            )
        whole, _, part = name.rpartition(".")  # as in epsilon.end, a number of a schedule
        scheduled = part in schedules.NUMBERS and whole in fields and "scalar" in (kind_of(fields[whole]) or "")
        if scheduled and whole in vary:
            raise InputError(f"give either --vary {whole.replace('_', '-')} or --vary {spelled}, not both")
        owners = None if name in fields else kinds_with(name)
        if owners is not None and objects[owners[0]]:
            owner, kinds = owners
            wanted = f"--{owner.replace('_', '-')} {' or '.join(kinds)}"
            raise InputError(f"--vary {spelled} is for {wanted}, not for {objects[owner][owner]}")
        if not name.startswith(flags.ENV_PREFIX) and name not in fields and not scheduled:
            raise unknown("hyper-parameter in --vary", spelled, [field.replace("_", "-") for field in fields])
        if name in vary:
            raise InputError(f"--vary {spelled} was given twice: list all its values after one =")
        if name in given:
            raise InputError(f"give either --{spelled} or --vary {spelled}, not both")
        kind, within = "float", within_of(fields[whole]) if scheduled and part != "steps" else ""
        if name in fields:
            # None is structure, not a number: it cannot differ within one program.
            kind, within = (kind_of(fields[name]) or "").removesuffix(" | None"), within_of(fields[name])
            kind = kind.replace("scalar", "float")
            if sources.source_of(fields[name]):
                raise InputError(f"--vary {spelled}: it is no number and cannot differ within one run")
            if fields[name].metadata.get("static", False):
                raise InputError(f"--vary {spelled}: it shapes the compiled program and cannot differ within one run")
        flag = Flag(f"vary {spelled}", kind, "", within=within, many=True)
        vary[name] = sweeps.parse(flag, values, seed)
    numbers = {name: len(found.values) for name, found in vary.items() if found.random}
    if len(set(numbers.values())) > 1:
        each = ", ".join(f"{name.replace('_', '-')} has {number}" for name, number in numbers.items())
        raise InputError(f"--vary: random draws go together, one of each name for a member: {each}; give all as many")
    return vary
