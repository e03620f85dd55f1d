"""The files of one run, and the rules that keep them safe.

``config.json``: everything needed to build the run again. ``summary.json``: the outcome, written last.
``timings.json``: seconds spent so far, over all sessions. ``checkpoints/``: the whole state. ``unlogged/``: the metrics
since the last row, of a run that was stopped between log points. ``diverged.json``: members that are frozen, with the
iteration whose update was not finite and its first such leaf. ``lineage.jsonl``: exchanges of population-based
training, each with the member that every member has taken over from, and its hyper-parameters; ``lineage.png`` shows
it. ``learning_curve.png``. A folder for each logger that was asked for, such as ``tensorboard/``. ``processes/``: signs
of life, where several processes train.

``metrics.jsonl``: one row per log point and member, all with the same keys. ``iteration``, ``env_steps`` (of this
member) and ``member`` say where; ``varied`` holds the member's own values if the run has ``--vary``; ``episodes``
counts those that ended since the last log point; then come the metrics of the algorithm, means over all iterations in
that time (``episode_return`` and ``episode_length`` over those episodes); then ``eval_return`` and ``eval_length``,
means over evaluation episodes. Null stands for what does not exist: no episode ended, no evaluation was due, or the
number is not finite.

JSON files appear complete or not at all. Rows are appended and may end in the middle of a line after a kill; whoever
resumes cuts the file back to the checkpoint it starts from.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from purerl.cli.config import RunConfig
from purerl.cli.files import pasteable, replace, writing
from purerl.cli.loggers import LOGGERS
from purerl.errors import InputError

FILES = (
    "config.json",
    "metrics.jsonl",
    "summary.json",
    "timings.json",
    "diverged.json",
    "lineage.jsonl",
    "lineage.png",
    "learning_curve.png",
)
FOLDERS = ("checkpoints", "unlogged", "processes", *LOGGERS)


class RunDirectory:
    """Paths and contents of a run directory; see `create` and `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.curve = path / "learning_curve.png"
        self.unlogged = path / "unlogged"
        self.processes = path / "processes"
        self.lineage = path / "lineage.jsonl"

    @classmethod
    def check_free(cls, path: Path, overwrite: bool) -> None:
        """Make sure that a new run may be written to `path`, without changing anything there.

        Raises:
            InputError: if something else is there, a run that must not be overwritten, or nothing can be written.
        """
        with _writing_run(path):
            if path.exists() and not path.is_dir():
                raise InputError(f"cannot write a run to {path}: it is a file")
            if path.is_dir() and not all(map(_is_trace, path.iterdir())):
                if not _is_run(path):
                    raise InputError(f"cannot write a run to {path}: it holds files that are not a purerl run")
                if not overwrite:
                    raise InputError(
                        f"{path} already holds a run: continue it with --resume {pasteable(path)}, "
                        "replace it with --overwrite, or choose another --out"
                    )
            parent = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
            if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
                raise InputError(f"cannot write a run to {path}: no permission to write to {parent}")

    @classmethod
    @contextlib.contextmanager
    def begin(cls, config: RunConfig, path: Path | None = None, overwrite: bool = False) -> Iterator[RunDirectory]:
        """Claim a directory for a new run and keep it locked. Nothing in it changes before the lock is held.

        Args:
            config: of the run.
            path: which directory; a new one under ``runs/`` by default.
            overwrite: whether a run that is there may be replaced.

        Raises:
            InputError: if it is not free, as for `check_free`, or another process is training there.
        """
        if path is None:
            path = _new_directory(config)
        else:
            cls.check_free(path, overwrite)
            with _writing_run(path):
                path.mkdir(parents=True, exist_ok=True)
        run = cls(path)
        with run.locked():
            cls.check_free(path, overwrite)  # what was free before may have been claimed and finished since
            with _writing_run(path):
                run._clear()
            run.write_config(config)
            yield run

    def _clear(self) -> None:
        """Remove all that belongs to a run but its configuration: killed half-way, it leaves a run."""
        for name in FILES:
            if name != "config.json":
                (self.path / name).unlink(missing_ok=True)
        for name in FOLDERS:
            folder = self.path / name
            if folder.is_symlink():
                folder.unlink()
            elif folder.exists():
                shutil.rmtree(folder)

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """The run in `path`.

        Raises:
            InputError: if there is none.
        """
        if not path.exists():
            raise InputError(f"no run in {path}: there is no such directory")
        if not path.is_dir():
            raise InputError(f"no run in {path}: it is a file, name the run's directory")
        if not (path / "config.json").is_file():
            raise InputError(f"no run in {path}: it has no config.json")
        return cls(path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes from training in this directory. The system releases the lock of a killed process.

        Raises:
            InputError: if another process is training there.
        """
        import fcntl

        with writing(self.path / ".lock"):
            file = (self.path / ".lock").open("w")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"another process is training in {self.path}") from None
            except OSError:
                pass  # some network file systems have no locks
            yield

    def config(self) -> RunConfig:
        """Configuration of the run.

        Raises:
            InputError: if the file is damaged or of another version of purerl.
        """
        file = self.path / "config.json"
        try:
            return RunConfig.from_json(json.loads(file.read_text()))
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"cannot read {file}: {' '.join(str(error).split())}") from error
        except InputError as error:
            raise InputError(f"cannot use {file}: {error}") from error

    def write_config(self, config: RunConfig) -> None:
        """Write or replace ``config.json``."""
        self._write("config.json", config.to_json())

    def summary(self) -> dict[str, Any] | None:
        """Content of ``summary.json``, or None while the run is not finished."""
        return self._read("summary.json")

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write or replace ``summary.json``."""
        self._write("summary.json", summary)

    def timings(self) -> dict[str, float]:
        """Seconds spent in earlier sessions, by purpose."""
        return self._read("timings.json") or {}

    def write_timings(self, timings: dict[str, float]) -> None:
        """Write or replace ``timings.json``."""
        self._write("timings.json", timings)

    def diverged(self, iteration: int | None = None) -> dict[int, dict[str, Any]]:
        """Frozen members, number to ``{"iteration": ..., "leaf": ...}``; those of later iterations are left out."""
        found = {int(member): cause for member, cause in (self._read("diverged.json") or {}).items()}
        until = math.inf if iteration is None else iteration
        return {member: cause for member, cause in found.items() if cause["iteration"] <= until}

    def write_diverged(self, diverged: Mapping[int, dict[str, Any]]) -> None:
        """Write or replace ``diverged.json``."""
        self._write("diverged.json", {str(member): cause for member, cause in sorted(diverged.items())})

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows to ``metrics.jsonl``; they are in the file when this returns."""
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        path = self.path / "metrics.jsonl"
        with writing(path), path.open("a") as file:
            file.write(text)

    def rows(self) -> list[dict[str, Any]]:
        """All complete rows of ``metrics.jsonl``, oldest first; empty before the first."""
        file = self.path / "metrics.jsonl"
        if not file.exists():
            return []
        rows = []
        for line in file.read_text(errors="replace").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # cut off when the process was killed
            if isinstance(row, dict) and {"iteration", "env_steps", "member"} <= row.keys():
                rows.append(row)
        return rows

    def truncate(self, iteration: int) -> None:
        """Drop the rows after `iteration`, and any damaged one."""
        rows = [row for row in self.rows() if row["iteration"] <= iteration]
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        replace(self.path / "metrics.jsonl", text.encode())

    def _read(self, name: str) -> Any:
        file = self.path / name
        try:
            return json.loads(file.read_text()) if file.exists() else None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"cannot read {file}: {' '.join(str(error).split())}") from error

    def _write(self, name: str, data: Any) -> None:
        replace(self.path / name, (json.dumps(data, indent=2, allow_nan=False) + "\n").encode())


def _new_directory(config: RunConfig) -> Path:
    """A new directory under ``runs/``. Making it is the claim: of several processes that try, one succeeds."""
    name = f"{config.env}-{config.algorithm}-seed{config.seed}"
    stem = Path("runs") / re.sub(r"[^\w.-]", "-", name, flags=re.ASCII)
    with _writing_run(stem):
        stem.parent.mkdir(parents=True, exist_ok=True)
        for number in itertools.count(1):
            path = stem if number == 1 else stem.with_name(f"{stem.name}-{number}")
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                return path
    raise AssertionError


@contextlib.contextmanager
def _writing_run(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot write a run to {path}: {error.strerror}") from error


def _is_trace(path: Path) -> bool:
    """Whether this file was left by a process that was killed while it claimed the directory."""
    return path.name == ".lock" or (path.name.startswith(".") and path.suffix == ".part")


def _is_run(path: Path) -> bool:
    try:
        return "purerl_run" in json.loads((path / "config.json").read_text())
    except (OSError, ValueError):
        return False
