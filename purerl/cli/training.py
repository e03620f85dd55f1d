"""One session of training: compile, then chunk by chunk log, evaluate and save, until done, stopped or killed."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import jax
import numpy as np

from purerl import checkpoint, population, runner
from purerl.cli import evaluation, plot, report, tensorboard
from purerl.cli.config import RunConfig
from purerl.cli.progress import LiveDisplay, PlainDisplay, Point, display
from purerl.cli.run_directory import RunDirectory
from purerl.errors import InputError
from purerl.members import Members
from purerl.processes import Processes
from purerl.rollout import Episodes
from purerl.statistics import finite
from purerl.types import Metrics, PyTree

EVALUATION_SHARE = 0.05
"""Of the time spent training, for all evaluations unless flags set how many there are; half of it for the last one."""

FINAL_EPISODES = 128
"""Per member, if that share allows."""

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells expect."""

TIMINGS = ("compile_seconds", "init_seconds", "run_seconds", "eval_seconds", "checkpoint_seconds")


class Training:
    """A run that is built and checked but has touched no file; `restore` picks it up where its files left it.

    Raises:
        InputError: on construction, if the configuration does not fit together.
    """

    def __init__(self, config: RunConfig) -> None:
        if config.tensorboard:
            tensorboard.check()
        self.config = config
        self.population = config.population()
        self._key = jax.random.key(config.seed)
        # Runs the code of environment and network abstractly: what does not fit shows before anything compiles.
        self.shapes = jax.eval_shape(self.population.init, self._key)
        self._restored: PyTree | None = None
        self._done = self.population.warmup_iterations
        self._earlier = dict.fromkeys(TIMINGS, 0.0)
        self._session = dict.fromkeys(TIMINGS, 0.0)

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
            self._done = newest
            self._earlier |= run.timings()
        run.truncate(self._done)

    def run(self, run: RunDirectory) -> int:
        """Train to the end, or until Ctrl-C; returns the exit code.

        Raises:
            InputError: if the run does not fit into memory.
        """
        try:
            return self._run(run)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            raise InputError(f"out of memory: make {population.SMALLER} smaller") from error

    def _run(self, run: RunDirectory) -> int:
        config, done_steps = self.config, self._done * self.population.steps_per_iteration
        print(report.headline(config, run, done_steps, resumed=self._restored is not None), flush=True)
        log = _Log(config, run, done_steps)
        with (
            display(config.total_steps, done_steps) as screen,
            _stop_requests() as stop,
            checkpoint.Checkpointer(run.checkpoints) as checkpointer,
            self._members() as members,
        ):
            evaluator = self._compile(members, screen)
            screen.training()
            iteration = self._done
            episodes: Episodes | None = None
            for chunk in runner.chunks(iteration, config.num_iterations, config.log_every):
                begun = time.perf_counter()
                metrics = members.advance(chunk)
                self._session["run_seconds"] += time.perf_counter() - begun
                iteration += chunk
                env_steps = iteration * self.population.steps_per_iteration
                episodes = self._evaluate(evaluator, iteration)
                log.write(screen, iteration, env_steps, self._session["run_seconds"], metrics, episodes)
                last = iteration == config.num_iterations or stop.is_set()
                if last or iteration % config.checkpoint_every == 0:
                    self._save(checkpointer, run, iteration, members.state(), wait=last)
                if last and iteration < config.num_iterations:
                    log.close()
                    screen.message(report.stopped(run, env_steps))
                    return INTERRUPTED
            if episodes is None:  # killed after the last checkpoint, before the summary
                episodes = self._evaluate(evaluator, iteration)
        log.close()
        assert episodes is not None
        warmup_steps = self.population.warmup_iterations * self.population.steps_per_iteration
        run.write_summary(report.summary(config, warmup_steps, self._seconds, episodes))
        plot.draw([run], run.curve)
        print(report.finished(run))
        return 0

    def _members(self) -> Members | Processes:
        """Who trains: the members in this process, or in several."""
        if self.config.processes == 1:
            return Members(self.population)
        return Processes(self.config.population, self.config.processes)

    def _compile(self, members: Members | Processes, screen: LiveDisplay | PlainDisplay) -> evaluation.Evaluator:
        """Give `members` the state to start from, fresh or restored, and compile all that they will be asked for."""
        screen.phase("compiling")
        begun = time.perf_counter()
        if self._restored is None:
            members.compile_init()
            if self.population.warmup_iterations:
                screen.phase("warming up")
            self._session["init_seconds"] = members.init(self._key)
            if self.population.warmup_iterations:
                screen.phase("compiling")
        else:
            members.load(self._restored)
            self._restored = None  # its memory is used again
        evaluator = evaluation.Evaluator(members, self.config.eval_batch, explore=False)
        members.advance(0)
        self._session["compile_seconds"] = time.perf_counter() - begun - self._session["init_seconds"]
        return evaluator

    def _evaluate(self, evaluator: evaluation.Evaluator, iteration: int) -> Episodes | None:
        """The final evaluation at the end; before, a small one every so often, if time allows."""
        config = self.config
        if iteration == config.num_iterations:
            budget = EVALUATION_SHARE * self._seconds["run_seconds"] - self._seconds["eval_seconds"]
            wanted, seconds = config.eval_episodes or FINAL_EPISODES, math.inf if config.eval_episodes else budget
            episodes = evaluator(evaluation.final(config.seed), wanted, seconds)
        elif config.eval_every == 0 or iteration % config.eval_every:
            return None
        else:
            seconds = self._seconds
            next_cost = seconds["eval_seconds"] + evaluator.last_seconds
            if config.eval_budgeted and next_cost > EVALUATION_SHARE / 2 * seconds["run_seconds"]:
                return None
            episodes = evaluator(evaluation.along_the_way(config.seed), config.eval_batch)
        self._session["eval_seconds"] = evaluator.run_seconds
        return episodes

    def _save(
        self, checkpointer: checkpoint.Checkpointer, run: RunDirectory, iteration: int, state: PyTree, wait: bool
    ) -> None:
        begun = time.perf_counter()
        # The timings follow once the checkpoint is complete: a process killed before resumes with both of the last one.
        checkpointer.save(iteration, state, then=partial(run.write_timings, self._seconds))
        if wait:
            checkpointer.wait()
        self._session["checkpoint_seconds"] += time.perf_counter() - begun

    @property
    def _seconds(self) -> dict[str, float]:
        """Spent so far, over all sessions."""
        return {name: self._earlier[name] + self._session[name] for name in TIMINGS}


class _Log:
    """Log points, written to every place that shows them."""

    def __init__(self, config: RunConfig, run: RunDirectory, done_steps: int) -> None:
        self._config = config
        self._run = run
        self._done_steps = done_steps
        self._tensorboard = (
            tensorboard.TensorBoard(run.tensorboard, config.num_members, done_steps) if config.tensorboard else None
        )
        self._eval_returns: np.ndarray | None = None
        self._nonfinite: set[int] = set()

    def write(
        self,
        screen: LiveDisplay | PlainDisplay,
        iteration: int,
        env_steps: int,
        run_seconds: float,
        metrics: Metrics,
        episodes: Episodes | None,
    ) -> None:
        """Write one log point; `run_seconds` are those of this session."""
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
            varied = {"varied": config.combinations[member // config.seeds]} if config.vary else {}
            values = {name: finite(mean[member]) for name, mean in means.items()}
            looked = {"eval_return": finite(eval_return[member]), "eval_length": finite(eval_length[member])}
            place = {"iteration": iteration, "env_steps": env_steps, "member": member}
            ended = {"episodes": int(counts["episode_return"][member])}
            rows.append({**place, **varied, **ended, **values, **looked})
        self._run.append(rows)
        if self._tensorboard is not None:
            self._tensorboard.write(rows)
        new_steps = (env_steps - self._done_steps) * config.num_members
        screen.update(Point(env_steps, new_steps / run_seconds, means["episode_return"], self._eval_returns))
        # No finished episode gives no return, which is fine; a mean over something must be a number.
        broken = np.any([(counts[name] > 0) & ~np.isfinite(means[name]) for name in means], axis=0)
        new = sorted(set(np.flatnonzero(broken).tolist()) - self._nonfinite)
        if new:
            self._nonfinite |= set(new)
            names = [name for name in means if np.any((counts[name] > 0) & ~np.isfinite(means[name]))]
            screen.message(report.nonfinite(new, names, env_steps))

    def close(self) -> None:
        """Flush what is buffered."""
        if self._tensorboard is not None:
            self._tensorboard.close()


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


@contextmanager
def _stop_requests() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C sets; the second one interrupts as usual."""
    stop = threading.Event()

    def request(number: int, frame: object) -> None:
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, request)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)
