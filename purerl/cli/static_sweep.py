"""Sweeps over what shapes the compiled program: several programs behind one command.

``--vary num-envs=4,16`` makes a directory with ``sweep.json`` and one ordinary run for each value, in a folder named
after it. The runs are trained one after the other; each can be resumed, evaluated and drawn by itself, or all by the
name of the directory.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from purerl import presets
from purerl.cli import flags, sweeps
from purerl.cli.configure import configure
from purerl.cli.fields import hyperparameters
from purerl.cli.files import pasteable, replace
from purerl.cli.parser import Flag
from purerl.errors import InputError

FILE = "sweep.json"


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Runs that differ in static values.

    Attributes:
        algorithm: of all.
        env: of all.
        words: flags of all, without those that vary here and without ``--out``.
        programs: words for the flags that vary, for each run.
    """

    algorithm: str
    env: str
    words: list[str]
    programs: list[list[str]]

    def name(self, number: int) -> str:
        """Folder of a run, such as ``num-envs=4``."""
        words = self.programs[number]
        pairs, at = [], 0
        while at < len(words):
            end = next((i for i in range(at + 1, len(words)) if words[i].startswith("--")), len(words))
            pairs.append(f"{words[at][2:]}={'x'.join(words[at + 1 : end])}")
            at = end
        return ",".join(pairs)


def split(algorithm: str, env: str, words: Sequence[str]) -> Sweep | None:
    """The sweep that flags ask for; None where each ``--vary`` fits into one program.

    Raises:
        InputError: for values that the flag does not take.
    """
    row = presets.row(algorithm)
    algorithm_type, preset = row.load(), row.preset(env)
    static = {field.name for field in hyperparameters(algorithm_type) if field.metadata.get("static", False)}
    group = [
        *flags.hyperparameter_group(algorithm, algorithm_type, preset).flags,
        *flags.network_group(algorithm_type, preset).flags,
    ]
    network = {flag.name for flag in flags.network_group(algorithm_type, preset).flags}
    known = {flag.name: flag for flag in group if flag.name in static or flag.name in network}
    rest, tried = [], {}
    at = 0
    while at < len(words):
        word = words[at]
        text = word.partition("=")[2] if word.startswith("--vary=") else "".join(words[at + 1 : at + 2])
        taken = 1 if word.startswith("--vary=") else 2
        spelled, _, values = text.partition("=")
        name = spelled.strip().removeprefix("--").replace("-", "_")
        if word.partition("=")[0] != "--vary" or name not in known:
            rest.append(word)
            at += 1
            continue
        if name in tried:
            raise InputError(f"--vary {spelled} was given twice: list all its values after one =")
        tried[name] = _values(known[name], spelled, values)
        at += taken
    if not tried:
        return None
    programs = [[word for words in parts for word in words] for parts in itertools.product(*tried.values())]
    return Sweep(algorithm, env, rest, programs)


def _values(flag: Flag, spelled: str, text: str) -> list[list[str]]:
    """Words of the flag for each value; those of flags with several values are joined by ``x``, as in 64x64."""
    single = dataclasses.replace(flag, name=f"vary {spelled}", many=False)
    if flag.kind == "bool":
        given = text.split(",")
        if not set(given) <= {"true", "false"}:
            raise InputError(f"--vary {spelled} takes true and false, got {text!r}")
        return [[flag.flag if word == "true" else f"--no-{flag.flag[2:]}"] for word in given]
    if re.match(r"(lin|log|random|random-log):", text):
        values = [[str(value)] for value in sweeps.parse(dataclasses.replace(single, many=True), text, 0).values]
    else:
        values = [word.split("x") if flag.many else [word] for word in text.split(",")]
        for words in values:
            for word in words:
                single.parse(word)
    if len({tuple(words) for words in values}) < len(values):
        raise InputError(f"--vary {spelled} names a value twice: {text}")
    return [[flag.flag, *words] for words in values]


def begin(sweep: Sweep, train: Callable[[Sequence[str]], int]) -> int:
    """Train all runs of a new sweep; returns the exit code of the one that stopped it, else 0.

    Raises:
        InputError: if one of them cannot be trained, before the first is.
    """
    from purerl.cli.parser import parse_some

    given = parse_some([flag for flag in flags.RUN.flags if flag.name in ("out", "overwrite")], sweep.words)
    words = _without(sweep.words, "--out")
    out = Path(given.get("out") or f"runs/{re.sub(r'[^A-Za-z0-9_.-]', '-', sweep.env)}-{sweep.algorithm}-sweep")
    if (out / "config.json").exists():
        raise InputError(f"{out} holds a run: choose another --out for a sweep")
    if (out / FILE).exists() and not given.get("overwrite", False):
        raise InputError(
            f"{out} already holds a sweep: continue it with --resume {pasteable(out)}, or give --overwrite"
        )
    for program in sweep.programs:
        configure(sweep.algorithm, sweep.env, [*words, *program])
    out.mkdir(parents=True, exist_ok=True)
    sweep = dataclasses.replace(sweep, words=words)
    replace(out / FILE, (json.dumps(dataclasses.asdict(sweep), indent=2) + "\n").encode())
    return _train(sweep, out, train, resume=False)


def resume(path: Path, train: Callable[[Sequence[str]], int], words: Sequence[str]) -> int:
    """Go on with a sweep: its unfinished runs, then those that have not begun."""
    return _train(_read(path), path, train, resume=True, more=words)


def _train(
    sweep: Sweep, out: Path, train: Callable[[Sequence[str]], int], *, resume: bool, more: Sequence[str] = ()
) -> int:
    for number, program in enumerate(sweep.programs):
        run = out / sweep.name(number)
        print(f"program {number + 1} of {len(sweep.programs)}: {sweep.name(number)}", flush=True)
        if resume and (run / "config.json").exists():
            words = ["--resume", str(run), *more]
        else:
            words = [sweep.algorithm, sweep.env, *sweep.words, *program, "--out", str(run)]
        code = train(words)
        if code:
            return code
    print(f"next: purerl best {pasteable(out)}\n      purerl plot {pasteable(out)}")
    return 0


def runs_in(path: Path) -> list[Path]:
    """The run in `path`, or those of the sweep there that have begun."""
    if not (path / FILE).exists():
        return [path]
    sweep = _read(path)
    found = [path / sweep.name(number) for number in range(len(sweep.programs))]
    begun = [run for run in found if (run / "config.json").exists()]
    if not begun:
        raise InputError(f"no run of the sweep in {path} has begun")
    return begun


def _read(path: Path) -> Sweep:
    try:
        return Sweep(**json.loads((path / FILE).read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"cannot read {path / FILE}: {' '.join(str(error).split())}") from error


def _without(words: Sequence[str], flag: str) -> list[str]:
    kept: list[str] = []
    skip = False
    for word in words:
        if not skip and not word.startswith(f"{flag}="):
            if word == flag:
                skip = True
                continue
            kept.append(word)
        skip = False
    return kept
