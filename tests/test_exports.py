"""Public names: one list, which `purerl`, its stub for type checkers and the documentation agree on."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

import purerl
from purerl import exports

ROOT = Path(__file__).parent.parent
TEXTS = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "scripts").glob("*.py")]
PACKAGES = {"cli", "layers", "learning", "math", "physics", "training", "experience"}
"""Packages whose modules texts speak of in full; importing them says whether they are there."""


def test_every_name_resolves() -> None:
    for name in dir(purerl):
        assert getattr(purerl, name) is not None
    with pytest.raises(AttributeError, match="module 'purerl' has no attribute 'PPQ'"):
        purerl.PPQ  # noqa: B018
    assert not hasattr(purerl, "__wrapped__")


def test_the_stub_says_the_same() -> None:
    written = (ROOT / "purerl" / "__init__.pyi").read_text()
    assert written == exports.stub(), "run: python -m purerl.exports"


def test_names_in_texts_exist() -> None:
    for path in TEXTS:
        for spelled in set(re.findall(r"\bpurerl((?:\.[A-Za-z_]\w*)+)", path.read_text())):
            names = spelled[1:].split(".")
            if names[-1] in ("git", "yml"):
                continue
            if names[0] in PACKAGES and len(names) > 1:
                importlib.import_module(f"purerl.{names[0]}.{names[1]}")
            value = importlib.import_module(f"purerl.{names.pop(0)}") if names[0] in PACKAGES else purerl
            for name in names:
                assert hasattr(value, name), f"{path.name} speaks of purerl{spelled}"
                value = getattr(value, name)


def test_importing_is_immediate() -> None:
    code = "import sys, purerl; dir(purerl); purerl.InputError; purerl.cpu, purerl.presets; print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr


def test_modules_work_without_an_import_of_their_own() -> None:
    code = """
import purerl
purerl.checkpoint.save, purerl.cpu.choose_thread_pool, purerl.control.MPPI, purerl.replay.Replay
purerl.Mean.of, purerl.Box, purerl.Discrete, purerl.Replay, purerl.spaces.Box, purerl.environments.TimeLimit
from purerl import *
print(PPO.__name__, presets.Preset.__name__)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "PPO Preset\n", done.stderr
