"""Choices that must be made before jax is imported, and the `--slow` switch."""

import gc
import os
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

# One thread: on a two-core machine XLA's default pool can hang (see docs/cpu.md), and it is faster for small networks.
os.environ.setdefault("NPROC", "1")
CACHE = Path(__file__).parent.parent / ".cache" / "xla"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# Tests spend their time compiling programs that run for a moment. Those that train for long ask for `optimized`.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# The emitters before those compile twice as fast. Other versions may not know the flag, which would end the process.
if version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false".strip()

import jax  # noqa: E402
import pytest  # noqa: E402
from jaxtyping import install_import_hook  # noqa: E402

# Shapes in annotations are checked in tests only.
install_import_hook("purerl.math.returns", "beartype.beartype")

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def optimized() -> Iterator[None]:
    """Compile as for users."""
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


MOST_MAPPINGS = 20_000


@pytest.fixture(autouse=True)
def few_programs() -> Iterator[None]:
    """Forget compiled programs in time: each maps memory, and at 65,530 mappings Linux refuses more and XLA crashes."""
    yield
    mappings = Path("/proc/self/maps")
    if mappings.exists() and len(mappings.read_bytes().splitlines()) > MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="needs --slow"))
    # What the contract asks of one algorithm is asked in a row and by one process, which traces its programs once.
    for item in items:
        if algorithm := algorithm_of(item):
            item.add_marker(pytest.mark.xdist_group(algorithm))
    items.sort(key=algorithm_of)


def algorithm_of(item: pytest.Item) -> str:
    """The row of the contract that a test belongs to, empty for other tests."""
    name = getattr(item, "callspec", None) and item.callspec.params.get("name")  # type: ignore[attr-defined]
    return name if item.path.stem == "test_contract" and name else ""
