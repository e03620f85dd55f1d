"""The files of one run, and the rules that keep them safe.

``config.json``: everything needed to build the run again. ``summary.json``: the outcome, written last.
``timings.json``: seconds spent so far, over all sessions. ``checkpoints/``: the whole state. ``learning_curve.png``;
``tensorboard/`` if asked for.

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
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from purerl.cli.config import RunConfig
from purerl.errors import InputError

FILES = ("config.json", "metrics.jsonl", "summary.json", "timings.json", "learning_curve.png")
FOLDERS = ("checkpoints", "tensorboard")


class RunDirectory:
    """Paths and contents of a run directory; see `create` and `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.curve = path / "learning_curve.png"
        self.tensorboard = path / "tensorboard"

    @classmethod
    def check_free(cls, path: Path, overwrite: bool) -> None:
        """Make sure that a new run may be written to `path`, without changing anything there.

        Raises:
            InputError: if something else is there, a run that must not be overwritten, or nothing can be written.
        """
        try:
            if path.exists() and not path.is_dir():
                raise InputError(f"cannot write a run to {path}: it is a file")
            if path.is_dir() and any(path.iterdir()):
                if not _is_run(path):
                    raise InputError(f"cannot write a run to {path}: it holds files that are not a purerl run")
                if not overwrite:
                    raise InputError(
                        f"{path} already holds a run: continue it with --resume {path}, "
                        "replace it with --overwrite, or choose another --out"
                    )
                with cls(path).locked():
                    pass
            parent = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
            if not (parent.is_dir() and os.access(parent, os.W_OK | os.X_OK)):
                raise InputError(f"cannot write a run to {path}: no permission to write to {parent}")
        except OSError as error:
            raise InputError(f"cannot write a run to {path}: {error.strerror}") from error

    @classmethod
    def create(cls, path: Path, config: RunConfig) -> RunDirectory:
        """Begin a run in `path`, replacing the run that `check_free` allowed to replace.

        Raises:
            InputError: if it cannot be written.
        """
        run = cls(path)
        try:
            path.mkdir(parents=True, exist_ok=True)
            for name in FILES:
                (path / name).unlink(missing_ok=True)
            for name in FOLDERS:
                shutil.rmtree(path / name, ignore_errors=True)
            run.write_config(config)
        except OSError as error:
            raise InputError(f"cannot write a run to {path}: {error.strerror}") from error
        return run

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

        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"another process is training in {self.path}") from None
            except OSError:
                pass  # some network file systems have no locks
            yield

    def config(self) -> RunConfig:
        """Of the run.

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
        """What ``summary.json`` says, or None while the run is not finished."""
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

    def append(self, rows: Sequence[dict[str, Any]]) -> None:
        """Add rows to ``metrics.jsonl``; they are in the file when this returns."""
        text = "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows)
        with (self.path / "metrics.jsonl").open("a") as file:
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
        self._replace("metrics.jsonl", "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))

    def _read(self, name: str) -> Any:
        file = self.path / name
        try:
            return json.loads(file.read_text()) if file.exists() else None
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"cannot read {file}: {' '.join(str(error).split())}") from error

    def _write(self, name: str, data: Any) -> None:
        self._replace(name, json.dumps(data, indent=2, allow_nan=False) + "\n")

    def _replace(self, name: str, text: str) -> None:
        """Write a file so that a reader, or a kill, finds the old or the new content and never a part."""
        temporary = self.path / f".{name}.part"
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path / name)


def default_path(env: str, algorithm: str, seed: int) -> Path:
    """A name for a new run under ``runs/`` that nothing has yet."""
    stem = Path("runs") / f"{env.replace('/', '-')}-{algorithm}-seed{seed}"
    path, number = stem, 2
    while path.exists():
        path, number = stem.with_name(f"{stem.name}-{number}"), number + 1
    return path


def _is_run(path: Path) -> bool:
    try:
        return "purerl_run" in json.loads((path / "config.json").read_text())
    except (OSError, ValueError):
        return False
