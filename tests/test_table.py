"""The table of algorithms says it all: what else knows their names reads it, or is held to it here."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import rows

import purerl
from purerl import InputError, presets
from purerl.presets import ALGORITHMS, Preset, Row

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_row_is_a_public_class_with_a_contract(name: str) -> None:
    row = ALGORITHMS[name]
    cls = row.load()
    assert getattr(purerl, cls.__name__) is cls
    assert cls.__name__ in dir(purerl)
    assert name in rows.ALGORITHMS
    assert f"`{name}`" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_row_has_a_section(name: str) -> None:
    # A section of its own, or one that it shares, such as "NPG and TRPO".
    headings = re.findall(r"^#+ (.*)$", (ROOT / "docs" / "algorithms.md").read_text(), re.MULTILINE)
    assert any(
        name.replace("_", " ") in re.split(r", | and ", heading.lower().replace("-", " ")) for heading in headings
    )


def test_names_are_unique_and_words() -> None:
    rows = [row for rows in presets.FAMILIES.values() for row in rows]
    assert len({row.name for row in rows}) == len(rows)
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", row.name) for row in rows)
    assert all({*row.actions.split(", ")} <= {"discrete", "continuous"} for row in rows)


def test_a_row_needs_no_settings() -> None:
    row = Row("mine", "purerl.algorithms.ppo:PPO", "discrete", "PPO again")
    assert row.load() is purerl.PPO
    assert row.preset("CartPole-v1") == row.preset("no such environment, and nobody asks") == Preset()


@pytest.mark.parametrize("look_up", [presets.row, presets.base, lambda name: presets.preset(name, "CartPole-v1")])
def test_an_unknown_name_is_one_clear_error(look_up) -> None:
    with pytest.raises(InputError, match=r"unknown algorithm 'pqo': did you mean .*'ppo'"):
        look_up("pqo")


def test_the_table_imports_no_jax() -> None:
    code = "import sys; from purerl import presets; presets.base('ppo'); print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr
