"""One session of training: compile, then chunk by chunk log, evaluate and save, until done, stopped or killed."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from purerl import references
from purerl.cli import devices, distributed, evaluation, lineage, loggers, output, plot, report, unlogged
from purerl.cli.config import RunConfig
from purerl.cli.progress import LiveDisplay, PlainDisplay, Point, display
from purerl.cli.run_directory import RunDirectory
from purerl.cli.stopping import StopRequests
from purerl.errors import InputError
from purerl.math.statistics import finite
from purerl.rollout import Episodes
from purerl.training import checkpoint, hosts, isolation, local_worker, loop, population, ray_worker
from purerl.training.in_process import InProcess
from purerl.training.isolation import Diverged
from purerl.training.parts import Parts
from purerl.training.pbt import PBT
from purerl.types import Metrics, PyTree

PIECE_SECONDS = 5.0
"""Training looks about so often whether it is to stop, be it between log points."""

DIVERGED = 3
"""Exit code after ``--on-divergence stop``."""

TIMINGS = ("compile_seconds", "init_seconds", "run_seconds", "eval_seconds", "checkpoint_seconds")


class Training:
    """A run that is built and checked but has touched no file; `restore` picks it up where its files left it.

    Raises:
        InputError: on construction, if the configuration does not fit together.
    """

    def __init__(self, config: RunConfig) -> None:
        for name in config.loggers:
            loggers.load(name).check()
        self.config = config
        self.population = config.population()
        self._key = jax.random.key(config.seed)
        # Runs the code of environment and network abstractly: what does not fit shows before anything compiles.
        self.shapes = jax.eval_shape(self.population.init, self._key)
        self._check_metrics()
        self._restored: PyTree | None = None
        self._begun = self._iteration = self.population.warmup_iterations
        self._saved: int | None = None  # newest checkpoint
        self._metrics: Metrics | None = None  # since the last row; None where a row has them all
        self._episodes: Episodes | None = None  # of the evaluation here, if there is one
        self._earlier = dict.fromkeys(TIMINGS, 0.0)
        self._session = dict.fromkeys(TIMINGS, 0.0)
        self._piece = 1
        self._watch = hosts.Watch(Path(), config.deadline)
        self._diverged: dict[int, dict[str, Any]] = {}  # frozen members and why
        self._stopped_by_divergence = False
        self._lineage: list[lineage.Row] = []  # exchanges so far

    def _check_metrics(self) -> None:
        if references.is_reference(self.config.algorithm):
            absent = {"episode_return", "episode_length"} - loop.no_metrics(self.population, self.shapes).keys()
            if absent:
                raise InputError(f"the metrics of {self.config.algorithm} must include {' and '.join(sorted(absent))}")

    def restore(self, run: RunDirectory) -> None:
        """Take up the newest checkpoint of `run` and cut its metrics back to that; begin anew if there is none.

        Raises:
            InputError: if the checkpoint cannot be used.
        """
        newest = checkpoint.latest(run.checkpoints)
        if newest is not None:
            if newest > self.config.num_iterations:
                done = newest * self.population.steps_per_iteration
                raise InputError(f"--total-steps must be at least the {done:,} that {run.path} has already trained")
            self._restored = load(run, newest, self.shapes)
            self._begun = self._iteration = self._saved = newest
            self._metrics = unlogged.read(run.unlogged, newest)
            self._diverged = run.diverged(newest)
            # Metrics that no row has yet mean that an exchange here is still due.
            self._lineage = lineage.read(run, newest if self._metrics is None else newest - 1)
            self.population = lineage.with_values(self.population, self.config, self._lineage)
            self._earlier |= run.timings()
        # A row that has not been written, or was when the process was killed, is written anew.
        if hosts.is_first():
            if self._diverged != run.diverged():
                run.write_diverged(self._diverged)
            if self._lineage != lineage.read(run):
                lineage.write(run, self._lineage)
            run.truncate(self._iteration if self._metrics is None else self._iteration - 1)

    def run(self, run: RunDirectory) -> int:
        """Train to the end, or until a request to stop (see `StopRequests`); returns the exit code.

        Raises:
            InputError: if the run does not fit into memory.
        """
        try:
            with (
                StopRequests() as stop,
                hosts.Watch(run.processes, self.config.deadline) as self._watch,
                distributed.files_of(run) as files,
            ):
                return self._run(files, stop)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise InputError(f"out of memory: make {population.MEMORY_SETTINGS} smaller") from error

    def _run(self, run: RunDirectory, stop: StopRequests) -> int:
        config = self.config
        num_devices = len(devices.of(config))
        print(
            report.headline(config, run, self._env_steps, num_devices, resumed=self._restored is not None), flush=True
        )
        with (
            display(config.total_steps, self._env_steps) as screen,
            _Log(config, run, screen) as log,
            checkpoint.Checkpointer(run.checkpoints, writes=hosts.is_first()) as checkpointer,
            self._members() as members,
        ):
            evaluator = self._compile(members, screen)
            stop.deferred = True  # from here on there is something to save
            screen.training()
            stopped = False
            for log_point in self._log_points():
                self._advance(members, log_point, stop, screen)
                self._note_diverged(members, run, screen)
                if self._iteration == log_point and self._evaluate(evaluator, stop):
                    assert self._metrics is not None
                    log.write(log_point, self._env_steps, self._rate, self._metrics, self._episodes, self._values())
                    exchanges = config.pbt_every and log_point % config.pbt_every == 0
                    if exchanges:
                        self._exchange(members, run)
                    self._metrics = None
                    # A checkpoint of before an exchange keeps what leads to the exchange.
                    if self._iteration == self._saved and not exchanges:
                        unlogged.forget(run.unlogged, log_point + 1)
                finished = self._iteration == config.num_iterations and self._metrics is None
                stopped = (self._stops(stop) or self._stopped_by_divergence) and not finished
                if stopped or finished or self._iteration % config.checkpoint_every == 0:
                    self._save(checkpointer, run, members, wait=stopped or finished)
                if stopped:
                    break
            # A process that is killed after the last checkpoint and before the summary begins here.
            if stopped or (self._episodes is None and not self._evaluate(evaluator, stop)):
                if self._stopped_by_divergence:
                    screen.message(report.stopped_by_divergence(run))
                    return DIVERGED
                screen.message(report.stopped(run, self._env_steps))
                if output.reader_is_gone():
                    print(f"purerl: {report.stopped(run, self._env_steps)}", file=sys.stderr)
                return stop.exit_code
        assert self._episodes is not None
        if not hosts.is_first():
            return 0
        warmup_steps = self.population.warmup_iterations * self.population.steps_per_iteration
        summary = report.summary(config, warmup_steps, self._seconds, self._episodes, self._diverged)
        run.write_summary(summary | ({"pbt": lineage.final(run, config)} if config.pbt_every else {}))
        try:
            plot.draw([run], run.curve)
            if config.pbt_every:
                lineage.draw(run, config)
        except InputError as error:  # the run is complete without its picture
            print(f"warning: {error}")
        print(report.finished(run))
        return 0

    def _log_points(self) -> Iterator[int]:
        """The iterations where rows are due, this one included if it is one whose row is missing."""
        config = self.config
        chunks = loop.chunks(self._iteration, config.num_iterations, config.log_every)
        points = itertools.accumulate(chunks, initial=self._iteration)
        at_one = self._iteration % config.log_every == 0 or self._iteration == config.num_iterations
        return points if at_one and self._metrics is not None else itertools.islice(points, 1, None)

    def _advance(
        self, members: InProcess | Parts, log_point: int, stop: StopRequests, screen: LiveDisplay | PlainDisplay
    ) -> None:
        """Train until `log_point` or a request to stop, in pieces of about `PIECE_SECONDS` whatever their length."""
        while self._iteration < log_point:
            piece, stops = self._watch.agree(min(self._piece, log_point - self._iteration), stop.requested)
            if stops:
                return
            begun = time.perf_counter()
            with self._watch.waiting():
                self._metrics = members.advance(piece, self._metrics)
            seconds = time.perf_counter() - begun
            self._session["run_seconds"] += seconds
            self._iteration += piece
            # From one iteration on it grows by steps: the first ones may be quicker than the rest.
            self._piece = max(1, min(4 * self._piece, int(PIECE_SECONDS * piece / max(seconds, 1e-9))))
            screen.progress(self._env_steps, self._rate)

    def _values(self) -> list[dict[str, float]]:
        """Values of what varies, of each member now."""
        varied = (
            self._lineage[-1].varied
            if self._lineage
            else {name: self.config.initial(name) for name in self.config.vary}
        )
        return [{name: values[member] for name, values in varied.items()} for member in range(self.config.num_members)]

    def _exchange(self, members: InProcess | Parts, run: RunDirectory) -> None:
        """One exchange of population-based training; its fitness is the return since the last row."""
        assert self._metrics is not None
        assert isinstance(members, InProcess)
        returns = self._metrics["episode_return"]
        with np.errstate(invalid="ignore", divide="ignore"):
            fitness = np.asarray(returns.total) / np.asarray(returns.count)
        with self._watch.waiting():
            outcome = members.exchange(
                PBT(), jnp.asarray(fitness), jax.random.fold_in(pbt_key(self.config.seed), self._iteration)
            )
        paths = zip(self.config.vary, outcome.population.varied.values(), strict=True)
        row = lineage.Row(
            self._iteration,
            outcome.source.tolist(),
            [finite(score) for score in fitness],
            {name: np.asarray(values).tolist() for name, values in paths},
        )
        self._lineage.append(row)
        lineage.write(run, self._lineage)
        replaced = {i for i, source in enumerate(row.source) if source != i}
        if replaced & self._diverged.keys():
            self._diverged = {i: cause for i, cause in self._diverged.items() if i not in replaced}
            run.write_diverged(self._diverged)

    def _frozen(self) -> Diverged:
        """Frozen members as the program knows them."""
        names = isolation.names(self.population, self.shapes)
        frozen = jax.tree.map(np.array, loop.nobody(self.population))
        for member, cause in self._diverged.items():
            frozen.iteration[member], frozen.leaf[member] = cause["iteration"], names.index(cause["leaf"])
        return frozen

    def _note_diverged(self, members: InProcess | Parts, run: RunDirectory, screen: LiveDisplay | PlainDisplay) -> None:
        """Say which members were frozen since the last time."""
        with self._watch.waiting():
            now = members.diverged()
        new = [int(i) for i in np.flatnonzero(now.iteration != isolation.NEVER) if i not in self._diverged]
        if not new:
            return
        names = isolation.names(self.population, self.shapes)
        causes = {i: {"iteration": int(now.iteration[i]), "leaf": names[now.leaf[i]]} for i in new}
        self._diverged |= causes
        run.write_diverged(self._diverged)
        screen.message(report.diverged(causes, self.population.steps_per_iteration))
        self._stopped_by_divergence = self.config.on_divergence == "stop"

    def _stops(self, stop: StopRequests) -> bool:
        """Whether a request to stop came, to this process or to another."""
        return self._watch.agree(0, stop.requested)[1]

    def _members(self) -> InProcess | Parts:
        """Members in this process, or in several processes."""
        if self.config.processes == 1:
            return InProcess(self.population.on(devices.of(self.config)))
        build, number, deadline = self.config.population, self.config.processes, self.config.deadline
        if self.config.engine == "ray":
            return ray_worker.parts(build, number, deadline, self.config.address or None)
        return local_worker.parts(build, number, deadline)

    def _compile(self, members: InProcess | Parts, screen: LiveDisplay | PlainDisplay) -> evaluation.Evaluator:
        """Give `members` the state to start from, fresh or restored, and compile all that they will be asked for."""
        screen.phase("compiling")
        begun = time.perf_counter()
        if self._restored is None:
            members.compile_init()
            if self.population.warmup_iterations:
                screen.phase("warming up")
            with self._watch.waiting():
                self._session["init_seconds"] = members.init(self._key)
            if self.population.warmup_iterations:
                screen.phase("compiling")
        else:
            members.load(self._restored, self._frozen())
            self._restored = None  # its memory is used again
        evaluator = evaluation.Evaluator(members, self.config.eval_batch, explore=False)
        with self._watch.waiting():
            members.advance(0)
        self._session["compile_seconds"] = time.perf_counter() - begun - self._session["init_seconds"]
        return evaluator

    def _evaluate(self, evaluator: evaluation.Evaluator, stop: StopRequests) -> bool:
        """Play the episodes that are due here, if any are; False if a request to stop came before the last of them."""
        config = self.config
        self._episodes = None
        if self._iteration == config.num_iterations:
            key, num_episodes = evaluation.final(config.seed), config.eval_episodes
        elif config.eval_every and self._iteration % config.eval_every == 0:
            key, num_episodes = evaluation.along_the_way(config.seed), config.eval_batch
        else:
            return True
        self._episodes = evaluator(key, num_episodes, lambda: self._stops(stop))
        self._session["eval_seconds"] = evaluator.run_seconds
        return self._episodes is not None

    def _save(
        self, checkpointer: checkpoint.Checkpointer, run: RunDirectory, members: InProcess | Parts, wait: bool
    ) -> None:
        if self._iteration == self._saved:
            return
        begun = time.perf_counter()
        needed = self._iteration + 1
        if self._metrics is not None:
            unlogged.write(run.unlogged, self._iteration, self._metrics)
            needed = self._iteration
        # The rest follows once the checkpoint is complete: a process killed before resumes with all of the last one.
        with self._watch.waiting():
            checkpointer.save(self._iteration, members.state(), partial(_saved, run, self._seconds, needed))
        self._saved = self._iteration
        if wait:
            checkpointer.wait()
        self._session["checkpoint_seconds"] += time.perf_counter() - begun

    @property
    def _env_steps(self) -> int:
        """Taken so far, per member."""
        return self._iteration * self.population.steps_per_iteration

    @property
    def _rate(self) -> float:
        """Environment steps per second in this session, all members together."""
        steps = (self._iteration - self._begun) * self.population.steps_per_iteration * self.config.num_members
        return steps / max(self._session["run_seconds"], 1e-9)

    @property
    def _seconds(self) -> dict[str, float]:
        """Spent so far, over all sessions."""
        return {name: self._earlier[name] + self._session[name] for name in TIMINGS}


class _Log:
    """Log points, written to every place that shows them. To be used as a context manager."""

    def __init__(self, config: RunConfig, run: RunDirectory, screen: LiveDisplay | PlainDisplay) -> None:
        self._config = config
        self._run = run
        self._screen = screen
        rows = run.rows() if config.loggers else []
        self._loggers = [loggers.load(name)(run.path / name, config.num_members, rows) for name in config.loggers]
        self._eval_returns: np.ndarray | None = None
        self._nonfinite: set[int] = set()

    def __enter__(self) -> _Log:
        return self

    def __exit__(self, *_: object) -> None:
        for logger in self._loggers:
            logger.close()

    def write(
        self,
        iteration: int,
        env_steps: int,
        rate: float,
        metrics: Metrics,
        episodes: Episodes | None,
        varied_values: Sequence[dict[str, float]],
    ) -> None:
        """Write one log point."""
        config = self._config
        totals, counts = (
            {name: np.asarray(getattr(mean, part)) for name, mean in metrics.items()} for part in ("total", "count")
        )
        with np.errstate(invalid="ignore", divide="ignore"):
            means = {name: totals[name] / counts[name] for name in totals}
        eval_return = eval_length = np.full(config.num_members, np.nan)
        if episodes is not None:
            eval_return = self._eval_returns = np.mean(episodes.episode_return, axis=1)
            eval_length = np.mean(episodes.episode_length, axis=1)
        rows: list[dict[str, Any]] = []
        for member in range(config.num_members):
            varied = {"varied": varied_values[member]} if config.vary else {}
            values = {name: finite(mean[member]) for name, mean in means.items()}
            looked = {"eval_return": finite(eval_return[member]), "eval_length": finite(eval_length[member])}
            place = {"iteration": iteration, "env_steps": env_steps, "member": member}
            ended = {"episodes": int(counts["episode_return"][member])}
            rows.append({**place, **varied, **ended, **values, **looked})
        self._run.append(rows)
        for logger in self._loggers:
            logger.write(rows)
        self._screen.update(Point(env_steps, rate, means["episode_return"], self._eval_returns))
        # No finished episode gives no return, which is fine; a mean over something must be a number.
        broken = np.any([(counts[name] > 0) & ~np.isfinite(means[name]) for name in means], axis=0)
        new = sorted(set(np.flatnonzero(broken).tolist()) - self._nonfinite)
        if new:
            self._nonfinite |= set(new)
            names = [name for name in means if np.any((counts[name] > 0) & ~np.isfinite(means[name]))]
            self._screen.message(report.nonfinite(new, names, env_steps))


def pbt_key(seed: int) -> jax.Array:
    """Random key of the exchanges of a run."""
    return jax.random.fold_in(jax.random.key(seed), jnp.uint32(2**32 - 3))  # members and evaluations have others


def _saved(run: RunDirectory, seconds: dict[str, float], needed: int) -> None:
    """Bring what belongs to a checkpoint up to it, now that it is complete."""
    run.write_timings(seconds)
    unlogged.forget(run.unlogged, needed)


def load(run: RunDirectory, iteration: int, shapes: PyTree) -> PyTree:
    """The state of `run` at `iteration`.

    Raises:
        InputError: if it cannot be read or is not of these shapes.
    """
    try:
        return checkpoint.restore(run.checkpoints, iteration, shapes)
    except InputError:
        raise
    except Exception as error:
        # Damaged files surface from deep inside the storage library, as all kinds of exceptions.
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"cannot read the checkpoint of iteration {iteration} in {run.path}: {reason}") from error
