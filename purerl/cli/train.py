"""``purerl train``: begin a run or pick one up."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

from purerl import presets, references
from purerl.cli import devices, distributed, flags, static_sweep
from purerl.cli.config import RunConfig, versions
from purerl.cli.configure import USAGE, configure, show_help, with_total_steps
from purerl.cli.files import pasteable
from purerl.cli.parser import parse
from purerl.cli.run_directory import RunDirectory
from purerl.errors import InputError

_HELP = {"-h", "--help"}


def command(argv: Sequence[str]) -> int:
    """Run ``purerl train`` with the words after it; returns the exit code."""
    algorithm, env, words = _targets(argv)
    if algorithm is None:
        return _without_algorithm(words)
    presets.row(algorithm)  # a name that is unknown is the first thing to say
    if env is None:
        if _HELP & set(words):
            show_help(algorithm)
        raise InputError(f"name an environment too, as in: purerl train {algorithm} CartPole-v1 (see purerl envs)")
    if any(word == "--resume" or word.startswith("--resume=") for word in words):
        raise InputError(f"--resume takes everything from the run's own configuration: leave out {algorithm} {env}")
    if not _HELP & set(words) and any(word.startswith("--vary") for word in words):
        sweep = static_sweep.split(algorithm, env, words)
        if sweep is not None:
            return static_sweep.begin(sweep, command)
    connected = not _HELP & set(words) and distributed.connect(words)
    gc.disable()  # imports make objects that stay; looking for garbage among them takes a tenth of a second
    try:
        config, path, overwrite = configure(algorithm, env, words)
    except SystemExit:  # after a help: at the end Python would look once more
        gc.freeze()
        raise
    finally:
        gc.enable()
    if path is not None and not connected:
        RunDirectory.check_free(path, overwrite)
    from purerl.cli.training import Training

    training = Training(config)
    with distributed.shared(lambda: RunDirectory.begin(config, path, overwrite), path) as run:
        return training.run(run)


def _targets(argv: Sequence[str]) -> tuple[str | None, str | None, list[str]]:
    """Algorithm, environment and flags. The first two lead, or follow flags as the word that names an algorithm."""
    words = list(argv)
    if not words:
        raise InputError("name an algorithm and an environment, as in: purerl train ppo CartPole-v1")
    at = 0 if not words[0].startswith("-") else _position(words)
    if at is None:
        return None, None, words
    algorithm = words.pop(at)
    env = words.pop(at) if at < len(words) and not words[at].startswith("-") else None
    return algorithm, env, words


def _position(words: Sequence[str]) -> int | None:
    """The place of the algorithm after flags: of a name, or of a class that cannot be the value of a flag."""
    names = [i for i, word in enumerate(words) if word in presets.ALGORITHMS]
    switches = {
        f"--{prefix}{flag.flag[2:]}" for flag in flags.RUN.flags if flag.kind == "bool" for prefix in ("", "no-")
    }
    classes = [
        i
        for i, (before, word) in enumerate(itertools.pairwise(["-", *words]))
        if references.is_reference(word) and (not before.startswith("-") or before in switches)
    ]
    return next(iter(names + classes), None)


def _without_algorithm(words: list[str]) -> int:
    """Help, resuming, or a mistake."""
    if _HELP & set(words):
        show_help(None)
    if not any(word == "--resume" or word.startswith("--resume=") for word in words):
        raise InputError("name an algorithm and an environment first, as in: purerl train ppo CartPole-v1 --seeds 8")
    given, _ = parse(USAGE, "", [flags.RUN], words)
    for name in given:
        if name not in ("resume", "total_steps", "devices", "deadline", *distributed.FLAGS):
            raise InputError(
                f"--{name.replace('_', '-')} cannot be changed when resuming; only --total-steps and --devices can"
            )
    path = Path(given["resume"])
    if (path / static_sweep.FILE).exists():
        return static_sweep.resume(path, command, _without_resume(words))
    connected = distributed.connect(words)
    with distributed.shared(lambda: _locked(path), path) as run:
        config = run.config()
        changes = {name: given[name] for name in ("devices", "deadline") if name in given}
        if connected and "devices" not in given:
            changes["devices"] = "all"
        config = dataclasses.replace(config, **changes)
        devices.of(config)
        return _resume(run, config, given.get("total_steps"))


def _without_resume(words: Sequence[str]) -> list[str]:
    """The other words beside ``--resume DIR``."""
    at = next(i for i, word in enumerate(words) if word == "--resume" or word.startswith("--resume="))
    return [*words[:at], *words[at + (2 if words[at] == "--resume" else 1) :]]


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[RunDirectory]:
    run = RunDirectory.open(path)
    with run.locked():
        yield run


def _resume(run: RunDirectory, config: RunConfig, total_steps: int | None) -> int:
    if total_steps is not None:
        config = _extended(config, total_steps)
    summary = run.summary()
    if summary is not None and summary["total_steps"] == config.total_steps:
        longer = "" if config.anneal else f"; train it further with --resume {pasteable(run.path)} --total-steps N"
        print(f"{run.path} is finished: {config.total_steps:,} steps per seed{longer}")
        return 0
    _warn_about_versions(config)
    from purerl.cli.training import Training

    training = Training(config)
    training.restore(run)
    with distributed.files_of(run) as files:
        files.write_config(config)
    return training.run(run)


def _extended(config: RunConfig, total_steps: int) -> RunConfig:
    """`config` with another length.

    Raises:
        InputError: if that would change what was trained already.
    """
    extended = with_total_steps(config, config.population(), total_steps)
    if extended.num_iterations != config.num_iterations and config.anneal:
        raise InputError(
            f"--total-steps cannot change from {config.total_steps:,}: the learning rate is annealed over the "
            "whole run (train with --no-anneal to be able to extend a run)"
        )
    return extended


def _warn_about_versions(config: RunConfig) -> None:
    here = versions()
    changed = [
        f"{name} {config.versions.get(name, 'absent')} -> {here.get(name, 'absent')}"
        for name in sorted(config.versions.keys() | here.keys())
        if config.versions.get(name) != here.get(name)
    ]
    if changed:
        print(f"warning: versions changed since this run began, numbers may differ: {', '.join(changed)}", flush=True)
