"""Every Python and shell block of README and docs runs. Where it trains it does two iterations after the warm-up.

A comment before a block, which a reader of the page does not see, changes this: ``<!-- not run: REASON -->``, or
``<!-- only parsed: REASON -->`` for commands that take minutes even so: their words are read, their agents configured.
Blocks of one page share their variables and their working directory, as for a reader who goes through the page.
"""

import argparse
import contextlib
import io
import itertools
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import pytest
from sybil import Example, Lexeme, Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

from purerl.cli import main
from purerl.cli.configure import configure

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
COMMANDS = ("purerl", "python", "python3", "pip")


def run_python(example: Example) -> None:
    """Run a block with two iterations for every ``num_iterations=N``."""
    source = re.sub(r"\bnum_iterations=\d+", "num_iterations=2", example.parsed)
    source = re.sub(r"\bevery=\d+", "every=1", source)
    example.parsed = Lexeme(source, example.parsed.offset, example.parsed.line_offset)
    PythonEvaluator()(example)


def run_shell(example: Example) -> None:
    """Run each command of a block, in this process where it is one of ours."""
    only_parsed = note_before(example) == "only parsed"
    for words in commands(example.parsed):
        if words[0] == "purerl":
            parse_purerl(words[1:]) if only_parsed else run_purerl(words[1:])
        elif words[0] == "python":
            assert only_parsed, "programs beside the package run in test_scripts"
            parse_program(words[1:])
        else:
            subprocess.run(words, check=True)


def run_console(example: Example) -> None:
    """Run the commands after ``$`` and compare the lines below each with what it says of a mistake."""
    for session in re.split(r"^\$ ", example.parsed, flags=re.MULTILINE)[1:]:
        command, _, expected = session.partition("\n")
        (words,) = commands(command)
        said = io.StringIO()
        with contextlib.redirect_stderr(said):
            assert main(words[1:]) == 2
        assert said.getvalue() == expected


def commands(source: str) -> Iterator[list[str]]:
    """The words of each command."""
    for line in source.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


def run_purerl(words: list[str]) -> None:
    match words:
        case ["train", algorithm, env, *flags] if not algorithm.startswith("-"):
            population = configure(algorithm, env, flags)[0].population()
            if env.startswith("brax/"):  # compiles for half a minute; tracing finds the same mistakes
                jax.eval_shape(population.step, jax.eval_shape(population.init, jax.random.key(0)))
                return
            steps = (population.warmup_iterations + 2) * population.steps_per_iteration
            words = [*words, "--total-steps", str(steps), "--eval-episodes", "1"]
        case ["evaluate" | "transfer" | "best", *_]:
            words = [*words, "--episodes", "2"]
    assert main(words) == 0


def parse_purerl(words: list[str]) -> None:
    command, algorithm, env, *flags = words
    assert command == "train"
    configure(algorithm, env, flags)


class Parsed(Exception):
    """Ends a program when it has read its words."""


def parse_program(words: list[str]) -> None:
    """Start a program of ours, end it when it has read its words, and configure the agents that it would train."""
    original = argparse.ArgumentParser.parse_known_args

    def parse(self: argparse.ArgumentParser, *args: Any) -> None:
        raise Parsed(*original(self, *args))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_known_args", parse)
        patch.setattr(sys, "argv", words)
        with pytest.raises(Parsed) as parsed:
            start(words)
    values, flags = vars(parsed.value.args[0]), parsed.value.args[1]
    for algorithm, env in itertools.product(values.get("algorithms", ()), values.get("envs", [values.get("env")])):
        configure(algorithm, env, flags)


def start(words: list[str]) -> None:
    if words[0] == "-m":
        runpy.run_module(words[1], run_name="__main__")
    else:
        runpy.run_path(str(ROOT / words[0]), run_name="__main__")


def note_before(example: Example) -> str | None:
    note = re.search(r"<!-- (not run|only parsed): .+ -->\n+$", example.document.text[: example.start])
    return note and note.group(1)


SYBIL = Sybil(
    [
        CodeBlockParser("python", run_python),
        CodeBlockParser("sh", run_shell),
        CodeBlockParser("console", run_console),
    ]
)


def blocks_of(page: Path) -> list[Any]:
    name = str(page.relative_to(ROOT))
    marks = pytest.mark.xdist_group(name)
    return [pytest.param(block, id=f"{name}:{block.line}", marks=marks) for block in SYBIL.parse(page).examples()]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for each page."""
    return {str(page): tmp_path_factory.mktemp(page.stem) for page in PAGES}


@pytest.mark.parametrize("example", [block for page in PAGES for block in blocks_of(page)])
def test_block_runs(example: Example, folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    if note_before(example) == "not run":
        pytest.skip("its page says why")
    monkeypatch.chdir(folders[example.path])
    example.evaluate()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_of_commands_say_so(page: Path) -> None:
    """A block without a language, or as `text`, would not run."""
    language = None
    for line in page.read_text().splitlines():
        if fence := re.match(r"\s*```(\w*)", line):
            language = None if language is not None else fence.group(1)
        elif language in ("", "text"):
            assert not line.lstrip("$ ").startswith(tuple(f"{command} " for command in COMMANDS)), line
        elif language is not None:
            assert language in ("python", "sh", "console"), line
