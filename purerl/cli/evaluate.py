"""``purerl evaluate``: play complete episodes with the agents of a run, or with a planner in an environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from purerl.cli import agents, control, static_sweep
from purerl.cli.parser import COUNTABLE, Flag, Group, parse
from purerl.cli.run_directory import RunDirectory
from purerl.errors import InputError

USAGE = "purerl evaluate DIR [flags]\n       purerl evaluate ENVIRONMENT --controller CONTROLLER [flags]"

FLAGS = Group(
    "flags",
    [
        Flag("episodes", "int", "complete episodes per member", 128, COUNTABLE),
        Flag("stochastic", "bool", "explore as in training: actions sampled, noisy or epsilon-greedy"),
        Flag(
            "seed",
            "int",
            "of the episodes (default the run's own, which repeats its final evaluation)",
            within="[0, 4294967295]",
        ),
        control.CONTROLLER,
    ],
)


def command(argv: Sequence[str]) -> int:
    """Run ``purerl evaluate`` with the words after it; returns the exit code."""
    controller = control.named(argv)
    if controller is not None:
        return control.command(USAGE, controller, argv)
    about = (
        "Evaluate the newest checkpoint of a run.\nTo see the flags of a planner: "
        "purerl evaluate Pendulum-v1 --controller mppi --help"
    )
    given, words = parse(USAGE, about, [FLAGS], argv, positional="DIR")
    if len(words) != 1:
        raise InputError(f"name one run directory, as in: purerl evaluate runs/cartpole (got {len(words)})")
    for path in static_sweep.runs_in(Path(words[0])):
        _evaluate(agents.open_run(str(path)), given)
    return 0


def _evaluate(run: RunDirectory, given: Mapping[str, Any]) -> None:
    """Play, print a table and the statistics."""
    config = run.config()
    from purerl.training import checkpoint

    newest = checkpoint.latest(run.checkpoints)
    if newest is None:
        raise InputError(f"{run.path} has no checkpoint yet: nothing to evaluate")
    import numpy as np

    from purerl.cli import evaluation, report
    from purerl.cli.tables import Table
    from purerl.cli.training import Training, load
    from purerl.math.statistics import summarize
    from purerl.training.in_process import InProcess

    episodes = given.get("episodes", 128)
    explore = given.get("stochastic", False)
    training = Training(config)
    state = load(run, newest, training.shapes)
    members = InProcess(training.population)
    members.load(state)
    evaluator = evaluation.Evaluator(members, config.eval_batch, explore=explore)
    played = evaluator(evaluation.final(given.get("seed", config.seed)), episodes)
    assert played is not None

    steps = newest * training.population.steps_per_iteration
    how = "exploring as in training" if explore else "without exploring"
    print(f"{config.title} after {steps:,} steps, {episodes} episodes per member, {how}")
    varied = ["varied"] if config.vary else []
    table = Table(["member", *varied, "return", "deviation", "lowest", "highest", "length"])
    for member, returns in enumerate(played.episode_return):
        varied = [report.named(config.combinations[member // config.seeds])] if config.vary else []
        numbers = (np.mean(returns), np.std(returns), np.min(returns), np.max(returns))
        length = np.mean(played.episode_length[member])
        table.add(str(member), *varied, *map(report.number, map(float, numbers)), f"{length:.1f}")
    table.show()
    scores = np.mean(played.episode_return, axis=1).reshape(config.strata)
    causes = run.diverged(newest)
    counted = report.counted(config.num_members, causes).reshape(config.strata)
    print(f"return: {report.statistics(summarize(scores, counted))}")
    if causes:
        print(f"excluded, because they diverged: members {', '.join(map(str, causes))}")
    if config.vary and not config.pbt_every:
        for combination, row, kept in zip(config.combinations, scores, counted, strict=True):
            print(f"  {report.named(combination)}: {report.statistics(summarize(row, kept))}")
