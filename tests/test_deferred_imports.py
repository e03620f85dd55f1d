import subprocess
import sys

import pytest

from purerl.deferred_imports import deferred


def test_a_deferred_module_is_loaded_when_it_is_used(tmp_path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "heavy_to_load.py").write_text("answer = 42\n")
    monkeypatch.syspath_prepend(tmp_path)
    with deferred("heavy_to_load"):
        import heavy_to_load as promise  # pyright: ignore[reportMissingImports]
    assert "heavy_to_load" not in sys.modules
    assert promise.answer == 42
    assert "heavy_to_load" in sys.modules


def test_modules_of_a_deferred_package(tmp_path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "heavy_package").mkdir()
    (tmp_path / "heavy_package" / "__init__.py").write_text("answer = 42\n")
    (tmp_path / "heavy_package" / "part.py").write_text("answer = 43\n")
    monkeypatch.syspath_prepend(tmp_path)
    with deferred("heavy_package", "heavy_package.part"):
        import heavy_package.part as promise  # pyright: ignore[reportMissingImports]
        from heavy_package import part  # pyright: ignore[reportMissingImports]
    assert part is promise
    assert not any(name.startswith("heavy_package") for name in sys.modules)
    assert promise.answer == 43
    with deferred("heavy_package"):
        sys.modules.pop("heavy_package")
        from heavy_package import answer  # pyright: ignore[reportMissingImports]
    assert answer == 42


def test_what_is_loaded_already_stays():
    import json

    with deferred("json"):
        import json as again
    assert again is json
    assert sys.modules["json"] is json


def test_making_an_environment_loads_nothing_to_draw_with():
    program = """
import sys, purerl
purerl.make("CartPole-v1")
print([name for name in ("scipy.stats", "pandas", "seaborn", "matplotlib") if name in sys.modules])
from gymnax.environments.misc import pong
pong.plt.Figure, pong.sns.color_palette
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "[]"
