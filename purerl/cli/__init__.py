"""The command line: ``purerl train``, ``evaluate``, ``record``, ``plot``, ``transfer``, ``diagnose``, ``solve``, lists.

Modules that import JAX are imported when a command needs them, after the thread pool is chosen: help is immediate.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from purerl import cpu
from purerl.cli import output
from purerl.errors import InputError, unknown

COMMANDS = {
    "train": ("train", "command", "train agents, or resume a run"),
    "evaluate": ("evaluate", "command", "play complete episodes with the agents of a run, or with a planner"),
    "record": ("record", "command", "write episodes of a run's agent, or of a planner, to a file of demonstrations"),
    "plan": ("plan", "command", "say what a training would need, before anything compiles"),
    "best": ("best", "command", "rank the members of a run, and make the best one a run of its own"),
    "plot": ("plot", "command", "draw the learning curves of runs"),
    "transfer": ("transfer", "command", "play with the agents of runs in shifted environments"),
    "diagnose": ("diagnose", "command", "find out how far gradients through an environment can be trusted"),
    "solve": ("solve", "command", "solve a finite environment exactly, or show the table that a run has learned"),
    "envs": ("listing", "environments", "list environments with their spaces"),
    "algorithms": ("listing", "algorithms", "list algorithms, or all about one"),
}
"""Command to its module, function and meaning."""

EXAMPLES = """\
  purerl train ppo CartPole-v1 --seeds 8 --total-steps 500000 --out runs/cartpole
  purerl train ppo CartPole-v1 --help        every flag with its meaning, default and range
  purerl train ppo brax/ant --env.backend spring --seeds 4
  purerl train --resume runs/cartpole
  purerl evaluate runs/cartpole --episodes 128
  purerl evaluate smooth/pendulum --controller mppi
  purerl record runs/cartpole --episodes 10 --out demos.npz
  purerl train bc CartPole-v1 --demonstrations demos.npz
  purerl plot runs/cartpole
  purerl best runs/sweep --out runs/best
  purerl transfer runs/cartpole --shift params.length=0.25:2:8
  purerl diagnose Pendulum-v1
  purerl solve grid/trap --gamma 1 --out trap.png
"""

USER_ERROR, INTERRUPTED, NO_READER = 2, 130, 141
"""Exit codes."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: words after ``purerl``; those of this process by default.

    Returns:
        The exit code: 0; 2 for a mistake in the input (one line on stderr says which) or where the output could not be
        written; 128 + N where signal N ended the command, so 130 after Ctrl-C and 141 where nobody read the output.

    Raises:
        SystemExit: after printing a help that was asked for.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    with output.tolerant():
        code = _run(words)
        lost = output.failure()
        if lost is not None and not isinstance(lost, BrokenPipeError):
            print(f"purerl: error: cannot write the output: {lost.strerror}", file=sys.stderr)
        if lost is None or code != 0 or words[:1] == ["train"]:  # a training is for its files
            return code
        return NO_READER if isinstance(lost, BrokenPipeError) else USER_ERROR


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(_help())
        return 0
    if words[0] in ("-V", "--version"):
        from purerl import __version__

        print(f"purerl {__version__}")
        return 0
    cpu.choose_thread_pool()
    _keep_compiled_programs()
    _settle_libraries()
    with contextlib.suppress(OSError):  # a directory that has been removed
        if os.getcwd() not in sys.path:  # for classes of the user's own, such as mymodule:MyAlgorithm
            sys.path.append(os.getcwd())
    try:
        if words[0] not in COMMANDS:
            raise unknown("command", words[0], COMMANDS)
        module, function, _ = COMMANDS[words[0]]
        return getattr(importlib.import_module(f"purerl.cli.{module}"), function)(words[1:])
    except InputError as error:
        print(f"purerl: error: {' '.join(map(str.strip, str(error).splitlines()))}", file=sys.stderr)
        return USER_ERROR
    except KeyboardInterrupt as error:
        print("purerl: interrupted", file=sys.stderr)
        return 128 + error.args[0] if error.args else INTERRUPTED


def _help() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name.ljust(width)}  {meaning}" for name, (_, _, meaning) in COMMANDS.items())
    return (
        "usage: purerl COMMAND ...\n\n"
        "Reinforcement learning where agents and environments share one compiled program.\n\n"
        f"commands:\n{commands}\n\nexamples:\n{EXAMPLES}\npurerl COMMAND --help says more; purerl --version which one."
    )


def _keep_compiled_programs() -> None:
    """Use JAX's persistent compilation cache, so that the same command starts faster the second time.

    JAX reads these variables when it is imported; what the user has set stays.
    """
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        folder = _cache_folder()
        if folder is None:
            return  # JAX would complain about it all the time
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


def _settle_libraries() -> None:
    """Keep variables from other libraries that they cannot use; they read them when they are imported."""
    os.environ["MPLBACKEND"] = "agg"  # no window is opened, and a name that matplotlib does not know is an error
    if os.environ.get("COLUMNS", "").strip("0") == "":
        os.environ.pop("COLUMNS", None)  # rich shows nothing in 0 columns
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # without a home it tells where it keeps its fonts


def _cache_folder() -> Path | None:
    """A folder for compiled programs; None where there is no home, or none that can be written."""
    root = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(root):  # its specification says that a relative one is to be ignored
        home = os.environ["HOME"] if "HOME" in os.environ else os.path.expanduser("~")
        if not os.path.isabs(home):  # empty, or a user whom the system does not know
            return None
        root = os.path.join(home, ".cache")
    folder = Path(root, "purerl", "xla")
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
    return folder if os.access(folder, os.W_OK | os.X_OK) else None
