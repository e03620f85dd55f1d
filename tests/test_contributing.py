"""What CONTRIBUTING.md says is enough to add an algorithm, an environment suite and a logger is enough.

Its code is applied to a copy of the package, which then trains with all three.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(
    r"<!-- (?:not run: )?tests/test_contributing.py (?:writes this|adds this to (?P<table>\w+) in)(?: to)? "
    r"(?P<path>\S+) -->\n```(?:python)?\n(?P<code>.*?)```",
    re.DOTALL,
)

PROGRAM = """
import json, pathlib, purerl
from purerl import exports, presets
from purerl.cli import main
assert purerl.__file__.startswith({copy!r}), purerl.__file__
assert main(["algorithms"]) == main(["algorithms", "hill_climbing"]) == main(["envs", "toy"]) == 0
assert "HillClimbing" in exports.stub()
assert purerl.make("toy/walk", goal=2.0).env.goal == 2.0
assert isinstance(presets.preset("hill_climbing", "toy/walk"), presets.Preset)
words = "--seeds 2 --num-episodes 2 --max-steps 8 --total-steps 64 --env.goal 2 --env.episode-length 8"
words += " --returns --out run"
assert main(["train", "hill_climbing", "toy/walk", *words.split()]) == 0
assert json.loads(pathlib.Path("run/config.json").read_text())["loggers"] == ["returns"]
assert len(pathlib.Path("run/returns/returns.txt").read_text().splitlines()) == 2 * 4
assert main(["evaluate", "run", "--episodes", "2"]) == 0
"""


def test_its_steps_are_enough(tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "purerl", copy / "purerl", ignore=shutil.ignore_patterns("__pycache__"))
    blocks = list(BLOCK.finditer((ROOT / "CONTRIBUTING.md").read_text()))
    for block in blocks:
        file = copy / block["path"]
        if block["table"] is None:
            assert not file.exists()
            file.write_text(block["code"])
        else:
            assert len(block["code"].splitlines()) == 1
            before, head, after = re.split(rf"(^{block['table']}\b.*= [({{]\n)", file.read_text(), flags=re.MULTILINE)
            file.write_text(before + head + block["code"] + after)
    # One file and one entry each.
    assert [bool(block["table"]) for block in blocks] == [False, True] * 3
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(copy=str(copy))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(copy)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    for line in ("hill_climbing", "on-policy", "discrete", "toy/walk", "--noise-std"):
        assert line in done.stdout


def test_its_code_is_in_the_style_of_the_house(tmp_path: Path) -> None:
    for block in BLOCK.finditer((ROOT / "CONTRIBUTING.md").read_text()):
        if block["table"] is None:
            file = tmp_path / Path(block["path"]).name
            file.write_text(block["code"])
    config = ["--config", str(ROOT / "pyproject.toml")]
    for command in (["check", *config], ["format", "--check", *config]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, str(tmp_path)], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
