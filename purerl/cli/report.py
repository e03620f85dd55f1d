"""Messages of a run: before training, when it is stopped, and at the end."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from purerl.cli.config import RunConfig, versions
from purerl.cli.files import pasteable
from purerl.cli.progress import duration, short
from purerl.cli.run_directory import RunDirectory
from purerl.math.statistics import summarize
from purerl.presets import tabular
from purerl.rollout import Episodes


def headline(config: RunConfig, run: RunDirectory, done_steps: int, num_devices: int, *, resumed: bool) -> str:
    """Headline of a session; `done_steps` were taken in earlier sessions, or are a fresh run's random warm-up."""
    where = f" on {num_devices} devices" if num_devices > 1 else ""
    seeds = f"{config.seeds} seed{'s' if config.seeds > 1 else ''}"
    varied = "".join(f" x {len(values)} values of {name}" for name, values in config.vary.items())
    varied += "".join(f", {name} from {low:g} to {high:g}" for name, (low, high) in config.randomize.items())
    rounded = ""
    if not resumed and config.requested_steps != config.total_steps:
        per_iteration = config.total_steps // config.num_iterations
        rounded = f"\n{config.requested_steps:,} steps were rounded up to whole iterations of {per_iteration:,}"
    begun = f", {done_steps:,} of them {'done' if resumed else 'at random'}" if done_steps else ""
    return f"{config.title}: {seeds}{varied}{where}, {config.total_steps:,} steps each{begun} -> {run.path}{rounded}"


def stopped(run: RunDirectory, env_steps: int) -> str:
    """After Ctrl-C."""
    return f"stopped and saved at {env_steps:,} steps; continue with: purerl train --resume {pasteable(run.path)}"


def nonfinite(members: Sequence[int], names: Sequence[str], env_steps: int) -> str:
    """When numbers stop being numbers."""
    who = "member " if len(members) == 1 else "members "
    return f"warning: not finite at {env_steps:,} steps: {', '.join(names)} of {who}{', '.join(map(str, members))}"


def diverged(causes: Mapping[int, Mapping[str, Any]], steps_per_iteration: int) -> str:
    """When members are frozen."""
    return "\n".join(
        f"warning: member {member} diverged at {cause['iteration'] * steps_per_iteration:,} steps (iteration "
        f"{cause['iteration']}): {cause['leaf']} is not finite; it is frozen at its last finite state"
        for member, cause in causes.items()
    )


def stopped_by_divergence(run: RunDirectory) -> str:
    """After ``--on-divergence stop``."""
    command = f"purerl train --resume {pasteable(run.path)}"
    return f"stopped by --on-divergence stop and saved; train the other members on with: {command}"


def counted(num_members: int, causes: Mapping[int, Any]) -> np.ndarray:
    """Which members count in statistics, bool ``[members]``: those that did not diverge."""
    return ~np.isin(np.arange(num_members), list(causes))


def summary(
    config: RunConfig,
    warmup_steps: int,
    seconds: Mapping[str, float],
    episodes: Episodes,
    causes: Mapping[int, Mapping[str, Any]],
) -> dict[str, Any]:
    """The content of ``summary.json``.

    Args:
        config: of the run.
        warmup_steps: random steps before learning, per member.
        seconds: spent, by purpose.
        episodes: of the final evaluation, ``[members, episodes]``.
        causes: of the members that diverged, which no statistics count.
    """
    included = counted(config.num_members, causes).reshape(config.strata)
    trained_steps = (config.total_steps - warmup_steps) * config.num_members
    returns = np.mean(episodes.episode_return, axis=1).reshape(config.strata)
    lengths = np.mean(episodes.episode_length, axis=1).reshape(config.strata)
    result: dict[str, Any] = {
        "algorithm": config.algorithm,
        "env": config.env,
        "total_steps": config.total_steps,
        "requested_steps": config.requested_steps,
        "iterations": config.num_iterations,
        "seed": config.seed,
        "seeds": config.seeds,
        "members": config.num_members,
        **{name: round(value, 3) for name, value in seconds.items()},
        "eval_share": round(eval_share(seconds), 4),
        "env_steps_per_second": round(trained_steps / max(seconds["run_seconds"], 1e-9), 1),
        "eval_episodes": episodes.episode_return.shape[1],
        "diverged": {str(member): dict(cause) for member, cause in causes.items()},
        "eval_return": summarize(returns, included),
        "eval_length": summarize(lengths, included),
        "eval_unfinished": int(np.sum(~episodes.finished)),
        "versions": versions(),
    }
    if config.vary and not config.pbt_every:
        result["by_value"] = [
            {"varied": combination, "eval_return": summarize(row, kept)}
            for combination, row, kept in zip(config.combinations, returns, included, strict=True)
        ]
    return result


def eval_share(seconds: Mapping[str, float]) -> float:
    """The part of the time, compiling aside, that evaluations took."""
    return seconds["eval_seconds"] / max(seconds["run_seconds"] + seconds["eval_seconds"], 1e-9)


def finished(run: RunDirectory) -> str:
    """The outcome in a few lines, from the files of the run."""
    outcome = run.summary() or {}
    lines = [
        f"done in {duration(outcome['run_seconds'])} at {short(outcome['env_steps_per_second'])} steps/s, "
        f"after {duration(outcome['compile_seconds'])} of compiling",
        f"evaluation over {outcome['eval_episodes']} episodes: {statistics(outcome['eval_return'])}",
        f"all evaluations took {duration(outcome['eval_seconds'])}, {100 * outcome['eval_share']:.2g} % of the time",
    ]
    if outcome.get("diverged"):
        lines.append(f"excluded, because they diverged: members {', '.join(outcome['diverged'])}")
    for row in outcome.get("by_value", []):
        lines.append(f"  {named(row['varied'])}: {statistics(row['eval_return'])}")
    lines += [
        f"learning curve: {run.curve}",
        f"next: purerl evaluate {pasteable(run.path)} --episodes 128",
        f"      purerl plot {pasteable(run.path)}",
        *(f"      {command}" for command in _further(run)),
    ]
    return "\n".join(lines)


def _further(run: RunDirectory) -> Iterator[str]:
    """Commands that go with the algorithm or the flags of a run."""
    config, path = run.config(), pasteable(run.path)
    if config.algorithm in {row.name for row in tabular.ROWS}:
        yield f"purerl solve {path}"
    for name, (low, high) in config.randomize.items():
        yield f"purerl transfer {path} --shift {name}={low:g}:{high:g}:9"


def statistics(outcome: Mapping[str, Any]) -> str:
    """Mean, interquartile mean and interval in words."""
    if outcome["mean"] is None:
        return "not finite"
    text = f"mean {number(outcome['mean'])}"
    if outcome["ci95"] is not None:
        low, high = map(number, outcome["ci95"])
        text += f", IQM {number(outcome['iqm'])}, 95 % interval [{low}, {high}]"
    return text


def number(value: float) -> str:
    """A return: two decimals, or three where it is small."""
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}"


def named(varied: Mapping[str, float]) -> str:
    """A combination of values as one would type it."""
    return " ".join(f"{name.replace('_', '-')}={value:g}" for name, value in varied.items())
