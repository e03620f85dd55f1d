"""``purerl best``: the combinations of a run with ``--vary``, ranked by fresh episodes, and the best agent as a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from purerl.cli.parser import COUNTABLE, Flag, Group, parse
from purerl.cli.run_directory import RunDirectory
from purerl.errors import InputError

USAGE = "purerl best DIR [flags]"

ABOUT = (
    "Rank the members of a run by complete episodes that played no part in the training: one line for each combination "
    "of values, with its 95 % interval over seeds (over episodes where there is one seed)."
)

FLAGS = Group(
    "flags",
    [
        Flag("episodes", "int", "complete episodes per member", 128, COUNTABLE),
        Flag("seed", "int", "random seed of the episodes", 0, "[0, 4294967295]"),
        Flag("out", "str", "directory of a new run with the best member alone, as any other run", metavar="DIR"),
    ],
)


def command(argv: Sequence[str]) -> int:
    """Run ``purerl best`` with the words after it; returns the exit code."""
    given, words = parse(USAGE, ABOUT, [FLAGS], argv, positional="DIR")
    if len(words) != 1:
        raise InputError(f"name one run directory, as in: purerl best runs/sweep (got {len(words)})")
    run = RunDirectory.open(Path(words[0]))
    out = Path(given["out"]) if "out" in given else None
    if out is not None:
        RunDirectory.check_free(out, overwrite=False)
    import jax
    import numpy as np

    from purerl.cli import evaluation, report
    from purerl.cli.tables import Table
    from purerl.cli.training import Training, load
    from purerl.training import checkpoint
    from purerl.training.in_process import InProcess

    config, newest = run.config(), checkpoint.latest(run.checkpoints)
    if newest is None:
        raise InputError(f"{run.path} has no checkpoint yet: nothing to rank")
    training = Training(config)
    state = load(run, newest, training.shapes)
    members = InProcess(training.population)
    members.load(state)
    evaluator = evaluation.Evaluator(members, config.eval_batch, explore=False)
    # Neither the key of the last evaluation nor one of the training: who was lucky there need not be here.
    key = jax.random.fold_in(evaluation.final(config.seed), given.get("seed", 0) + 1)
    played = evaluator(key, given.get("episodes", 128))
    assert played is not None

    frozen = run.diverged(newest)
    scores = np.mean(played.episode_return, axis=1)
    scores[list(frozen)] = np.nan
    ranked = [
        _rank(number, values, config, scores, played.episode_return, frozen)
        for number, values in enumerate(config.combinations)
    ]
    ranked.sort(key=lambda row: (-row.mean if np.isfinite(row.mean) else np.inf, row.number))
    best = ranked[0]
    if not np.isfinite(best.mean):
        raise InputError(f"all members of {run.path} diverged: there is no best one")
    over = "seeds" if config.seeds > 1 else "episodes"
    print(f"{config.title} after {newest * training.population.steps_per_iteration:,} steps, interval over {over}")
    table = Table(["rank", "values", "return", "95 % interval", "best member", ""])
    for rank, row in enumerate(ranked, 1):
        low, high = row.interval
        close = "not told apart from the first" if rank > 1 and high >= best.interval[0] else ""
        note = "diverged" if not np.isfinite(row.mean) else close
        interval = f"[{report.number(low)}, {report.number(high)}]" if np.isfinite(row.mean) else ""
        mean = report.number(row.mean) if np.isfinite(row.mean) else ""
        table.add(str(rank), report.named(row.values) or "all alike", mean, interval, str(row.member), note)
    table.show()
    if out is not None:
        _export(config, training, state, newest, best, out)
        print(f"member {best.member} alone: {out}")
        print(f"next: purerl evaluate {out}")
    return 0


@dataclasses.dataclass(frozen=True)
class _Ranked:
    """One combination of values."""

    number: int
    values: dict[str, float]
    mean: float
    interval: tuple[float, float]
    member: int


def _rank(number: int, values: dict[str, float], config: Any, scores: Any, returns: Any, frozen: Any) -> _Ranked:
    import numpy as np

    from purerl.math.statistics import bootstrap_interval

    numbers = np.arange(number * config.seeds, (number + 1) * config.seeds)
    sound = [member for member in numbers if member not in frozen]
    if not sound:
        return _Ranked(number, values, np.nan, (np.nan, np.nan), int(numbers[0]))
    samples = scores[sound] if len(sound) > 1 else returns[sound[0]]
    interval = bootstrap_interval(samples)
    mean = float(np.mean(scores[sound]))
    low, high = (float(bound) for bound in interval) if interval is not None else (mean, mean)
    return _Ranked(number, values, mean, (low, high), int(max(sound, key=lambda member: scores[member])))


def _export(config: Any, training: Any, state: Any, iteration: int, best: _Ranked, out: Path) -> None:
    """Write one member as a run of its own."""
    from purerl.training import checkpoint

    alone = dataclasses.replace(
        config, vary={name: [value] for name, value in best.values.items()}, joint=[], seeds=1, processes=1, devices="1"
    )
    with RunDirectory.begin(alone, out) as run:
        checkpoint.save(run.checkpoints, iteration, training.population.part_state(state, best.member, 1))
