"""Imports go one way: each package knows those before it, and none after it."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "purerl"
LAYERS = (
    ("errors", "references", "deferred_imports", "cpu"),
    ("description", "numeric", "spaces", "struct", "types", "device_memory", "paths"),
    ("math",),
    ("layers", "estimators"),
    ("networks", "q_networks"),
    ("rollout", "replay", "demonstrations"),
    ("environments", "tabular"),
    ("experience",),
    ("learning",),
    ("algorithms", "physics"),
    ("training",),
    ("presets",),
    ("exports",),
    ("cli",),
)
"""Modules and packages of purerl from the bottom to the top; those of one line are beside each other."""
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def imports(path: Path) -> set[str]:
    """First names below `purerl` of what a file imports while it is loaded, and not within a function."""
    tree = ast.parse(path.read_text())
    inside = {
        node for function in ast.walk(tree) if isinstance(function, ast.FunctionDef) for node in ast.walk(function)
    }
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node not in inside:
            names = node.module.split(".")
            if names[0] == "purerl":
                found |= {names[1]} if names[1:] else {alias.name for alias in node.names}
    return found & RANK.keys()


def test_every_module_has_a_layer() -> None:
    there = {path.stem for path in PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert there - {"__init__", "__main__"} == RANK.keys()


@pytest.mark.parametrize("name", RANK)
def test_imports_go_one_way(name: str) -> None:
    place = PACKAGE / name
    for path in place.rglob("*.py") if place.is_dir() else [place.with_suffix(".py")]:
        for imported in imports(path) - {name}:
            assert RANK[imported] <= RANK[name], f"{path.relative_to(PACKAGE)} imports {imported}"


def test_the_page_of_the_design_names_every_module() -> None:
    page = (PACKAGE.parent / "docs" / "design.md").read_text().split("## Modules")[1].split("## The central types")[0]
    for name in RANK:
        assert f"  {name}" in page, name
    for package in (
        "math",
        "layers",
        "demonstrations",
        "experience",
        "learning",
        "algorithms",
        "physics",
        "tabular",
        "training",
    ):
        for path in (PACKAGE / package).iterdir():
            if path.stem not in ("__init__", "__pycache__"):
                assert re.search(rf"\b{path.stem}\b", page), path
