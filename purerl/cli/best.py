"""``purerl best``: the combinations of a run with ``--vary``, ranked by fresh episodes, and the best agent as a run."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from purerl.cli import static_sweep
from purerl.cli.files import pasteable
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
    runs = [RunDirectory.open(path) for path in static_sweep.runs_in(Path(words[0]))]
    out = Path(given["out"]) if "out" in given else None
    if out is not None:
        RunDirectory.check_free(out, overwrite=False)
    import numpy as np

    from purerl.cli import report
    from purerl.cli.tables import Table

    ranked = [row for run in runs for row in _rows(run, given)]
    ranked.sort(key=lambda row: -row.mean if np.isfinite(row.mean) else np.inf)
    best = ranked[0]
    if not np.isfinite(best.mean):
        raise InputError(f"all members of {words[0]} diverged: there is no best one")
    config = best.run.config()
    over = "seeds" if config.seeds > 1 else "episodes"
    print(f"{config.title} after {best.iteration * best.steps_per_iteration:,} steps, interval over {over}")
    table = Table(["rank", "values", "return", "95 % interval", "best member", ""])
    for rank, row in enumerate(ranked, 1):
        sound = np.isfinite(row.mean)
        low, high = row.interval
        close = "not told apart from the first" if rank > 1 and high >= best.interval[0] else ""
        interval = f"[{report.number(low)}, {report.number(high)}]" if sound else ""
        values = " ".join(filter(None, [row.run.path.name if len(runs) > 1 else "", report.named(row.values)]))
        mean = report.number(row.mean) if sound else ""
        table.add(str(rank), values or "all alike", mean, interval, str(row.member), close if sound else "diverged")
    table.show()
    if out is not None:
        _export(best, out)
        print(f"member {best.member} of {best.run.path} alone: {out}")
        print(f"next: purerl evaluate {pasteable(out)}")
    return 0


@dataclasses.dataclass(frozen=True)
class _Ranked:
    """One combination of values of a run."""

    run: RunDirectory
    iteration: int
    steps_per_iteration: int
    values: dict[str, float]
    mean: float
    interval: tuple[float, float]
    member: int


def _rows(run: RunDirectory, given: Mapping[str, Any]) -> list[_Ranked]:
    """The combinations of a run, by fresh episodes."""
    import jax
    import numpy as np

    from purerl.cli import evaluation
    from purerl.cli.training import Training, load
    from purerl.training import checkpoint
    from purerl.training.in_process import InProcess

    config, newest = run.config(), checkpoint.latest(run.checkpoints)
    if newest is None:
        raise InputError(f"{run.path} has no checkpoint yet: nothing to rank")
    training = Training(config)
    members = InProcess(training.population)
    members.load(load(run, newest, training.shapes))
    evaluator = evaluation.Evaluator(members, config.eval_batch, explore=False)
    # Neither the key of the last evaluation nor one of the training: who was lucky there need not be here.
    key = jax.random.fold_in(evaluation.final(config.seed), given.get("seed", 0) + 1)
    played = evaluator(key, given.get("episodes", 128))
    assert played is not None
    frozen, returns = run.diverged(newest), played.episode_return
    scores = np.mean(returns, axis=1)
    rows = []
    for number, values in enumerate(config.combinations):
        members_of = np.arange(number * config.seeds, (number + 1) * config.seeds)
        mean, interval, member = _rank(members_of, scores, returns, frozen)
        steps = training.population.steps_per_iteration
        rows.append(_Ranked(run, newest, steps, values, mean, interval, member))
    return rows


def _rank(members: Any, scores: Any, returns: Any, frozen: Any) -> tuple[float, tuple[float, float], int]:
    """Mean, interval and best of the members of one combination, those that diverged aside."""
    import numpy as np

    from purerl.math.statistics import bootstrap_interval

    sound = [member for member in members if member not in frozen]
    if not sound:
        return np.nan, (np.nan, np.nan), int(members[0])
    interval = bootstrap_interval(scores[sound] if len(sound) > 1 else returns[sound[0]])
    mean = float(np.mean(scores[sound]))
    low, high = (float(bound) for bound in interval) if interval is not None else (mean, mean)
    return mean, (low, high), int(max(sound, key=lambda member: scores[member]))


def _export(best: _Ranked, out: Path) -> None:
    """Write one member as a run of its own."""
    from purerl.cli.training import Training, load
    from purerl.training import checkpoint

    config = best.run.config()
    training = Training(config)
    state = load(best.run, best.iteration, training.shapes)
    vary = {name: [value] for name, value in best.values.items()}
    alone = dataclasses.replace(config, vary=vary, joint=[], seeds=1, processes=1, devices="1", pbt_every=0)
    with RunDirectory.begin(alone, out) as run:
        checkpoint.save(run.checkpoints, best.iteration, training.population.part_state(state, best.member, 1))
